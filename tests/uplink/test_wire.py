"""
Tests of `relayd.uplink.wire`: when a wire reads.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from relayd.uplink.wire import NOBODY, ReadPause


class ReadPauseTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.applied: list[bool] = []
        self.reading = ReadPause(self.applied.append)

    def test_only_changes_are_applied(self) -> None:
        for on in (False, True, True, False, False):
            self.reading.hold(on)
        self.assertEqual(self.applied, [True, False])

    def test_both_reasons_have_to_go(self) -> None:
        self.reading.hold(True)
        self.reading.fall_behind(True)
        self.reading.hold(False)
        self.assertEqual((self.applied, self.reading.paused, self.reading.held), ([True], True, False))
        self.reading.fall_behind(False)
        self.assertEqual((self.applied, self.reading.paused), ([True, False], False))


class NobodyTests(SynchronousTestCase):
    def test_it_takes_any_report(self) -> None:
        NOBODY.on_text("x")
        NOBODY.on_closed(ValueError())
