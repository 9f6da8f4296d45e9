"""
Which command goes to which connection, and when to open another: decided here, done in `relayd.ssh.pool`.

No I/O, no clock of its own: each question brings the time, so that every decision can be tested by itself.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Generic, TypeVar

from msgspec import Struct

from relayd.ssh.target import Target

#: Seconds until the place of a closed session is used again. A server frees it some time after both sides have closed
#: the channel; asking earlier is refused, although nothing is wrong.
COOL_DOWN = 0.01
#: Connections to one host being opened at a time: OpenSSH begins to turn newcomers away at ten (MaxStartups).
MAX_HANDSHAKES = 4
#: Seconds until a host that refused a session is asked for one more than it last gave.
RAISE_AFTER = 30.0
#: How often a connection without any session may refuse one before the host counts as refusing them all.
MAX_BARREN_REFUSALS = 5
#: How often a connection may be lost while a command waits for its channel before the command is given up.
MAX_DROPS = 3
#: How often in a row a host may hang up on a newcomer before that counts as its answer.
MAX_HANG_UPS = 5
#: Seconds until it is tried again after the first time; each further one doubles it.
HANG_UP_PAUSE = 0.25
#: Seconds before another connection is tried when one of several could not be opened.
DIAL_PAUSE = 5.0

Work = TypeVar("Work")


class Member(Generic[Work]):
    """One connection of the pool, from the decision to open it until it is gone."""

    __slots__ = ("_cooling", "active", "barren", "idle_since", "leaving", "not_before", "ready", "target")

    def __init__(self, target: Target) -> None:
        self.target = target
        #: Logged in.
        self.ready = False
        #: Takes no new sessions.
        self.leaving = False
        #: Sessions on it, by our count.
        self.active = 0
        #: Refusals in a row with no other session on it.
        self.barren = 0
        #: No session before this time.
        self.not_before = 0.0
        self.idle_since = 0.0
        self._cooling: deque[float] = deque()

    def __repr__(self) -> str:
        return f"<Member for {self.target!r} ready={self.ready} active={self.active}>"

    def room(self, limit: int, now: float) -> int:
        """How many more sessions it takes now."""
        if not self.ready or self.leaving or now < self.not_before:
            return 0
        cooling = self._cooling
        while cooling and cooling[0] <= now:
            cooling.popleft()
        return limit - self.active - len(cooling)

    def release(self, now: float) -> None:
        """A session is closed."""
        self.active -= 1
        self._cooling.append(now + COOL_DOWN)
        self.idle_since = now

    def next_room(self, now: float) -> float | None:
        """When a place becomes free by the mere passing of time."""
        if not self.ready or self.leaving:
            return None
        if now < self.not_before:
            return self.not_before
        return self._cooling[0] if self._cooling else None


class _Host:
    """What all targets on one server share."""

    __slots__ = ("handshakes", "hang_ups", "limit", "max_handshakes", "most", "no_dial_before", "raise_at", "targets")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.most = limit
        self.raise_at = 0.0
        self.handshakes = 0
        self.max_handshakes = MAX_HANDSHAKES
        self.hang_ups = 0
        self.no_dial_before = 0.0
        self.targets = 0


class _Lane(Generic[Work]):
    """What belongs to one target."""

    __slots__ = ("host", "members", "no_dial_before", "target", "waiting")

    def __init__(self, target: Target, host: _Host) -> None:
        self.target = target
        self.host = host
        self.waiting: OrderedDict[Work, None] = OrderedDict()
        self.members: list[Member[Work]] = []
        self.no_dial_before = 0.0


class Start(Struct, Generic[Work], frozen=True):
    """Run *work* on the connection *member*."""

    member: Member[Work]
    work: Work


class Dial(Struct, Generic[Work], frozen=True):
    """Open the connection *member*."""

    member: Member[Work]


class Wake(Struct, frozen=True):
    """Ask again at this time."""

    at: float


Step = Start[Work] | Dial[Work] | Wake


class Counts(Struct, frozen=True):
    """The pool at a glance."""

    waiting: int
    dialling: int
    connections: int
    sessions: int


class PoolState(Generic[Work]):
    """
    :param max_sessions: on one connection, where the host allows as many.
    :param max_connections: to one target.
    """

    def __init__(self, max_sessions: int, max_connections: int) -> None:
        self._max_sessions = max_sessions
        self._max_connections = max_connections
        self._lanes: dict[Target, _Lane[Work]] = {}
        self._hosts: dict[tuple[str, int], _Host] = {}

    # What happens

    def add(self, target: Target, work: Work) -> None:
        """*work* wants a session."""
        self._lane(target).waiting[work] = None

    def put_back(self, target: Target, work: Work) -> None:
        """*work* got no session after all; it comes before those that wait."""
        lane = self._lane(target)
        lane.waiting[work] = None
        lane.waiting.move_to_end(work, last=False)

    def remove(self, target: Target, work: Work) -> bool:
        """*work* does not want a session any more. Says whether it was waiting for one."""
        lane = self._lanes.get(target)
        if lane is None or work not in lane.waiting:
            return False
        del lane.waiting[work]
        self._tidy(lane)
        return True

    def take_waiting(self, target: Target) -> list[Work]:
        """All that waits for a session with *target*, which is not going to get one."""
        lane = self._lanes.get(target)
        if lane is None:
            return []
        work = list(lane.waiting)
        lane.waiting.clear()
        self._tidy(lane)
        return work

    def opened(self, member: Member[Work], now: float, most_sessions: int | None = None) -> None:
        """
        The connection is logged in.

        :param most_sessions: what the host is known to bear on one connection, if anything is known.
        """
        host = self._lanes[member.target].host
        if most_sessions is not None:
            host.most = min(host.most, most_sessions)
            host.limit = min(host.limit, most_sessions)
        host.handshakes -= 1
        host.hang_ups = 0
        member.ready = True
        member.idle_since = now

    def not_opened(self, member: Member[Work], now: float, *, hung_up: bool = False) -> bool:
        """
        The connection could not be opened.

        :param hung_up: the host hung up before the login, as one does that has too many newcomers (MaxStartups).
        :return: whether the target is out of reach: no other connection to it exists, and there is no sense in trying
            again.
        """
        lane = self._lanes[member.target]
        host = lane.host
        host.handshakes -= 1
        lane.members.remove(member)
        if hung_up and host.hang_ups < MAX_HANG_UPS:
            # What was too many is known only where there were others.
            host.max_handshakes = max(1, min(host.max_handshakes, host.handshakes or host.max_handshakes))
            host.no_dial_before = now + HANG_UP_PAUSE * 2.0**host.hang_ups
            host.hang_ups += 1
            out_of_reach = False
        else:
            lane.no_dial_before = now + DIAL_PAUSE
            out_of_reach = not lane.members
        self._tidy(lane)
        return out_of_reach

    def lost(self, member: Member[Work]) -> None:
        """A connection that was open is gone."""
        lane = self._lanes[member.target]
        lane.members.remove(member)
        self._tidy(lane)

    def session_closed(self, member: Member[Work], now: float) -> None:
        """A session on the connection has ended."""
        member.barren = 0
        member.release(now)

    def session_refused(self, member: Member[Work], now: float) -> bool:
        """
        The server opened no session: learn how many it allows.

        :return: whether the host refuses sessions for good.
        """
        member.active -= 1
        host = self._lanes[member.target].host
        if member.active > 0:
            host.limit = max(1, min(host.limit, member.active))
            host.raise_at = now + RAISE_AFTER
            return False
        # With no session of ours left on it, the server may still be busy with the end of the last one.
        member.barren += 1
        member.not_before = now + COOL_DOWN * 2.0**member.barren
        member.leaving = member.barren > MAX_BARREN_REFUSALS
        return member.leaving

    # What to do

    def plan(self, target: Target, now: float) -> Iterator[Step[Work]]:
        """
        The steps that are due for *target*; each is taken as done when the next is asked for.
        """
        lane = self._lanes.get(target)
        if lane is None:
            return
        host = lane.host
        if lane.waiting and host.limit < host.most and now >= host.raise_at:
            host.limit += 1
            host.raise_at = now + RAISE_AFTER
        while lane.waiting:
            member = max(lane.members, key=lambda member: member.room(host.limit, now), default=None)
            if member is None or member.room(host.limit, now) <= 0:
                break
            member.active += 1
            yield Start(member, lane.waiting.popitem(last=False)[0])
        while self._wants_another(lane, now):
            member = Member(target)
            lane.members.append(member)
            host.handshakes += 1
            yield Dial(member)
        if lane.waiting:
            times = [time for member in lane.members if (time := member.next_room(now)) is not None]
            # Long commands may keep every place for hours, so these must not wait for one of them to end.
            if host.limit < host.most:
                times.append(host.raise_at)
            if host.no_dial_before > now and len(lane.members) < self._max_connections:
                times.append(host.no_dial_before)
            if lane.no_dial_before > now and 0 < len(lane.members) < self._max_connections:
                times.append(lane.no_dial_before)
            if times:
                yield Wake(min(times))

    def _wants_another(self, lane: _Lane[Work], now: float) -> bool:
        dialling = sum(not member.ready for member in lane.members)
        if len(lane.waiting) <= dialling * lane.host.limit:
            return False
        host = lane.host
        if len(lane.members) >= self._max_connections or host.handshakes >= host.max_handshakes:
            return False
        if now < host.no_dial_before:
            return False
        if len(lane.members) == dialling:
            # One goes first: it learns whether the host is there and takes the login, at the price of one attempt.
            return dialling == 0
        return now >= lane.no_dial_before

    def idle(self, since: float) -> list[Member[Work]]:
        """Connections without a session since before *since*: they are to be closed, and get no more work."""
        found = []
        for lane in self._lanes.values():
            if lane.waiting:
                continue
            for member in lane.members:
                if member.ready and not member.leaving and not member.active and member.idle_since <= since:
                    member.leaving = True
                    found.append(member)
        return found

    def reaches(self, target: Target) -> bool:
        """Whether a connection to *target* is logged in."""
        lane = self._lanes.get(target)
        return lane is not None and any(member.ready for member in lane.members)

    def counts(self) -> Counts:
        """How much of everything there is."""
        members = [member for lane in self._lanes.values() for member in lane.members]
        return Counts(
            waiting=sum(len(lane.waiting) for lane in self._lanes.values()),
            dialling=sum(not member.ready for member in members),
            connections=sum(member.ready for member in members),
            sessions=sum(member.active for member in members),
        )

    def targets(self) -> list[Target]:
        """Every target that has connections or waiting work."""
        return list(self._lanes)

    def waiting_at(self, host: str, port: int) -> list[Target]:
        """The targets on one server that have work waiting: what ends a handshake may let theirs begin."""
        return [
            target
            for target, lane in self._lanes.items()
            if lane.waiting and (target.host, target.port) == (host, port)
        ]

    def _lane(self, target: Target) -> _Lane[Work]:
        lane = self._lanes.get(target)
        if lane is None:
            where = (target.host, target.port)
            host = self._hosts.get(where)
            if host is None:
                host = self._hosts[where] = _Host(self._max_sessions)
            host.targets += 1
            lane = self._lanes[target] = _Lane(target, host)
        return lane

    def _tidy(self, lane: _Lane[Work]) -> None:
        """Forget a target that has nothing left, and with the last one its host."""
        if lane.waiting or lane.members:
            return
        del self._lanes[lane.target]
        lane.host.targets -= 1
        if not lane.host.targets:
            del self._hosts[lane.target.host, lane.target.port]
