"""
What the pool does next, and what follows from each event: decided here, done in `relayd.ssh.pool.pool`.

No I/O, no clock of its own: each question brings the time, so that every decision can be tested by itself. How it works
as a whole is told in `relayd.ssh.pool`.
"""

from __future__ import annotations

from math import inf
from typing import Final, Generic

from relayd.network.host_rules import HostTable
from relayd.ssh.pool.alarms import Alarms
from relayd.ssh.pool.assignment import Assignment, Start
from relayd.ssh.pool.members import COOL_DOWN, SETTLE, Lane, Member, Work
from relayd.ssh.pool.places import Dial, Evict, Places
from relayd.ssh.pool.pool_report import PoolReport
from relayd.ssh.target import Target

#: How often a connection without any session may refuse one before that means that it refuses all of them.
MAX_REFUSALS = 5
#: How often a connection may be lost while a command waits for its channel before the command is given up.
MAX_DROPS = 3
#: Seconds before another connection is tried when one of several could not be opened, or was of no use.
DIAL_PAUSE = 5.0

#: Nothing is said of any host.
NO_TABLE: Final = HostTable()

Step = Start[Work] | Dial[Work] | Evict[Work]


class PoolState(Generic[Work]):
    """
    The decisions of one pool: tell it what happens, then take `next_step` until there is none, and again at `alarm`.

    More than 25 methods, as each event of a pool is one.

    :param max_sessions: on one connection, where the host allows as many.
    :param max_connections: to one target.
    :param max_total: connections in all. What lies behind jump hosts needs one for each of them too.
    :param max_age: seconds for which a connection takes new work.
    :param table: what is said of single hosts, before the first two.
    :ivar report: tells how things stand.
    """

    def __init__(
        self,
        max_sessions: int,
        max_connections: int,
        max_total: int = 1000,
        max_age: float = inf,
        table: HostTable = NO_TABLE,
    ) -> None:
        self._max_age = max_age
        self._alarms: Alarms[Work] = Alarms()
        self._places: Places[Work] = Places(max_sessions, max_connections, max_total, self._alarms, table)
        self._assignment: Assignment[Work] = Assignment(self._places, self._alarms)
        self.report: PoolReport[Work] = PoolReport(self._places)

    def configure(self, table: HostTable, now: float) -> None:
        """Change what is said of single hosts; what was opened in another way than now takes no more work."""
        for lane in self._places.configure(table):
            self._expire(lane, now)

    # Work comes and goes

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
        self._assignment.look_at(lane)

    def free_member(self, target: Target, now: float) -> Member[Work] | None:
        """
        The connection that a session for *target* gets at once, by `start_on`: what `add` and `next_step` come to where
        nothing waits. ``None``: it has to wait.
        """
        lane = self._places.lanes.get(target)
        return None if lane is None else self._assignment.free_member(lane, now)

    def start_on(self, member: Member[Work], now: float) -> bool:
        """Take a session's place on this very connection, if it has one; says whether it had."""
        if member.room(member.lane.limit, now) <= 0:
            return False
        self._assignment.take_session(member, now)
        return True

    def remove(self, target: Target, work: Work) -> bool:
        """*work* is withdrawn. Says whether it was waiting."""
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
        """Remove all that waits for *target*, and give it back."""
        lane = self._places.lanes.get(target)
        if lane is None:
            return []
        taken: list[Work] = []
        for waiting in (lane.waiting,) if sessions_only else (lane.waiting, lane.waiting_forwards):
            taken += waiting
            waiting.clear()
        self._tidy(lane)
        return taken

    # Connections open, fail and are lost

    def opened(self, member: Member[Work], now: float, most_sessions: int | None = None) -> None:
        """
        The connection is logged in.

        :param most_sessions: how many sessions the host is known to bear on one connection, if that is known.
        """
        lane = member.lane
        if most_sessions is not None:
            lane.host.cap(most_sessions)
        lane.host.hang_ups = 0
        lane.opened(member)
        member.expires = min(member.expires, now + self._max_age)
        self._places.became_idle(member, now)
        self._places.handshake_ended(member)
        self._assignment.look_at(lane)

    def not_opened(self, member: Member[Work], now: float, *, hung_up: bool = False, shortage: bool = False) -> bool:
        """
        The connection could not be opened.

        :param hung_up: the host hung up before the login.
        :param shortage: it is this process that can have no more of them: others have to make room.
        :return: whether the target is out of reach: no other connection to it exists, and there is no sense in trying
            again.
        """
        lane = member.lane
        self._places.remove(member)
        self._places.handshake_ended(member)
        if hung_up and lane.host.hung_up(now):
            out_of_reach = False
        elif shortage and self._places.budget.used:
            self._places.budget.cap(now)
            out_of_reach = False
        else:
            lane.no_dial_before = now + DIAL_PAUSE
            out_of_reach = not lane.usable
        self._assignment.look_at(lane)
        self._tidy(lane)
        return out_of_reach

    def lost(self, member: Member[Work], now: float, opening: int = 0, *, with_session: bool = False) -> None:
        """
        A connection that was open is gone.

        :param opening: how many sessions the server had been asked for and had not given, when the server ended it;
            some do so when they are asked for too many.
        :param with_session: whether the server ended it when a session had ended in good order; some always do.
        """
        lane = member.lane
        if with_session:
            lane.host.learn_end(now)
        elif opening and member.sessions > 1:
            lane.host.lower((member.sessions - opening) or member.sessions // 2, now)
        self._places.remove(member)
        self._assignment.look_at(lane)
        self._tidy(lane)

    # Sessions and connections to other hosts end

    def session_closed(self, member: Member[Work], now: float, *, given: bool = True) -> None:
        """
        A session on the connection has ended.

        :param given: whether the server gave it; one that it was not asked for tells nothing.
        """
        host = member.lane.host
        if given:
            member.served = member.lane.proven = True
            host.gave()
        else:
            member.left += 1
        member.session_ended(now)
        if member.lane.target.alone or (given and host.is_single(now)):
            member.expires = now
        if not member.left:
            self._places.retire(member, "it has run as many commands as it may")
        elif host.ends_with_session:
            member.not_before = now + SETTLE
        self._channel_ended(member, now)

    def session_refused(self, member: Member[Work], now: float) -> bool:
        """
        The server opened no session: learn how many it allows.

        :return: whether the target gives no sessions at all, so that what waits for one waits in vain.
        """
        host = member.lane.host
        member.session_refused()
        for_good = False
        if member.sessions > 0:
            seen = member.sessions + member.lately_closed(now)
            if seen < host.limit:
                host.lower(seen, now)
            elif now >= member.not_before:
                host.refused_when_full(max(host.limit - 1, member.sessions), now)
                member.not_before = now + COOL_DOWN
        else:
            # With no session of ours left on it, the server may still be busy with the end of the last one.
            member.refusals += 1
            member.not_before = now + COOL_DOWN * 2.0**member.refusals
            if member.refusals > MAX_REFUSALS:
                if member.served:
                    self.takes_one_command(member, now)
                else:
                    for_good = self._refuses_all(member, now)
        self._channel_ended(member, now)
        return for_good

    def takes_one_command(self, member: Member[Work], now: float) -> None:
        """The server has run a command on the connection, and runs no other; so it will be on its other connections."""
        member.lane.host.learn_single(now)
        self.retire(member, "it takes one command")

    def exec_refused_at_first(self, member: Member[Work]) -> None:
        """A command that another connection had refused was also refused by one that had run none."""
        member.lane.host.unlearn_single()

    def sessions_late(self, member: Member[Work], now: float, late: int) -> bool:
        """
        The server answers, but not when it is asked for another session.

        :param late: how many sessions it was asked for in vain.
        :return: whether they may be asked for elsewhere: where it has never given one, another connection is no help.
        """
        given = member.sessions - late
        if given > 0:
            member.lane.host.learn_limit(given, now)
        elif member.served:
            member.lane.host.learn_single(now)
        else:
            return False
        self.retire(member, "it opens no other session")
        return True

    def _refuses_all(self, member: Member[Work], now: float) -> bool:
        lane = member.lane
        member.refusals = 0
        if not (member.forwards or lane.waiting_forwards or lane.dialling_behind):
            self._places.retire(member, "it opens no sessions")
        others = any(
            other is not member
            and not other.retired
            and (other.sessions or not other.refusals)
            and other.not_before <= now
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

    def _channel_ended(self, member: Member[Work], now: float) -> None:
        lane = member.lane
        if member.doubted:
            self.trust(member)
        self._assignment.look_at(lane)
        if not (member.sessions or member.forwards):
            if member.retired or now >= member.expires:
                self._places.retire(member, "it is old")
            else:
                self._places.became_idle(member, now)
                if lane.target.via is not None:
                    self._look_at_last_hop(lane)

    def _look_at_last_hop(self, lane: Lane[Work]) -> None:
        """A connection of *lane* became idle; the jump host before it may need its channel."""
        via = lane.target.via
        hop = None if via is None else self._places.lanes.get(via)
        if hop is not None and hop.waiting_forwards:
            self._assignment.look_at(hop)

    def _tidy(self, lane: Lane[Work]) -> None:
        if lane.empty:
            self._assignment.forget(lane)
            self._places.tidy(lane)

    # A server does not answer

    def doubt(self, member: Member[Work], *, proven: bool) -> bool:
        """
        The server does not answer a request: other connections take new work until it does (`trust`).

        :param proven: whether it is known to have given a session, beside those that have ended.
        :return: whether that is so. Of a server that never gave a session on any connection another one is no help.
        """
        lane = member.lane
        if member.doubted or not (proven or lane.proven) or lane.doubted >= lane.bounds.max_connections:
            return False
        lane.doubt(member, True)
        return True

    def trust(self, member: Member[Work]) -> None:
        """The server has answered after all."""
        if member.doubted:
            member.lane.doubt(member, False)
            self._assignment.look_at(member.lane)

    # Connections take no more work

    def retire(self, member: Member[Work], reason: str) -> None:
        """A connection that is open takes no more work, from this moment on."""
        self._places.retire(member, reason)
        self._assignment.look_at(member.lane)

    def retire_target(self, target: Target, reason: str) -> None:
        """The open connections to *target* take no more work, from this moment on."""
        lane = self._places.lanes.get(target)
        if lane is not None:
            for member in lane.members:
                if member.ready:
                    self._places.retire(member, reason)
            self._assignment.look_at(lane)

    def retire_all(self, now: float) -> None:
        """No connection that is open, or being opened, takes more work."""
        for lane in self._places.lanes.values():
            self._expire(lane, now)

    def _expire(self, lane: Lane[Work], now: float) -> None:
        for member in lane.members:
            member.expires = min(member.expires, now)
        self._assignment.look_at(lane)

    def close_idle(self, now: float, timeout: float) -> None:
        """Close the connections on which nothing ran for *timeout* seconds, and the old ones."""
        for member in list(self._places.idle):
            if not member.lane.needed and (now - member.idle_since >= timeout or now >= member.expires):
                self._places.retire(member, "it was idle")

    # What to do

    def is_settled(self, now: float) -> bool:
        """Whether there is no step to take now, and no change to the `alarm`."""
        return self._places.settled and self._assignment.is_settled(now)

    def next_step(self, now: float) -> Step[Work] | None:
        """The next step that is due; it counts as done from now on."""
        step = self._assignment.next_start(now) or self._places.next_dial(now)
        if step is not None:
            return step
        evictions = self._places.evictions
        return evictions.popleft() if evictions else None

    def alarm(self) -> float | None:
        """When to ask again, though nothing happens."""
        return self._alarms.next()
