"""
Key exchanges without a connection: `KeyExchange` against a server written by hand.
"""

from __future__ import annotations

import hashlib
from typing import cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from twisted.conch.ssh.common import MP, NS, getNS
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relayd.ssh.transport.algorithms import MODERN
from relayd.ssh.transport.breach import Breach
from relayd.ssh.transport.ciphers import AESGCMPackets
from relayd.ssh.transport.kexinit import STRICT_SERVER
from relayd.ssh.transport.key_exchange import KeyExchange
from relayd.ssh.transport.numbers import MSG_EXT_INFO, MSG_IGNORE, MSG_KEX_REPLY, MSG_KEXINIT, MSG_NEWKEYS
from relayd.ssh.transport.pacing import Paced, Pacer
from relayd.ssh.transport.packets import PacketReader, PacketWriter
from relayd.ssh.transport.session_keys import BadProof, KeySchedule
from relayd.ssh.transport.version_exchange import CLIENT_VERSION
from tests.ssh.transport.test_packets import Recorder

VERSION = b"SSH-2.0-Test"


def server_kexinit(*more: bytes) -> bytes:
    """Without its number."""
    lists = (
        b",".join((b"curve25519-sha256", *more)),
        b"ssh-ed25519",
        *(b"aes256-gcm@openssh.com",) * 2,
        *(b"hmac-sha2-256",) * 2,
        *(b"none",) * 2,
        *(b"",) * 2,
    )
    return bytes(16) + b"".join(map(NS, lists)) + bytes(5)


class KeyExchangeTests(SynchronousTestCase):
    """`KeyExchange`."""

    def setUp(self) -> None:
        pace = Pacer(Clock(), cast(Paced, None))
        self.reader, self.writer = PacketReader(pace), PacketWriter()
        self.shown: list[bytes] = []
        self.exchange = KeyExchange(MODERN, (b"ssh-ed25519",), self.shown.append, self.reader, self.writer)
        self.exchange.version_received(VERSION)
        self.host_key = Ed25519PrivateKey.generate()
        self.far = PacketReader(pace)
        self.sent = Recorder()
        self.receive(CLIENT_VERSION + b"\r\n")

    def receive(self, data: bytes) -> list[tuple[int, bytes]]:
        """What the server finds in *data*."""
        self.sent.messages.clear()
        self.far.read(data, self.sent)
        return self.sent.messages.copy()

    def blob(self) -> bytes:
        return bytes(NS(b"ssh-ed25519") + NS(self.host_key.public_key().public_bytes_raw()))

    def reply(self, kexinits: tuple[bytes, bytes], public: bytes) -> tuple[bytes, KeySchedule]:
        """The server's part of ``curve25519-sha256``."""
        private = X25519PrivateKey.generate()
        ours = private.public_key().public_bytes_raw()
        secret = MP(int.from_bytes(private.exchange(X25519PublicKey.from_public_bytes(public)), "big"))
        parts = (CLIENT_VERSION, VERSION, *kexinits, self.blob(), public, ours)
        digest = hashlib.sha256(b"".join(map(NS, parts)) + secret).digest()
        signature = NS(NS(b"ssh-ed25519") + NS(self.host_key.sign(digest)))
        keys = KeySchedule("sha256", secret, digest, self.exchange.session_id or digest)
        return NS(self.blob()) + NS(ours) + signature, keys

    def run_exchange(self, *, begun: bool = True, strict: bool = False) -> KeySchedule:
        """A whole exchange, by the client or by the server."""
        sent = self.receive(self.exchange.begin()) if begun else []
        theirs = server_kexinit(*((STRICT_SERVER,) if strict else ()))
        self.reader.sequence += 1
        self.exchange.negotiate(theirs)
        sent += self.receive(self.exchange.respond())
        (kexinit_number, ours), (_, first) = sent
        self.assertEqual(kexinit_number, MSG_KEXINIT)
        kexinits = bytes((MSG_KEXINIT,)) + ours, bytes((MSG_KEXINIT,)) + theirs
        payload, keys = self.reply(kexinits, getNS(first)[0])
        newkeys = self.exchange.method_message_received(MSG_KEX_REPLY, payload)
        self.assertEqual(self.receive(newkeys), [(MSG_NEWKEYS, b"")])
        self.far.use(AESGCMPackets(keys.out("key", 32), keys.out("iv", 12)), restart_numbers=strict)
        self.assertTrue(self.exchange.running)
        self.exchange.finish()
        self.assertFalse(self.exchange.running)
        return keys

    def test_first_and_second(self) -> None:
        keys = self.run_exchange()
        self.assertTrue(self.exchange.secured)
        self.assertEqual((self.shown, self.exchange.session_id), ([self.blob()], keys.digest))
        self.assertEqual(self.receive(self.writer.packet(90, b"text")), [(90, b"text")])
        again = self.run_exchange(begun=False)
        self.assertNotEqual(again.digest, keys.digest)
        self.assertEqual((self.shown, self.exchange.session_id), ([self.blob()], keys.digest))
        self.assertEqual(self.receive(self.writer.packet(90, b"text")), [(90, b"text")])

    def test_strict_restarts_the_numbers(self) -> None:
        self.run_exchange(strict=True)
        self.assertTrue(self.exchange.strict)
        self.assertEqual((self.reader.sequence, self.writer._sequence), (0, 0))

    def test_another_host_key_later(self) -> None:
        self.run_exchange()
        self.host_key = Ed25519PrivateKey.generate()
        error = self.assertRaises(BadProof, self.run_exchange)
        self.assertIn("changed", error.text)

    def test_wrong_proof(self) -> None:
        self.receive(self.exchange.begin())
        self.reader.sequence += 1
        self.exchange.negotiate(server_kexinit())
        ((_, first),) = self.receive(self.exchange.respond())
        payload, _ = self.reply((b"", b""), getNS(first)[0])
        self.assertRaises(BadProof, self.exchange.method_message_received, MSG_KEX_REPLY, payload)
        self.assertEqual(self.shown, [])

    def test_what_comes_out_of_order(self) -> None:
        exchange = self.exchange
        self.assertRaises(Breach, exchange.finish)
        self.assertRaises(Breach, exchange.method_message_received, MSG_KEX_REPLY, b"")
        exchange.begin()
        exchange.negotiate(server_kexinit())
        self.assertRaises(Breach, exchange.negotiate, server_kexinit())
        self.assertRaises(Breach, exchange.finish)

    def test_what_may_come_in_between(self) -> None:
        self.assertTrue(self.exchange.allows(MSG_IGNORE))
        self.assertFalse(self.exchange.allows(MSG_EXT_INFO))
        self.reader.sequence = 1
        self.exchange.negotiate(server_kexinit(STRICT_SERVER))
        self.assertFalse(self.exchange.allows(MSG_IGNORE))
        self.exchange.secured = True
        self.assertTrue(self.exchange.allows(MSG_IGNORE))

    def test_nothing_before_the_kexinit_of_a_strict_server(self) -> None:
        self.reader.sequence = 2
        self.assertRaises(Breach, self.exchange.negotiate, server_kexinit(STRICT_SERVER))
