"""
The decisions of the connection pool against a simulated host that hides its limits, in every order of events.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from twisted.trial.unittest import SynchronousTestCase

from relayd.ssh.pool_state import COOL_DOWN, DIAL_PAUSE, MAX_HANDSHAKES, RAISE_AFTER, Dial, Member, PoolState, Start
from relayd.ssh.target import Credential, Target

A = Target("host", 22, "a", Credential("a"))
B = Target("host", 22, "b", Credential("b"))
C = Target("host", 22, "c", Credential("c"))


class PoolMachine(RuleBasedStateMachine):
    """Does what the pool decides, on a server that answers when it likes."""

    targets = (A, B, C)

    @initialize(
        sessions=st.integers(1, 5), connections=st.integers(1, 6),
        max_sessions=st.integers(1, 5), max_connections=st.integers(1, 6),
    )  # fmt: skip
    def begin(self, sessions: int, connections: int, max_sessions: int, max_connections: int) -> None:
        self.server_sessions, self.server_connections = sessions, connections  # which the pool is not told
        self.max_sessions, self.max_connections = max_sessions, max_connections
        self.state: PoolState[int] = PoolState(max_sessions, max_connections)
        self.now = 0.0
        self.submitted = 0
        self.waiting: dict[int, Target] = {}
        self.opening: dict[int, Member[int]] = {}
        self.running: dict[int, Member[int]] = {}
        self.ended: set[int] = set()
        self.dialling: list[Member[int]] = []
        self.open: list[Member[int]] = []
        self.wakes: dict[Target, float] = {}
        self.learned, self.learned_until = max_sessions, 0.0

    def work(self, target: Target) -> None:
        for step in self.state.plan(target, self.now):
            if isinstance(step, Start):
                assert step.member in self.open, "started where no connection is"
                assert self.waiting.pop(step.work) == target == step.member.target
                assert step.work not in self.opening and step.work not in self.running
                self.opening[step.work] = step.member
                load = self.load(step.member)
                assert load == step.member.active <= self.max_sessions
                if self.now < self.learned_until:
                    assert load <= self.learned, "more than the host was found to allow"
            elif isinstance(step, Dial):
                assert step.member.target == target
                self.dialling.append(step.member)
            else:
                assert step.at > self.now
                self.wakes[target] = min(step.at, self.wakes.get(target, step.at))

    def load(self, member: Member[int]) -> int:
        return [*self.opening.values(), *self.running.values()].count(member)

    def handshake_ended(self, target: Target) -> None:
        self.work(target)
        for other in self.state.waiting_at(target.host, target.port):
            self.work(other)

    # What may happen

    @rule(where=st.sampled_from(targets), count=st.integers(1, 8))
    def submit(self, where: Target, count: int) -> None:
        for _ in range(count):
            self.waiting[self.submitted] = where
            self.state.add(where, self.submitted)
            self.submitted += 1
        self.work(where)

    @rule(pick=st.integers(0, 99))
    @precondition(lambda self: self.waiting)
    def withdraw(self, pick: int) -> None:
        work = sorted(self.waiting)[pick % len(self.waiting)]
        assert self.state.remove(self.waiting.pop(work), work)
        self.ended.add(work)

    @rule(pick=st.integers(0, 99), fails=st.booleans())
    @precondition(lambda self: self.dialling)
    def handshake(self, pick: int, fails: bool) -> None:
        member = self.dialling.pop(pick % len(self.dialling))
        if fails or len(self.open) >= self.server_connections:
            if self.state.not_opened(member, self.now):
                self.fail_waiting(member.target)
        else:
            self.open.append(member)
            self.state.opened(member, self.now)
        self.handshake_ended(member.target)

    def fail_waiting(self, target: Target) -> None:
        taken = self.state.take_waiting(target)
        assert set(taken) == {work for work, where in self.waiting.items() if where == target}
        for work in taken:
            del self.waiting[work]
            self.ended.add(work)

    @rule(pick=st.integers(0, 99), busy=st.booleans())
    @precondition(lambda self: self.opening)
    def answer(self, pick: int, busy: bool) -> None:
        """*busy*: the server has not yet freed the place of a session that has ended."""
        work = sorted(self.opening)[pick % len(self.opening)]
        member = self.opening.pop(work)
        others = list(self.running.values()).count(member)
        if others + busy < self.server_sessions:
            self.running[work] = member
            return
        left = self.load(member)
        for_good = self.state.session_refused(member, self.now)
        if left:
            before = self.learned if self.now < self.learned_until else self.max_sessions
            self.learned, self.learned_until = max(1, min(before, left)), self.now + RAISE_AFTER
        self.waiting[work] = member.target
        self.state.put_back(member.target, work)
        if for_good:
            assert not left
            self.fail_waiting(member.target)
            self.lose(member)
        self.work(member.target)

    @rule(pick=st.integers(0, 99))
    @precondition(lambda self: self.running)
    def finish(self, pick: int) -> None:
        work = sorted(self.running)[pick % len(self.running)]
        member = self.running.pop(work)
        self.ended.add(work)
        self.state.session_closed(member, self.now)
        self.work(member.target)

    @rule(pick=st.integers(0, 99))
    @precondition(lambda self: self.open)
    def connection_lost(self, pick: int) -> None:
        member = self.open[pick % len(self.open)]
        self.lose(member)
        self.work(member.target)

    def lose(self, member: Member[int]) -> None:
        self.open.remove(member)
        self.state.lost(member)
        for work in [work for work, where in self.running.items() if where is member]:
            del self.running[work]
            self.ended.add(work)
        for work in sorted((work for work, where in self.opening.items() if where is member), reverse=True):
            del self.opening[work]
            self.waiting[work] = member.target
            self.state.put_back(member.target, work)

    @rule(seconds=st.sampled_from([0.001, COOL_DOWN, 0.1, 1.0, DIAL_PAUSE, RAISE_AFTER]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        for target in [target for target, at in self.wakes.items() if at <= self.now]:
            del self.wakes[target]
            self.work(target)

    @rule(timeout=st.sampled_from([1.0, 100.0]))
    def close_idle(self, timeout: float) -> None:
        for member in self.state.idle(self.now - timeout):
            assert not self.load(member)
            self.lose(member)
            self.work(member.target)

    # What always holds

    @invariant()
    def nothing_is_forgotten(self) -> None:
        places = [*self.waiting, *self.opening, *self.running, *self.ended]
        assert sorted(places) == list(range(self.submitted))
        counts = self.state.counts()
        assert counts.waiting == len(self.waiting)
        assert counts.sessions == len(self.opening) + len(self.running)
        assert (counts.dialling, counts.connections) == (len(self.dialling), len(self.open))
        busy = {member.target for member in [*self.dialling, *self.open]} | set(self.waiting.values())
        assert set(self.state.targets()) == busy

    @invariant()
    def limits_hold(self) -> None:
        assert len(self.dialling) <= MAX_HANDSHAKES
        for target in self.targets:
            members = [member.target for member in [*self.dialling, *self.open]]
            assert members.count(target) <= self.max_connections
        if not self.state.targets():
            self.learned_until = 0.0  # a host without any target is forgotten

    @invariant()
    def work_never_stalls(self) -> None:
        for target in set(self.waiting.values()):
            here = [member for member in [*self.dialling, *self.opening.values(), *self.running.values()]]
            assert here or target in self.wakes, "waits, and nothing will ever happen"

    def teardown(self) -> None:
        if not hasattr(self, "state"):
            return
        for _ in range(100_000):
            if self.dialling:
                self.handshake(0, False)
            elif self.opening:
                self.answer(0, False)
            elif self.running:
                self.finish(0)
            elif self.waiting:
                self.time_passes(max(0.0, min(self.wakes.values(), default=self.now) - self.now))
            else:
                break
        assert len(self.ended) == self.submitted, "not everything came to an end"
        for member in list(self.open):
            self.lose(member)
        assert self.state.targets() == []


PoolMachine.TestCase.settings = settings(
    max_examples=150, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
)


class MachineTests(SynchronousTestCase):
    """Runs the machine above below trial."""

    def test_machine(self) -> None:
        PoolMachine.TestCase("runTest").debug()
