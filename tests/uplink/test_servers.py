"""
Tests of `relayd.uplink.servers`: which main server is dialled, and when the relay leaves one for another.
"""

from __future__ import annotations

import random
from itertools import pairwise

from twisted.trial.unittest import SynchronousTestCase

from relayd.interfaces import Claims
from relayd.uplink.servers import PATIENCE, ServerChoice

DELAY = 30.0
#: Of the failover delay, the least with its jitter.
LEAST = 18.0


class ChoiceCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.claims: dict[int, Claims] = {}
        self.make(3)

    def make(self, count: int, *, visits: bool = True) -> None:
        self.choice = ServerChoice(count, DELAY, random.Random(1), visits=visits)
        self.choice.begin(0.0)

    def owed(self, index: int) -> Claims:
        return self.claims.get(index, Claims())

    def accepted(self, index: int, now: float) -> None:
        self.choice.accepted(index, now, self.owed)

    def destination(self, now: float) -> int | None:
        return self.choice.destination(now, self.owed)


class AwayTests(ChoiceCase):
    """What is dialled while no main server is in use."""

    def dialled(self, until: float, delay: float = 5.0) -> list[tuple[int, float]]:
        """What is dialled until then, where every attempt fails at once and that main server asks for this delay."""
        found: list[tuple[int, float]] = []
        now = 0.0
        while True:
            index, now = self.choice.next(now)
            if now > until:
                return found
            found.append((index, now))
            self.choice.dialled(index)
            self.choice.failed(index, now, delay)

    def test_one_alone_is_dialled_as_it_was(self) -> None:
        self.make(1)
        self.assertEqual(self.dialled(200.0), [(0, 5.0 * number) for number in range(41)])

    def test_the_next_is_tried_once_the_first_was_away_for_long(self) -> None:
        found = self.dialled(60.0)
        second = next(now for index, now in found if index == 1)
        self.assertTrue(LEAST <= second <= DELAY, second)
        self.assertEqual({index for index, now in found if now < second}, {0})
        third = next(now for index, now in found if index == 2)
        self.assertEqual(third, second, "each of the others is tried at once")

    def test_none_is_dialled_more_often_than_it_asked_for(self) -> None:
        found = self.dialled(600.0)
        for index in range(3):
            times = [now for each, now in found if each == index]
            self.assertGreater(len(times), 100)
            pauses = [later - now for now, later in pairwise(times)]
            self.assertGreaterEqual(min(pauses), 5.0 - 1e-9)

    def test_one_that_refuses_the_relay_is_passed_over_at_once(self) -> None:
        self.choice.dialled(0)
        self.choice.failed(0, 1.0, 300.0, refused=True)
        self.assertEqual(self.choice.next(1.0), (1, 1.0))
        self.choice.dialled(1)
        self.choice.failed(1, 2.0, 5.0)
        self.assertEqual(self.choice.next(2.0), (2, 2.0))
        self.choice.dialled(2)
        self.choice.failed(2, 3.0, 5.0)
        self.assertEqual(self.choice.next(3.0), (1, 7.0), "the first is dialled again at its own slow pace")

    def test_one_that_was_lost_is_waited_for_but_the_first_is_not_kept_waiting(self) -> None:
        self.choice.failed(0, 0.0, 5.0)
        self.accepted(1, 20.0)
        self.choice.failed(1, 100.0, 5.0)
        self.assertEqual(self.choice.next(100.0), (0, 100.0))
        self.choice.dialled(0)
        self.choice.failed(0, 101.0, 50.0)
        self.assertEqual(self.choice.next(101.0), (1, 105.0))

    def test_relays_do_not_all_come_at_once(self) -> None:
        times = set()
        for seed in range(50):
            choice = ServerChoice(2, DELAY, random.Random(seed))
            choice.begin(0.0)
            choice.failed(0, 0.0, 1000.0)
            times.add(choice.next(0.0)[1])
        self.assertEqual(len(times), 50)
        self.assertTrue(all(LEAST <= each <= DELAY for each in times))


class ReturnTests(ChoiceCase):
    """When the relay leaves the main server in use."""

    def setUp(self) -> None:
        super().setUp()
        self.choice.failed(0, 0.0, 5.0)
        self.accepted(1, 20.0)

    def test_it_returns_to_the_first_when_it_owes_nothing(self) -> None:
        for owed in (Claims(commands=True), Claims(results=True), Claims(commands=True, results=True)):
            self.claims[1] = owed
            self.assertIsNone(self.destination(21.0))
        self.claims[1] = Claims()
        self.assertEqual(self.destination(21.0), 0)
        self.claims[0] = Claims(commands=True)
        self.assertEqual(self.destination(21.0), 0, "what the first ordered is no reason to stay")

    def test_it_never_leaves_for_one_that_is_less_preferred(self) -> None:
        self.accepted(0, 25.0)
        self.assertIsNone(self.destination(1000.0))

    def test_attempts_to_return_are_rare(self) -> None:
        self.choice.failed(0, 21.0, 1.0)
        self.assertIsNone(self.destination(21.0 + LEAST - 0.1))
        self.assertEqual(self.destination(21.0 + DELAY * 1.4), 0)

    def test_results_for_another_one_are_brought_there(self) -> None:
        self.accepted(0, 25.0)
        self.claims[2] = Claims(results=True)
        self.assertEqual(self.destination(26.0), 2)
        self.claims[0] = Claims(results=True)
        self.assertIsNone(self.destination(26.0))

    def test_they_do_not_wait_for_ever_where_there_is_always_work(self) -> None:
        self.accepted(0, 25.0)
        self.claims = {0: Claims(commands=True, results=True), 2: Claims(results=True)}
        self.assertIsNone(self.destination(26.0))
        self.assertIsNone(self.destination(25.0 + PATIENCE))
        self.assertEqual(self.destination(26.0 + PATIENCE), 2)

    def test_one_that_confirms_nothing_does_not_keep_the_relay(self) -> None:
        self.claims[1] = Claims(results=True)
        self.assertIsNone(self.destination(20.0 + PATIENCE - 1))
        self.assertEqual(self.destination(20.0 + PATIENCE), 0)
        self.accepted(0, 1000.0)
        self.assertIsNone(self.destination(1001.0), "nor has it the relay back at once")
        self.assertEqual(self.destination(1000.0 + PATIENCE), 1)

    def test_a_quick_command_after_a_long_rest_is_no_silence(self) -> None:
        """No look happened to see it run."""
        self.choice.failed(0, 21.0, 2 * PATIENCE)
        self.assertIsNone(self.destination(PATIENCE + 500.0))
        self.claims[1] = Claims(results=True)
        self.assertIsNone(self.destination(2 * PATIENCE + 30.0))

    def test_one_that_was_lost_is_visited_soon(self) -> None:
        self.claims[1] = Claims(results=True)
        self.choice.failed(1, 100.0, 5.0)
        self.accepted(0, 101.0)
        self.assertEqual(self.destination(106.0), 1)

    def test_no_visits_where_results_go_to_whichever_is_connected(self) -> None:
        self.make(2, visits=False)
        self.accepted(0, 1.0)
        self.claims[1] = Claims(results=True)
        self.assertIsNone(self.destination(10000.0))
