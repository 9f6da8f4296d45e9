"""
Private keys in every format that people have, good and bad; no part of a key's text ever shows.
"""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa, x25519
from twisted.conch.ssh.keys import Key
from twisted.internet.defer import CancelledError, Deferred, execute, fail
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from relayd.ssh.keys.containers import MAX_BCRYPT_ROUNDS, Damaged, TooCostly, inspect_container
from relayd.ssh.keys.private import KeyStore, UnreadableKey, parse_private_key
from relayd.ssh.target import Credential
from tests.support.ssh import key_pair, shown, tool

PLAIN = serialization.NoEncryption()
LOCKED = serialization.BestAvailableEncryption(b"passphrase")
OPENSSH = serialization.PrivateFormat.OpenSSH
PKCS8 = serialization.PrivateFormat.PKCS8
TRADITIONAL = serialization.PrivateFormat.TraditionalOpenSSL

PUTTY = """PuTTY-User-Key-File-3: ssh-ed25519
Encryption: none
Comment: c0mment-0f-the-key
Public-Lines: 2
AAAAC3NzaC1lZDI1NTE5AAAAIMhNlWyoSWLNlsSmT2rTStc3Ni6lrkvFB8uTwUpC
5qi2
Private-Lines: 1
AAAAIEbVbkSIAHhsc2VjcmV0LXB1dHR5LWtleS1ieXRlcy0wMDAw
Private-MAC: 3f1c7c2b6f0e2a9c
"""


def pem(key: Any, form: serialization.PrivateFormat = PKCS8, lock: Any = PLAIN) -> str:
    if form is OPENSSH and lock is LOCKED:
        lock = OPENSSH.encryption_builder().kdf_rounds(2).build(b"passphrase")  # the usual 16 take 0.2 s each time
    text: bytes = key.private_bytes(serialization.Encoding.PEM, form, lock)
    return text.decode()


def pieces(text: str) -> list[str]:
    """What must not show of a key's text: each of its lines, and parts of them."""
    lines = [line.strip() for line in text.replace("\\n", "\n").splitlines()]
    body = [line for line in lines if len(line) >= 16 and not line.startswith(("-----", "PuTTY-User-Key-File"))]
    return [line[at : at + 16] for line in body for at in range(0, len(line) - 15, 16)]


KEYS: dict[str, Any] = {
    "ed25519": ed25519.Ed25519PrivateKey.generate(),
    "ecdsa-256": ec.generate_private_key(ec.SECP256R1()),
    "ecdsa-384": ec.generate_private_key(ec.SECP384R1()),
    "ecdsa-521": ec.generate_private_key(ec.SECP521R1()),
    "rsa": rsa.generate_private_key(65537, 2048),
}


class ReadableTests(SynchronousTestCase):
    """Keys that can be used."""

    def check(self, text: str, public: bytes, passphrase: str | None = None) -> None:
        key = parse_private_key(text, passphrase)
        self.assertFalse(key.isPublic())
        self.assertEqual(key.public().toString("openssh").split()[:2], public.split()[:2])

    def public(self, key: Any) -> bytes:
        text: bytes = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        return text

    def test_every_format_of_every_type(self) -> None:
        for name, key in KEYS.items():
            for form in (OPENSSH, PKCS8) if name == "ed25519" else (OPENSSH, PKCS8, TRADITIONAL):
                self.check(pem(key, form), self.public(key))

    def test_made_by_ssh_keygen(self) -> None:
        directory = Path(tempfile.mkdtemp(prefix="relayd-test-keys-"))
        self.addCleanup(tool, "rm", "-rf", str(directory))
        for kind, bits in (("ed25519", 256), ("ecdsa", 256), ("ecdsa", 384), ("ecdsa", 521), ("rsa", 3072)):
            path = directory / f"{kind}-{bits}"
            tool("ssh-keygen", "-q", "-t", kind, "-b", str(bits), "-N", "", "-C", "me", "-f", str(path))
            public = path.with_name(path.name + ".pub").read_bytes()
            self.check(path.read_text(), public)
            for form in ("PEM", "PKCS8"):
                tool("ssh-keygen", "-q", "-p", "-m", form, "-P", "", "-N", "", "-f", str(path))
                self.check(path.read_text(), public)

    def test_encrypted(self) -> None:
        for name, key in KEYS.items():
            for form in (OPENSSH, PKCS8) if name == "ed25519" else (OPENSSH, PKCS8, TRADITIONAL):
                self.check(pem(key, form, LOCKED), self.public(key), "passphrase")

    def test_passphrase_that_is_not_needed(self) -> None:
        for name, form in (("ed25519", OPENSSH), ("ed25519", PKCS8), ("rsa", TRADITIONAL)):
            self.check(pem(KEYS[name], form), self.public(KEYS[name]), "passphrase")

    def test_made_by_openssl(self) -> None:
        ways = (
            (["genpkey", "-algorithm", "ed25519"], "PRIVATE KEY"),
            (["genpkey", "-algorithm", "rsa", "-pkeyopt", "rsa_keygen_bits:2048"], "PRIVATE KEY"),
            (["genpkey", "-algorithm", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"], "PRIVATE KEY"),
            (["ecparam", "-name", "secp384r1", "-genkey", "-noout"], "EC PRIVATE KEY"),
            (["ecparam", "-name", "secp384r1", "-genkey"], "EC PARAMETERS"),  # a block of parameters comes first
            (["genrsa", "-traditional", "2048"], "RSA PRIVATE KEY"),
        )
        for argv, begins in ways:
            text = tool("openssl", *argv)
            self.assertTrue(text.startswith(f"-----BEGIN {begins}-----"))
            key = serialization.load_pem_private_key(
                text[text.index("-----BEGIN", 1 if "PARAMETERS" in begins else 0) :].encode(), None
            )
            self.check(text, self.public(key))

    def test_as_it_comes_through_forms_and_databases(self) -> None:
        for form in (OPENSSH, PKCS8):
            text, public = pem(KEYS["ed25519"], form), self.public(KEYS["ed25519"])
            for mangled in (
                text.replace("\n", "\r\n"),
                text.replace("\n", "\\n"),
                text.replace("\n", "\\r\\n"),
                text.replace("\n", "\n\n"),
                text.replace("\n", "  \n\t"),
                "\n \ufeff" + text + "\n\n \n",
                text.rstrip("\n"),
            ):
                self.check(mangled, public)


class UnreadableTests(SynchronousTestCase):
    """Keys that cannot be used: why is said, what they are is not."""

    def check(self, text: str, *words: str, passphrase: str | None = None) -> None:
        error = self.assertRaises(UnreadableKey, parse_private_key, text, passphrase)
        for word in words:
            self.assertIn(word, str(error))
        try:
            parse_private_key(text, passphrase)
        except UnreadableKey:
            everything = shown(Failure())
        for piece in [*pieces(text), passphrase or "wr0ng-passphrase"]:
            self.assertNotIn(piece, everything)

    def test_encrypted(self) -> None:
        for key in KEYS.values():
            for form in (OPENSSH, PKCS8):
                self.check(pem(key, form, LOCKED), "encrypted", "passphrase")
        for name in ("rsa", "ecdsa-256"):
            text = pem(KEYS[name], TRADITIONAL, LOCKED)
            self.assertIn("Proc-Type: 4,ENCRYPTED", text)
            self.check(text, "encrypted", "passphrase")

    def test_encrypted_by_ssh_keygen_and_openssl(self) -> None:
        directory = Path(tempfile.mkdtemp(prefix="relayd-test-keys-"))
        self.addCleanup(tool, "rm", "-rf", str(directory))
        for number, options in enumerate((["-m", "PEM"], ["-m", "PKCS8"], ["-Z", "aes256-gcm@openssh.com"])):
            path = directory / str(number)
            tool(
                "ssh-keygen", "-q", "-a", "2", "-t", "rsa", "-b", "2048", *options, "-N", "passphrase", "-f", str(path)
            )
            self.check(path.read_text(), "encrypted")

    def test_putty(self) -> None:
        self.check(PUTTY, "damaged")

    def test_wrong_passphrase(self) -> None:
        for name, key in KEYS.items():
            for form in (OPENSSH, PKCS8) if name == "ed25519" else (OPENSSH, PKCS8, TRADITIONAL):
                text = pem(key, form, LOCKED)
                self.check(text, "passphrase is wrong", passphrase="wr0ng-passphrase")

    def test_wrong_passphrases_that_leave_what_looks_like_padding(self) -> None:
        """One in some 250 does, and only then makes no sense."""
        options = ("-topk8", "-iter", "1", "-passout", "pass:passphrase")
        cheap = tool("openssl", "pkcs8", *options, stdin=pem(KEYS["ecdsa-256"]))
        for text in (cheap, pem(KEYS["ecdsa-256"], TRADITIONAL, LOCKED)):
            for number in range(2000):
                error = self.assertRaises(UnreadableKey, parse_private_key, text, f"wrong {number}")
                self.assertIn("passphrase is wrong", str(error))

    def test_dsa(self) -> None:
        key = dsa.generate_private_key(1024)
        self.check(pem(key, PKCS8), "neither Ed25519, ECDSA nor RSA")
        self.check(pem(key, TRADITIONAL), "neither Ed25519, ECDSA nor RSA")
        text = pem(key, OPENSSH)
        self.flushWarnings()  # of the library that made it
        self.check(text, "neither Ed25519, ECDSA nor RSA")
        self.assertEqual(self.flushWarnings(), [])

    def test_of_no_use_for_ssh(self) -> None:
        self.check(pem(x25519.X25519PrivateKey.generate()), "neither")
        self.check(pem(ed448.Ed448PrivateKey.generate()), "neither")
        self.check(pem(ec.generate_private_key(ec.SECP256K1())), "curve")
        self.check(tool("openssl", "genrsa", "-traditional", "768"), "RSA key of 768 bits")

    def test_public_key(self) -> None:
        for kind in ("ed25519", "rsa"):
            self.check(key_pair(kind)[1], "it is a public key (ssh-")
        public = (
            KEYS["rsa"]
            .public_key()
            .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
        self.check(public.decode(), "it is a public key")

    def test_no_key(self) -> None:
        for text in ("hunter2-is-my-password", "\0" * 100, "é" * 100, "\ud800", "=", "0", "%zz", "{"):
            self.check(text, "it does not begin with -----BEGIN")

    def test_truncated_and_damaged(self) -> None:
        for form in (OPENSSH, PKCS8):
            for name in ("ed25519", "rsa"):
                text = pem(KEYS[name], form)
                lines = text.splitlines()
                self.check("\n".join(lines[:-1]), "cut off")
                self.check("\n".join(lines[: len(lines) // 2]), "cut off")
                self.check("\n".join([*lines[:1], *lines[2:]]))
                self.check("\n".join([*lines[:1], lines[1][:-4], *lines[2:]]))
                self.check("\n".join([*lines[:1], "!!" + lines[1][2:], *lines[2:]]))
                self.check("\n".join([lines[0], lines[-1]]))
                self.check("\n".join([*lines[1:-1]]), "its first and its last line are missing")
                self.check("\n".join(lines[1:]), "its beginning is missing")
                self.check(text.rstrip()[:-3], "cut off")
                self.check("\n".join([lines[-1], *lines[1:-1], lines[0]]))

    def test_damaged_and_encrypted(self) -> None:
        for form in (OPENSSH, PKCS8):
            lines = pem(KEYS["rsa"], form, LOCKED).splitlines()
            text = "\n".join([*lines[:9], *lines[10:]])
            error = self.assertRaises(UnreadableKey, parse_private_key, text, "passphrase")
            self.assertIn("its content is damaged", str(error))

    def test_two_keys_in_one(self) -> None:
        text = pem(KEYS["ed25519"])
        self.check(text.replace("-----END PRIVATE KEY-----", "") + text)


class CostTests(SynchronousTestCase):
    """Keys that would take a thread, or all memory, for long: they are refused before any work is done."""

    def patched(self, text: str, *changes: tuple[bytes, bytes]) -> str:
        """*text* with other bytes inside."""
        begin, *body, end = text.splitlines()
        data = base64.b64decode("".join(body))
        for old, new in changes:
            self.assertEqual((data.count(old), len(old)), (1, len(new)))
            data = data.replace(old, new)
        return "\n".join([begin, base64.b64encode(data).decode(), end])

    def refuse(self, text: str) -> None:
        self.assertRaises(TooCostly, inspect_container, text)
        error = self.assertRaises(UnreadableKey, parse_private_key, text, "passphrase")
        self.assertIn("takes too much", str(error))

    def test_bcrypt(self) -> None:
        text = pem(KEYS["ed25519"], OPENSSH, OPENSSH.encryption_builder().kdf_rounds(37).build(b"passphrase"))
        parse_private_key(text, "passphrase")
        rounds = b"\0\0\0\x18\0\0\0\x10"  # the length of the options, and that of the salt in them
        data = base64.b64decode("".join(text.splitlines()[1:-1]))
        salt = data[data.index(rounds) + len(rounds) :][:16]
        for number in (MAX_BCRYPT_ROUNDS + 1, 2**32 - 1):
            self.refuse(self.patched(text, (salt + b"\0\0\0\x25", salt + number.to_bytes(4, "big"))))

    def openssl(self, *options: str) -> str:
        plain = pem(KEYS["ed25519"])
        return tool("openssl", "pkcs8", "-topk8", *options, "-passout", "pass:passphrase", stdin=plain)

    def test_pbkdf2(self) -> None:
        text = self.openssl("-iter", "65536")
        parse_private_key(text, "passphrase")
        self.refuse(self.patched(text, (b"\2\3\1\0\0", b"\2\3\x7f\xff\xff")))

    def test_scrypt(self) -> None:
        text = self.openssl("-scrypt")
        parse_private_key(text, "passphrase")
        shape = b"\2\2\x40\0\2\1\x08\2\1\1"
        for greedy in (b"\2\2\x7f\xff\2\1\x7f\2\1\1", b"\2\2\x40\0\2\1\x08\2\1\x7f", b"\2\5\x40\0\0\0\0\2\1\1"):
            self.refuse(self.patched(text, (shape, greedy)))

    def test_behind_another_block(self) -> None:
        text = self.openssl("-iter", "65536")
        costly = self.patched(text, (b"\2\3\1\0\0", b"\2\3\x7f\xff\xff"))
        for before in ("-----BEGIN X-----", "-----BEGIN EC PARAMETERS-----\nAAAA", text):
            self.assertRaises(TooCostly, inspect_container, f"{before}\n{costly}\n")

    def test_many_blocks(self) -> None:
        """Looking through them costs the square of their number: of a megabyte, it would take minutes."""
        text = pem(KEYS["ed25519"])
        self.assertFalse(inspect_container(text * 32).encrypted)
        self.assertRaises(Damaged, inspect_container, text * 33)
        error = self.assertRaises(UnreadableKey, parse_private_key, "-----BEGIN A-----\n" * 50_000 + text)
        self.assertIn("its content is damaged", str(error))

    def test_what_cannot_be_told_is_damaged(self) -> None:
        for body in ("", "MIA=", "MIAwgA==", "//////////8=", "MP8=", "AAAA", "é", "MAA=", "MAIwAA==", "MAQwAgIBAQ=="):
            text = f"-----BEGIN ENCRYPTED PRIVATE KEY-----\n{body}\n-----END ENCRYPTED PRIVATE KEY-----"
            error = self.assertRaises(UnreadableKey, parse_private_key, text, "passphrase")
            self.assertIn("damaged", str(error))
        nested = b""
        for _ in range(60):
            nested = b"\x30" + bytes((len(nested),)) + nested
        text = f"-----BEGIN ENCRYPTED PRIVATE KEY-----\n{base64.b64encode(nested).decode()}\n-----END "
        self.assertRaises(Damaged, inspect_container, text)


class KeyStoreTests(TestCase):
    """Parsed keys are kept; threads do the work."""

    def setUp(self) -> None:
        self.parsed: list[str] = []

    def store(self, defer: Callable[..., Deferred[Key]], size: int = 256) -> KeyStore:
        self.clock = Clock()
        return KeyStore(self.clock, defer, defer, size=size)

    def defer(self, function: Callable[..., Key], text: str, passphrase: str | None) -> Deferred[Key]:
        self.parsed.append(text)
        return execute(function, text, passphrase)

    async def test_each_key_is_parsed_once(self) -> None:
        store = self.store(self.defer)
        private = key_pair()[0]
        keys = [await store.load(Credential(private_key=private)) for _ in range(3)]
        self.assertEqual(len(self.parsed), 1)
        self.assertIs(keys[0], keys[2])
        await store.load(Credential(private_key=key_pair("ecdsa")[0]))
        self.assertEqual(len(self.parsed), 2)

    async def test_those_who_wait_share_the_work(self) -> None:
        started: list[Deferred[Key]] = []

        def defer(_function: object, text: str, _passphrase: str | None) -> Deferred[Key]:
            self.parsed.append(text)
            started.append(Deferred())
            return started[-1]

        store, credential = self.store(defer), Credential(private_key=key_pair()[0])
        first, second, third = (store.load(credential) for _ in range(3))
        other = store.load(Credential(private_key=key_pair("rsa")[0]))
        self.assertEqual(len(self.parsed), 2)
        second.cancel()
        self.failureResultOf(second, CancelledError)
        self.assertNoResult(first)
        key = parse_private_key(key_pair()[0])
        started[0].callback(key)
        self.assertIs(await first, key)
        self.assertIs(await third, key)
        self.assertIs(await store.load(credential), key)
        # All of them gone, and a failure
        other.cancel()
        self.failureResultOf(other, CancelledError)
        started[1].errback(UnreadableKey("it is damaged"))
        again = [store.load(Credential(private_key=key_pair("rsa")[0])) for _ in range(2)]
        self.assertEqual(len(self.parsed), 3)
        started[2].errback(UnreadableKey("it is damaged"))
        for each in again:
            self.failureResultOf(each, UnreadableKey)

    async def test_those_used_last_are_kept(self) -> None:
        store = self.store(self.defer, size=2)
        texts = [pem(ed25519.Ed25519PrivateKey.generate()) for _ in range(3)]
        for number in (0, 1, 0, 2, 0, 1):
            await store.load(Credential(private_key=texts[number]))
        self.assertEqual([texts.index(text) for text in self.parsed], [0, 1, 2, 1])

    async def test_a_bad_key_fails_each_time_and_shows_nothing(self) -> None:
        for defer in (self.defer, deferToThread):
            store = self.store(defer)
            for text in (pem(KEYS["rsa"], OPENSSH, LOCKED), pem(KEYS["rsa"]).replace("A", "B"), PUTTY):
                for _ in range(2):
                    failures: list[Failure] = []
                    await store.load(Credential("p4ssword-in-it", text)).addErrback(failures.append)
                    failures[0].trap(UnreadableKey)
                    everything = shown(failures[0])
                    for piece in [*pieces(text), "p4ssword-in-it", "parse_private_key"]:
                        self.assertNotIn(piece, everything)

    async def test_an_error_of_a_library_shows_nothing(self) -> None:
        def broken(_function: object, text: str, _passphrase: str | None) -> Deferred[Key]:
            return fail(ValueError(f"bad key {text!r}"))

        failures: list[Failure] = []
        await self.store(broken).load(Credential(private_key="s3cret-key-text")).addErrback(failures.append)
        failures[0].trap(UnreadableKey)
        self.assertNotIn("s3cret-key-text", shown(failures[0]))

    def test_a_credential_shows_nothing(self) -> None:
        credential = Credential("p4ssword", "k3y-text")
        for text in (repr(credential), str(credential), f"{credential}", repr(credential.digest)):
            self.assertNotIn("p4ssword", text)
            self.assertNotIn("k3y-text", text)

    def test_credentials_are_told_apart(self) -> None:
        parts = [
            *((None, None), ("", None), (None, ""), ("", ""), ("a", "b"), ("ab", ""), ("ab", None), (None, "ab")),
            *((None, None, "ab"), (None, "a", "b"), ("a", None, "b"), ("a", "b", "")),
        ]
        self.assertEqual(len({Credential(*part) for part in parts}), len(parts))
        self.assertEqual(Credential("a", "b"), Credential("a", "b"))
        self.assertEqual(hash(Credential("a", "b")), hash(Credential("a", "b")))
