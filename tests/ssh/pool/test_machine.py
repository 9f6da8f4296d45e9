"""
The decisions of the connection pool against simulated hosts that hide their limits, in every order of events.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from twisted.trial.unittest import SynchronousTestCase

from relayd.network.host_rules import HostRule, HostSettings, HostTable
from relayd.ssh.pool.assignment import Start
from relayd.ssh.pool.decisions import DIAL_PAUSE, PoolState
from relayd.ssh.pool.members import (
    COOL_DOWN,
    LEARNED_FOR,
    MAX_HANDSHAKES,
    RAISE_AFTER,
    SETTLE,
    Member,
    hops_of,
    where_is,
)
from relayd.ssh.pool.places import Dial, Evict
from relayd.ssh.target import Credential, Target
from tests.support.ssh_pool import limits, steps

A = Target("host", 22, "a", Credential("a"))
B = Target("host", 22, "b", Credential("b"))
C = Target("host", 22, "a", Credential("c"))
JUMP = Target("jump", 22, "j", Credential("j"))
FAR = Target("far", 22, "f", Credential("f"), via=JUMP)
FAR_TOO = Target("far", 22, "g", Credential("g"), via=JUMP)
SECOND = Target("second", 22, "j", Credential("j"), via=JUMP)
FARTHEST = Target("host", 22, "a", Credential("a"), via=SECOND)
TARGETS = (A, B, C, JUMP, FAR, FAR_TOO, FARTHEST)
#: Connections that are needed for the farthest of them.
LONGEST_WAY = 3
MAX_AGE = 50.0


class Dialled:
    """A connection being opened: behind a jump host it needs a channel first, which is work for the pool too."""

    def __init__(self, member: Member[int]) -> None:
        self.member = member
        self.forward: int | None = None
        self.ready = member.target.via is None


class PoolMachine(RuleBasedStateMachine):
    """Does what the pool decides, on servers that answer when they like."""

    @initialize(
        sessions=st.integers(1, 5), connections=st.integers(1, 6), exact=st.booleans(),
        max_sessions=st.integers(1, 5), max_connections=st.integers(1, 6), max_total=st.integers(3, 9),
        commands=st.sampled_from([None, None, 1, 2, 5]),
    )  # fmt: skip
    def begin(
        self,
        sessions: int,
        connections: int,
        exact: bool,
        max_sessions: int,
        max_connections: int,
        max_total: int,
        commands: int | None,
    ) -> None:
        self.server_sessions, self.server_connections = sessions, connections  # which the pool is not told
        self.exact = exact  # the servers refuse what is too much, and nothing else
        self.max_sessions, self.max_connections, self.max_total = max_sessions, max_connections, max_total
        self.commands = commands  # on one connection
        self.strict = False
        self.state: PoolState[int] = PoolState(max_sessions, max_connections, max_total, MAX_AGE, self.table())
        self.given: list[Member[int]] = []  # one for each session that it gave
        self.outdated: set[Member[int]] = set()  # opened by other settings than now
        self.now = 0.0
        self.submitted = 0
        self.waiting: dict[int, Target] = {}
        self.opening: dict[int, Member[int]] = {}
        self.running: dict[int, Member[int]] = {}
        self.ended: set[int] = set()
        self.dialling: list[Dialled] = []
        self.open: list[Member[int]] = []
        self.opened_at: dict[Member[int], float] = {}
        self.closing: list[Member[int]] = []  # told to close, still open
        # Channels to other hosts: where they run, and for which connection they are
        self.forwards: dict[int, Member[int]] = {}
        self.carried: dict[Member[int], int] = {}

    def table(self) -> HostTable:
        """What the site says of single hosts."""
        by_key = HostSettings(host_keys="strict" if self.strict else "ignore")
        often = HostSettings(commands_per_connection=self.commands)
        return HostTable((HostRule(hosts=(JUMP.host,), settings=by_key), HostRule(hosts=("*",), settings=often)))

    @rule()
    def reload(self) -> None:
        self.strict = not self.strict
        self.state.configure(self.table(), self.now)
        for member in (*self.open, *(dialled.member for dialled in self.dialling)):
            if JUMP in (member.target, *hops_of(member.target)):
                self.outdated.add(member)
        self.work()

    def work(self) -> None:
        for step in steps(self.state, self.now):
            if isinstance(step, Dial):
                self.dialling.append(Dialled(step.member))
            elif isinstance(step, Evict):
                assert not self.channels(step.member), "closed although something runs on it"
                self.closing.append(step.member)
            elif any(dialled.forward == step.work for dialled in self.dialling):
                self.forward_starts(step)
            else:
                self.session_starts(step)

    def session_starts(self, step: Start[int]) -> None:
        assert step.member in self.open and step.member not in self.closing, "started where no connection is"
        assert self.waiting.pop(step.work) == step.member.target, "on the connection of another"
        assert step.work not in self.opening and step.work not in self.running
        self.opening[step.work] = step.member
        load = self.load(step.member)
        limit = limits(self.state.report, self.max_sessions).get(str(step.member.lane.host), self.max_sessions)
        assert load == step.member.sessions <= limit <= self.max_sessions
        assert self.now < self.opened_at[step.member] + MAX_AGE, "too old for anything new"
        assert step.member not in self.outdated, "it was opened by other settings"

    def forward_starts(self, step: Start[int]) -> None:
        (dialled,) = [each for each in self.dialling if each.forward == step.work]
        assert step.member in self.open and step.member not in self.closing
        assert dialled.member.target.via == step.member.target and step.work not in self.forwards
        self.forwards[step.work] = step.member

    def load(self, member: Member[int]) -> int:
        return [*self.opening.values(), *self.running.values()].count(member)

    def channels(self, member: Member[int]) -> int:
        return self.load(member) + list(self.forwards.values()).count(member)

    # What may happen

    @rule(where=st.sampled_from(TARGETS), count=st.integers(1, 8))
    def submit(self, where: Target, count: int) -> None:
        for _ in range(count):
            self.waiting[self.submitted] = where
            self.state.add(where, self.submitted)
            self.submitted += 1
        self.work()

    @rule(pick=st.integers(0, 99))
    @precondition(lambda self: self.waiting)
    def withdraw(self, pick: int) -> None:
        work = sorted(self.waiting)[pick % len(self.waiting)]
        assert self.state.remove(self.waiting.pop(work), work)
        self.ended.add(work)
        self.work()

    @rule(pick=st.integers(0, 99), where=st.sampled_from(TARGETS))
    @precondition(lambda self: self.open)
    def submit_near(self, pick: int, where: Target) -> None:
        member = self.open[pick % len(self.open)]
        work = self.submitted
        self.submitted += 1
        if self.state.start_on(member, self.now):
            assert member not in self.closing
            self.opening[work] = member
            limit = limits(self.state.report, self.max_sessions).get(str(member.lane.host), self.max_sessions)
            assert self.load(member) == member.sessions <= limit
        else:
            self.waiting[work] = member.target
            self.state.add(member.target, work, first=True)
        self.work()

    def unfinished(self) -> list[Dialled]:
        """Those whose next step is up to the network."""
        return [each for each in self.dialling if each.ready or each.forward is None or each.forward in self.forwards]

    @rule(pick=st.integers(0, 99), outcome=st.sampled_from(["good", "good", "fails", "hangs up"]))
    @precondition(lambda self: self.unfinished())
    def handshake(self, pick: int, outcome: str) -> None:
        ready = self.unfinished()
        dialled = ready[pick % len(ready)]
        via = dialled.member.target.via
        if not dialled.ready and via is not None:
            if dialled.forward is None and outcome != "fails":  # or else its key cannot be read
                dialled.forward = 1_000_000 + self.submitted
                self.submitted += 1
                self.ended.add(dialled.forward - 1_000_000)
                self.state.add(via, dialled.forward, forward=True)
                self.work()
                return
            if dialled.forward is not None and outcome == "good":
                dialled.ready = True
                return
        self.finish_dial(dialled, outcome)
        self.work()

    def finish_dial(self, dialled: Dialled, outcome: str) -> None:
        member = dialled.member
        self.dialling.remove(dialled)
        here = sum(where_is(other.target) == where_is(member.target) for other in self.open)
        if outcome == "good" and here < self.server_connections:
            self.open.append(member)
            self.opened_at[member] = self.now
            if dialled.forward is not None:
                self.carried[member] = dialled.forward
            self.state.opened(member, self.now)
            return
        self.end_forward(dialled.forward)
        if self.state.not_opened(member, self.now, hung_up=outcome == "hangs up"):
            self.fail_waiting(member.target)

    def end_forward(self, forward: int | None) -> None:
        carrier = None if forward is None else self.forwards.pop(forward, None)
        if carrier is not None:
            self.state.forward_ended(carrier, self.now)

    def fail_waiting(self, target: Target, *, sessions_only: bool = False) -> None:
        taken = self.state.take_waiting(target, sessions_only=sessions_only)
        sessions = [work for work in taken if work in self.waiting]
        assert set(sessions) == {work for work, where in self.waiting.items() if where == target}
        for work in sessions:
            del self.waiting[work]
            self.ended.add(work)
        for work in taken:
            for dialled in list(self.dialling):
                if dialled.forward == work:
                    assert not sessions_only
                    self.finish_dial(dialled, "fails")

    @rule(pick=st.integers(0, 99), busy=st.booleans())
    @precondition(lambda self: self.opening)
    def answer(self, pick: int, busy: bool) -> None:
        """*busy*: the server has not yet freed the place of a session that has ended."""
        work = sorted(self.opening)[pick % len(self.opening)]
        member = self.opening.pop(work)
        others = list(self.running.values()).count(member)
        if others + (busy and not self.exact) < self.server_sessions:
            self.running[work] = member
            self.given.append(member)
            return
        left = self.load(member)
        for_good = self.state.session_refused(member, self.now)
        self.waiting[work] = member.target
        self.state.add(member.target, work, first=True)
        if for_good:
            assert not left
            self.fail_waiting(member.target, sessions_only=True)
        self.work()

    @rule(pick=st.integers(0, 99))
    @precondition(lambda self: self.running)
    def finish(self, pick: int) -> None:
        work = sorted(self.running)[pick % len(self.running)]
        member = self.running.pop(work)
        self.ended.add(work)
        self.state.session_closed(member, self.now)
        self.work()

    @rule(pick=st.integers(0, 99))
    @precondition(lambda self: self.running and not self.exact)
    def second_command_refused(self, pick: int) -> None:
        work = sorted(self.running)[pick % len(self.running)]
        member = self.running.pop(work)
        self.state.takes_one_command(member, self.now)
        self.put_back([work], member)

    @rule(pick=st.integers(0, 99))
    @precondition(lambda self: self.opening and not self.exact)
    def sessions_late(self, pick: int) -> None:
        """They are opened after all, and closed at once, when their commands wait for others."""
        works = sorted(self.opening)
        member = self.opening[works[pick % len(works)]]
        late = [work for work in works if self.opening[work] is member]
        if self.state.sessions_late(member, self.now, len(late)):
            for work in late:
                del self.opening[work]
            self.put_back(late, member)

    def put_back(self, works: list[int], member: Member[int]) -> None:
        for work in works:
            self.waiting[work] = member.target
            self.state.add(member.target, work, first=True)
            self.state.session_closed(member, self.now)
        self.work()

    @rule(pick=st.integers(0, 99), dropped=st.booleans(), with_session=st.booleans())
    @precondition(lambda self: self.open)
    def connection_lost(self, pick: int, dropped: bool, with_session: bool) -> None:
        member = self.open[pick % len(self.open)]
        self.lose(member, dropped and not self.exact, with_session=with_session and not self.exact)
        self.work()

    @rule(pick=st.integers(0, 99))
    @precondition(lambda self: self.closing)
    def closed(self, pick: int) -> None:
        self.lose(self.closing[pick % len(self.closing)])
        self.work()

    def lose(self, member: Member[int], dropped: bool = False, with_session: bool = False) -> None:
        self.open.remove(member)
        if member in self.closing:
            self.closing.remove(member)
        opening = sorted((work for work, where in self.opening.items() if where is member), reverse=True)
        self.state.lost(member, self.now, len(opening) if dropped else 0, with_session=with_session)
        for work in [work for work, where in self.running.items() if where is member]:
            del self.running[work]
            self.ended.add(work)
        for work in opening:
            del self.opening[work]
            self.waiting[work] = member.target
            self.state.add(member.target, work, first=True)
        self.end_forward(self.carried.pop(member, None))
        for forward in [forward for forward, where in self.forwards.items() if where is member]:
            del self.forwards[forward]
            for dialled in list(self.dialling):
                if dialled.forward == forward:
                    self.finish_dial(dialled, "fails")
            for far in [far for far, way in self.carried.items() if way == forward]:
                self.lose(far)

    @rule(seconds=st.sampled_from([0.001, COOL_DOWN, 0.1, SETTLE, DIAL_PAUSE, RAISE_AFTER, LEARNED_FOR]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        alarm = self.state.alarm()
        if alarm is not None and alarm <= self.now:
            self.work()
            alarm = self.state.alarm()
            assert alarm is None or alarm > self.now, "an alarm that is always due"

    @rule(timeout=st.sampled_from([1.0, 100.0]))
    def close_idle(self, timeout: float) -> None:
        self.state.close_idle(self.now, timeout)
        self.work()

    # What always holds

    @invariant()
    def nothing_is_forgotten(self) -> None:
        places = [*self.waiting, *self.opening, *self.running, *self.ended]
        assert sorted(places) == list(range(self.submitted))
        counts = self.state.report.counts()
        assert counts.waiting == len(self.waiting)
        assert counts.sessions == len(self.opening) + len(self.running)
        assert counts.forwards == len(self.forwards)
        assert (counts.dialling, counts.connections) == (len(self.dialling), len(self.open))
        idle = [member for member in self.open if not self.channels(member) and member not in self.closing]
        assert counts.idle == len(idle)
        members = [*(dialled.member for dialled in self.dialling), *self.open]
        known = {member.target for member in members} | set(self.waiting.values())
        for dialled in self.dialling:
            known.update(hops_of(dialled.member.target))
        assert set(self.state.report.targets()) == known

    @invariant()
    def limits_hold(self) -> None:
        places = [where_is(dialled.member.target) for dialled in self.dialling]
        for place in places:
            assert places.count(place) <= MAX_HANDSHAKES
        members = [*(dialled.member for dialled in self.dialling), *self.open]
        assert len(members) + len(self.promised()) <= self.max_total
        usable = [member.target for member in members if not member.retired]
        for target in usable:
            assert usable.count(target) <= self.max_connections
        if self.exact:
            for limit in limits(self.state.report, self.max_sessions).values():
                assert limit >= min(self.server_sessions, self.max_sessions), "the host allows more"

    @invariant()
    def no_connection_gives_more_than_it_may(self) -> None:
        for member in self.open:
            assert self.commands is None or self.given.count(member) <= self.commands

    def promised(self) -> set[Target]:
        """Jump hosts that are needed for what is being opened and have no connection yet."""
        members = [*(dialled.member for dialled in self.dialling), *self.open]
        needed = {hop for dialled in self.dialling for hop in hops_of(dialled.member.target)}
        return needed - {member.target for member in members}

    @invariant()
    def work_never_stalls(self) -> None:
        if self.waiting or len(self.unfinished()) < len(self.dialling):
            moving = [*self.unfinished(), *self.opening, *self.running, *self.closing]
            assert moving or self.state.alarm() is not None, "waits, and nothing will ever happen"

    @invariant()
    def no_place_stays_free(self) -> None:
        alarm = self.state.alarm()
        if self.closing or (alarm is not None and alarm <= self.now):
            return
        members = [*(dialled.member for dialled in self.dialling), *self.open]
        wanted = {hop for dialled in self.dialling for hop in hops_of(dialled.member.target)} | set(
            self.waiting.values()
        )
        spare = [member for member in self.open if not self.channels(member) and member.target not in wanted]
        free = self.max_total - len(members) - len(self.promised()) + len(spare)
        for target in set(self.waiting.values()):
            host = self.state._places.lanes[target].host
            connected = any(member.target == target and not member.retired for member in members)
            if not connected and host.handshakes < host.max_handshakes and self.now >= host.no_dial_before:
                assert free < LONGEST_WAY, "could be connected and is not"

    def teardown(self) -> None:
        if not hasattr(self, "state"):
            return
        for _ in range(100_000):
            if self.closing:
                self.closed(0)
            elif self.unfinished():
                self.handshake(0, "good")
            elif self.opening:
                self.answer(0, False)
            elif self.running:
                self.finish(0)
            elif self.waiting or self.dialling:
                alarm = self.state.alarm()
                self.time_passes(0.0 if alarm is None else max(0.0, alarm - self.now))
            else:
                break
        assert len(self.ended) == self.submitted, "not everything came to an end"
        for member in list(self.open):
            if member in self.open:
                self.lose(member)
        assert self.state.report.targets() == []


PoolMachine.TestCase.settings = settings(
    max_examples=80, stateful_step_count=60, suppress_health_check=list(HealthCheck)
)


class MachineTests(SynchronousTestCase):
    """Runs the machine above below trial."""

    def test_machine(self) -> None:
        PoolMachine.TestCase("runTest").debug()
