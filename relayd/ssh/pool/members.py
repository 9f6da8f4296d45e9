"""
What the pool knows of each connection, each target and each host. The decisions are in `relayd.ssh.pool.decisions`.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from heapq import heappop, heappush
from math import inf
from typing import Generic, TypeVar

from relayd.ssh.target import Target

#: Seconds until the place of a closed session is used again. A server frees it some time after both sides have closed
#: the channel; asking earlier is refused, although nothing is wrong.
COOL_DOWN = 0.01
#: Seconds for which a slow server may count a closed session still.
LATE = 0.1
#: Connections to other hosts through one connection. Servers set no limit of their own to these, but all of them go
#: when it goes.
MAX_FORWARDS = 256
#: Connections to one host being opened at a time: OpenSSH begins to turn newcomers away at ten (MaxStartups).
MAX_HANDSHAKES = 4

Work = TypeVar("Work")

#: Names a host: its address and port, and those of the jump hosts before it. One private address stands for other
#: machines behind other jump hosts.
Where = tuple[tuple[str, int], ...]


def where_is(target: Target) -> Where:
    """The host of *target*; the targets of one host share what is learned of it."""
    way = [(target.host, target.port)]
    for hop in hops_of(target):
        way.append((hop.host, hop.port))
    return tuple(way)


def hops_of(target: Target) -> list[Target]:
    """The jump hosts before *target*, its own first."""
    hops = []
    hop = target.via
    while hop is not None:
        hops.append(hop)
        hop = hop.via
    return hops


class Member(Generic[Work]):
    """One connection of the pool, from the decision to open it until it is gone."""

    __slots__ = (
        "_closed", "_cooling", "active", "barren", "doubted", "expires", "forwards", "going", "idle_since", "lane",
        "leaving", "not_before", "ready", "why",
    )  # fmt: skip

    def __init__(self, lane: Lane[Work]) -> None:
        self.lane = lane
        #: Logged in.
        self.ready = False
        #: Takes nothing new.
        self.leaving = False
        #: Why.
        self.why = ""
        #: Does not answer, and takes nothing new until it does.
        self.doubted = False
        #: Is being closed.
        self.going = False
        #: Sessions on it, by our count.
        self.active = 0
        #: Connections to other hosts through it.
        self.forwards = 0
        #: Refusals in a row with no other session on it.
        self.barren = 0
        #: No session before this time.
        self.not_before = 0.0
        #: When it is too old to take anything new.
        self.expires = inf
        self.idle_since = 0.0
        self._cooling: deque[float] = deque()
        # When the last sessions closed; more than the limit of them would tell nothing more.
        self._closed: deque[float] = deque(maxlen=lane.host.most)

    def __repr__(self) -> str:
        return f"<Member for {self.target!r} ready={self.ready} active={self.active} forwards={self.forwards}>"

    @property
    def target(self) -> Target:
        """Whom it is for."""
        return self.lane.target

    @property
    def unused(self) -> bool:
        """Whether no channel is open on it."""
        return not (self.active or self.forwards)

    def room(self, limit: int, now: float) -> int:
        """How many more sessions it takes now."""
        if not self.ready or self.leaving or self.doubted or now < self.not_before:
            return 0
        cooling = self._cooling
        while cooling and cooling[0] <= now:
            cooling.popleft()
        return limit - self.active - len(cooling)

    def forward_room(self) -> int:
        """How many more connections to other hosts it takes."""
        return MAX_FORWARDS - self.forwards if self.ready and not (self.leaving or self.doubted) else 0

    def release(self, now: float) -> None:
        """A session is closed."""
        self.active -= 1
        self._cooling.append(now + COOL_DOWN)
        self._closed.append(now)

    def lately_closed(self, now: float) -> int:
        """How many sessions closed so short a time ago that the server may count them still."""
        return sum(now - time < LATE for time in self._closed)

    def next_room(self, now: float) -> float | None:
        """When a place for a session becomes free by the mere passing of time."""
        if not self.ready or self.leaving or self.doubted:
            return None
        if now < self.not_before:
            return self.not_before
        return self._cooling[0] if self._cooling else None


class Host(Generic[Work]):
    """What all targets on one server share."""

    __slots__ = (
        "alarm", "handshakes", "hang_ups", "limit", "max_handshakes", "most", "no_dial_before", "queue", "raise_at",
        "targets", "urgent", "where",
    )  # fmt: skip

    def __init__(self, where: Where, limit: int) -> None:
        self.where = where
        #: Sessions on one connection, as far as is known.
        self.limit = limit
        #: To which that may rise again.
        self.most = limit
        self.raise_at = 0.0
        #: Connections being opened.
        self.handshakes = 0
        self.max_handshakes = MAX_HANDSHAKES
        self.hang_ups = 0
        self.no_dial_before = 0.0
        #: Those that want another connection, in the order of their turns.
        self.queue: OrderedDict[Lane[Work], None] = OrderedDict()
        #: Likewise those whose connection is counted already, because others need it: they come first.
        self.urgent: OrderedDict[Lane[Work], None] = OrderedDict()
        self.targets = 0
        self.alarm = inf

    def __str__(self) -> str:
        return " via ".join(f"{host}:{port}" for host, port in self.where)

    def lower(self, limit: int, raise_at: float) -> None:
        """It takes no more than *limit* sessions on one connection, for now."""
        self.limit = max(1, min(self.limit, limit))
        self.raise_at = raise_at


class Lane(Generic[Work]):
    """What belongs to one target."""

    __slots__ = (
        "alarm", "dialling", "expected", "going_behind", "hops", "host", "idle_behind", "members", "no_dial_before",
        "proven", "target", "usable", "waiting", "waiting_forwards",
    )  # fmt: skip

    def __init__(self, target: Target, host: Host[Work]) -> None:
        self.target = target
        self.host = host
        self.hops = hops_of(target)
        #: Work that wants a session.
        self.waiting: OrderedDict[Work, None] = OrderedDict()
        #: Work that wants a connection to another host.
        self.waiting_forwards: OrderedDict[Work, None] = OrderedDict()
        self.members: list[Member[Work]] = []
        #: Whether one of them has given a session once.
        self.proven = False
        #: Of them, those not opened yet.
        self.dialling = 0
        #: Of them, those that take work or will do so.
        self.usable = 0
        #: Connections being opened whose way leads through this target.
        self.expected = 0
        #: Idle connections whose last hop this is, the longest idle first.
        self.idle_behind: OrderedDict[Member[Work], None] = OrderedDict()
        #: How many of them are being closed.
        self.going_behind = 0
        self.no_dial_before = 0.0
        self.alarm = inf

    @property
    def limit(self) -> int:
        """Sessions on one of its connections, as far as is known."""
        return 1 if self.target.alone else self.host.limit

    @property
    def places(self) -> int:
        """How many connections it counts for: those it has, and at least one where others are about to need it."""
        return max(len(self.members), 1 if self.expected else 0)

    @property
    def promised(self) -> bool:
        """Whether a connection that it does not have yet is counted already."""
        return self.expected > 0 and not self.members

    @property
    def doubted(self) -> int:
        """How many of its connections do not answer."""
        return sum(member.doubted for member in self.members)

    @property
    def empty(self) -> bool:
        """Whether nothing is left of it."""
        return not (self.waiting or self.waiting_forwards or self.members or self.expected)

    @property
    def needed(self) -> bool:
        """Whether its connections must stay, be they idle or not."""
        return bool(self.waiting or self.waiting_forwards or self.expected)


Sleeper = Lane[Work] | Host[Work]


class Alarms(Generic[Work]):
    """When to look at which lane or host again."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Sleeper[Work]]] = []
        self._count = 0

    def set(self, sleeper: Sleeper[Work], at: float) -> None:
        """Wake *sleeper* at this time, or earlier if that was arranged already."""
        if at < sleeper.alarm:
            sleeper.alarm = at
            self._count += 1  # so that two of the same time are never compared
            heappush(self._heap, (at, self._count, sleeper))

    def due(self, now: float) -> Iterator[Sleeper[Work]]:
        """Those whose time has come."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            at, _, sleeper = heappop(heap)
            if sleeper.alarm == at:
                sleeper.alarm = inf
                yield sleeper

    def next(self) -> float | None:
        """The earliest time at which somebody is to be woken."""
        heap = self._heap
        while heap and heap[0][2].alarm != heap[0][0]:
            heappop(heap)
        return heap[0][0] if heap else None
