"""
Keys in PuTTY's format, made by PuTTY's own tool.
"""

from __future__ import annotations

import base64
import re
import subprocess
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relayd.ssh.keys.private import UnreadableKey, parse_private_key
from relayd.ssh.keys.putty import MAX_MEMORY, MAX_WORK

PASSPHRASE = "correct horse battery"


class PuttyTests(SynchronousTestCase):
    """What puttygen writes."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory(prefix="relayd-putty-")
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def make(self, kind: str, version: int, passphrase: str = "") -> tuple[str, bytes]:
        """A key: its text, and the blob of its public key."""
        path, secret = self.folder / f"{kind}-{version}-{bool(passphrase)}.ppk", self.folder / "passphrase"
        old, new = self.folder / f"{kind}.ppk", self.folder / "new"
        secret.write_text(passphrase)
        new.write_text("")
        if not old.exists():
            argv = ("-t", *kind.split(), "-C", "a comment", "--random-device", "/dev/urandom")
            subprocess.run(
                ["puttygen", "-q", *argv, "-o", str(old), "--new-passphrase", str(new)], check=True, timeout=60
            )
        argv = (str(old), "-o", str(path), "--ppk-param", f"version={version}", "--new-passphrase", str(secret))
        subprocess.run(["puttygen", "-q", "-P", *argv, "--old-passphrase", str(new)], check=True, timeout=60)
        shown = subprocess.run(["puttygen", "-L", str(path)], check=True, capture_output=True, text=True, timeout=60)
        return path.read_text(), base64.b64decode(shown.stdout.split()[1])

    def test_every_kind(self) -> None:
        for version in (2, 3):
            for kind in ("ed25519", "ecdsa -b 256", "ecdsa -b 384", "ecdsa -b 521", "rsa -b 2048"):
                for passphrase in ("", PASSPHRASE):
                    text, public = self.make(kind, version, passphrase)
                    for form in (text, text.replace("\n", "\r\n"), text.replace("\n", "\\n")):
                        key = parse_private_key(form, passphrase or None)
                        self.assertEqual(key.public().blob(), public)

    def test_passphrase(self) -> None:
        for version in (2, 3):
            text, _ = self.make("ed25519", version, PASSPHRASE)
            self.assertIn("no passphrase", str(self.assertRaises(UnreadableKey, parse_private_key, text)))
            wrong = self.assertRaises(UnreadableKey, parse_private_key, text, "wrong horse")
            self.assertIn("passphrase is wrong", str(wrong))
            self.assertNotIn("horse", repr(wrong))

    def test_not_needed_passphrase(self) -> None:
        text, public = self.make("ed25519", 3)
        self.assertEqual(parse_private_key(text, PASSPHRASE).public().blob(), public)

    def test_cut_off(self) -> None:
        text, _ = self.make("rsa -b 2048", 3)
        lines = text.splitlines()
        for count in range(1, len(lines) - 1):
            error = self.assertRaises(UnreadableKey, parse_private_key, "\n".join(lines[:count]))
            self.assertRegex(str(error), "cut off|damaged")

    def test_another_version(self) -> None:
        text, _ = self.make("ed25519", 3)
        error = self.assertRaises(UnreadableKey, parse_private_key, text.replace("File-3", "File-1"))
        self.assertIn("version", str(error))

    def test_a_key_that_asks_for_all_memory(self) -> None:
        text, _ = self.make("ed25519", 3, PASSPHRASE)
        for name, value in (
            ("Memory", MAX_MEMORY + 1), ("Memory", 999999999), ("Passes", MAX_WORK // 8192 + 1), ("Parallelism", 17),
        ):  # fmt: skip
            greedy = re.sub(rf"Argon2-{name}: \d+", f"Argon2-{name}: {value}", text)
            self.assertNotEqual(greedy, text)
            self.assertIn("too much", str(self.assertRaises(UnreadableKey, parse_private_key, greedy, PASSPHRASE)))

    def test_whatever_is_damaged_says_so(self) -> None:
        text, public = self.make("ed25519", 3)

        @settings(max_examples=200)
        @given(st.integers(0, len(text) - 1), st.characters(codec="utf-8"))
        def damage(at: int, character: str) -> None:
            try:
                key = parse_private_key(text[:at] + character + text[at + 1 :])
            except UnreadableKey:
                return
            self.assertEqual(key.public().blob(), public)  # it was not what counts

        damage()
