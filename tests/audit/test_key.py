"""
Tests of `relayd.audit.key`: the digests of commands, and the key of these.
"""

from __future__ import annotations

import stat

from twisted.trial.unittest import SynchronousTestCase

from relayd.audit.key import command_digest, read_key
from tests.support.auditing import directory


class KeyTests(SynchronousTestCase):
    """The key of commands' digests."""

    def test_it_is_made_once_for_this_user_alone(self) -> None:
        path = directory(self) / "audit-key"
        key = read_key(str(path), make=True)
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)
        self.assertEqual((read_key(str(path), make=True), len(key)), (key, 32))

    def test_without_it_a_digest_cannot_be_tried_out(self) -> None:
        self.assertNotEqual(command_digest(b"1" * 32, "uptime"), command_digest(b"2" * 32, "uptime"))
        self.assertEqual(  # RFC 4231, test case 2
            command_digest(b"Jefe", "what do ya want for nothing?"),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        )

    def test_what_is_no_key(self) -> None:
        path = directory(self) / "audit-key"
        path.write_text("")
        self.assertRaises(ValueError, read_key, str(path), make=True)
        path.unlink()
        self.assertRaises(OSError, read_key, str(path), make=False)
