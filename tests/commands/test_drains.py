"""
Tests of `relayd.commands.drains`: waits that end when nothing is left, or when their time is over.
"""

from __future__ import annotations

from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relayd.commands.drains import DRAIN_GRACE, Drains


class DrainsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.drained = False
        self.cancelled_at: list[float] = []
        self.drains = Drains(self.clock, lambda: self.drained, lambda: self.cancelled_at.append(self.clock.seconds()))

    def test_nothing_to_wait_for(self) -> None:
        self.drained = True
        self.assertIsNone(self.successResultOf(self.drains.begin(60.0)))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_all_waits_end_together(self) -> None:
        first, second = self.drains.begin(60.0), self.drains.begin(30.0)
        self.drains.check()
        self.assertNoResult(first)
        self.drained = True
        self.drains.check()
        self.assertIsNone(self.successResultOf(first))
        self.assertIsNone(self.successResultOf(second))
        self.assertEqual((self.cancelled_at, self.clock.getDelayedCalls()), ([], []))

    def test_time_that_is_over(self) -> None:
        done = self.drains.begin(60.0)
        self.clock.advance(60.0 - DRAIN_GRACE)
        self.assertEqual(self.cancelled_at, [60.0 - DRAIN_GRACE])
        self.assertNoResult(done)
        self.clock.advance(DRAIN_GRACE)
        self.assertIsNone(self.successResultOf(done))

    def test_grace_is_a_quarter_at_most(self) -> None:
        self.drains.begin(8.0)
        self.clock.advance(6.0)
        self.assertEqual(self.cancelled_at, [6.0])
        self.clock.advance(2.0)

    def test_wait_that_is_given_up(self) -> None:
        done = self.drains.begin(60.0)
        done.cancel()
        self.failureResultOf(done, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.drained = True
        self.drains.check()
