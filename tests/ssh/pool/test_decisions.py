"""
The decisions of the connection pool, without connections: one rule at a time.
"""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from relayd.ssh.pool.assignment import Start
from relayd.ssh.pool.decisions import DIAL_PAUSE, MAX_REFUSALS, PoolState
from relayd.ssh.pool.members import (
    COOL_DOWN,
    HANG_UP_PAUSE,
    MAX_HANDSHAKES,
    MAX_HANG_UPS,
    RAISE_AFTER,
    Member,
)
from relayd.ssh.pool.places import Dial, Evict
from relayd.ssh.target import Credential, Target
from tests.support.ssh_pool import steps

A = Target("host", 22, "a", Credential("a"))
B = Target("host", 22, "b", Credential("b"))
C = Target("host", 22, "c", Credential("c"))
ELSEWHERE = Target("other", 22, "a", Credential("a"))


class Plan:
    """One answer of the pool, by kind of step."""

    def __init__(self, state: PoolState[Any], now: float) -> None:
        due = list(steps(state, now))
        self.starts = [(step.member, step.work) for step in due if isinstance(step, Start)]
        self.dials = [step.member for step in due if isinstance(step, Dial)]
        self.evictions = [step.member for step in due if isinstance(step, Evict)]
        self.alarm = state.alarm()

    @property
    def works(self) -> list[Any]:
        return [work for _, work in self.starts]


class DecisionTests(SynchronousTestCase):
    """One rule each."""

    def setUp(self) -> None:
        self.state: PoolState[Any] = PoolState(max_sessions=3, max_connections=2)

    def plan(self, now: float = 0.0) -> Plan:
        return Plan(self.state, now)

    def add(self, *work: Any, target: Target = A) -> None:
        for one in work:
            self.state.add(target, one)

    def put_back(self, work: Any, target: Target = A) -> None:
        self.state.add(target, work, first=True)

    def connect(self, target: Target = A, now: float = 0.0) -> Member[Any]:
        """A connection as scout: for one piece of work that is taken away again."""
        self.add("scout", target=target)
        (member,) = self.plan(now).dials
        self.state.opened(member, now)
        self.state.remove(target, "scout")
        return member

    def test_retired_connections_finish_what_they_have(self) -> None:
        self.add("a")
        [first] = self.plan().dials
        self.state.opened(first, 0.0)
        self.assertEqual(self.plan().starts, [(first, "a")])
        self.state.retire_all(1.0)
        self.add("b")
        plan = self.plan(1.0)
        self.assertEqual((plan.starts, plan.evictions, len(plan.dials)), ([], [], 1))
        self.state.session_closed(first, 2.0)
        self.assertEqual(self.plan(2.0).evictions, [first])

    def test_a_connection_that_was_being_opened_is_retired_too(self) -> None:
        self.add("a")
        [first] = self.plan().dials
        self.state.retire_all(1.0)
        self.assertEqual(self.plan(1.0).evictions, [])
        self.state.opened(first, 2.0)
        plan = self.plan(2.0)
        self.assertEqual(plan.starts, [])
        self.assertEqual(len(plan.dials), 1)

    def test_nothing_to_do(self) -> None:
        plan = self.plan()
        self.assertEqual((plan.starts, plan.dials, plan.alarm), ([], [], None))

    def test_one_connection_scouts(self) -> None:
        self.add(*range(20))
        (scout,) = self.plan().dials
        self.assertEqual(self.plan().dials, [])
        self.state.opened(scout, 1)
        plan = self.plan(1)
        self.assertEqual(plan.starts, [(scout, 0), (scout, 1), (scout, 2)])
        self.assertEqual(len(plan.dials), 1)

    def test_a_scout_that_fails_tells_the_target_is_out_of_reach(self) -> None:
        self.add(1, 2)
        (scout,) = self.plan().dials
        self.assertTrue(self.state.not_opened(scout, 1))
        self.assertEqual(self.state.take_waiting(A), [1, 2])
        self.assertEqual(self.state.report.targets(), [])

    def test_work_that_comes_after_a_failure_may_try_at_once(self) -> None:
        self.add(1)
        self.state.not_opened(self.plan().dials[0], 1)
        self.state.take_waiting(A)
        self.add(2)
        self.assertEqual(len(self.plan(1).dials), 1)

    def test_a_second_connection_that_fails_does_not_end_the_first(self) -> None:
        member = self.connect()
        self.add(*range(5))
        plan = self.plan()
        self.assertEqual(len(plan.starts), 3)
        self.assertFalse(self.state.not_opened(plan.dials[0], 0))
        self.assertEqual(self.plan().dials, [])  # not again at once
        self.state.session_closed(member, 1)
        self.assertEqual(self.plan(1 + COOL_DOWN).works, [3])

    def test_a_second_connection_is_tried_again_although_no_session_ends(self) -> None:
        self.connect()
        self.add(*range(5))
        self.state.not_opened(self.plan().dials[0], 10)
        plan = self.plan(10)
        self.assertEqual(plan.dials, [])
        self.assertEqual(plan.alarm, 10 + DIAL_PAUSE)  # or long commands would keep the others waiting for ever
        self.assertEqual(len(self.plan(10 + DIAL_PAUSE).dials), 1)

    def test_no_more_connections_than_allowed(self) -> None:
        self.connect()
        self.add(*range(50))
        (second,) = self.plan().dials
        self.state.opened(second, 0)
        plan = self.plan()
        self.assertEqual((len(plan.starts), plan.dials), (3, []))

    def test_no_connection_without_need(self) -> None:
        self.connect()
        self.add(1, 2, 3)
        plan = self.plan()
        self.assertEqual((len(plan.starts), plan.dials), (3, []))

    def test_the_emptiest_connection_is_taken(self) -> None:
        self.connect()
        self.add(*range(4))
        self.state.opened(self.plan().dials[0], 0)
        first, second = {member for member, _ in self.plan().starts}, self.state.report.counts()
        self.assertEqual((len(first), second.sessions), (1, 4))
        self.add("x")
        self.assertEqual({member for member, _ in self.plan().starts}, first)  # 1 against 3

    def test_handshakes_at_a_time_with_one_host(self) -> None:
        self.state = PoolState(max_sessions=1, max_connections=20)
        self.connect()
        self.add(*range(20))
        dials = self.plan().dials
        self.assertEqual(len(dials), MAX_HANDSHAKES)
        self.add("b", target=B)
        self.assertEqual(self.plan().dials, [])  # the same host
        self.add("e", target=ELSEWHERE)
        self.assertEqual([member.target for member in self.plan().dials], [ELSEWHERE])
        self.state.opened(dials[0], 0)
        self.assertEqual([member.target for member in self.plan().dials], [A])  # it has waited longer
        self.state.opened(dials[1], 0)
        self.assertEqual([member.target for member in self.plan().dials], [B])

    def test_work_is_taken_in_order_and_put_back_in_front(self) -> None:
        member = self.connect()
        self.add(*range(5))
        self.assertEqual(self.plan().works, [0, 1, 2])
        self.state.session_closed(member, 1)
        self.put_back(1)
        self.assertEqual(self.plan(2).works, [1])

    def test_removed(self) -> None:
        self.connect()
        self.add(1, 2)
        self.assertTrue(self.state.remove(A, 1))
        self.assertFalse(self.state.remove(A, 1))
        self.assertFalse(self.state.remove(ELSEWHERE, 1))
        self.assertEqual(self.plan().works, [2])
        self.assertFalse(self.state.remove(A, 2))

    def test_a_place_cools_down(self) -> None:
        member = self.connect()
        self.add(*range(4))
        self.plan()
        self.state.session_closed(member, 1)
        plan = self.plan(1)
        self.assertEqual((plan.starts, plan.alarm), ([], 1 + COOL_DOWN))
        self.assertEqual(self.plan(1 + COOL_DOWN).works, [3])

    def test_a_refusal_teaches_the_limit_of_the_host(self) -> None:
        member = self.connect()
        self.connect(B)
        self.add(*range(3))
        self.plan()
        self.assertFalse(self.state.session_refused(member, 0))
        self.put_back(2)
        self.assertEqual(self.plan(1).starts, [])
        self.add(*"xyz", target=B)
        self.assertEqual(self.plan(1).works, ["x", "y"])  # the other target knows it too

    def test_the_limit_is_tried_again_later(self) -> None:
        member = self.connect()
        self.add(*range(3))
        self.plan()
        for work in (2, 1):
            self.state.session_refused(member, 0)
            self.put_back(work)
        self.assertEqual(self.plan(RAISE_AFTER - 1).works, [])
        self.assertEqual(self.plan(RAISE_AFTER).works, [1])
        self.assertEqual(self.plan(RAISE_AFTER + 1).works, [])  # one more at a time
        self.assertEqual(self.plan(2 * RAISE_AFTER).works, [2])

    def test_the_limit_is_tried_again_although_no_session_ends(self) -> None:
        self.state = PoolState(max_sessions=3, max_connections=1)
        member = self.connect()
        self.add(*range(3))
        self.plan()
        self.state.session_refused(member, 5)
        self.put_back(2)
        self.assertEqual(self.plan(5).alarm, 5 + RAISE_AFTER)  # nothing else might happen until then

    def test_the_limit_never_rises_above_the_setting(self) -> None:
        member = self.connect()
        self.add(*range(3))
        self.plan()
        self.state.session_refused(member, 0)
        self.add(*range(10, 20))
        started = [len(self.plan(RAISE_AFTER * step).starts) for step in range(1, 8)]
        self.assertEqual(sum(started), 1)
        self.assertEqual(member.sessions, 3)

    def test_a_refusal_with_no_other_session_is_tried_again_some_times(self) -> None:
        self.state = PoolState(max_sessions=3, max_connections=1)
        member = self.connect()
        now = 0.0
        self.add(1)
        for _ in range(MAX_REFUSALS):
            self.assertEqual(self.plan(now).works, [1])
            self.assertFalse(self.state.session_refused(member, now))
            self.put_back(1)
            plan = self.plan(now)
            self.assertEqual(plan.starts, [])
            assert plan.alarm is not None
            self.assertGreater(plan.alarm, now)
            now = plan.alarm
        self.assertEqual(self.plan(now).works, [1])
        self.assertTrue(self.state.session_refused(member, now))
        self.assertEqual(self.plan(now + 100).starts, [])

    def test_a_session_between_refusals_makes_them_harmless(self) -> None:
        member = self.connect()
        now = 0.0
        for _ in range(3 * MAX_REFUSALS):
            self.add("refused")
            self.plan(now)
            self.assertFalse(self.state.session_refused(member, now))
            now += 60
            self.add("done")
            self.plan(now)
            self.state.session_closed(member, now)
            now += 60

    def test_idle(self) -> None:
        member = self.connect()
        self.add(1)
        self.plan(10)
        self.state.close_idle(200, timeout=100)
        self.assertEqual(self.plan(200).evictions, [])  # busy
        self.state.session_closed(member, 200)
        self.state.close_idle(299, timeout=100)
        self.assertEqual(self.plan(299).evictions, [])  # not for long enough
        self.state.close_idle(300, timeout=100)
        self.assertEqual(self.plan(300).evictions, [member])
        self.state.close_idle(300, timeout=100)
        self.assertEqual(self.plan(300).evictions, [])  # said once
        self.add(2)
        plan = self.plan(100)
        self.assertEqual((plan.starts, len(plan.dials)), ([], 1))  # it is on its way out
        self.state.lost(member, 0)

    def test_nothing_is_kept_of_a_target_that_is_gone(self) -> None:
        member = self.connect()
        self.state.lost(member, 0)
        self.assertEqual(self.state.report.targets(), [])
        self.assertEqual(self.state.report.counts().connections, 0)

    def test_what_was_learned_of_a_host_is_forgotten_with_it(self) -> None:
        member = self.connect()
        self.add(*range(3))
        self.plan()
        self.state.session_refused(member, 0)
        self.state.lost(member, 0)
        self.connect()
        self.add(*range(3))
        self.assertEqual(len(self.plan().starts), 3)

    def test_work_put_back_after_the_loss_of_the_only_connection(self) -> None:
        member = self.connect()
        self.add(1)
        self.plan()
        self.state.lost(member, 0)
        self.put_back(1)
        self.assertEqual(len(self.plan().dials), 1)


class HangUpTests(SynchronousTestCase):
    """A host that hangs up on newcomers: it has too many of them, or wants none."""

    def setUp(self) -> None:
        self.state: PoolState[int] = PoolState(max_sessions=10, max_connections=4)
        self.targets = [Target("host", 22, f"user{number}", Credential("x")) for number in range(8)]
        for number, target in enumerate(self.targets):
            self.state.add(target, number)

    def dials(self, now: float) -> list[Member[int]]:
        return [step.member for step in steps(self.state, now) if isinstance(step, Dial)]

    def test_fewer_at_a_time(self) -> None:
        dials = self.dials(0)
        self.assertEqual(len(dials), MAX_HANDSHAKES)
        for member in dials[2:]:
            self.assertFalse(self.state.not_opened(member, 0, hung_up=True))
        for member in dials[:2]:
            self.state.opened(member, 0)
        self.assertEqual(self.dials(0), [])
        self.assertEqual(len(self.dials(10)), 2)

    def test_it_is_tried_again_without_anything_else_happening(self) -> None:
        for member in self.dials(0):
            self.state.not_opened(member, 0, hung_up=True)
        self.assertEqual(self.dials(0), [])
        pause = self.state.alarm()
        assert pause is not None
        self.assertGreaterEqual(pause, HANG_UP_PAUSE)
        self.assertEqual(len(self.dials(pause)), 1)

    def test_one_that_wants_nobody(self) -> None:
        state: PoolState[int] = PoolState(max_sessions=10, max_connections=4)
        target = self.targets[0]
        state.add(target, 1)
        now, attempts = 0.0, 0
        while True:
            (dial,) = [step for step in steps(state, now) if isinstance(step, Dial)]
            attempts += 1
            if state.not_opened(dial.member, now, hung_up=True):
                break
            now += 60
        self.assertEqual(attempts, MAX_HANG_UPS + 1)
        self.assertEqual(state.take_waiting(target), [1])
