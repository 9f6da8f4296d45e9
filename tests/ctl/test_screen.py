"""
relayd.ctl.screen without a terminal; tests.system.test_watch has one.
"""

from __future__ import annotations

import os

from twisted.trial.unittest import SynchronousTestCase

from relayd.ctl.screen import alternate_screen


class EncodingTests(SynchronousTestCase):
    """What is written to the terminal."""

    def test_the_characters_are_those_of_the_terminal(self) -> None:
        read, write = os.pipe()
        self.addCleanup(os.close, read)
        self.addCleanup(os.close, write)
        with alternate_screen(write, "gb18030") as screen:
            screen.show(["主服务器"])
        self.assertIn("主服务器".encode("gb18030"), os.read(read, 1000))
        with alternate_screen(write, "latin-1") as screen:
            screen.show(["…"])
        self.assertIn(b"\x1b[2K?", os.read(read, 1000))
