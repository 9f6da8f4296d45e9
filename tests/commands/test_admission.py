"""
Tests of `relayd.commands.admission`: limits, turns, thresholds, deadlines.
"""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from twisted.trial.unittest import SynchronousTestCase

from relayd.commands.admission import Admission, Placement

STARTED, QUEUED, REFUSED = Placement.STARTED, Placement.QUEUED, Placement.REFUSED


class LimitTests(SynchronousTestCase):
    def test_lone_host_gets_two_thirds_of_the_slots(self) -> None:
        admission: Admission[int] = Admission(64, 100)
        verdicts = Counter(admission.offer("a", number, 1.0) for number in range(64))
        self.assertEqual(verdicts, {STARTED: 43, QUEUED: 21})

    def test_other_host_still_finds_a_slot(self) -> None:
        admission: Admission[int] = Admission(4, 100)
        for number in range(50):
            admission.offer("busy", number, 1.0)
        self.assertIs(admission.offer("other", 100, 1.0), STARTED)

    def test_lone_host_gets_two_thirds_of_the_queue(self) -> None:
        admission: Admission[int] = Admission(1, 30)
        verdicts = Counter(admission.offer("a", number, 1.0) for number in range(40))
        self.assertEqual(verdicts, {STARTED: 1, QUEUED: 20, REFUSED: 19})
        self.assertIs(admission.offer("b", 100, 1.0), QUEUED)

    def test_single_slot_is_used(self) -> None:
        admission: Admission[int] = Admission(1, 1)
        self.assertIs(admission.offer("a", 1, 1.0), STARTED)
        self.assertIs(admission.offer("a", 2, 1.0), QUEUED)
        self.assertIs(admission.offer("b", 3, 1.0), REFUSED)
        admission.release("a")
        self.assertEqual(admission.take_next(), 2)
        self.assertIsNone(admission.take_next())

    def test_without_a_queue_nothing_waits(self) -> None:
        admission: Admission[int] = Admission(1, 0)
        self.assertIs(admission.offer("a", 1, 1.0), STARTED)
        self.assertIs(admission.offer("a", 2, 1.0), REFUSED)
        admission.release("a")
        self.assertIs(admission.offer("a", 2, 1.0), STARTED)

    def test_limits_that_could_run_nothing_are_refused(self) -> None:
        self.assertRaises(ValueError, Admission, 0, 1)
        self.assertRaises(ValueError, Admission, 1, -1)


class TurnTests(SynchronousTestCase):
    def test_hosts_take_turns_and_their_commands_stay_in_order(self) -> None:
        admission: Admission[str] = Admission(1, 100)
        admission.offer("z", "z1", 1.0)
        for item in ("a1", "a2", "a3", "b1", "b2", "c1"):
            self.assertIs(admission.offer(item[0], item, 1.0), QUEUED)
        order, running = [], "z1"
        while running:
            admission.release(running[0])
            running = admission.take_next() or ""
            order.append(running)
        self.assertEqual(order, ["a1", "b1", "c1", "a2", "b2", "a3", ""])

    def test_newcomer_does_not_overtake_its_own_host(self) -> None:
        """It arrives when a slot has been given back, and `next` was not asked yet."""
        admission: Admission[str] = Admission(1, 100)
        admission.offer("a", "a1", 1.0)
        admission.offer("a", "a2", 1.0)
        admission.release("a")
        self.assertIs(admission.offer("a", "a3", 1.0), QUEUED)
        self.assertEqual(admission.take_next(), "a2")

    def test_withdrawn_item_does_not_start(self) -> None:
        admission: Admission[str] = Admission(1, 100)
        for item in ("a1", "a2", "a3"):
            admission.offer("a", item, 1.0)
        admission.withdraw("a", "a2")
        admission.release("a")
        self.assertEqual(admission.take_next(), "a3")
        admission.release("a")
        self.assertIsNone(admission.take_next())
        self.assertEqual((admission.running, admission.queued), (0, 0))


class DeadlineTests(SynchronousTestCase):
    def test_only_what_waits_expires_and_earliest_first(self) -> None:
        admission: Admission[str] = Admission(1, 100)
        for item, deadline in (("a1", 1.0), ("a2", 9.0), ("b1", 3.0), ("b2", 2.0), ("c1", 4.0)):
            admission.offer(item[0], item, deadline)
        self.assertEqual(admission.next_deadline(), 2.0)
        self.assertEqual(admission.expire(3.0), ["b2", "b1"])
        self.assertEqual(admission.next_deadline(), 4.0)
        admission.release("a")
        self.assertEqual(admission.take_next(), "a2")
        self.assertEqual(admission.expire(100.0), ["c1"])
        self.assertIsNone(admission.next_deadline())

    def test_deadlines_of_what_left_the_queue_do_not_pile_up(self) -> None:
        admission: Admission[int] = Admission(1, 3)
        admission.offer("a", -1, 1e9)
        admission.offer("a", 0, 1e9)
        for number in range(1, 2000):
            admission.offer("a", number, 1e9 - number)
            admission.release("a")
            self.assertEqual(admission.take_next(), number - 1)
        self.assertLess(len(admission._deadlines), 100)
        self.assertEqual(admission.next_deadline(), 1e9 - 1999)

    def test_idle_hosts_are_forgotten(self) -> None:
        admission: Admission[int] = Admission(1, 3)
        for number in range(5):
            admission.offer(number, number, 1.0)
        admission.withdraw(1, 1)
        admission.expire(2.0)
        admission.release(0)
        self.assertEqual(len(admission._hosts), 0)


HOSTS = st.integers(0, 5)


class AdmissionMachine(RuleBasedStateMachine):
    """Any order of events keeps the limits, the order within a host, and the turns."""

    def __init__(self) -> None:
        super().__init__()
        self.max_running, self.max_queue = 5, 9
        self.admission: Admission[tuple[int, int]] = Admission(self.max_running, self.max_queue)
        self.running: Counter[int] = Counter()
        self.waiting: dict[int, list[tuple[int, int]]] = {}
        self.deadlines: dict[tuple[int, int], int] = {}
        self.passed_over: dict[int, Counter[int]] = {}  # host -> starts of others since it could have started
        self.serial = 0
        self.now = 0

    @rule(host=HOSTS, patience=st.integers(1, 20))
    def offer(self, host: int, patience: int) -> None:
        self.serial += 1
        item = (host, self.serial)
        free = self.max_running - self.running.total()
        places = self.max_queue - sum(map(len, self.waiting.values()))
        mine = self.waiting.get(host, [])
        verdict = self.admission.offer(host, item, self.now + patience)
        if not self.running[host] and not mine and free:
            assert verdict is STARTED
        if verdict is STARTED:
            assert not mine, "overtook an older command of its host"
            self.start(item)
        elif verdict is QUEUED:
            assert len(mine) < 2 * places
            self.waiting.setdefault(host, []).append(item)
            self.deadlines[item] = self.now + patience
        else:
            assert len(mine) >= 2 * places

    @precondition(lambda self: self.running.total())
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        host = data.draw(st.sampled_from(sorted(+self.running)))
        self.running[host] -= 1
        self.admission.release(host)
        while (item := self.admission.take_next()) is not None:
            assert item == self.waiting[item[0]].pop(0), "not the oldest of its host"
            self.forget(item)
            self.start(item)

    @precondition(lambda self: self.deadlines)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        item = data.draw(st.sampled_from(sorted(self.deadlines)))
        self.admission.withdraw(item[0], item)
        self.waiting[item[0]].remove(item)
        self.forget(item)

    @rule(seconds=st.integers(1, 10))
    def advance(self, seconds: int) -> None:
        self.now += seconds
        due = {item for item, deadline in self.deadlines.items() if deadline <= self.now}
        assert set(self.admission.expire(self.now)) == due
        for item in due:
            self.waiting[item[0]].remove(item)
            self.forget(item)

    def start(self, item: tuple[int, int]) -> None:
        host = item[0]
        assert self.running[host] < 2 * (self.max_running - self.running.total()), "beyond the threshold"
        for other, items in self.waiting.items():
            if other != host and items and not self.running[other]:
                starts = self.passed_over.setdefault(other, Counter())
                starts[host] += 1
                assert starts[host] < 2, f"host {host} had two turns while {other}, which runs nothing, waited"
        self.passed_over.pop(host, None)
        self.running[host] += 1

    def forget(self, item: tuple[int, int]) -> None:
        del self.deadlines[item]
        if not self.waiting[item[0]]:
            self.passed_over.pop(item[0], None)

    @invariant()
    def nothing_idle(self) -> None:
        free = self.max_running - self.running.total()
        assert free >= 0
        for host, items in self.waiting.items():
            assert not items or self.running[host] >= 2 * free, "could start and waits"

    @invariant()
    def counts_agree(self) -> None:
        assert self.admission.running == self.running.total()
        assert self.admission.queued == len(self.deadlines) <= self.max_queue
        assert self.admission.next_deadline() == min(self.deadlines.values(), default=None)


class AnyOrderTests(SynchronousTestCase):
    def test_any_order_of_events(self) -> None:
        run_state_machine_as_test(AdmissionMachine, settings=settings(max_examples=60, stateful_step_count=60))
