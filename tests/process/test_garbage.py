"""
Tests of `relayd.process.garbage`.
"""

from __future__ import annotations

import gc

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relayd.process.garbage import FEW, FEW_YOUNG, INTERVAL, MOST_PASSED, GarbageCollection


class GarbageCollectionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.addCleanup(gc.set_threshold, *gc.get_threshold())
        self.before = gc.get_threshold()
        self.clock = Clock()
        self.active = 0
        self.collections = 0
        self.patch(gc, "collect", self.collect)
        self.service = GarbageCollection(self.clock, lambda: self.active)
        self.service.startService()

    def collect(self) -> None:
        self.collections += 1

    def test_the_oldest_generation_is_taken_over_and_the_one_before_stays_small(self) -> None:
        self.assertEqual(gc.get_threshold()[:2], (self.before[0], min(self.before[1], FEW_YOUNG)))
        self.assertGreater(gc.get_threshold()[2], 100_000)
        self.service.stopService()
        self.assertEqual((gc.get_threshold(), self.clock.getDelayedCalls()), (self.before, []))

    def test_it_waits_while_there_is_much_but_not_for_ever(self) -> None:
        self.clock.advance(INTERVAL)
        self.assertEqual(self.collections, 1)
        self.active = FEW + 1
        self.clock.pump([INTERVAL] * MOST_PASSED)
        self.assertEqual(self.collections, 1)
        self.clock.advance(INTERVAL)
        self.assertEqual(self.collections, 2)
        self.clock.advance(INTERVAL)
        self.assertEqual(self.collections, 2)
        self.active = FEW
        self.clock.advance(INTERVAL)
        self.assertEqual(self.collections, 3)
