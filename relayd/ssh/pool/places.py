"""
Which target may open a connection next, and which idle one is closed to make room: no I/O, no clock.

Two things are scarce: handshakes with one host, and connections in all. For the first the targets of a host take turns,
for the second the hosts do. A connection behind jump hosts needs one to each of them: all those that are missing are
counted together with it, before any is opened. Were they counted one by one, two could wait for each other for ever.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import Generic

from msgspec import Struct

from relayd.network.host_rules import HostTable
from relayd.ssh.pool.alarms import Alarms
from relayd.ssh.pool.bounds import Bounds, bounds_of
from relayd.ssh.pool.budget import ConnectionBudget
from relayd.ssh.pool.members import MAX_FORWARDS, Lane, Member, PooledHost, Where, Work, where_is
from relayd.ssh.target import Target

#: Hosts of which what was learned is remembered though nothing is open there, or wanted.
MOST_KNOWN = 4096


class Dial(Struct, Generic[Work], frozen=True):
    """Open the connection *member*."""

    member: Member[Work]


class Evict(Struct, Generic[Work], frozen=True):
    """Close the connection *member*, on which nothing runs."""

    member: Member[Work]
    reason: str


class Places(Generic[Work]):
    """
    The targets, their hosts and their connections.

    :param alarms: gets the times before which a host must not be dialled.
    :param table: what is said of single hosts, before the other numbers.
    :ivar lanes: of each target that has connections, or work that waits, or that others are being reached through.
    :ivar hosts: the hosts of the lanes.
    :ivar idle: connections on which nothing runs, the longest idle first.
    :ivar evictions: what is to be closed.
    :ivar held_back: hosts of which a lane waits until there are fewer connections in all, in the order of their turns.
    """

    def __init__(
        self, max_sessions: int, max_connections: int, max_total: int, alarms: Alarms[Work], table: HostTable
    ) -> None:
        self._max_sessions = max_sessions
        self._max_connections = max_connections
        self._table = table
        self._alarms = alarms
        self.budget = ConnectionBudget(max_total)
        self.lanes: dict[Target, Lane[Work]] = {}
        self.hosts: dict[Where, PooledHost[Work]] = {}
        self.idle: OrderedDict[Member[Work], None] = OrderedDict()
        self.evictions: deque[Evict[Work]] = deque()
        self.held_back: OrderedDict[PooledHost[Work], None] = OrderedDict()
        # What was learned of hosts that have no lanes now; the one that was left longest ago is forgotten first.
        self._known: OrderedDict[Where, PooledHost[Work]] = OrderedDict()
        # Hosts of which a lane may want to open a connection, and may be able to
        self._due: dict[PooledHost[Work], None] = {}

    def lane(self, target: Target) -> Lane[Work]:
        """The lane of *target*; makes one if there is none."""
        lane = self.lanes.get(target)
        if lane is None:
            where = where_is(target)
            host = self.hosts.get(where)
            if host is None:
                host = self._known.pop(where) if where in self._known else PooledHost(where, self._max_sessions)
                self.hosts[where] = host
            host.lanes += 1
            lane = self.lanes[target] = Lane(target, host, self._bounds(target))
            host.allow(lane.bounds.max_sessions)
        return lane

    def _bounds(self, target: Target) -> Bounds:
        said = self._table.of(target.host, target.port, target.username)
        return bounds_of(said, self._max_sessions, self._max_connections)

    def configure(self, table: HostTable) -> list[Lane[Work]]:
        """
        Change what is said of single hosts.

        :return: the lanes whose connections were opened, or are being opened, in another way than now.
        """
        before, self._table = self._table, table
        changed = []
        for lane in self.lanes.values():
            lane.bounds = self._bounds(lane.target)
            lane.host.allow(lane.bounds.max_sessions)
            for target in (lane.target, *lane.hops):
                place = target.host, target.port, target.username
                if before.of(*place).of_connection != table.of(*place).of_connection:
                    changed.append(lane)
                    break
        return changed

    def tidy(self, lane: Lane[Work]) -> None:
        """Forget a target that has nothing left, and with the last one its host."""
        if not lane.empty or self.lanes.get(lane.target) is not lane:
            return
        del self.lanes[lane.target]
        host = lane.host
        host.dequeue(lane)
        host.lanes -= 1
        self._alarms.cancel(lane)
        if not host.lanes:
            del self.hosts[host.where]
            self._alarms.cancel(host)
            self._due.pop(host, None)
            self.held_back.pop(host, None)
            if host.memorable:
                self._known[host.where] = host
                if len(self._known) > MOST_KNOWN:
                    self._known.popitem(last=False)

    # Opening

    def enqueue(self, lane: Lane[Work], now: float) -> None:
        """Let *lane* have another connection in its turn, if it wants one."""
        if self._wants_another(lane, now):
            lane.host.enqueue(lane)
            self._due[lane.host] = None

    def look_at(self, host: PooledHost[Work]) -> None:
        """A connection to *host* can perhaps be opened now."""
        if host.queue or host.reserved_queue:
            self._due[host] = None

    @property
    def settled(self) -> bool:
        """Whether there is nothing to open, and nothing to close."""
        return not (self._due or self.held_back or self.evictions)

    def next_dial(self, now: float) -> Dial[Work] | None:
        """The connection to open next; it counts from now on."""
        if not (self._due or self.held_back):
            return None
        self.budget.uncap(now)
        while self._due:
            host = next(iter(self._due))
            lane = self._next_lane(host, now)
            if lane is not None and self._may_dial(lane):
                return self._dial(lane, now)
            del self._due[host]
            if lane is not None:
                self.held_back.setdefault(host)
        return self._next_held_back(now)

    def _next_held_back(self, now: float) -> Dial[Work] | None:
        """The same for hosts that wait until there are fewer connections; closes idle ones for them."""
        while self.held_back:
            host = next(iter(self.held_back))
            lane = self._next_lane(host, now)
            if lane is None:
                del self.held_back[host]
                continue
            cost = self._cost(lane)
            if self.budget.has_room(cost):
                del self.held_back[host]
                self._due[host] = None
                return self._dial(lane, now)
            self._evict(self.idle, self.budget.missing(cost + len(self.held_back) - 1))
            if self.budget.capped:  # no event tells the end of that
                self._alarms.set(host, self.budget.capped_until)
            break
        return None

    def _wants_another(self, lane: Lane[Work], now: float) -> bool:
        dialling = lane.dialling
        if len(lane.waiting) <= dialling * lane.limit and len(lane.waiting_forwards) <= dialling * MAX_FORWARDS:
            return False
        if lane.usable == dialling:
            # One goes first: it learns whether the host is there and takes the login, at the price of one attempt.
            # Where one there may answer yet, failing to open another is no reason to hurry.
            return dialling == 0 and (now >= lane.no_dial_before or not lane.doubted)
        return lane.usable < lane.bounds.max_connections and now >= lane.no_dial_before

    def _next_lane(self, host: PooledHost[Work], now: float) -> Lane[Work] | None:
        """Whose turn it is to open a connection to *host*, if one may be opened now."""
        if host.handshakes >= host.max_handshakes or not (host.queue or host.reserved_queue):
            return None
        if now < host.no_dial_before:
            self._alarms.set(host, host.no_dial_before)
            return None
        while host.reserved_queue:
            lane = next(iter(host.reserved_queue))
            wants = self._wants_another(lane, now)
            if wants and lane.reserved:
                return lane
            del host.reserved_queue[lane]
            if wants:
                host.enqueue(lane)
        while host.queue:
            lane = next(iter(host.queue))
            if self._wants_another(lane, now):
                return lane
            del host.queue[lane]
        return None

    def _may_dial(self, lane: Lane[Work]) -> bool:
        cost = self._cost(lane)
        # One that has a reserved place never waits: others wait for it.
        return not cost or (not self.held_back and self.budget.has_room(cost))

    def _cost(self, lane: Lane[Work]) -> int:
        """By how much the total grows with a connection of *lane*."""
        cost = 0 if lane.reserved else 1
        for target in lane.hops:
            hop = self.lanes.get(target)
            cost += hop is None or not hop.counted
        return cost

    def _dial(self, lane: Lane[Work], now: float) -> Dial[Work]:
        lane.host.dequeue(lane)
        before = lane.counted
        member = lane.dial()
        self.budget.used += lane.counted - before
        lane.host.handshakes += 1
        self._dialling_behind(lane, 1)
        self.enqueue(lane, now)  # behind the others
        return Dial(member)

    def _dialling_behind(self, lane: Lane[Work], change: int) -> None:
        """One more or one less connection of *lane* is being opened, through its jump hosts."""
        for target in lane.hops:
            hop = self.lane(target)
            before = hop.counted
            hop.dialling_behind += change
            self.budget.used += hop.counted - before
            self.tidy(hop)

    def handshake_ended(self, member: Member[Work]) -> None:
        """The connection is open, or could not be opened."""
        lane = member.lane
        lane.host.handshakes -= 1
        self._dialling_behind(lane, -1)
        self.look_at(lane.host)

    # Closing

    def remove(self, member: Member[Work]) -> None:
        """A connection is gone."""
        lane = member.lane
        before = lane.counted
        lane.remove(member)
        self.budget.used += lane.counted - before
        self.busy(member)
        if member.closing:
            self.budget.closing -= 1
            last_hop = self._last_hop(member)
            if last_hop is not None and last_hop.closing_behind:
                last_hop.closing_behind -= 1

    def retire(self, member: Member[Work], reason: str) -> None:
        """A connection takes nothing new, and is closed as soon as nothing runs on it."""
        member.lane.retire(member, reason)
        if member.idle and not member.closing:
            member.closing = True
            self.budget.closing += 1
            self.busy(member)
            last_hop = self._last_hop(member)
            if last_hop is not None:
                last_hop.closing_behind += 1
            self.evictions.append(Evict(member, member.reason))

    def became_idle(self, member: Member[Work], now: float) -> None:
        """Nothing runs on a connection any more."""
        member.idle_since = now
        self.idle[member] = None
        if member.lane.target.via is not None and (last_hop := self._last_hop(member)) is not None:
            last_hop.idle_behind[member] = None

    def busy(self, member: Member[Work]) -> None:
        """Something runs on a connection, or it is closed: it is not among the idle ones any more."""
        self.idle.pop(member, None)
        if member.lane.target.via is not None and (last_hop := self._last_hop(member)) is not None:
            last_hop.idle_behind.pop(member, None)

    def make_room_behind(self, lane: Lane[Work]) -> None:
        """
        Close idle connections in favour of those that wait for a channel to another host, when every connection that
        *lane* may have is full of them.
        """
        if lane.usable >= lane.bounds.max_connections and not lane.dialling:
            self._evict(lane.idle_behind, len(lane.waiting_forwards) - lane.closing_behind)

    def _evict(self, candidates: Iterable[Member[Work]], count: int) -> None:
        """Close the first *count* of the candidates that are not needed."""
        chosen: list[Member[Work]] = []
        for member in candidates:
            if len(chosen) >= count:
                break
            if not member.lane.needed:
                chosen.append(member)
        for member in chosen:
            self.retire(member, "another connection needs its place")

    def _last_hop(self, member: Member[Work]) -> Lane[Work] | None:
        """The lane of the last jump host before it."""
        target = member.lane.target.via
        return None if target is None else self.lanes.get(target)
