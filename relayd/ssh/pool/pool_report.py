"""
What the pool holds, for those who watch it and for messages: questions that change nothing.
"""

from __future__ import annotations

from typing import Generic

from msgspec import Struct

from relayd.language.texts import Text
from relayd.ssh.pool.members import Lane, PooledHost, Work
from relayd.ssh.pool.places import Places
from relayd.ssh.target import Target


class Counts(Struct, frozen=True):
    """
    What the pool holds.

    :ivar waiting: commands without a session.
    :ivar waiting_forwards: connections to other hosts without a channel.
    :ivar dialling: connections being opened.
    :ivar connections: those that are open, and *idle* those of them on which nothing runs.
    """

    waiting: int
    waiting_forwards: int
    dialling: int
    connections: int
    idle: int
    sessions: int
    forwards: int


class HostCounts(Struct, frozen=True):
    """
    What the pool has of one host.

    :ivar host: its address and port, and those of the jump hosts before it.
    :ivar connections: those that are open, and *dialling* those being opened.
    :ivar waiting: commands without a session.
    :ivar limit: sessions that one connection takes now, as far as is known: less than the setting where that was
        learned.
    :ivar single: whether a connection is used for one command only, as the host was found to bear no more.
    """

    host: str
    connections: int
    dialling: int
    sessions: int
    waiting: int
    limit: int
    single: bool = False


class PoolReport(Generic[Work]):
    """Answers questions about the connections and what waits for them."""

    def __init__(self, places: Places[Work]) -> None:
        self._places = places

    def counts(self) -> Counts:
        """How much of everything there is."""
        lanes = self._places.lanes.values()
        members = [member for lane in lanes for member in lane.members]
        return Counts(
            waiting=sum(len(lane.waiting) for lane in lanes),
            waiting_forwards=sum(len(lane.waiting_forwards) for lane in lanes),
            dialling=sum(not member.ready for member in members),
            connections=sum(member.ready for member in members),
            idle=len(self._places.idle),
            sessions=sum(member.sessions for member in members),
            forwards=sum(member.forwards for member in members),
        )

    def hosts(self) -> list[HostCounts]:
        """What there is of each host."""
        lanes: dict[PooledHost[Work], list[Lane[Work]]] = {}
        for lane in self._places.lanes.values():
            lanes.setdefault(lane.host, []).append(lane)
        return [_host_counts(host, found) for host, found in lanes.items()]

    def targets(self) -> list[Target]:
        """Every target that has connections, or work that waits, or that others are being reached through."""
        return list(self._places.lanes)

    # One target

    def reaches(self, target: Target) -> bool:
        """Whether a connection to *target* is logged in and takes commands."""
        lane = self._places.lanes.get(target)
        return lane is not None and lane.reachable

    def in_doubt(self, target: Target) -> bool:
        """Whether a connection to *target* does not answer."""
        lane = self._places.lanes.get(target)
        return lane is not None and lane.doubted > 0

    def waits_for(self, target: Target, now: float, shortage: Text | None) -> Text:
        """
        Why work for *target* has no session yet, in words.

        :param shortage: why this process could have no more connections when that was last so.
        """
        if self.is_held_back(target):
            budget = self._places.budget
            if shortage is not None and now < budget.capped_until:
                return shortage
            return Text("all {most} connections that are allowed are in use", most=budget.most)
        if self.in_doubt(target):
            return Text("its connection does not answer, and no other one is open yet")
        if self.reaches(target):
            return Text("all sessions are in use")
        return Text("no connection is open yet")

    def is_held_back(self, target: Target) -> bool:
        """Whether work for *target* waits until there are fewer connections in all."""
        lane = self._places.lanes.get(target)
        return lane is not None and lane.host in self._places.held_back


def _host_counts(host: PooledHost[Work], lanes: list[Lane[Work]]) -> HostCounts:
    members = [member for lane in lanes for member in lane.members]
    return HostCounts(
        host=str(host),
        connections=sum(member.ready for member in members),
        dialling=sum(not member.ready for member in members),
        sessions=sum(member.sessions for member in members),
        waiting=sum(len(lane.waiting) for lane in lanes),
        limit=host.limit,
        single=host.single_until > 0.0,
    )
