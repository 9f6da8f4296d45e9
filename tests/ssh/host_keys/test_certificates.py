"""
Certificates of hosts: which are relied upon, which are refused, and when their plain key counts.
"""

from __future__ import annotations

import base64
import tempfile
import time
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from relayd.ssh.errors import HostCertificateInvalid, HostKeyChanged, HostKeyRevoked, HostKeyUnknown
from relayd.ssh.host_keys.known_hosts import KnownHosts
from relayd.ssh.keys.public import fingerprint
from relayd.ssh.keys.types import HOST_CERTIFICATE_TYPES
from relayd.ssh.settings import HostKeyPolicy
from relayd.ssh.transport.algorithms import COMPATIBLE, LEGACY, MODERN, prefer_known
from tests.support.authority import Authority
from tests.support.ssh import ServerTestCase, blob_of, key_pair, tool
from tests.support.sshd import OpenSSHServer, make_key

HOST = "web.example.org"
KEY = make_key()[1]


class PreferenceTests(SynchronousTestCase):
    """Which host key algorithms are asked for, in which order."""

    def test_none_without_an_authority(self) -> None:
        for policy in (MODERN, COMPATIBLE, LEGACY):
            for types in (frozenset[bytes](), frozenset((b"ssh-rsa",))):
                self.assertFalse([name for name in prefer_known(policy, types) if b"-cert-" in name])

    def test_all_certificates_before_any_key(self) -> None:
        for policy in (MODERN, COMPATIBLE, LEGACY):
            names = prefer_known(policy, HOST_CERTIFICATE_TYPES | {b"ssh-rsa"})
            first, rest = names[:6], names[6:]
            self.assertEqual({name.removesuffix(b"-cert-v01@openssh.com") for name in first}, set(COMPATIBLE.host_keys))
            self.assertEqual(first[0], b"ssh-ed25519-cert-v01@openssh.com")
            self.assertNotIn(b"ssh-rsa-cert-v01@openssh.com", names)  # it would be SHA-1
            self.assertFalse([name for name in rest if b"-cert-" in name])
            self.assertEqual(rest[:2], (b"rsa-sha2-512", b"rsa-sha2-256"))


class VerifyingTests(SynchronousTestCase):
    """What the file says of a certificate."""

    def setUp(self) -> None:
        directory = Path(tempfile.mkdtemp(prefix="relayd-test-hostkeys-"))
        self.addCleanup(tool, "rm", "-rf", str(directory))
        self.path = directory / "known_hosts"
        self.authority = Authority()
        self.addCleanup(self.authority.close)

    def trust(self, names: str = "*.example.org", *lines: str) -> None:
        text = [f"@cert-authority {names} {self.authority.public} ours", *lines]
        self.path.write_text("\n".join(text) + "\n")

    def sign(self, *options: str, authority: Authority | None = None, public: str = KEY) -> bytes:
        """A certificate as it is on the wire."""
        text = (authority or self.authority).sign(public, *options)
        return base64.b64decode(text.split()[1])

    def verify(self, blob: bytes, host: str = HOST, port: int = 22, policy: HostKeyPolicy = "strict") -> None:
        KnownHosts(str(self.path), policy).verify(host, port, blob)

    def fault(self, *options: str, policy: HostKeyPolicy = "accept-new", host: str = HOST) -> str:
        before = self.path.read_text()
        error = self.assertRaises(HostCertificateInvalid, self.verify, self.sign(*options), policy=policy, host=host)
        self.assertEqual(self.path.read_text(), before)
        self.assertIn(fingerprint(blob_of(KEY)), str(error))
        self.assertIn(f"line 1 of {self.path}", str(error))
        return str(error)

    def test_good(self) -> None:
        self.trust()
        for kind in ("ed25519", "ecdsa", "rsa"):
            self.verify(self.sign("-h", "-n", f"other,{HOST}", "-V", "-1h:+1h", public=key_pair(kind)[1]))
        self.verify(self.sign("-h", "-n", HOST), host=HOST.upper())
        self.verify(self.sign("-h", "-n", "w?b.*.org"))
        self.assertEqual(len(self.path.read_text().splitlines()), 1)  # nothing to remember

    def test_types(self) -> None:
        self.trust(f"{HOST},10.0.0.*", f"{HOST} {KEY}")
        known = KnownHosts(str(self.path), "strict")
        self.assertEqual(known.key_types(HOST, 22), HOST_CERTIFICATE_TYPES | {b"ssh-ed25519"})
        self.assertEqual(known.key_types("10.0.0.1", 2222), HOST_CERTIFICATE_TYPES)
        self.assertEqual(known.key_types("other.example.org", 22), frozenset())
        self.assertEqual(KnownHosts(str(self.path), "ignore").key_types(HOST, 22), frozenset())

    def test_ports(self) -> None:
        certificate = self.sign("-h", "-n", HOST)
        for names in ("*.example.org", f"[{HOST}]:2222", "[*.example.org]:*"):
            self.trust(names)
            self.verify(certificate, port=2222)
        self.assertRaises(HostKeyUnknown, self.verify, certificate, port=22)

    def test_what_makes_it_invalid(self) -> None:
        self.trust()
        for policy in ("accept-new", "strict"):
            self.assertIn(
                "for other.example.org, not for web", self.fault("-h", "-n", "other.example.org", policy=policy)
            )
            self.assertIn("for nobody", self.fault("-h", policy=policy))
            self.assertIn("expired", self.fault("-h", "-n", HOST, "-V", "-2h:-1h", policy=policy))
            self.assertIn("not valid before", self.fault("-h", "-n", HOST, "-V", "+1h:+2h", policy=policy))
            self.assertIn("not the certificate of a host", self.fault("-n", HOST, policy=policy))
            options = ("-h", "-n", HOST, "-O", "critical:unheard@of=1")
            self.assertIn("unheard@of", self.fault(*options, policy=policy))

    def test_its_time_is_told_by_the_clock(self) -> None:
        self.trust()
        certificate = self.sign("-h", "-n", HOST, "-V", "-1h:+1h")
        for offset, good in ((0, True), (-7200, False), (7200, False)):
            known = KnownHosts(str(self.path), "strict", lambda offset=offset: time.time() + offset)  # type: ignore[misc]
            if good:
                known.verify(HOST, 22, certificate)
            else:
                self.assertRaises(HostCertificateInvalid, known.verify, HOST, 22, certificate)

    def test_forged(self) -> None:
        self.trust()
        certificate = self.sign("-h", "-n", "xxx.example.org")
        forged = certificate.replace(b"xxx.example.org", HOST.encode())
        error = self.assertRaises(HostCertificateInvalid, self.verify, forged)
        self.assertIn("signature is wrong", str(error))

    def test_signed_with_sha1(self) -> None:
        self.authority = Authority("rsa")
        self.addCleanup(self.authority.close)
        self.trust()
        self.verify(self.sign("-h", "-n", HOST, "-t", "rsa-sha2-256"))
        self.assertIn("not safe", self.fault("-h", "-n", HOST, "-t", "ssh-rsa"))

    def test_another_authority_leaves_the_plain_key(self) -> None:
        stranger = Authority()
        self.addCleanup(stranger.close)
        certificate = self.sign("-h", "-n", HOST, authority=stranger)
        self.trust()
        self.assertRaises(HostKeyUnknown, self.verify, certificate)
        self.trust("*.example.org", f"{HOST} {KEY}")
        self.verify(certificate)
        self.trust("*.example.org", f"{HOST} {make_key()[1]}")
        self.assertRaises(HostKeyChanged, self.verify, certificate, policy="accept-new")
        self.trust("elsewhere")
        self.verify(self.sign("-h", "-n", HOST), policy="accept-new")
        self.assertIn(f"{HOST} {KEY}\n", self.path.read_text())  # the plain key was remembered

    def test_invalid_with_a_plain_key_that_is_known(self) -> None:
        self.trust("*.example.org", f"{HOST} {KEY}")
        self.verify(self.sign("-h", "-n", HOST, "-V", "-2h:-1h"))

    def test_revoked(self) -> None:
        certificate = self.sign("-h", "-n", HOST)
        for line in (f"@revoked * {KEY}", f"@revoked {HOST} {self.authority.public}"):
            for port in (22, 2222):
                self.trust("*", line, f"{HOST} {KEY}", f"[{HOST}]:2222 {KEY}")
                error = self.assertRaises(HostKeyRevoked, self.verify, certificate, port=port)
                self.assertIn("line 2 of", str(error))
        self.trust("*", f"@revoked elsewhere {KEY}", f"@revoked * {make_key()[1]}")
        self.verify(certificate)


class RealServerTests(ServerTestCase):
    """sshd with HostCertificate."""

    def setUp(self) -> None:
        super().setUp()
        self.authority = Authority()
        self.addCleanup(self.authority.close)

    async def start(self, *options: str, host_key_types: tuple[str, ...] = ("ed25519",)) -> OpenSSHServer:
        server = OpenSSHServer((), host_key_types)
        server.show_certificates(lambda public: self.authority.sign(public, "-h", *options))
        await server.start()
        self.addCleanup(server.stop)
        return server

    def trust(self, server: OpenSSHServer, public: str = "") -> None:
        self.known_hosts.write_text(f"@cert-authority {server.host} {public or self.authority.public}\n")

    async def check(self, server: OpenSSHServer, algorithm: bytes, host_keys: HostKeyPolicy = "strict") -> None:
        client = self.make_client(host_keys=host_keys)
        done = await self.run_command(client, self.target(server), "echo ok; head -c 3000000 /dev/zero | wc -c")
        self.assertEqual((done.stdout.text(), done.exit.status), ("ok\n3000000", 0))
        (connection,) = client._pool._connections.members
        algorithms = connection.transport._key_exchange.algorithms
        assert algorithms is not None
        self.assertEqual(algorithms.host_key, algorithm)
        await client.close()

    async def test_every_type(self) -> None:
        for kind, name in (("ed25519", b"ssh-ed25519"), ("ecdsa", b"ecdsa-sha2-nistp256"), ("rsa", b"rsa-sha2-512")):
            server = await self.start("-n", "127.0.0.1", host_key_types=(kind,))
            self.trust(server)
            await self.check(server, name + b"-cert-v01@openssh.com")
            await server.stop()

    async def test_keys_renewed(self) -> None:
        server = OpenSSHServer(["RekeyLimit 1M"])
        server.show_certificates(lambda public: self.authority.sign(public, "-h", "-n", "127.0.0.1"))
        await server.start()
        self.addCleanup(server.stop)
        self.trust(server)
        client = self.make_client(host_keys="strict")
        done = await self.run_command(client, self.target(server), "head -c 10000000 /dev/zero")
        self.assertEqual((done.stdout.total, done.exit.status), (10_000_000, 0))

    async def test_preferred_to_a_key_that_is_known(self) -> None:
        server = await self.start("-n", "127.0.0.1", host_key_types=("rsa", "ecdsa"))
        self.trust(server)
        with self.known_hosts.open("a") as file:
            file.write(f"[{server.host}]:{server.port} {server.host_keys[1]}\n")
        await self.check(server, b"rsa-sha2-512-cert-v01@openssh.com")

    async def test_without_an_authority_the_plain_key_is_asked_for(self) -> None:
        server = await self.start("-n", "127.0.0.1")
        await self.check(server, b"ssh-ed25519", "accept-new")
        self.assertIn(server.host_keys[0], self.known_hosts.read_text())

    async def test_a_host_without_certificate(self) -> None:
        server = await self.start_server()
        self.trust(server)
        await self.check(server, b"ssh-ed25519", "accept-new")

    async def test_of_another_authority(self) -> None:
        server = await self.start("-n", "127.0.0.1")
        self.trust(server, make_key()[1])
        error = await self.error_of(
            self.run_command(self.make_client(host_keys="strict"), self.target(server), "true"), HostKeyUnknown
        )
        self.assertIn(fingerprint(blob_of(server.host_keys[0])), str(error))
        await self.check(server, b"ssh-ed25519-cert-v01@openssh.com", "accept-new")
        self.assertIn(server.host_keys[0], self.known_hosts.read_text())

    async def test_refused_before_any_login(self) -> None:
        server = await self.start("-n", "another.example.org")
        self.trust(server)
        client = self.make_client(host_keys="accept-new")
        error = await self.error_of(self.run_command(client, self.target(server), "true"), HostCertificateInvalid)
        self.assertIn("for another.example.org, not for 127.0.0.1", str(error))
        await self.until(lambda: any("[preauth]" in line for line in server.log_lines), "sshd saw us leave")
        self.assertFalse([line for line in server.log_lines if server.user in line])
