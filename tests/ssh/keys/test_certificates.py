"""
Certificates of users: what OpenSSH's own tools make is read, what is of no use is told before the host is troubled, and
a real server takes them.
"""

from __future__ import annotations

import base64
import time
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.conch.ssh.common import getNS
from twisted.trial.unittest import SynchronousTestCase

from relayd.ssh.errors import CertificateUnusable, LoginRefused
from relayd.ssh.keys.certificates import (
    HOST_CERTIFICATE,
    USER_CERTIFICATE,
    BadCertificate,
    parse_certificate,
    read_user_certificate,
)
from tests.support.account import USER
from tests.support.authority import Authority
from tests.support.ssh import ServerTestCase, blob_of, key_pair
from tests.support.sshd import OpenSSHServer, make_key

NOW = time.time()
KINDS = ("ed25519", "ecdsa", "rsa")


def wire(certificate: str) -> bytes:
    """The wire form of a certificate line."""
    return base64.b64decode(certificate.split()[1])


class ReadingTests(SynchronousTestCase):
    """What ``ssh-keygen -s`` writes."""

    def setUp(self) -> None:
        self.authority = Authority()
        self.addCleanup(self.authority.close)

    def test_every_type_of_key_and_of_authority(self) -> None:
        for kind in KINDS:
            authority = Authority(kind)
            self.addCleanup(authority.close)
            for subject in KINDS:
                public = key_pair(subject)[1]
                text = authority.sign(public, "-n", "one,two", "-V", "-1h:+1h", "-O", "force-command=true")
                certificate = read_user_certificate(text, NOW)
                self.assertEqual(certificate.blob, wire(text))
                self.assertEqual(certificate.key, blob_of(public))
                self.assertEqual(certificate.authority, blob_of(authority.public))
                self.assertEqual((certificate.kind, certificate.principals), (USER_CERTIFICATE, (b"one", b"two")))
                self.assertEqual(certificate.critical_options, (b"force-command",))
                self.assertTrue(certificate.is_signed())

    def test_as_it_comes_through_forms_and_databases(self) -> None:
        text = " ".join(self.authority.sign(key_pair()[1]).split()[:2])
        for mangled in (f"{text}\n", f"{text}\r\n", f"{text}\\n", f" \ufeff{text}\\r\\n", f"\n{text}  a comment\n"):
            self.assertEqual(read_user_certificate(mangled, NOW).blob, wire(text))

    def test_more_names_than_a_message_shows(self) -> None:
        text = self.authority.sign(key_pair()[1], "-n", ",".join(f"user{number}" + "x" * 50 for number in range(200)))
        names = read_user_certificate(text, NOW).names()
        self.assertLess(len(names), 1000)
        self.assertIn("and 195 others", names)

    def test_a_key_is_no_certificate(self) -> None:
        self.assertRaises(BadCertificate, parse_certificate, blob_of(key_pair()[1]))

    def test_signature_of_another(self) -> None:
        text = self.authority.sign(key_pair()[1], "-n", "one")
        blob = wire(text)
        at = blob.index(b"\0\0\0\3one") + 4
        self.assertFalse(parse_certificate(blob[:at] + b"two" + blob[at + 3 :]).is_signed())

    def test_signed_with_sha1(self) -> None:
        authority = Authority("rsa")
        self.addCleanup(authority.close)
        for how, safe in (("rsa-sha2-512", True), ("rsa-sha2-256", True), ("ssh-rsa", False)):
            certificate = parse_certificate(wire(authority.sign(key_pair()[1], "-t", how)))
            self.assertEqual(getNS(certificate.signature)[0], how.encode())
            self.assertIs(certificate.is_signed(), safe)

    def test_validity(self) -> None:
        forever = read_user_certificate(self.authority.sign(key_pair()[1]), NOW)
        self.assertIsNone(forever.out_of_date(0))
        self.assertIsNone(forever.out_of_date(2.0**63))
        text = self.authority.sign(key_pair()[1], "-V", "20300102030405Z:20300102030406Z")
        certificate = parse_certificate(wire(text))
        start = certificate.valid_after
        self.assertIsNone(certificate.out_of_date(start))
        self.assertIn("not valid before 2030-01-02 03:04:05 UTC", certificate.out_of_date(start - 0.1) or "")
        self.assertIn("expired at 2030-01-02 03:04:06 UTC", certificate.out_of_date(start + 1) or "")

    def test_what_is_of_no_use(self) -> None:
        public = key_pair()[1]
        good = self.authority.sign(public)
        kind, body, _ = good.split(None, 2)
        for text, words in (
            ("", "it is empty"),
            ("hunter2-is-no-certificate", "begin with a type"),
            (key_pair()[0], "it is a private key"),
            (public, "it is a public key"),
            (kind, "begin with a type"),
            (f"{kind} !!!!", "damaged"),
            (f"{kind} é", "damaged"),
            (f"{kind} {public.split()[1]}", "unknown type"),
            (f"{kind.replace('ed25519', 'rsa')} {body}", "damaged"),
            (f"{kind} {body[: len(body) // 8 * 4]}", "damaged"),
            (f"{kind} {base64.b64encode(wire(good) + b'x').decode()}", "damaged"),
            (f"{kind} {'A' * 100_000}", "too large"),
            (self.authority.sign(public, "-h"), "of a host"),
            (self.authority.sign(public, "-V", "-2h:-1h"), "expired"),
            (self.authority.sign(public, "-V", "+1h:+2h"), "not valid before"),
        ):
            error = self.assertRaises(BadCertificate, read_user_certificate, text, NOW)
            self.assertIn(words, str(error), text)

    def test_damaged_anywhere(self) -> None:
        blob = wire(self.authority.sign(key_pair("ecdsa")[1], "-n", "one", "-h"))
        self.assertEqual(parse_certificate(blob).kind, HOST_CERTIFICATE)

        @settings(max_examples=300)
        @given(st.integers(0, len(blob) - 1), st.integers(1, 255), st.booleans())
        def damage(at: int, flip: int, cut: bool) -> None:
            bad = blob[:at] if cut else blob[:at] + bytes((blob[at] ^ flip,)) + blob[at + 1 :]
            try:
                certificate = parse_certificate(bad)
            except BadCertificate:
                return
            self.assertFalse(certificate.is_signed())

        damage()


class LoginTests(ServerTestCase):
    """At a real server that trusts an authority, and knows no key."""

    def setUp(self) -> None:
        super().setUp()
        self.authority = Authority()
        self.addCleanup(self.authority.close)

    async def start(self, *config_lines: str) -> OpenSSHServer:
        path = self.directory / "authority.pub"
        path.write_text(self.authority.public + "\n")
        self.directory.chmod(0o755)
        return await self.start_server(f"TrustedUserCAKeys {path}", *config_lines, "PasswordAuthentication no")

    async def check(self, server: OpenSSHServer, **credential: Any) -> None:
        done = await self.run_command(self.make_client(), self.target(server, **credential), "echo ok")
        self.assertEqual((done.stdout.text(), done.exit.status), ("ok", 0))

    async def test_every_type(self) -> None:
        server = await self.start()
        for kind in KINDS:
            private, public = make_key(kind)
            certificate = self.authority.sign(public, "-n", USER)
            await self.check(server, private_key=private, certificate=certificate)
            name = {"ed25519": "ED25519", "ecdsa": "ECDSA", "rsa": "RSA"}[kind]
            self.assertTrue(
                [
                    line
                    for line in server.log_lines
                    if f"Accepted publickey for {USER}" in line and f"{name}-CERT" in line
                ]
            )
            self.assertFalse([line for line in server.log_lines if "Failed" in line])

    async def test_rsa_signs_with_sha2(self) -> None:
        server = await self.start("PubkeyAcceptedAlgorithms rsa-sha2-512-cert-v01@openssh.com")
        private, public = make_key("rsa")
        await self.check(server, private_key=private, certificate=self.authority.sign(public, "-n", USER))

    async def test_principals_that_the_server_maps(self) -> None:
        path = self.directory / "principals"
        path.write_text("operators\n")
        server = await self.start(f"AuthorizedPrincipalsFile {path}")
        private, public = make_key()
        await self.check(server, private_key=private, certificate=self.authority.sign(public, "-n", "operators"))

    async def test_the_plain_key_comes_after_it(self) -> None:
        server = await self.start()
        stranger = Authority()
        self.addCleanup(stranger.close)
        private, public = make_key()
        server.authorize(public)
        await self.check(server, private_key=private, certificate=stranger.sign(public, "-n", USER))

    async def test_with_a_password(self) -> None:
        server = await self.start("AuthenticationMethods publickey,password", "PasswordAuthentication yes")
        private, public = make_key()
        certificate = self.authority.sign(public, "-n", USER)
        await self.check(server, private_key=private, certificate=certificate, password=server.password)

    async def test_refused(self) -> None:
        server = await self.start()
        private, public = make_key()
        for options, words in (
            (("-n", "somebody,else"), "(which is for somebody and else, not for relayd-test)"),
            ((), "(which is for nobody, not for relayd-test)"),
            (("-n", USER, "-O", "source-address=192.0.2.1"), "with a certificate and publickey;"),
        ):
            target = self.target(server, private_key=private, certificate=self.authority.sign(public, *options))
            error = await self.error_of(self.run_command(self.make_client(), target, "true"), LoginRefused)
            self.assertIn(words, str(error))

    async def test_of_no_use_before_the_host_is_troubled(self) -> None:
        server = await self.start()
        private, public = make_key()
        other = make_key()[1]
        for certificate, words in (
            ("no certificate", "begin with a type"),
            (self.authority.sign(other, "-n", USER), "not for the private key"),
            (self.authority.sign(public, "-h", "-n", USER), "of a host"),
            (self.authority.sign(public, "-n", USER, "-V", "-2h:-1h"), "expired"),
        ):
            target = self.target(server, private_key=private, certificate=certificate)
            error = await self.error_of(self.run_command(self.make_client(), target, "true"), CertificateUnusable)
            self.assertIn(words, str(error))
        target = self.target(server, certificate=self.authority.sign(public, "-n", USER))
        error = await self.error_of(self.run_command(self.make_client(), target, "true"), CertificateUnusable)
        self.assertIn("its private key is missing", str(error))
        self.assertFalse([line for line in server.log_lines if line.startswith("Connection from")])

    async def test_of_no_use_beside_a_password(self) -> None:
        server = await self.start("PasswordAuthentication yes")
        private, public = make_key()
        certificate = self.authority.sign(public, "-n", USER, "-V", "-2h:-1h")
        await self.check(server, private_key=private, certificate=certificate, password=server.password)
        target = self.target(server, private_key=private, certificate=certificate, password="wrong")
        error = await self.error_of(self.run_command(self.make_client(), target, "true"), LoginRefused)
        self.assertIn("expired", str(error))
