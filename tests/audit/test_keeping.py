"""
Tests of `relayd.audit.keeping`: which files stay.
"""

from __future__ import annotations

import time
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from relayd.audit.keeping import Keeping, Moved, superfluous
from tests.support.auditing import chain, directory, entries, faults, files, write


class KeepingTests(SynchronousTestCase):
    """Which files stay."""

    DAY = 86400.0

    def going(self, ages: list[float], **chosen: Any) -> list[float]:
        """Of files of 10 bytes that were written so many days ago, those that go."""
        moved = [Moved(f"{age}", 1, 10, -age * self.DAY) for age in ages]
        return [float(each.path) for each in superfluous(moved, Keeping(**chosen), 0.0)]

    def test_by_number(self) -> None:
        self.assertEqual(self.going([4, 3, 2, 1], keep=3), [4])
        self.assertEqual(self.going([4, 3], keep=3), [])
        self.assertEqual(self.going([4, 3, 2, 1]), [])

    def test_by_age(self) -> None:
        """A file that is not old stays, however many there are."""
        self.assertEqual(self.going([9, 8, 3, 2, 1], keep=1, keep_for=5 * self.DAY), [9, 8])
        # Where the clock is far ahead, all are old: as many as the site asked for stay.
        self.assertEqual(self.going([903, 902, 901], keep=2, keep_for=5 * self.DAY), [903])

    def test_by_size(self) -> None:
        """Unless the disk has no room; and as many as the site asked for stay whatever they take."""
        self.assertEqual(self.going([4, 3, 2, 1], keep=1, keep_for=5 * self.DAY, max_total=25), [4, 3])
        self.assertEqual(self.going([4, 3, 2, 1], keep=3, keep_for=5 * self.DAY, max_total=5), [4])

    def test_a_log_that_is_written(self) -> None:
        path = directory(self) / "audit.log"
        write(path, 40, max_size=1000, keep=2, keep_for=time.time())
        self.assertGreater(len(files(path)), 10)
        write(path, 10, max_size=1000, keep=2, keep_for=time.time(), max_total=6000)
        parts = files(path)
        self.assertLess(len(parts), 10)
        self.assertGreater(len(parts), 3)
        self.assertEqual(faults(*parts), [])
        removed = [entry["through"] for entry in entries(*parts) if entry["event"] == "removed"]
        self.assertEqual(removed[-1], entries(parts[0])[0]["seq"] - 1)

    def test_a_new_file_that_could_not_be_made(self) -> None:
        """The next attempt makes it, and moves nothing aside again."""
        path = directory(self) / "audit.log"
        log = chain(path, max_size=1000)
        log.open("1.0")
        self.addCleanup(log.close)
        log.prepare()
        log.append([(1e9, "accepted", {"commandId": "c" * 1000})])
        make = log._open_file

        def fail() -> int:
            raise OSError("no room")

        log._open_file = fail  # type: ignore[method-assign]
        self.assertRaises(OSError, log.prepare)
        log._open_file = make  # type: ignore[method-assign]
        log.prepare()
        log.append([(1e9, "accepted", {"commandId": "c1"})])
        self.assertEqual(len(files(path)), 2)
        self.assertEqual(faults(*files(path)), [])
