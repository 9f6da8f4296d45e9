"""
Which connection runs which work: gives what waits for a target to its connections that have room. No I/O, no clock.
"""

from __future__ import annotations

from math import inf
from typing import Generic

from msgspec import Struct

from relayd.ssh.pool.alarms import Alarms
from relayd.ssh.pool.members import SETTLE, Lane, Member, PooledHost, Work
from relayd.ssh.pool.places import Places


class Start(Struct, Generic[Work], frozen=True):
    """Run *work* on the connection *member*."""

    member: Member[Work]
    work: Work


class Assignment(Generic[Work]):
    """
    Goes through the lanes of which something has changed, and leaves each with a reason to look at it again: an event,
    or an alarm.
    """

    def __init__(self, places: Places[Work], alarms: Alarms[Work]) -> None:
        self._places = places
        self._alarms = alarms
        # Lanes for which there may be something to do
        self._changed: dict[Lane[Work], None] = {}

    def look_at(self, lane: Lane[Work]) -> None:
        """Something has changed for *lane*."""
        if lane.waiting or lane.waiting_forwards:
            self._changed[lane] = None

    def forget(self, lane: Lane[Work]) -> None:
        """*lane* has nothing left."""
        self._changed.pop(lane, None)

    def is_settled(self, now: float) -> bool:
        """Whether there is nothing to start, and no alarm is due."""
        return not (self._changed or self._alarms.is_due(now))

    def next_start(self, now: float) -> Start[Work] | None:
        """The next work to start; it counts as started from now on."""
        for sleeper in self._alarms.due(now):
            if isinstance(sleeper, PooledHost):
                self._places.look_at(sleeper)
            else:
                self._changed[sleeper] = None
        while self._changed:
            lane = next(iter(self._changed))
            start = self._next_start(lane, now)
            if start is not None:
                return start
            del self._changed[lane]
            if lane.waiting or lane.waiting_forwards:
                self._wait(lane, now)
        return None

    def free_member(self, lane: Lane[Work], now: float) -> Member[Work] | None:
        """The connection that a session would get at once if it came now; ``None``: it would have to wait."""
        if lane.waiting or lane.waiting_forwards:
            return None
        best, most = None, 0
        limit = lane.limit
        for member in lane.members:
            if member.expires <= now:
                return None  # it is retired first
            room = member.room(limit, now)
            if room > most:
                best, most = member, room
        return best

    def take_session(self, member: Member[Work], now: float) -> None:
        """A session is about to run on *member*."""
        if not (member.sessions or member.forwards):
            if member.served and now >= member.idle_since + SETTLE:
                member.lane.host.lived_on(now)
            self._places.busy(member)
        member.session_begins()

    def _next_start(self, lane: Lane[Work], now: float) -> Start[Work] | None:
        if not (lane.waiting or lane.waiting_forwards):
            return None
        for member in lane.members:
            if member.ready and member.expires <= now and not member.retired:
                self._places.retire(member, "it is old")
        if lane.waiting:
            emptiest = self._emptiest(lane, now)
            if emptiest is not None:
                self.take_session(emptiest, now)
                return Start(emptiest, lane.waiting.popitem(last=False)[0])
        if lane.waiting_forwards:
            freest = max(lane.members, key=Member.forward_room, default=None)
            if freest is not None and freest.forward_room() > 0:
                if freest.idle:
                    self._places.busy(freest)
                freest.forwards += 1
                return Start(freest, lane.waiting_forwards.popitem(last=False)[0])
        return None

    def _emptiest(self, lane: Lane[Work], now: float) -> Member[Work] | None:
        """The connection that takes the next session."""
        while True:
            best, most = None, 0
            for member in lane.members:
                room = member.room(lane.limit, now)
                if room > most:
                    best, most = member, room
            if best is not None or lane.target.alone or not lane.host.raise_limit(now):
                return best

    def _wait(self, lane: Lane[Work], now: float) -> None:
        """What is left of *lane* waits: for another connection, or for something else to change."""
        self._places.enqueue(lane, now)
        if lane.waiting_forwards:
            self._places.make_room_behind(lane)
        at = inf
        if lane.waiting:
            for member in lane.members:
                time = member.next_room(now)
                if time is not None and time < at:
                    at = time
            # Long commands may keep every place for hours, so these must not wait for one of them to end.
            at = min(at, lane.host.next_raise)
        if lane.no_dial_before > now and (lane.usable or lane.doubted):
            at = min(at, lane.no_dial_before)
        if at < inf:
            self._alarms.set(lane, at)
