"""
Files that are there whole or not at all.
"""

from __future__ import annotations

import errno
import os
import stat

from twisted.trial.unittest import SynchronousTestCase

from relayd.audit.key import read_key
from relayd.audit.lines import GENESIS
from relayd.audit.seal import make_seal, read_seal
from relayd.config.state_directory import StateDirectory
from relayd.errors import ConfigError
from relayd.process.whole_files import write_whole
from tests.support.auditing import directory, fill, small_disk


class WholeTests(SynchronousTestCase):
    """In a directory, which may be on a disk that is full."""

    def test_for_this_user_alone_in_the_place_of_another(self) -> None:
        path = directory(self) / "file"
        path.write_bytes(b"before")
        path.chmod(0o644)
        write_whole(str(path), b"after")
        self.assertEqual((path.read_bytes(), stat.S_IMODE(path.stat().st_mode)), (b"after", 0o600))
        self.assertEqual(os.listdir(path.parent), ["file"])

    def test_full(self) -> None:
        """A relay that is started again and again leaves nothing each time, and what was there stays."""
        disk = small_disk(self)
        path = disk / "file"
        path.write_bytes(b"before")
        fill(disk)
        error = self.assertRaises(OSError, write_whole, str(path), b"after")
        self.assertEqual(error.errno, errno.ENOSPC)
        self.assertEqual(path.read_bytes(), b"before")
        self.assertEqual(sorted(os.listdir(disk)), ["file", "filler"])

    def test_keys_are_made_when_there_is_room_again(self) -> None:
        """Half of one would be in the way for ever."""
        disk = small_disk(self)
        key, seal, state = str(disk / "audit-key"), str(disk / "audit-seal"), StateDirectory(str(disk))
        filler = fill(disk)
        self.assertRaises(OSError, read_key, key, make=True)
        self.assertRaises(OSError, make_seal, seal, 0, GENESIS)
        self.assertRaises(ConfigError, state.claim)
        self.assertEqual(sorted(os.listdir(disk)), ["filler", "lock"])
        filler.unlink()
        self.assertEqual(len(read_key(key, make=True)), 32)
        made = make_seal(seal, 0, GENESIS)
        self.assertEqual(read_seal(seal), made)
        state.claim()
        self.addCleanup(state.release)
        self.assertEqual(sorted(os.listdir(disk)), ["audit-key", "audit-seal", "fingerprint-key", "lock"])
