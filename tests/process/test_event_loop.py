"""
relayd.process.event_loop: how late the beats of an event loop come.
"""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from relayd.process.event_loop import BOUNDS, INTERVAL, WARN_EVERY, LagMonitor


class LagTests(SynchronousTestCase):
    """Time by a Clock: it does not run what is due before it is told to go on."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.used = 0.0
        self.monitor = LagMonitor(self.clock, lambda: self.used)
        self.monitor.startService()

    def stall(self, seconds: float, own: float = 0.0) -> None:
        """Nothing is run for *seconds* longer than it should; this process uses the processor for *own* of them."""
        self.used += own
        self.clock.advance(INTERVAL + seconds)

    def test_counts(self) -> None:
        for seconds in (0.001, 0.03, 0.03, 99.0):
            self.stall(seconds)
        lag = self.monitor.snapshot()
        self.assertEqual(sum(lag.counts), 4)
        self.assertEqual((lag.counts[0], lag.counts[BOUNDS.index(0.05)], lag.counts[-1]), (1, 2, 1))
        self.assertAlmostEqual(lag.longest, 99)
        self.assertAlmostEqual(lag.longest_at, self.clock.seconds())
        self.assertAlmostEqual(lag.total, 99.061)

    def test_one_warning_a_minute(self) -> None:
        with capturedLogs() as events:
            self.stall(0.3, own=0.02)
            self.stall(0.4)
            self.stall(WARN_EVERY)
        warnings = [formatEvent(event) for event in events if event["log_level"] is LogLevel.warn]
        self.assertEqual(
            formatEvent(events[0]),
            "The event loop was blocked for 0.3 s; everything had to wait. relayd itself used the processor for 20 ms "
            "of it",
        )
        self.assertEqual([text.split(";")[0] for text in warnings], [
            "The event loop was blocked for 0.3 s",
            "The event loop was blocked for 60 s",
        ])  # fmt: skip

    def test_what_others_use_is_not_its_own(self) -> None:
        for seconds, own in ((9.0, 0.2), (0.1, 5.0), (0.0, 7.0)):
            self.stall(seconds, own)
        self.assertAlmostEqual(self.monitor.snapshot().own, 0.2)

    def test_the_end(self) -> None:
        self.stall(0.031, own=0.009)
        with capturedLogs() as events:
            self.monitor.stopService()
        self.assertEqual(
            [formatEvent(event) for event in events],
            ["Longest stall of the event loop: 31 ms, by relayd itself: 9 ms; beats by delay: 1 up to 50 ms"],
        )
        self.assertEqual(self.clock.getDelayedCalls(), [])
