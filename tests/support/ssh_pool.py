"""
What the tests of the pool's decisions share: the targets, and a case that keeps what is decided.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from relayd.network.host_rules import HostTable
from relayd.ssh.pool.assignment import Start
from relayd.ssh.pool.decisions import NO_TABLE, PoolState, Step
from relayd.ssh.pool.members import Member, Work
from relayd.ssh.pool.places import Dial, Evict
from relayd.ssh.pool.pool_report import PoolReport
from relayd.ssh.target import Credential, Target


def user(name: str, host: str = "host", via: Target | None = None) -> Target:
    return Target(host, 22, name, Credential(name), via=via)


A, B, C = user("a"), user("b"), user("c")
JUMP = user("j", "jump")
FAR = user("f", "far", JUMP)


def steps(state: PoolState[Work], now: float) -> Iterator[Step[Work]]:
    """All steps that are due, one after another."""
    while (step := state.next_step(now)) is not None:
        yield step


def limits(report: PoolReport[Any], max_sessions: int) -> dict[str, int]:
    """Sessions on one connection, by host, of the hosts that were found to allow fewer than the setting."""
    return {each.host: each.limit for each in report.hosts() if each.limit < max_sessions}


class PlacesTestCase(SynchronousTestCase):
    """Takes what the pool decides and keeps it by kind."""

    def make(
        self,
        max_sessions: int = 2,
        max_connections: int = 2,
        max_total: int = 100,
        max_age: float = 1e9,
        table: HostTable = NO_TABLE,
    ) -> None:
        self.state: PoolState[Any] = PoolState(max_sessions, max_connections, max_total, max_age, table)
        self.max_sessions = max_sessions
        self.now = 0.0
        self.starts: list[tuple[Member[Any], Any]] = []
        self.dials: list[Member[Any]] = []
        self.evicted: list[Member[Any]] = []

    def setUp(self) -> None:
        self.make()

    def plan(self) -> None:
        """What is decided now replaces what was decided before."""
        due = list(steps(self.state, self.now))
        self.starts = [(step.member, step.work) for step in due if isinstance(step, Start)]
        self.dials = [step.member for step in due if isinstance(step, Dial)]
        self.evicted = [step.member for step in due if isinstance(step, Evict)]

    def add(self, target: Target, *work: Any, forward: bool = False) -> None:
        for one in work:
            self.state.add(target, one, forward=forward)
        self.plan()

    def dialled(self) -> list[Target]:
        return [member.target for member in self.dials]

    def open(self, member: Member[Any]) -> None:
        self.state.opened(member, self.now)
        self.plan()

    def connect(self, target: Target, *work: Any) -> Member[Any]:
        """A new connection on which *work* runs; without work it is idle."""
        self.add(target, *(work or ["scout"]))
        (member,) = self.dials
        if not work:
            self.state.remove(target, "scout")
        self.open(member)
        return member

    def close(self, member: Member[Any]) -> None:
        """A session on it ends."""
        self.state.session_closed(member, self.now)
        self.plan()

    def lose(self, member: Member[Any], opening: int = 0) -> None:
        self.state.lost(member, self.now, opening)
        self.plan()

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.plan()
