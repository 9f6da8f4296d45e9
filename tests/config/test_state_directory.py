"""
relayd.config.state_directory: what is said where a directory cannot be used.
"""

from __future__ import annotations

import os
import tempfile
from errno import EACCES, EIO, ENOSPC
from shutil import rmtree
from typing import NoReturn

from twisted.trial.unittest import SynchronousTestCase

from relayd.config import state_directory
from relayd.config.state_directory import StateDirectory
from relayd.errors import ConfigError


class CureTests(SynchronousTestCase):
    """The reason, and what to do about it."""

    def setUp(self) -> None:
        self.path = tempfile.mkdtemp()
        self.addCleanup(rmtree, self.path)

    def refusal(self) -> str:
        return str(self.assertRaises(ConfigError, StateDirectory(self.path).claim))

    def test_files_of_another_user(self) -> None:
        """As after a relay that root ran there."""
        for number, words in (
            (
                EACCES,
                f"{self.path}/lock: Permission denied; another user may own it: chown -R --reference={self.path}/",
            ),
            (ENOSPC, f"{self.path}/lock: No space left on device; make room (see df, and df -i)"),
            (EIO, f"{self.path}/lock: Input/output error"),
        ):

            def refuse(*_: object, number: int = number) -> NoReturn:
                raise OSError(number, os.strerror(number))

            self.patch(state_directory.os, "open", refuse)
            said = self.refusal()
            self.assertIn(words, said)
            self.assertEqual(";" in said, number != EIO)

    def test_no_room_for_the_key(self) -> None:
        def full(path: str, data: bytes) -> NoReturn:
            raise OSError(ENOSPC, os.strerror(ENOSPC))

        self.patch(state_directory, "write_whole", full)
        self.assertIn("fingerprint-key: No space left on device; make room", self.refusal())
        self.assertIsNone(StateDirectory(self.path).holder())

    def test_below_what_cannot_be_written(self) -> None:
        self.patch(state_directory.os, "access", lambda *_: False)
        said = state_directory.directory_hindrance(f"{self.path}/state")
        self.assertIn(f"this user cannot write to {self.path}; name a directory that it can write to", said)
