"""
Files that hold secrets.
"""

from __future__ import annotations

import os

from twisted.trial.unittest import SynchronousTestCase

from relayd.network.private_files import is_open_to_others


class PrivateFileTests(SynchronousTestCase):
    """`is_open_to_others`."""

    def status(self, mode: int, owner: int | None = None) -> os.stat_result:
        owner = os.geteuid() if owner is None else owner
        return os.stat_result((0o100000 | mode, 1, 1, 1, owner, 0, 0, 0, 0, 0))

    def test_ours(self) -> None:
        for mode in (0o600, 0o400, 0o700):
            self.assertFalse(is_open_to_others(self.status(mode)))
        for mode in (0o640, 0o604, 0o660, 0o601):
            self.assertTrue(is_open_to_others(self.status(mode)))

    def test_somebody_elses(self) -> None:
        self.assertFalse(is_open_to_others(self.status(0o644, os.geteuid() + 1)))
