"""
Peers that are no SSH server, or a bad one: bytes by hand against the client's transport.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.conch.ssh.common import NS
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from relayd.ssh.errors import ConnectionDropped, KeyExchangeFailed, NoCommonAlgorithm, NotSSH, SSHError
from relayd.ssh.host_keys.known_hosts import KnownHosts
from relayd.ssh.transport.algorithms import COMPATIBLE
from relayd.ssh.transport.transport import ClientTransport
from tests.support.ssh import LogTestCase, RecordingTCP

VERSION = b"SSH-2.0-Test\r\n"
STRICT = b"kex-strict-s-v00@openssh.com"


def packet(message: int, payload: bytes = b"") -> bytes:
    """A packet before there are keys (RFC 4253, section 6)."""
    body = bytes([message]) + payload
    padding = 8 - (5 + len(body)) % 8
    padding += 8 if padding < 4 else 0
    return (1 + len(body) + padding).to_bytes(4, "big") + bytes([padding]) + body + bytes(padding)


def kexinit(
    key_exchange: bytes = b"curve25519-sha256",
    host_key: bytes = b"ssh-ed25519",
    cipher: bytes = b"aes256-ctr",
    mac: bytes = b"hmac-sha2-256",
) -> bytes:
    lists = (key_exchange, host_key, cipher, cipher, mac, mac, b"none", b"none", b"", b"")
    return packet(20, bytes(16) + b"".join(NS(names) for names in lists) + bytes(5))


class PeerTestCase(LogTestCase):
    """A client that has just connected."""

    def setUp(self) -> None:
        super().setUp()
        self.directory = Path(tempfile.mkdtemp(prefix="relayd-test-peers-"))
        self.addCleanup(self.directory.rmdir)
        self.connect()

    def connect(self) -> None:
        self.client = ClientTransport(
            Clock(), "host", 22, KnownHosts(str(self.directory / "none"), "accept-new"), COMPATIBLE
        )
        self.results: list[object] = []
        self.client.secure.addBoth(self.results.append)
        self.wire = RecordingTCP()
        self.client.makeConnection(self.wire)

    @property
    def closing(self) -> bool:
        return self.wire.aborted or self.wire.disconnecting

    def receive(self, *chunks: bytes) -> None:
        """The peer sends *chunks*; as a real transport would, none arrives after the client has closed."""
        for chunk in chunks:
            if not self.closing:
                self.client.dataReceived(chunk)

    def hang_up(self) -> None:
        self.client.connectionLost(Failure(ConnectionDone()))

    def error(self, kind: type[SSHError], *words: str) -> None:
        """The client has closed; the connection failed with *kind* and says *words*."""
        self.assertTrue(self.closing, "the client keeps the connection open")
        self.hang_up()
        self.check(kind, *words)

    def check(self, kind: type[SSHError], *words: str) -> None:
        (result,) = self.results
        assert isinstance(result, Failure)
        self.assertIs(type(result.value), kind, result.value)
        for word in ("host:22", *words):
            self.assertIn(word, str(result.value))
        self.assertTrue(str(result.value).isprintable())
        self.assertEqual(self.flushLoggedErrors(), [])


class NoSSHTests(PeerTestCase):
    """Something else listens there."""

    def test_web_server(self) -> None:
        self.receive(b"HTTP/1.1 400 Bad Request\r\nServer: nginx\r\nConnection: close\r\n\r\n")
        self.error(NotSSH, "it answered “HTTP/1.1 400 Bad Request”, as a web server does")

    def test_what_it_said_before_it_closed(self) -> None:
        for chunks, words in (
            ([], "first contact: it said nothing, as servers that expect TLS do."),
            ([b"Exceeded MaxStartups\r\n"], "first contact: it said “Exceeded MaxStartups”."),
            ([b"Not allowed at this time\r\n"], "first contact: it said “Not allowed at this time”."),
            ([b"Welcome\r\n\r\n", b"Too many ", b"users\x07\x1b[2J"], "it said “Welcome / Too many users??[2J”."),
            ([b"220 mail.example ESMTP\r\n"], "it said “220 mail.example ESMTP”."),
            ([b"\0\1\2\xff"], "it said “"),
            ([b"notice\n" * 1000, b"Exceeded MaxStartups\n"], "it said “notice / notice / notice / Exceeded Max"),
        ):
            self.connect()
            self.receive(*chunks)
            self.assertFalse(self.closing)
            self.hang_up()
            self.check(ConnectionDropped, words)

    def test_last_words_have_a_bound(self) -> None:
        self.receive(b"x" * 8000)
        self.hang_up()
        self.check(ConnectionDropped, "it said “…xxx")
        (result,) = self.results
        assert isinstance(result, Failure)
        self.assertLess(len(str(result.value)), 600)

    def test_endless_lines(self) -> None:
        self.receive(*[b"220 mail.example ESMTP \x1b[2J\r\n"] * 100_000)
        self.error(NotSSH, "220 mail.example")

    def test_endless_line(self) -> None:
        self.receive(*[b"x" * 1000] * 100_000)
        self.error(NotSSH)

    def test_old_version(self) -> None:
        self.receive(b"SSH-1.5-Cisco-1.25\n")
        self.error(NotSSH, "SSH-1.5-Cisco-1.25")

    def test_version_without_sense(self) -> None:
        for version in (b"SSH-\r\n", b"SSH-2.0\r\n", b"SSH-9.9-\xff\x1b[2J\r\n", b"SSH-2.0-" + b"x" * 100_000):
            self.connect()
            self.receive(version)
            self.error(NotSSH)

    def test_lines_before_the_version_are_allowed(self) -> None:
        # RFC 4253, section 4.2
        for chunks in (
            [b"Welcome\r\nto the host\r\n" + VERSION + kexinit()],
            [b"Welcome\r\n", b"to the host, which is not SSH-2.0-\r\n", VERSION, kexinit()],
            [bytes([byte]) for byte in b"Welcome\r\n" + VERSION + kexinit()],
            [b"SSH-1.99-Both\r\n", kexinit()],
            [b"SSH-2.0-NoCarriageReturn\n", kexinit()],
        ):
            self.connect()
            sent = len(self.wire.value())
            self.receive(*chunks)
            self.assertFalse(self.closing)
            self.assertGreater(len(self.wire.value()), sent)  # it goes on with the key exchange


class BadServerTests(PeerTestCase):
    """It begins like SSH."""

    def test_garbage_after_the_version(self) -> None:
        for garbage in (
            b"x" * 100,
            b"\xff" * 100,
            bytes(100),
            b"HTTP/1.1 200 OK\r\n\r\n",
            packet(20)[:5] + b"\xff" * 99,
        ):
            self.connect()
            self.receive(VERSION, garbage)
            self.error(KeyExchangeFailed)

    def test_a_packet_that_is_too_long(self) -> None:
        self.receive(VERSION, (2**20 + 8).to_bytes(4, "big") + b"\4")
        self.error(KeyExchangeFailed)

    def test_messages_out_of_order(self) -> None:
        for packets in (
            [packet(21)],
            [packet(31, NS(b"x") * 3)],
            [kexinit(), packet(21)],
            [kexinit(), kexinit()],
            [kexinit(), packet(31)],
            [kexinit(), packet(31, NS(b"x") + NS(bytes(32)) + NS(b"x"))],
            [kexinit(), packet(31, NS(NS(b"ssh-ed25519") + NS(bytes(32))) + NS(bytes(32)) + NS(b"x"))],
            [kexinit(), packet(6, NS(b"ssh-userauth"))],
            [packet(6, NS(b"ssh-userauth"))],
            [packet(20, b"too short")],
        ):
            self.connect()
            self.receive(VERSION, *packets)
            self.error(KeyExchangeFailed)

    def test_a_login_before_there_are_keys(self) -> None:
        # Whoever is in the middle could say so.
        for message in (51, 52, 60, 91, 94):
            self.connect()
            self.receive(VERSION, kexinit(), packet(message, bytes(8)))
            self.error(KeyExchangeFailed)

    def test_extensions_before_there_are_keys(self) -> None:
        self.receive(VERSION, kexinit(), packet(7, bytes([0, 0, 0, 1]) + NS(b"server-sig-algs") + NS(b"ssh-rsa")))
        if not self.closing:
            self.assertEqual(self.client.peerExtensions, {})

    def test_strict_key_exchange_takes_nothing_else(self) -> None:
        # The attack of CVE-2023-48795 begins with a packet that is ignored.
        for number, payload in ((2, NS(b"")), (3, bytes(4)), (4, b"\0" + NS(b"") * 2), (7, bytes(4)), (60, b"")):
            self.connect()
            self.receive(VERSION, kexinit(b"curve25519-sha256," + STRICT), packet(number, payload))
            self.error(KeyExchangeFailed)

    def test_strict_key_exchange_takes_nothing_before_it(self) -> None:
        for number, payload in ((2, NS(b"")), (3, bytes(4)), (4, b"\0" + NS(b"") * 2)):
            self.connect()
            self.receive(VERSION, packet(number, payload))
            self.assertFalse(self.closing)  # without strictness it would be harmless
            self.receive(kexinit(b"curve25519-sha256," + STRICT))
            self.error(KeyExchangeFailed)

    def test_names_of_algorithms_are_made_printable(self) -> None:
        self.receive(VERSION, kexinit(cipher=b"evil\x1b[2J\xff," + b"x" * 5000))
        self.error(NoCommonAlgorithm, "evil?[2J")
        (result,) = self.results
        assert isinstance(result, Failure)
        self.assertLess(len(str(result.value)), 1500)

    def test_what_it_says_when_it_hangs_up(self) -> None:
        self.receive(VERSION, packet(1, bytes([0, 0, 0, 12]) + NS(b"Too many \x07connections") + NS(b"")))
        self.error(ConnectionDropped, "Too many ?connections")

    def test_hanging_up_at_each_step(self) -> None:
        for chunks, step in (
            ([], "first contact"),
            ([b"SSH-2.0-"], "first contact"),
            ([VERSION], "key exchange"),
            ([VERSION, kexinit()], "key exchange"),
            ([VERSION, kexinit()[:50]], "key exchange"),
        ):
            self.connect()
            self.receive(*chunks)
            self.hang_up()
            self.check(ConnectionDropped, step)

    @settings(max_examples=300)
    @given(
        st.lists(
            st.one_of(
                st.binary(max_size=60),
                st.sampled_from([VERSION, kexinit(), packet(21), packet(2, NS(b"")), b"\r\n", b"SSH-"]),
                st.builds(packet, st.integers(0, 255), st.binary(max_size=60)),
            ),
            max_size=8,
        )
    )
    def test_anything(self, chunks: list[bytes]) -> None:
        self.connect()
        self.receive(*chunks)  # which must not raise
        self.assertEqual(self.results, [])
        self.hang_up()
        (result,) = self.results
        assert isinstance(result, Failure)
        self.assertIsInstance(result.value, SSHError)
        self.assertTrue(str(result.value).isprintable())
        self.assertEqual(self.flushLoggedErrors(), [])
