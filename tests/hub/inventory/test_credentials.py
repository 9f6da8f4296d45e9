"""
Credentials: checked when they are given, sealed for their row, and never shown.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from relayd.hub.inventory.checks import HostMistake
from relayd.hub.inventory.credentials import (
    CredentialMistake,
    Login,
    checked_login,
    opened,
    seal_login,
    sealed_credential,
)
from relayd.hub.inventory.errors import NotOpened
from relayd.hub.inventory.sealing import FixedKeys, Sealer, new_key
from relayd.hub.store.host_records import SealedCredential

SECRET = "hunter2-s3cret"
NOW = time.time()


class CredentialCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.sealer = Sealer(FixedKeys((new_key(),)))
        self.folder = Path(self.mktemp())
        self.folder.mkdir()

    def key(self, name: str = "key", passphrase: str = "") -> str:
        """A private key as ssh-keygen makes it."""
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-a", "1", "-N", passphrase, "-f", name]
        subprocess.run(argv, cwd=self.folder, check=True)
        return (self.folder / name).read_text()

    def certificate(self, name: str = "key", *options: str) -> str:
        if not (self.folder / "authority").exists():
            self.key("authority")
        argv = ["ssh-keygen", "-q", "-s", "authority", "-I", "x", "-n", "root", *options, f"{name}.pub"]
        subprocess.run(argv, cwd=self.folder, check=True)
        return (self.folder / f"{name}-cert.pub").read_text()

    def refused(self, method: object, **given: Any) -> tuple[str, str]:
        mistake = self.assertRaises(CredentialMistake, checked_login, method, given, NOW)
        for shown in (repr(mistake), str(mistake)):
            self.assertNotIn(SECRET, shown)
        return mistake.field, str(mistake)


class CheckTests(CredentialCase):
    def test_each_method(self) -> None:
        key, locked = self.key(), self.key("locked", SECRET)
        for method, given in (
            ("password", {"password": SECRET, "privateKey": ""}),
            ("key", {"privateKey": key}),
            ("key", {"privateKey": locked, "passphrase": SECRET}),
            ("certificate", {"privateKey": key, "certificate": self.certificate(), "password": None}),
            ("at-the-site", {}),
        ):
            login = checked_login(method, given, NOW)
            self.assertEqual(login.method, method)
            credential = sealed_credential(self.sealer, login, credential_id="id-1", name="ops")
            self.assertEqual(opened(self.sealer, credential), login)
            for shown in (repr(login), repr(credential), str(login)):
                self.assertNotIn(SECRET, shown)
                self.assertNotIn("PRIVATE KEY", shown)
            self.assertEqual(credential.sealed is None, method == "at-the-site")
            self.assertNotIn(SECRET.encode(), credential.sealed or b"")

    def test_what_is_missing_or_too_much(self) -> None:
        self.assertEqual(self.refused("telnet")[0], "method")
        self.assertEqual(self.refused(3)[0], "method")
        for method, given, field, words in (
            ("password", {}, "password", "is missing"),
            ("password", {"password": " "}, "password", "is missing"),
            ("password", {"password": 3}, "password", "is not a string"),
            ("password", {"password": SECRET, "privateKey": SECRET}, "privateKey", "does not belong to the method"),
            ("password", {"password": SECRET * 2000}, "password", "is longer than"),
            ("password", {"password": SECRET + "\0"}, "password", "contains a NUL"),
            ("password", {SECRET: "x"}, "fields", "are method, name"),
            ("key", {}, "privateKey", "is missing"),
            ("certificate", {"privateKey": self.key()}, "certificate", "is missing"),
            ("at-the-site", {"password": SECRET}, "password", "does not belong"),
        ):
            found, text = self.refused(method, **given)
            self.assertEqual(found, field)
            self.assertIn(words, text)

    def test_a_key_that_cannot_be_used_says_why_and_is_not_quoted(self) -> None:
        locked = self.key("locked", SECRET)
        public = (self.folder / "locked.pub").read_text()
        for given, words in (
            ({"privateKey": locked}, "it is encrypted, and no passphrase was given"),
            ({"privateKey": locked, "passphrase": f"{SECRET}x"}, "the passphrase is wrong"),
            ({"privateKey": public}, "it is a public key"),
            ({"privateKey": f"/root/{SECRET}.pem"}, "it looks like the path of a file"),
            ({"privateKey": f"-----BEGIN OPENSSH PRIVATE KEY-----\n{SECRET}\n"}, "it was cut off"),
            ({"privateKey": SECRET}, "it does not begin with -----BEGIN"),
            ({"privateKey": locked[:-200] + "A" * 100 + locked[-100:], "passphrase": SECRET}, "cannot be used"),
        ):
            field, text = self.refused("key", **given)
            self.assertEqual(field, "privateKey")
            self.assertIn(words, text)

    def test_certificates(self) -> None:
        key, other = self.key(), self.key("other")
        certificate = self.certificate()
        for given, words in (
            ({"privateKey": other, "certificate": certificate}, "is for another key than the private key"),
            ({"privateKey": key, "certificate": self.certificate("key", "-h")}, "it is the certificate of a host"),
            ({"privateKey": key, "certificate": self.certificate("key", "-V", "20200101:20200102")}, "2020-01-02"),
            ({"privateKey": key, "certificate": (self.folder / "key.pub").read_text()}, "it is a public key"),
        ):
            field, text = self.refused("certificate", **given)
            self.assertEqual(field, "certificate")
            self.assertIn(words, text)


class SealedTests(CredentialCase):
    def test_opens_only_in_its_own_row(self) -> None:
        login = checked_login("password", {"password": SECRET}, NOW)
        sealed = seal_login(self.sealer, login, "id-1")
        for credential_id, expected in (("id-1", True), ("id-2", False)):
            moved = SealedCredential(id=credential_id, name="x", method="password", sealed=sealed)
            if expected:
                self.assertEqual(opened(self.sealer, moved), login)
            else:
                self.assertRaises(NotOpened, opened, self.sealer, moved)
        lost = SealedCredential(id="id-1", name="x", method="password", sealed=None)
        self.assertRaises(NotOpened, opened, self.sealer, lost)
        strange = self.sealer.seal(b"[1]", "credential:id-1")
        error = self.assertRaises(
            NotOpened, opened, self.sealer, SealedCredential(id="id-1", name="x", method="password", sealed=strange)
        )
        self.assertIn("is not a credential", str(error))

    def test_names(self) -> None:
        login = Login(method="at-the-site")
        for name in ("", None, "a b", "in", 3):
            self.assertRaises(HostMistake, sealed_credential, self.sealer, login, credential_id="x", name=name)
