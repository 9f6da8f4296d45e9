"""
Tests of `relayd.audit.seal`: the key of the seal, and logs that are older than it.
"""

from __future__ import annotations

import json
import shutil
from hashlib import sha256
from pathlib import Path

from relayd.audit.lines import GENESIS
from relayd.audit.seal import read_seal, seal_file
from tests.support.auditing import ForgeryCase, edit, entries, faults, state, write


class SealTests(ForgeryCase):
    """Where the seal begins to count."""

    def unseal(self) -> None:
        """As a log of the time before seals: lines without them."""
        lines, prev = [], GENESIS
        for entry in entries(self.path):
            body = json.dumps({**entry, "prev": prev}, separators=(",", ":")).partition(',"mac":')[0].encode()
            prev = sha256(body).hexdigest()
            lines.append(body + b',"hash":"' + prev.encode() + b'"}\n')
        self.path.write_bytes(b"".join(lines))
        self.heads[0].write_bytes(b"%020d %s\n" % (len(lines), prev.encode()))
        shutil.rmtree(state(self.path))

    def test_a_log_of_the_time_before_seals(self) -> None:
        self.unseal()
        found = write(self.path, 1)
        self.assertEqual((found.unsealed, found.foreign, found.missing), (6, 0, 0))
        self.assertEqual(write(self.path, 1).unsealed, 0)
        self.assertEqual(faults(self.path), [])
        edit(self.path, lambda lines: [*lines[:2], lines[2].replace(b"c0", b"c9"), *lines[3:]])
        self.assertEqual(len(faults(self.path)), 1)

    def test_it_is_for_this_user_alone(self) -> None:
        for path in state(self.path).iterdir():
            self.assertEqual(path.stat().st_mode & 0o777, 0o600, path)

    def test_it_is_not_shown(self) -> None:
        seal = read_seal(seal_file(str(state(self.path))))
        assert seal is not None
        self.assertNotIn(repr(seal.key), repr(seal))

    def test_what_is_none(self) -> None:
        Path(seal_file(str(state(self.path)))).write_text("no seal")
        error = self.assertRaises(ValueError, write, self.path, 1)
        self.assertIn("it is not a seal", str(error))
