"""
Messages in packets, there and back: `PacketWriter` and `PacketReader`.
"""

from __future__ import annotations

from typing import cast

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relayd.ssh.transport.ciphers import AESGCMPackets, BadPacket
from relayd.ssh.transport.numbers import MSG_IGNORE
from relayd.ssh.transport.pacing import PACKET, SLICE, Paced, Pacer
from relayd.ssh.transport.packets import PacketReader, PacketWriter
from relayd.ssh.transport.version_exchange import NoVersion

VERSION = b"SSH-2.0-Test\r\n"
KEY, IV = b"k" * 32, b"i" * 12


class Recorder:
    """Keeps what a reader finds."""

    def __init__(self) -> None:
        self.version = b""
        self.messages: list[tuple[int, bytes]] = []

    def version_received(self, version: bytes) -> None:
        self.version = version

    def dispatchMessage(self, messageNum: int, payload: bytes) -> None:
        self.messages.append((messageNum, payload))


class PacketTests(SynchronousTestCase):
    """One direction of a connection."""

    def setUp(self) -> None:
        self.pace = Pacer(Clock(), cast(Paced, None))
        self.reader = PacketReader(self.pace)
        self.writer = PacketWriter()
        self.found = Recorder()

    def read(self, data: bytes) -> bool:
        return self.reader.read(data, self.found)

    @given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=500)), max_size=10), st.integers(1, 700))
    def test_in_pieces_of_any_size(self, messages: list[tuple[int, bytes]], size: int) -> None:
        self.setUp()
        data = VERSION + b"".join(self.writer.packet(*message) for message in messages)
        for at in range(0, len(data), size):
            self.read(data[at : at + size])
        self.assertEqual((self.found.version, self.found.messages), (VERSION.strip(), messages))
        self.assertEqual(self.reader.sequence, len(messages))
        self.assertEqual(self.reader.bytes_with_keys, self.writer.bytes_with_keys)

    def test_new_keys(self) -> None:
        for restart in (False, True):
            self.setUp()
            self.read(VERSION + self.writer.packet(21))
            self.writer.use(AESGCMPackets(KEY, IV), restart_numbers=restart)
            self.reader.use(AESGCMPackets(KEY, IV), restart_numbers=restart)
            sealed = self.writer.packet(90, b"secret")
            self.assertNotIn(b"secret", sealed)
            self.read(sealed)
            self.assertEqual(self.found.messages, [(21, b""), (90, b"secret")])
            self.assertEqual(self.reader.sequence, 1 if restart else 2)
            self.assertEqual(self.reader.bytes_with_keys, len(sealed))

    def test_what_is_kept_comes_first(self) -> None:
        self.reader.keep(VERSION[:5])
        self.reader.keep(VERSION[5:] + self.writer.packet(90, b"1"))
        self.read(self.writer.packet(90, b"2"))
        self.assertEqual(self.found.messages, [(90, b"1"), (90, b"2")])

    def test_stopped(self) -> None:
        self.read(VERSION)
        self.reader.stopped = True
        self.read(self.writer.packet(90))
        self.assertEqual(self.found.messages, [])

    def test_a_turn_ends_and_goes_on(self) -> None:
        count = 2 * SLICE // PACKET
        self.assertTrue(self.read(VERSION + b"".join(self.writer.packet(MSG_IGNORE) for _ in range(count))))
        taken = len(self.found.messages)
        self.assertLess(taken, count)
        while self.read(b""):
            pass
        self.assertEqual(len(self.found.messages), count)

    def test_faults(self) -> None:
        with self.assertRaises(NoVersion):
            self.read(b"HTTP/1.0 400 Bad Request\r\n\r\n")
        self.setUp()
        with self.assertRaises(BadPacket):
            self.read(VERSION + b"\xff" * 8)
