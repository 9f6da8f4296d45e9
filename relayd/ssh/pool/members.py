"""
What the pool knows of each connection (`Member`), each target (`Lane`) and each host (`PooledHost`).

Each keeps its own counters, by methods that say what has happened. Who decides by them: see `relayd.ssh.pool`. This
module is long as the three count the same events, each at its own level, and are read together.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from math import inf
from sys import maxsize
from typing import Generic, TypeVar

from relayd.ssh.pool.bounds import NO_BOUNDS, Bounds
from relayd.ssh.target import Target

#: Seconds until the place of a closed session is used again. A server frees it some time after both sides have closed
#: the channel; asking earlier is refused, although nothing is wrong.
COOL_DOWN = 0.01
#: Seconds for which a slow server may still count a closed session.
LATE = 0.1
#: Connections to other hosts through one connection. Servers set no limit of their own to these, but all of them go
#: when it goes.
MAX_FORWARDS = 256
#: Connections to one host that are opened at a time: OpenSSH begins to turn newcomers away at ten (MaxStartups).
MAX_HANDSHAKES = 4
#: How often in a row a host may hang up on a newcomer before that counts as its answer.
MAX_HANG_UPS = 5
#: Seconds until it is tried again after the first time; each further one doubles it.
HANG_UP_PAUSE = 0.25
#: Seconds until a host that refused a session is asked for one more than it last gave.
RAISE_AFTER = 30.0
#: The same where it is not so cheap to ask: the host did not answer at all, or it takes a connection to find out.
LEARNED_FOR = 600.0
#: So many refusals that may have another reason, more than one for each `EARNED` sessions that it gives, show that the
#: host takes fewer sessions than it is asked for.
MAX_CROWDED = 3.0
EARNED = 8
#: Seconds for which a connection has to live on after a command to show that the host does not end both together.
SETTLE = 1.0

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
    """
    One connection of the pool, from the decision to open it until it is gone.

    :ivar ready: it is logged in.
    :ivar retired: it takes nothing new, and is closed when nothing runs on it; *reason* says why.
    :ivar doubted: the server does not answer: it takes nothing new until it does.
    :ivar closing: it is being closed.
    :ivar sessions: commands on it.
    :ivar served: whether the server has opened a session on it.
    :ivar forwards: connections to other hosts through it.
    :ivar refusals: sessions that it refused in a row while it had no other.
    :ivar not_before: it gets no session before this time.
    :ivar left: sessions that it may still get.
    :ivar expires: when it is too old to take anything new.
    :ivar idle_since: when it last became idle.
    """

    __slots__ = (
        "_closed", "_cooling", "closing", "doubted", "expires", "forwards", "idle_since", "lane", "left", "not_before",
        "ready", "reason", "refusals", "retired", "served", "sessions",
    )  # fmt: skip

    def __init__(self, lane: Lane[Work]) -> None:
        self.lane = lane
        self.ready = False
        self.retired = False
        self.reason = ""
        self.doubted = False
        self.closing = False
        self.sessions = 0
        self.served = False
        self.forwards = 0
        self.refusals = 0
        self.not_before = 0.0
        self.left = lane.bounds.commands
        self.expires = inf
        self.idle_since = 0.0
        # When the places of closed sessions may be used again
        self._cooling: deque[float] = deque()
        # When the last sessions closed; more than the limit of them would tell nothing more.
        self._closed: deque[float] = deque(maxlen=lane.host.most)

    def __repr__(self) -> str:
        return f"<Member for {self.target!r} ready={self.ready} sessions={self.sessions} forwards={self.forwards}>"

    @property
    def target(self) -> Target:
        """The target that it leads to."""
        return self.lane.target

    @property
    def idle(self) -> bool:
        """Whether no channel is open on it."""
        return not (self.sessions or self.forwards)

    @property
    def usable(self) -> bool:
        """Whether it takes work now, or will when it is open."""
        return not (self.retired or self.doubted)

    # Sessions

    def room(self, limit: int, now: float) -> int:
        """How many more sessions it takes now."""
        if not self.ready or self.retired or self.doubted or now < self.not_before:
            return 0
        cooling = self._cooling
        while cooling and cooling[0] <= now:
            cooling.popleft()
        return min(limit - self.sessions - len(cooling), self.left)

    def next_room(self, now: float) -> float | None:
        """When a place for a session becomes free by the mere passing of time."""
        if not self.ready or self.retired or self.doubted or not self.left:
            return None
        if now < self.not_before:
            return self.not_before
        return self._cooling[0] if self._cooling else None

    def session_begins(self) -> None:
        """A session is about to run on it."""
        self.sessions += 1
        self.left -= 1

    def session_refused(self) -> None:
        """It did not run."""
        self.sessions -= 1
        self.left += 1

    def session_ended(self, now: float) -> None:
        """A session is closed; its place cools down."""
        self.refusals = 0
        self.sessions -= 1
        self._cooling.append(now + COOL_DOWN)
        self._closed.append(now)

    def lately_closed(self, now: float) -> int:
        """How many sessions closed so short a time ago that the server may still count them."""
        return sum(now - time < LATE for time in self._closed)

    # Connections to other hosts

    def forward_room(self) -> int:
        """How many more connections to other hosts it takes."""
        return MAX_FORWARDS - self.forwards if self.ready and self.usable else 0


class PooledHost(Generic[Work]):
    """
    What all targets on one server share.

    :ivar limit: sessions on one connection, as far as is known; it may rise to *most* again, one at a time, and not
        before *raise_at*.
    :ivar single_until: until when a connection is used for one command only.
    :ivar memorable: whether something is known of it that takes time, or commands, to learn again.
    :ivar ends_with_session: it ended a connection together with a command on it: it gets one command at a time until a
        connection was seen to live on.
    :ivar handshakes: connections being opened, at most *max_handshakes*.
    :ivar hang_ups: how often in a row it hung up on a newcomer.
    :ivar no_dial_before: no connection is opened before this time.
    :ivar queue: lanes that want another connection, in the order of their turns.
    :ivar reserved_queue: those of them for whose connection a place is reserved, as others need it: they come first.
    :ivar lanes: how many lanes it has.
    :ivar alarm: when to look at it again, see `relayd.ssh.pool.alarms.Alarms`.
    """

    __slots__ = (
        "_allowed", "_cap", "_crowded", "alarm", "ends_with_session", "handshakes", "hang_ups", "lanes", "limit",
        "max_handshakes", "memorable", "most", "no_dial_before", "queue", "raise_at", "reserved_queue", "single_until",
        "where",
    )  # fmt: skip

    def __init__(self, where: Where, limit: int) -> None:
        self.where = where
        self.limit = self.most = self._allowed = limit
        self._cap = maxsize
        self.raise_at = 0.0
        self._crowded = 0.0
        self.single_until = 0.0
        self.ends_with_session = False
        self.memorable = False
        self.handshakes = 0
        self.max_handshakes = MAX_HANDSHAKES
        self.hang_ups = 0
        self.no_dial_before = 0.0
        self.queue: OrderedDict[Lane[Work], None] = OrderedDict()
        self.reserved_queue: OrderedDict[Lane[Work], None] = OrderedDict()
        self.lanes = 0
        self.alarm = inf

    def __str__(self) -> str:
        return " via ".join(f"{host}:{port}" for host, port in self.where)

    # How many sessions one of its connections takes

    def cap(self, most: int) -> None:
        """It is known to take no more than *most* sessions on one connection, ever."""
        self._cap = min(self._cap, most)
        self.most = min(self.most, most)
        self.limit = min(self.limit, most)

    def allow(self, sessions: int) -> None:
        """The site allows *sessions* on one connection, for one of its users."""
        if sessions > self._allowed:
            self._allowed = sessions
            as_before = self.limit == self.most
            self.most = min(sessions, self._cap)
            if as_before:
                self.limit = self.most

    def lower(self, limit: int, now: float, pause: float = RAISE_AFTER) -> None:
        """It takes no more than *limit* sessions on one connection, for *pause* seconds at least."""
        self.limit = max(1, min(self.limit, limit))
        self.raise_at = now + pause

    def gave(self) -> None:
        """A session that it gave has ended."""
        if self._crowded:
            self._crowded = max(0.0, self._crowded - 1 / EARNED)

    def refused_when_full(self, limit: int, now: float) -> None:
        """
        It refused a session, and may still count some of those that closed lately: one such refusal tells little.

        :param limit: what it takes, should it go on so.
        """
        self._crowded += 1
        if self._crowded > MAX_CROWDED:
            self._crowded = 0.0
            self.lower(limit, now)

    def learn_limit(self, limit: int, now: float) -> None:
        """It gives no more than *limit* sessions on one connection at a time, and does not answer for more."""
        self.lower(limit, now, LEARNED_FOR)
        self.memorable = True

    def learn_single(self, now: float) -> None:
        """It runs one command on a connection, and no other after that, for now."""
        self.lower(1, now, LEARNED_FOR)
        self.single_until = now + LEARNED_FOR
        self.memorable = True

    def is_single(self, now: float) -> bool:
        """Whether it is known to run one command on a connection."""
        if now >= self.single_until:
            self.single_until = 0.0
        return self.single_until > 0.0

    def unlearn_single(self) -> None:
        """It was the command, and not the connection."""
        self.single_until = 0.0
        self.memorable = self.ends_with_session
        if not self.ends_with_session:
            self.limit = self.most

    def learn_end(self, now: float) -> None:
        """It ended a connection together with a command on it."""
        self.ends_with_session = self.memorable = True
        self.lower(1, now)

    def lived_on(self, now: float) -> None:
        """A connection of it is open though the last command on it has ended a while ago."""
        if self.ends_with_session:
            self.ends_with_session = False
            self.memorable = self.is_single(now)
            if not self.memorable:
                self.limit = self.most

    @property
    def next_raise(self) -> float:
        """When it may be asked for one session more than it last gave."""
        if self.limit >= self.most or self.ends_with_session:
            return inf
        return max(self.raise_at, self.single_until)

    def raise_limit(self, now: float) -> bool:
        """Ask it for one session more than it last gave, if it is time for that; says whether it is."""
        if now < self.next_raise:
            return False
        self.limit += 1
        self.memorable = self.limit < self.most
        self.raise_at = now + RAISE_AFTER
        return True

    # Opening connections

    def hung_up(self, now: float) -> bool:
        """
        It hung up before the login, as a host does that has too many newcomers (MaxStartups): fewer at a time, later.

        :return: whether it is to be tried again; after `MAX_HANG_UPS` it counts as not wanting us.
        """
        if self.hang_ups >= MAX_HANG_UPS:
            return False
        if self.handshakes:  # what was too many is known only where there are others
            self.max_handshakes = min(self.max_handshakes, self.handshakes)
        self.no_dial_before = now + HANG_UP_PAUSE * 2.0**self.hang_ups
        self.hang_ups += 1
        return True

    def enqueue(self, lane: Lane[Work]) -> None:
        """*lane* wants another connection; it keeps the turn that it has."""
        (self.reserved_queue if lane.reserved else self.queue).setdefault(lane)

    def dequeue(self, lane: Lane[Work]) -> None:
        """*lane* gets its connection, or wants none any more."""
        self.reserved_queue.pop(lane, None)
        self.queue.pop(lane, None)


class Lane(Generic[Work]):
    """
    What belongs to one target: its connections, and the work that waits for them.

    :ivar bounds: what the site allows for it.
    :ivar hops: the jump hosts before it, its own first.
    :ivar waiting: work that wants a session.
    :ivar waiting_forwards: work that wants a connection to another host.
    :ivar proven: whether one of its connections has given a session once.
    :ivar dialling: its connections that are being opened.
    :ivar usable: its connections that take work, or will when they are open.
    :ivar dialling_behind: connections being opened whose way leads through this target.
    :ivar idle_behind: idle connections whose last hop this is, the longest idle first.
    :ivar closing_behind: how many such connections are being closed.
    :ivar no_dial_before: no connection is opened before this time.
    :ivar alarm: when to look at it again, see `relayd.ssh.pool.alarms.Alarms`.
    """

    __slots__ = (
        "alarm", "bounds", "closing_behind", "dialling", "dialling_behind", "hops", "host", "idle_behind", "members",
        "no_dial_before", "proven", "target", "usable", "waiting", "waiting_forwards",
    )  # fmt: skip

    def __init__(self, target: Target, host: PooledHost[Work], bounds: Bounds = NO_BOUNDS) -> None:
        self.target = target
        self.host = host
        self.bounds = bounds
        self.hops = hops_of(target)
        self.waiting: OrderedDict[Work, None] = OrderedDict()
        self.waiting_forwards: OrderedDict[Work, None] = OrderedDict()
        self.members: list[Member[Work]] = []
        self.proven = False
        self.dialling = 0
        self.usable = 0
        self.dialling_behind = 0
        self.idle_behind: OrderedDict[Member[Work], None] = OrderedDict()
        self.closing_behind = 0
        self.no_dial_before = 0.0
        self.alarm = inf

    @property
    def limit(self) -> int:
        """Sessions on one of its connections, as far as is known."""
        return 1 if self.target.alone else min(self.host.limit, self.bounds.max_sessions)

    @property
    def counted(self) -> int:
        """How many connections it counts as: those it has, and at least one while others are opened through it."""
        return max(len(self.members), 1 if self.dialling_behind else 0)

    @property
    def reserved(self) -> bool:
        """Whether a place is reserved for a connection that it does not have yet."""
        return self.dialling_behind > 0 and not self.members

    @property
    def reachable(self) -> bool:
        """Whether a connection is logged in and takes work."""
        return self.usable > self.dialling

    @property
    def doubted(self) -> int:
        """How many of its connections do not answer."""
        return sum(member.doubted for member in self.members)

    @property
    def needed(self) -> bool:
        """Whether its connections must stay, idle or not."""
        return bool(self.waiting or self.waiting_forwards or self.dialling_behind)

    @property
    def empty(self) -> bool:
        """Whether nothing is left of it."""
        return not (self.needed or self.members)

    # Its connections: `dialling` and `usable` are kept here, and nowhere else.

    def dial(self) -> Member[Work]:
        """A new connection, which is to be opened."""
        member = Member(self)
        self.members.append(member)
        self.dialling += 1
        self.usable += 1
        return member

    def opened(self, member: Member[Work]) -> None:
        """*member* is logged in."""
        member.ready = True
        self.dialling -= 1

    def remove(self, member: Member[Work]) -> None:
        """*member* is gone, or could not be opened."""
        self.members.remove(member)
        if not member.ready:
            self.dialling -= 1
        if member.usable:
            self.usable -= 1

    def retire(self, member: Member[Work], reason: str) -> None:
        """*member* takes nothing new, for good."""
        if member.retired:
            return
        if member.usable:
            self.usable -= 1
        member.retired = True
        member.reason = reason

    def doubt(self, member: Member[Work], doubted: bool) -> None:
        """Whether *member* answers changes."""
        if member.doubted is doubted:
            return
        member.doubted = doubted
        if not member.retired:
            self.usable += -1 if doubted else 1
