"""
Which command goes to which connection, and when to open another: decided here, done in `relayd.ssh.pool.pool`.

No I/O, no clock of its own: each question brings the time, so that every decision can be tested by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from typing import Generic

from msgspec import Struct

from relayd.ssh.pool.members import COOL_DOWN, Alarms, Host, Lane, Member, Work
from relayd.ssh.pool.places import Evict, Places
from relayd.ssh.target import Target

#: Seconds until a host that refused a session is asked for one more than it last gave.
RAISE_AFTER = 30.0
#: How often a connection without any session may refuse one before it counts as refusing them all.
MAX_BARREN_REFUSALS = 5
#: How often a connection may be lost while a command waits for its channel before the command is given up.
MAX_DROPS = 3
#: How often in a row a host may hang up on a newcomer before that counts as its answer.
MAX_HANG_UPS = 5
#: Seconds until it is tried again after the first time; each further one doubles it.
HANG_UP_PAUSE = 0.25
#: Seconds before another connection is tried when one of several could not be opened, or was of no use.
DIAL_PAUSE = 5.0


class Start(Struct, Generic[Work], frozen=True):
    """Run *work* on the connection *member*."""

    member: Member[Work]
    work: Work


class Dial(Struct, Generic[Work], frozen=True):
    """Open the connection *member*."""

    member: Member[Work]


Step = Start[Work] | Dial[Work] | Evict[Work]


class Counts(Struct, frozen=True):
    """
    The pool at a glance.

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
    :ivar limit: sessions that one connection takes now, as far as is known; less than the setting: it was learned.
    """

    host: str
    connections: int
    dialling: int
    sessions: int
    waiting: int
    limit: int


class PoolState(Generic[Work]):
    """
    Tell it what happens, then take `next_step` until there is none; and look again at the time `alarm`.

    :param max_sessions: on one connection, where the host allows as many.
    :param max_connections: to one target.
    :param max_total: connections in all. What lies behind jump hosts needs one for each of them too.
    :param max_age: seconds for which a connection takes new work.
    """

    def __init__(self, max_sessions: int, max_connections: int, max_total: int = 1000, max_age: float = inf) -> None:
        self._max_sessions = max_sessions
        self._max_connections = max_connections
        self._max_age = max_age
        self._alarms: Alarms[Work] = Alarms()
        self._places: Places[Work] = Places(max_sessions, max_connections, max_total, self._alarms)
        # Targets for which there may be something to do
        self._dirty: dict[Lane[Work], None] = {}

    # What happens

    def add(self, target: Target, work: Work, *, forward: bool = False, first: bool = False) -> None:
        """
        *work* wants a session.

        :param forward: it wants a connection to another host instead.
        :param first: it comes before what waits already: so does what got no session after all.
        """
        lane = self._places.lane(target)
        waiting = lane.waiting_forwards if forward else lane.waiting
        waiting[work] = None
        if first:
            waiting.move_to_end(work, last=False)
        self._dirty[lane] = None

    def start_on(self, member: Member[Work], now: float) -> bool:
        """Take a session's place on this very connection, if it has one; says whether it had."""
        if member.room(member.lane.limit, now) <= 0:
            return False
        self._take_place(member)
        return True

    def remove(self, target: Target, work: Work) -> bool:
        """*work* does not want anything any more. Says whether it was waiting."""
        lane = self._places.lanes.get(target)
        if lane is None:
            return False
        for waiting in (lane.waiting, lane.waiting_forwards):
            if work in waiting:
                del waiting[work]
                self._tidy(lane)
                return True
        return False

    def take_waiting(self, target: Target, *, sessions_only: bool = False) -> list[Work]:
        """All that waits for *target* and is not going to get it."""
        lane = self._places.lanes.get(target)
        if lane is None:
            return []
        taken: list[Work] = []
        for waiting in (lane.waiting,) if sessions_only else (lane.waiting, lane.waiting_forwards):
            taken += waiting
            waiting.clear()
        self._tidy(lane)
        return taken

    def opened(self, member: Member[Work], now: float, most_sessions: int | None = None) -> None:
        """
        The connection is logged in.

        :param most_sessions: what the host is known to bear on one connection, if anything is known.
        """
        host = member.lane.host
        if most_sessions is not None:
            host.most = min(host.most, most_sessions)
            host.limit = min(host.limit, most_sessions)
        host.hang_ups = 0
        member.ready = True
        member.expires = min(member.expires, now + self._max_age)
        self._places.is_idle(member, now)
        self._places.handshake_ended(member)
        self._dirty[member.lane] = None

    def not_opened(self, member: Member[Work], now: float, *, hung_up: bool = False, shortage: bool = False) -> bool:
        """
        The connection could not be opened.

        :param hung_up: the host hung up before the login, as one does that has too many newcomers (MaxStartups).
        :param shortage: it is this process that can have no more of them: others have to make room.
        :return: whether the target is out of reach: no other connection to it exists, and there is no sense in trying
            again.
        """
        lane = member.lane
        host = lane.host
        self._places.remove(member)
        self._places.handshake_ended(member)
        if hung_up and host.hang_ups < MAX_HANG_UPS:
            # What was too many is known only where there were others.
            host.max_handshakes = max(1, min(host.max_handshakes, host.handshakes or host.max_handshakes))
            host.no_dial_before = now + HANG_UP_PAUSE * 2.0**host.hang_ups
            host.hang_ups += 1
            out_of_reach = False
        elif shortage and self._places.total:
            self._places.cap(now)
            out_of_reach = False
        else:
            lane.no_dial_before = now + DIAL_PAUSE
            out_of_reach = not lane.usable
        self._dirty[lane] = None
        self._tidy(lane)
        return out_of_reach

    def lost(self, member: Member[Work], now: float, opening: int = 0) -> None:
        """
        A connection that was open is gone.

        :param opening: how many sessions the server had been asked for and had not given, when the server ended it;
            some do so when they are asked for too many.
        """
        lane = member.lane
        if opening and member.active > 1:
            lane.host.lower((member.active - opening) or member.active // 2, now + RAISE_AFTER)
        self._places.remove(member)
        self._dirty[lane] = None
        self._tidy(lane)

    def session_closed(self, member: Member[Work], now: float, *, given: bool = True) -> None:
        """
        A session on the connection has ended.

        :param given: whether the server gave it; one that it was not asked for tells nothing.
        """
        member.barren = 0
        member.lane.proven = member.lane.proven or given
        member.release(now)
        if member.target.alone:
            member.expires = now
        self._channel_ended(member, now)

    def session_refused(self, member: Member[Work], now: float) -> bool:
        """
        The server opened no session: learn how many it allows.

        :return: whether the target gives no sessions at all, so that what waits for one waits in vain.
        """
        lane = member.lane
        host = lane.host
        member.active -= 1
        for_good = False
        if member.active > 0:
            seen = member.active + member.lately_closed(now)
            if seen < host.limit:
                host.lower(seen, now + RAISE_AFTER)
            elif now >= member.not_before:
                # Some of those that closed lately may count still, so this tells little; it is soon told again.
                host.lower(max(host.limit - 1, member.active), now + RAISE_AFTER)
                member.not_before = now + COOL_DOWN
        else:
            # With no session of ours left on it, the server may still be busy with the end of the last one.
            member.barren += 1
            member.not_before = now + COOL_DOWN * 2.0**member.barren
            if member.barren > MAX_BARREN_REFUSALS:
                for_good = self._refuses_all(member, now)
        self._channel_ended(member, now)
        return for_good

    def _refuses_all(self, member: Member[Work], now: float) -> bool:
        lane = member.lane
        member.barren = 0
        if not (member.forwards or lane.waiting_forwards or lane.expected):
            self._places.retire(member, "it opens no sessions")
        others = any(
            other is not member and not other.leaving and (other.active or not other.barren) and other.not_before <= now
            for other in lane.members
        )
        if others:
            lane.no_dial_before = now + DIAL_PAUSE
            member.not_before = now + DIAL_PAUSE
        return not others

    def forward_ended(self, member: Member[Work], now: float) -> None:
        """A connection to another host through this one has ended, or was refused."""
        member.forwards -= 1
        self._channel_ended(member, now)

    def doubt(self, member: Member[Work], *, proven: bool) -> bool:
        """
        The server does not answer what it was asked for: other connections take what comes, until it does (`trust`).

        :param proven: whether it is known to have given a session, beside those that have ended.
        :return: whether that is so. Of a server that never gave a session on any connection another one is no help.
        """
        if member.doubted or not (proven or member.lane.proven) or member.lane.doubted >= self._max_connections:
            return False
        self._places.doubt(member, True)
        return True

    def trust(self, member: Member[Work]) -> None:
        """The server has answered after all."""
        if member.doubted:
            self._places.doubt(member, False)
            self._dirty[member.lane] = None

    def in_doubt(self, target: Target) -> bool:
        """Whether a connection to *target* does not answer."""
        lane = self._places.lanes.get(target)
        return lane is not None and lane.doubted > 0

    def is_held_back(self, target: Target) -> bool:
        """Whether work for *target* waits until there are fewer connections in all."""
        return self._places.is_held_back(target)

    def is_short(self, now: float) -> bool:
        """Whether there are fewer connections than there may be, as this process could have no more of them."""
        return self._places.is_capped(now)

    def retire_one(self, member: Member[Work], reason: str) -> None:
        """A connection that is open takes no more work."""
        self._places.retire(member, reason)
        self._dirty[member.lane] = None

    def _channel_ended(self, member: Member[Work], now: float) -> None:
        lane = member.lane
        self.trust(member)
        self._dirty[lane] = None
        if member.unused:
            if member.leaving or now >= member.expires:
                self._places.retire(member, "it is old")
            else:
                self._places.is_idle(member, now)
                self._look_behind(lane)

    def retire_all(self, now: float) -> None:
        """The connections that there are, or are being opened, take no more work."""
        for lane in self._places.lanes.values():
            for member in lane.members:
                member.expires = min(member.expires, now)
            self._dirty[lane] = None

    def retire(self, target: Target, reason: str) -> None:
        """The connections to *target* that there are take no more work, from this moment on."""
        lane = self._places.lanes.get(target)
        if lane is not None:
            for member in lane.members:
                if member.ready:
                    self._places.retire(member, reason)
            self._dirty[lane] = None

    def close_idle(self, now: float, timeout: float) -> None:
        """Close the connections on which nothing ran for *timeout* seconds, and the old ones."""
        for member in list(self._places.idle):
            if not member.lane.needed and (now - member.idle_since >= timeout or now >= member.expires):
                self._places.retire(member, "it was idle")

    # What to do

    def plan(self, now: float) -> Iterator[Step[Work]]:
        """All steps that are due."""
        while (step := self.next_step(now)) is not None:
            yield step

    def next_step(self, now: float) -> Step[Work] | None:
        """The next step that is due; it counts as done from now on."""
        places = self._places
        for sleeper in self._alarms.due(now):
            if isinstance(sleeper, Host):
                places.look_at(sleeper)
            else:
                self._dirty[sleeper] = None
        while self._dirty:
            lane = next(iter(self._dirty))
            start = self._next_start(lane, now)
            if start is not None:
                return start
            del self._dirty[lane]
            if lane.waiting or lane.waiting_forwards:
                self._wait(lane, now)
        member = places.next_dial(now)
        if member is not None:
            return Dial(member)
        return places.evictions.popleft() if places.evictions else None

    def alarm(self) -> float | None:
        """When to ask again, though nothing happens."""
        return self._alarms.next()

    def _next_start(self, lane: Lane[Work], now: float) -> Start[Work] | None:
        if not (lane.waiting or lane.waiting_forwards):
            return None
        for member in lane.members:
            if member.ready and member.expires <= now and not member.leaving:
                self._places.retire(member, "it is old")
        if lane.waiting:
            emptiest = self._emptiest(lane, now)
            if emptiest is not None:
                self._take_place(emptiest)
                return Start(emptiest, lane.waiting.popitem(last=False)[0])
        if lane.waiting_forwards:
            freest = max(lane.members, key=lambda member: member.forward_room(), default=None)
            if freest is not None and freest.forward_room() > 0:
                if freest.unused:
                    self._places.not_idle(freest)
                freest.forwards += 1
                return Start(freest, lane.waiting_forwards.popitem(last=False)[0])
        return None

    def _take_place(self, member: Member[Work]) -> None:
        if member.unused:
            self._places.not_idle(member)
        member.active += 1

    def _emptiest(self, lane: Lane[Work], now: float) -> Member[Work] | None:
        """The connection that takes the next session."""
        host = lane.host
        while True:
            best, most = None, 0
            for member in lane.members:
                room = member.room(lane.limit, now)
                if room > most:
                    best, most = member, room
            if best is not None or lane.target.alone or host.limit >= host.most or now < host.raise_at:
                return best
            host.limit += 1
            host.raise_at = now + RAISE_AFTER

    def _wait(self, lane: Lane[Work], now: float) -> None:
        """What is left of *lane* waits: for another connection, or for something else to change."""
        self._places.ask(lane, now)
        if lane.waiting_forwards:
            self._places.make_room_behind(lane)
        at = inf
        if lane.waiting:
            for member in lane.members:
                time = member.next_room(now)
                if time is not None and time < at:
                    at = time
            # Long commands may keep every place for hours, so these must not wait for one of them to end.
            if lane.host.limit < lane.host.most:
                at = min(at, lane.host.raise_at)
        if lane.no_dial_before > now and (lane.usable or lane.doubted):
            at = min(at, lane.no_dial_before)
        if at < inf:
            self._alarms.set(lane, at)

    def _look_behind(self, lane: Lane[Work]) -> None:
        """A connection of *lane* became idle; the jump host before it may need its channel."""
        via = lane.target.via
        if via is not None:
            hop = self._places.lanes.get(via)
            if hop is not None and hop.waiting_forwards:
                self._dirty[hop] = None

    def _tidy(self, lane: Lane[Work]) -> None:
        if lane.empty:
            self._dirty.pop(lane, None)
            self._places.tidy(lane)

    # What there is

    def reaches(self, target: Target) -> bool:
        """Whether a connection to *target* is logged in and takes commands."""
        lane = self._places.lanes.get(target)
        return lane is not None and lane.usable > lane.dialling

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
            sessions=sum(member.active for member in members),
            forwards=sum(member.forwards for member in members),
        )

    def hosts(self) -> list[HostCounts]:
        """The same for each host that there is something of."""
        lanes: dict[Host[Work], list[Lane[Work]]] = {}
        for lane in self._places.lanes.values():
            lanes.setdefault(lane.host, []).append(lane)
        return [_host_counts(host, found) for host, found in lanes.items()]

    def limits(self) -> dict[str, int]:
        """Sessions on one connection, by host, of the hosts that were found to allow fewer than the setting."""
        hosts = self._places.hosts.values()
        return {str(host): host.limit for host in hosts if host.limit < self._max_sessions}

    def targets(self) -> list[Target]:
        """Every target that has connections, or work that waits, or is on somebody's way."""
        return list(self._places.lanes)


def _host_counts(host: Host[Work], lanes: list[Lane[Work]]) -> HostCounts:
    members = [member for lane in lanes for member in lane.members]
    return HostCounts(
        host=str(host),
        connections=sum(member.ready for member in members),
        dialling=sum(not member.ready for member in members),
        sessions=sum(member.active for member in members),
        waiting=sum(len(lane.waiting) for lane in lanes),
        limit=host.limit,
    )
