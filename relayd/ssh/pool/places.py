"""
Which target may open a connection next, and which idle one is closed to make room: no I/O, no clock.

Two things are scarce: handshakes with one host, and connections in all. For the first the targets of a host take turns,
for the second the hosts do. A connection behind jump hosts needs one to each of them: all those that are missing are
counted together with it, before any is opened. Were they counted one by one, two could wait for each other for ever.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from math import inf
from typing import Generic

from msgspec import Struct

from relayd.ssh.pool.members import MAX_FORWARDS, Alarms, Host, Lane, Member, Where, Work, where_is
from relayd.ssh.target import Target

#: Seconds for which there are no more connections than there were when no descriptor was left for another one.
CAP_TIME = 30.0


class Evict(Struct, Generic[Work], frozen=True):
    """Close the connection *member*, on which nothing runs."""

    member: Member[Work]
    reason: str


class Places(Generic[Work]):
    """
    The targets, their hosts and their connections.

    :param alarms: where a host is entered that must not be asked before some time.
    """

    def __init__(self, max_sessions: int, max_connections: int, max_total: int, alarms: Alarms[Work]) -> None:
        self._max_sessions = max_sessions
        self._max_connections = max_connections
        self._max_total = max_total
        # Less than that, for a while, when the process turned out not to have descriptors for as many
        self._cap: float = inf
        self._cap_until = 0.0
        self._alarms = alarms
        self.lanes: dict[Target, Lane[Work]] = {}
        self.hosts: dict[Where, Host[Work]] = {}
        #: Connections on which nothing runs, the longest idle first.
        self.idle: OrderedDict[Member[Work], None] = OrderedDict()
        #: What is to be closed.
        self.evictions: deque[Evict[Work]] = deque()
        #: Connections in all, with those that are counted ahead.
        self.total = 0
        # How many of them are being closed.
        self._going = 0
        # Hosts of which a lane may want to open a connection, and may be able to
        self._due: dict[Host[Work], None] = {}
        # Hosts of which a lane waits until there are fewer connections, in the order of their turns
        self._hungry: OrderedDict[Host[Work], None] = OrderedDict()

    def lane(self, target: Target) -> Lane[Work]:
        """That of *target*, which is a new one if need be."""
        lane = self.lanes.get(target)
        if lane is None:
            where = where_is(target)
            host = self.hosts.get(where)
            if host is None:
                host = self.hosts[where] = Host(where, self._max_sessions)
            host.targets += 1
            lane = self.lanes[target] = Lane(target, host)
        return lane

    def tidy(self, lane: Lane[Work]) -> None:
        """Forget a target that has nothing left, and with the last one its host."""
        if not lane.empty or self.lanes.get(lane.target) is not lane:
            return
        del self.lanes[lane.target]
        lane.alarm = inf
        host = lane.host
        host.queue.pop(lane, None)
        host.urgent.pop(lane, None)
        host.targets -= 1
        if not host.targets:
            del self.hosts[host.where]
            host.alarm = inf
            self._due.pop(host, None)
            self._hungry.pop(host, None)

    # Opening

    @property
    def _most(self) -> float:
        return min(self._max_total, self._cap)

    def is_held_back(self, target: Target) -> bool:
        """Whether *target* waits until there are fewer connections."""
        lane = self.lanes.get(target)
        return lane is not None and lane.host in self._hungry

    def is_capped(self, now: float) -> bool:
        """Whether `cap` counts."""
        return now < self._cap_until

    def cap(self, now: float) -> None:
        """There can be no more connections than there are, for a while."""
        self._cap = max(1, self.total)
        self._cap_until = now + CAP_TIME

    def ask(self, lane: Lane[Work], now: float) -> None:
        """Let *lane* have another connection in its turn, if it wants one."""
        if self._wants(lane, now):
            host = lane.host
            (host.urgent if lane.promised else host.queue).setdefault(lane)
            self._due[host] = None

    def look_at(self, host: Host[Work]) -> None:
        """A connection to *host* can perhaps be opened now."""
        if host.queue or host.urgent:
            self._due[host] = None

    def next_dial(self, now: float) -> Member[Work] | None:
        """The connection to open next; it counts from now on."""
        if now >= self._cap_until:
            self._cap = inf
        while self._due:
            host = next(iter(self._due))
            lane = self._turn(host, now)
            if lane is not None and self._may_dial(lane):
                return self._dial(lane, now)
            del self._due[host]
            if lane is not None:
                self._hungry.setdefault(host)
        while self._hungry:
            host = next(iter(self._hungry))
            lane = self._turn(host, now)
            if lane is None:
                del self._hungry[host]
            elif self.total + (cost := self._cost(lane)) <= self._most:
                del self._hungry[host]
                self._due[host] = None
                return self._dial(lane, now)
            else:
                self._make_room(cost)
                if self._cap < inf:  # its end is nothing that happens
                    self._alarms.set(host, self._cap_until)
                break
        return None

    def _wants(self, lane: Lane[Work], now: float) -> bool:
        dialling = lane.dialling
        if len(lane.waiting) <= dialling * lane.limit and len(lane.waiting_forwards) <= dialling * MAX_FORWARDS:
            return False
        if lane.usable == dialling:
            # One goes first: it learns whether the host is there and takes the login, at the price of one attempt.
            # Where one there may answer yet, failing to open another is no reason to hurry.
            return dialling == 0 and (now >= lane.no_dial_before or not lane.doubted)
        return lane.usable < self._max_connections and now >= lane.no_dial_before

    def _turn(self, host: Host[Work], now: float) -> Lane[Work] | None:
        """Whose turn it is to open a connection to *host*, if one may be opened now."""
        if host.handshakes >= host.max_handshakes or not (host.queue or host.urgent):
            return None
        if now < host.no_dial_before:
            self._alarms.set(host, host.no_dial_before)
            return None
        while host.urgent:
            lane = next(iter(host.urgent))
            wants = self._wants(lane, now)
            if wants and lane.promised:
                return lane
            del host.urgent[lane]
            if wants:
                host.queue.setdefault(lane)
        while host.queue:
            lane = next(iter(host.queue))
            if self._wants(lane, now):
                return lane
            del host.queue[lane]
        return None

    def _may_dial(self, lane: Lane[Work]) -> bool:
        cost = self._cost(lane)
        # What is counted already never waits: others wait for it.
        return not cost or (not self._hungry and self.total + cost <= self._most)

    def _cost(self, lane: Lane[Work]) -> int:
        """By how much the total grows with a connection of *lane*."""
        cost = 0 if lane.promised else 1
        for target in lane.hops:
            hop = self.lanes.get(target)
            cost += hop is None or not hop.places
        return cost

    def _dial(self, lane: Lane[Work], now: float) -> Member[Work]:
        host = lane.host
        host.urgent.pop(lane, None)
        host.queue.pop(lane, None)
        member = Member(lane)
        before = lane.places
        lane.members.append(member)
        lane.usable += 1
        lane.dialling += 1
        self.total += lane.places - before
        host.handshakes += 1
        self._expect(lane, 1)
        self.ask(lane, now)  # behind the others
        return member

    def _expect(self, lane: Lane[Work], change: int) -> None:
        """One connection more or less of *lane* is being opened, through its jump hosts."""
        for target in lane.hops:
            hop = self.lane(target)
            before = hop.places
            hop.expected += change
            self.total += hop.places - before
            self.tidy(hop)

    def handshake_ended(self, member: Member[Work]) -> None:
        """The connection is open, or it will not be."""
        lane = member.lane
        lane.dialling -= 1
        lane.host.handshakes -= 1
        self._expect(lane, -1)
        self.look_at(lane.host)

    # Closing

    def remove(self, member: Member[Work]) -> None:
        """A connection is gone."""
        lane = member.lane
        before = lane.places
        lane.members.remove(member)
        self.total += lane.places - before
        if not member.leaving and not member.doubted:
            lane.usable -= 1
        self.not_idle(member)
        if member.going:
            self._going -= 1
            via = self._via(member)
            if via is not None and via.going_behind:
                via.going_behind -= 1

    def retire(self, member: Member[Work], reason: str) -> None:
        """A connection takes nothing new, and is closed as soon as nothing runs on it."""
        if not member.leaving:
            member.leaving = True
            member.why = reason
            if not member.doubted:
                member.lane.usable -= 1
        if member.unused and not member.going:
            member.going = True
            self._going += 1
            self.not_idle(member)
            via = self._via(member)
            if via is not None:
                via.going_behind += 1
            self.evictions.append(Evict(member, member.why))

    def doubt(self, member: Member[Work], doubted: bool) -> None:
        """Whether a connection does not answer changes."""
        if member.doubted is not doubted:
            member.doubted = doubted
            if not member.leaving:
                member.lane.usable += -1 if doubted else 1

    def is_idle(self, member: Member[Work], now: float) -> None:
        """Nothing runs on a connection any more."""
        member.idle_since = now
        self.idle[member] = None
        via = self._via(member)
        if via is not None:
            via.idle_behind[member] = None

    def not_idle(self, member: Member[Work]) -> None:
        """Something runs on a connection, or it is on its way out."""
        self.idle.pop(member, None)
        via = self._via(member)
        if via is not None:
            via.idle_behind.pop(member, None)

    def _make_room(self, cost: int) -> None:
        """Close what is not needed in favour of those that wait, the first of whom needs *cost* places."""
        wanted = cost + len(self._hungry) - 1
        self._evict(self.idle, wanted - (int(self._most) - self.total) - self._going)

    def make_room_behind(self, lane: Lane[Work]) -> None:
        """
        Close what is not needed in favour of those that wait for a channel to another host, when every connection that
        *lane* may have is full of them.
        """
        if lane.usable >= self._max_connections and not lane.dialling:
            self._evict(lane.idle_behind, len(lane.waiting_forwards) - lane.going_behind)

    def _evict(self, candidates: Iterable[Member[Work]], count: int) -> None:
        chosen = []
        if count > 0:
            for member in candidates:
                if not member.lane.needed:
                    chosen.append(member)
                    if len(chosen) == count:
                        break
        for member in chosen:
            self.retire(member, "another connection needs its place")

    def _via(self, member: Member[Work]) -> Lane[Work] | None:
        """That of the last jump host before it."""
        target = member.lane.target.via
        return None if target is None else self.lanes.get(target)
