"""
Secrets at rest.
"""

from __future__ import annotations

import os
import pickle
import stat
from pathlib import Path

from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relayd.hub.inventory.errors import NotOpened, SealingKeysUnusable
from relayd.hub.inventory.sealing import FixedKeys, KeyFile, Sealer, SecretBytes, file_of_keys, new_key

OLD, NEW = new_key(), new_key()


class SealerTests(SynchronousTestCase):
    @given(st.binary(max_size=2000), st.text(max_size=50))
    def test_opens_what_it_sealed(self, content: bytes, context: str) -> None:
        sealer = Sealer(FixedKeys((NEW, OLD)))
        sealed = sealer.seal(content, context)
        self.assertEqual(sealer.open(sealed, context).reveal(), content)
        if len(content) > 5:
            self.assertNotIn(content, sealed)

    def test_not_for_another_row(self) -> None:
        sealer = Sealer(FixedKeys((NEW,)))
        sealed = sealer.seal(b"secret", "credential:1")
        for context in ("credential:2", "run:1", "credential:", ""):
            error = self.assertRaises(NotOpened, sealer.open, sealed, context)
            self.assertEqual(str(error), "A sealed secret cannot be opened: it was sealed for something else.")
        # nor after it was sealed anew
        self.assertRaises(NotOpened, sealer.open, sealer.rotate(sealed), "credential:2")

    def test_neither_changed_nor_with_another_key(self) -> None:
        sealed = Sealer(FixedKeys((OLD,))).seal(b"secret", "here")
        sealer = Sealer(FixedKeys((NEW,)))
        self.assertIn(
            "the key that sealed it is missing", str(self.assertRaises(NotOpened, sealer.open, sealed, "here"))
        )
        self.assertRaises(NotOpened, sealer.rotate, sealed)
        ours = sealer.seal(b"secret", "here")
        for at in range(0, len(ours), 7):
            changed = bytearray(ours)
            changed[at] ^= 1
            self.assertRaises(NotOpened, sealer.open, bytes(changed), "here")
        self.assertRaises(NotOpened, sealer.open, b"", "here")

    def test_the_old_key_can_go_once_all_is_sealed_anew(self) -> None:
        sealed = Sealer(FixedKeys((OLD,))).seal(b"secret", "here")
        both = Sealer(FixedKeys((NEW, OLD)))
        self.assertEqual((both.is_current(sealed), both.open(sealed, "here").reveal()), (False, b"secret"))
        anew = both.rotate(sealed)
        self.assertTrue(both.is_current(anew))
        self.assertEqual(Sealer(FixedKeys((NEW,))).open(anew, "here").reveal(), b"secret")

    def test_shows_nothing(self) -> None:
        secret = SecretBytes(b"hunter2")
        for shown in (repr(secret), str(secret), f"{secret}"):
            self.assertEqual(shown, "SecretBytes(…)")
        self.assertRaises(TypeError, pickle.dumps, secret)
        self.assertEqual((len(secret), repr(FixedKeys((NEW,)))), (7, "<FixedKeys: 1>"))


class KeyFileTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.file = KeyFile(str(self.path), {})

    def write(self, content: bytes, mode: int = 0o600) -> None:
        self.path.write_bytes(content)
        self.path.chmod(mode)

    def refused(self) -> str:
        error = self.assertRaises(SealingKeysUnusable, self.file.keys)
        self.assertEqual(error.fields["path"], str(self.path))
        return str(error.fields["reason"])

    def test_is_made_once(self) -> None:
        self.assertTrue(self.file.make())
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)
        keys = self.file.keys()
        self.assertEqual(len(keys), 1)
        self.assertFalse(self.file.make())
        self.assertEqual(KeyFile(str(self.path), {}).keys(), keys)
        self.assertEqual(os.listdir(self.path.parent), [self.path.name])

    def test_is_not_made_where_it_cannot_be(self) -> None:
        missing = KeyFile("/nowhere/keys", {})
        self.assertIn("No such file or directory", str(self.assertRaises(SealingKeysUnusable, missing.make)))
        self.assertIn("No such file or directory", str(self.assertRaises(SealingKeysUnusable, missing.keys)))
        credential = KeyFile(str(self.path), {"CREDENTIALS_DIRECTORY": str(self.path.parent)})
        self.assertIn("LoadCredential=", str(self.assertRaises(SealingKeysUnusable, credential.make)))
        self.assertFalse(self.path.exists())

    def test_newest_first_with_comments(self) -> None:
        self.write(b"\xef\xbb\xbf# newest\r\n" + NEW + b"\r\n\r\n  " + OLD + b"  \n# that was all")
        self.assertEqual(self.file.keys(), (NEW, OLD))
        self.write(file_of_keys((OLD, NEW)))
        self.assertEqual(self.file.keys(), (OLD, NEW))

    def test_is_read_again_when_it_has_changed(self) -> None:
        self.write(file_of_keys((OLD,)))
        sealer = Sealer(self.file)
        sealed = sealer.seal(b"secret", "")
        self.assertIs(self.file.keys(), self.file.keys())
        self.write(file_of_keys((NEW, OLD)))
        self.assertFalse(sealer.is_current(sealed))
        self.assertTrue(Sealer(FixedKeys((NEW,))).is_current(sealer.seal(b"secret", "")))
        self.path.unlink()
        self.assertRaises(SealingKeysUnusable, sealer.seal, b"secret", "")
        self.write(file_of_keys((NEW, OLD)))
        self.assertEqual(sealer.open(sealed, "").reveal(), b"secret")

    def test_what_is_not_a_key_is_not_quoted(self) -> None:
        for line in (b"hunter2", NEW[:-1], NEW + b"A", b"\xff" * 44, NEW + NEW, b"!" * 44):
            self.write(file_of_keys((NEW,)) + line + b"\n")
            reason = self.refused()
            self.assertEqual(reason, "line 3 is not a key (32 bytes in base64, 44 characters)")
        for content, said in (
            (b"", "it is empty"),
            (b"# nothing\n", "it has no key"),
            (b"#" * 70000, "it is too large"),
        ):
            self.write(content)
            self.assertEqual(self.refused(), said)
        self.path.unlink()
        self.path.mkdir()
        self.assertEqual(self.refused(), "it is not a file")

    def test_for_this_user_alone(self) -> None:
        for mode in (0o640, 0o604, 0o660):
            self.write(file_of_keys((NEW,)), mode)
            self.assertEqual(self.refused(), f"other users may access it (mode {mode:04o}); chmod it to 0600")
        # systemd's credentials only look that way
        credential = KeyFile(str(self.path), {"CREDENTIALS_DIRECTORY": str(self.path.parent)})
        self.assertEqual(credential.keys(), (NEW,))

    def test_not_of_another_user(self) -> None:
        self.write(file_of_keys((NEW,)))
        self.patch(os, "geteuid", lambda: self.path.stat().st_uid + 1)
        if self.path.stat().st_uid:
            self.assertIn("it belongs to another user", self.refused())
        else:  # as root may own what others use
            self.assertEqual(self.file.keys(), (NEW,))
            os.chown(self.path, 65534, -1)
            self.assertIn("it belongs to another user", self.refused())

    def test_a_key_is_one_of_fernet(self) -> None:
        self.assertEqual(len(new_key()), 44)
        Fernet(new_key())
