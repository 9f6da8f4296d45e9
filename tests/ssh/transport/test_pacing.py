"""
What a server's bytes may cost: who only makes work is made to wait, nothing is lost, and honest work is not held up.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.conch.ssh.common import NS
from twisted.internet.task import Clock

from relayd.ssh.channels.channel import WINDOW, State
from relayd.ssh.channels.connection import ClientConnection
from relayd.ssh.channels.forward import Forward
from relayd.ssh.channels.session import Command, Session
from relayd.ssh.errors import KeyExchangeFailed, ProtocolBroken, SSHError
from relayd.ssh.host_keys.known_hosts import KnownHosts
from relayd.ssh.transport.algorithms import COMPATIBLE
from relayd.ssh.transport.breach import Breach
from relayd.ssh.transport.ciphers import MAX_PLAIN_PACKET, AESGCMPackets, Opener, Plain
from relayd.ssh.transport.extensions import MAX_EXTENSIONS, MAX_SIZE, read_extensions
from relayd.ssh.transport.flood_limit import KEY_EXCHANGE, MAX_REQUESTS
from relayd.ssh.transport.numbers import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_EOF,
    MSG_CHANNEL_OPEN_CONFIRMATION,
    MSG_CHANNEL_REQUEST,
    MSG_CHANNEL_SUCCESS,
    MSG_CHANNEL_WINDOW_ADJUST,
    MSG_DEBUG,
    MSG_EXT_INFO,
    MSG_IGNORE,
    MSG_KEXINIT,
)
from relayd.ssh.transport.pacing import MAX_OWED, PACKET, SHARE
from relayd.ssh.transport.transport import ClientTransport
from relayd.ssh.transport.version_exchange import MAX_PREAMBLE, NoVersion, VersionReader
from tests.support.evil import plain_packet, uint32
from tests.support.floods import no_extensions
from tests.support.ssh import LogTestCase, RecordingTCP
from tests.support.ssh_connection import Owner

KEY, IV = b"k" * 32, b"i" * 12
TINY = bytes((MSG_IGNORE,)) + NS(b"")
LINE = b"x" * 20


def agree_on_keys(client: ClientTransport, opener: Opener) -> None:
    """The key exchange of *client* ends, with *opener* for what the server sends."""
    client._key_exchange._next_opener = opener
    client._newkeys_received()


class SecuredCase(LogTestCase):
    """A client whose keys are agreed on; the server's packets are sealed by hand."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.client = ClientTransport(self.clock, "host", 22, KnownHosts("/nonexistent", "ignore"), COMPATIBLE)
        self.wire = RecordingTCP()
        self.client.makeConnection(self.wire)
        self.failures: list[SSHError] = []
        self.client.on_failure = self.failures.append
        self.receive(b"SSH-2.0-Test\r\n")
        self.sealer = AESGCMPackets(KEY, IV)
        agree_on_keys(self.client, AESGCMPackets(KEY, IV))
        self.wire.clear()

    def receive(self, data: bytes) -> None:
        """A read of the network; a connection that waits has none."""
        self.client.dataReceived(data)

    def sealed(self, *payloads: bytes) -> bytes:
        return b"".join(self.sealer.seal(0, payload) for payload in payloads)

    @property
    def held(self) -> bool:
        return self.wire.producerState == "paused"

    def flood(self, data: bytes, seconds: float) -> int:
        """The server sends *data* for ever; how many bytes are taken in so many seconds."""
        taken, at = 0, 0
        end = self.clock.seconds() + seconds
        while self.clock.seconds() < end:
            while not self.held and self.client._failure is None and at < len(data):
                self.receive(data[at : at + 65536])
                taken, at = taken + 65536, at + 65536
            self.clock.advance(0.01)
        self.assertIsNone(self.client._failure)
        return taken

    def start_command(self, stdin: bytes = b"") -> Session:
        self.connection = ClientConnection(self.clock, Owner(), 15.0)
        self.client.setService(self.connection)
        session = Session(Command(b"true", 1000, stdin=stdin), lambda: None, lambda: None)
        self.connection.start(session)
        self.packet(MSG_CHANNEL_OPEN_CONFIRMATION, uint32(0, 0, 0, 32768))
        self.packet(MSG_CHANNEL_SUCCESS, uint32(0))
        return session

    def packet(self, message: int, payload: bytes) -> None:
        self.receive(self.sealed(bytes((message,)) + payload))


class PacingTests(SecuredCase):
    """`Pacer`, in a connection."""

    def test_empty_packets_get_their_share_and_no_more(self) -> None:
        flood = self.sealed(*[TINY] * 200_000)
        size = len(flood) // 200_000
        taken = self.flood(flood, 10)
        # A debt, then what time pays, and what was read at once.
        most = MAX_OWED + 10 * SHARE * 1e6
        self.assertLess((taken - 2 * 65536) / size * PACKET, 1.1 * most)
        self.assertGreater(taken / size * PACKET, 0.8 * most)

    def test_segments_of_a_byte(self) -> None:
        whole = self.sealed(bytes((MSG_IGNORE,)) + NS(bytes(200_000)))
        read = 0
        for at in range(len(whole)):
            if self.held:
                break
            self.receive(whole[at : at + 1])
            read += 1
        self.assertTrue(self.held)
        self.assertLess(read, 4000)

    def test_a_turn_is_short_and_the_rest_is_not_lost(self) -> None:
        counts: list[int] = []
        self.client.dispatchMessage = lambda number, payload: counts.append(number)  # type: ignore[method-assign]
        self.receive(self.sealed(*[TINY] * 1800))  # as much as one read brings
        self.assertTrue(self.held)
        self.assertLess(len(counts), 600)
        self.clock.advance(0)
        self.clock.advance(0)
        self.clock.advance(0)
        self.assertEqual(len(counts), 1800)
        self.assertFalse(self.held)

    def test_output_pays_for_itself(self) -> None:
        self.start_command()
        for _ in range(20):
            for _ in range(WINDOW // 32768):
                self.packet(MSG_CHANNEL_DATA, uint32(0) + NS(bytes(32768)))
                self.assertFalse(self.held)

    def test_output_of_a_byte_a_packet_does_not(self) -> None:
        self.start_command()
        taken = self.flood(self.sealed(*[bytes((MSG_CHANNEL_DATA,)) + uint32(0) + NS(b"y")] * 100_000), 5)
        self.assertLess(taken / len(self.sealed(TINY)), 60_000)

    def test_commands_pay_for_their_answers(self) -> None:
        self.connection = ClientConnection(self.clock, Owner(), 15.0)
        self.client.setService(self.connection)
        for number in range(2000):
            self.connection.start(Session(Command(b"true", 10), lambda: None, lambda: None))
            self.packet(MSG_CHANNEL_OPEN_CONFIRMATION, uint32(number, 0, 0, 32768))
            for _ in range(8):
                self.packet(MSG_CHANNEL_SUCCESS, uint32(number))
            self.assertFalse(self.held)

    def test_a_connection_that_ends_while_it_waits(self) -> None:
        self.flood(self.sealed(*[TINY] * 20_000), 1)
        self.assertTrue(self.held)
        self.client.failed(ProtocolBroken(host="host", port=22, reason="x"))
        self.client.connectionLost(None)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    @settings(max_examples=50)
    @given(st.lists(st.integers(0, 300), min_size=1, max_size=60), st.integers(1, 5000))
    def test_every_packet_arrives_once_and_in_order(self, sizes: list[int], step: int) -> None:
        self.setUp()
        seen: list[bytes] = []
        self.client.dispatchMessage = lambda number, payload: seen.append(payload)  # type: ignore[method-assign]
        sent = [number.to_bytes(4, "big") + bytes(size) for number, size in enumerate(sizes)] * 30
        wire = self.sealed(*(bytes((MSG_IGNORE,)) + each for each in sent))
        for at in range(0, len(wire), step):
            while self.held:
                self.clock.advance(1)
            self.receive(wire[at : at + step])
        self.clock.pump([1.0] * 50)
        self.assertEqual(seen, sent)


class RenewalTests(SecuredCase):
    """Servers that renew the keys."""

    #: Methods that nobody knows.
    more = b""

    def kexinit(self, method: bytes = b"curve25519-sha256") -> bytes:
        lists = (
            method + self.more,
            b"ssh-ed25519",
            *[b"aes256-gcm@openssh.com"] * 2,
            b"",
            b"",
            b"none",
            b"none",
            b"",
            b"",
        )
        return bytes(16) + b"".join(NS(names) for names in lists) + bytes(5)

    def renew(self, method: bytes = b"curve25519-sha256") -> None:
        """As far as it costs us; then as if it had ended."""
        self.packet(MSG_KEXINIT, self.kexinit(method))
        if self.client._failure is None:
            agree_on_keys(self.client, self.client._reader._opener)

    def renewals(self, method: bytes, seconds: float, between: int) -> int:
        count = 0
        end = self.clock.seconds() + seconds
        while self.clock.seconds() < end and self.client._failure is None and count < 1000:
            if self.held:
                self.clock.advance(0.01)
            else:
                self.packet(MSG_IGNORE, NS(bytes(between)))
                self.renew(method)
                count += 1
        return count

    def test_the_dearest_method_once_a_second(self) -> None:
        self.assertLess(self.renewals(b"diffie-hellman-group-exchange-sha256", 60, 20_000), 75)

    def test_the_longest_key_and_thousands_of_methods(self) -> None:
        self.more = b",a" * 15_000
        self.client._key_exchange._host_key = bytes(16384 // 8)
        self.assertLess(self.renewals(b"curve25519-sha256", 60, 20_000), 500)

    def test_without_a_reason_it_ends(self) -> None:
        most = MAX_REQUESTS // KEY_EXCHANGE
        self.assertEqual(self.renewals(b"curve25519-sha256", 60, 0), most + 1)
        self.assertIn("too many requests for new keys", self.client.lost_reason)

    def test_once_a_second_is_a_reason(self) -> None:
        for _ in range(100):
            self.clock.advance(1)
            self.renew()
        self.assertIsNone(self.client._failure)

    def test_a_mebibyte_of_output_each_is_not_held_up(self) -> None:
        self.start_command()
        for _ in range(50):
            for _ in range(32):
                self.packet(MSG_CHANNEL_DATA, uint32(0) + NS(bytes(32768)))
            self.renew()
            self.assertFalse(self.held)

    def test_offers_without_end(self) -> None:
        self.packet(MSG_KEXINIT, bytes(16) + NS(b"a," * 30_000) + NS(b"") * 9 + bytes(5))
        self.assertIn("a KEXINIT of", self.client.lost_reason)


class StuckTests(SecuredCase):
    """Servers that do not read."""

    def stick(self, on: bool) -> None:
        writing: Any = self.wire.producer
        if on:
            writing.pauseProducing()
        else:
            writing.resumeProducing()

    def test_answers_do_not_pile_up(self) -> None:
        self.stick(True)
        for _ in range(MAX_REQUESTS):
            self.client.flood_limit.count_request()
            self.client.reset_flood_limit()  # as time does
        with self.assertRaises(Breach):
            self.client.flood_limit.count_request()

    def test_nor_behind_a_key_exchange_without_an_end(self) -> None:
        self.client.renew_keys()
        for _ in range(MAX_REQUESTS):
            self.client.flood_limit.count_request()
            self.client.reset_flood_limit()
        with self.assertRaises(Breach):
            self.client.flood_limit.count_request()

    def test_standard_input_waits_where_it_is_counted(self) -> None:
        self.start_command(stdin=bytes(500_000))
        (channel,) = self.connection._channels.by_number.values()
        self.stick(True)
        self.wire.clear()
        self.packet(MSG_CHANNEL_WINDOW_ADJUST, uint32(0, 2**31))
        self.assertEqual((len(self.wire.value()), len(channel.outgoing)), (0, 500_000))
        self.stick(False)
        self.assertEqual(len(channel.outgoing), 0)
        self.assertGreater(len(self.wire.value()), 500_000)


class SizeTests(SecuredCase):
    """What is taken of one packet."""

    def plain_client(self) -> None:
        self.client = ClientTransport(self.clock, "host", 22, KnownHosts("/nonexistent", "ignore"), COMPATIBLE)
        self.client.secure.addErrback(lambda failure: self.failures.append(failure.value))
        self.wire = RecordingTCP()
        self.client.makeConnection(self.wire)
        self.receive(b"SSH-2.0-Test\r\n")

    def test_before_the_keys(self) -> None:
        self.plain_client()
        fits = plain_packet(MSG_IGNORE, bytes(MAX_PLAIN_PACKET - 24))
        self.assertLessEqual(len(fits), MAX_PLAIN_PACKET)
        self.receive(fits)
        self.assertIsNone(self.client._failure)
        self.receive(plain_packet(MSG_IGNORE, bytes(MAX_PLAIN_PACKET)))
        self.assertIsInstance(self.client._failure, KeyExchangeFailed)

    def test_with_keys(self) -> None:
        self.packet(MSG_IGNORE, NS(bytes(256 * 1024 - 100)))  # OpenSSH takes as much
        self.assertIsNone(self.client._failure)
        self.packet(MSG_IGNORE, NS(bytes(256 * 1024)))
        self.assertIn("bad packet length", self.client.lost_reason)

    def test_a_packet_in_pieces_is_not_copied_for_each(self) -> None:
        whole = self.sealed(bytes((MSG_IGNORE,)) + NS(bytes(1000)))
        self.receive(whole[:4])
        kept = self.client._reader._rest
        for at in range(4, len(whole) - 1):
            self.receive(whole[at : at + 1])
            self.assertIs(self.client._reader._rest, kept)
        self.receive(whole[-1:])
        self.assertEqual(self.client._reader._rest, b"")

    def test_only_the_beginning_of_a_debug_is_looked_at(self) -> None:
        self.packet(MSG_DEBUG, b"\1" + NS(b"x" * 5000 + b" key options: command") + NS(b""))
        self.assertFalse(self.client.forced_command)
        self.packet(MSG_DEBUG, b"\1" + NS(b"/home/u/.ssh/authorized_keys:1: key options: command") + NS(b""))
        self.assertTrue(self.client.forced_command)


class ExtensionTests(SecuredCase):
    """``EXT_INFO`` (RFC 8308)."""

    GOOD = uint32(2) + NS(b"server-sig-algs") + NS(b"rsa-sha2-256") + NS(b"other") + NS(b"x")

    def test_first_of_all(self) -> None:
        self.packet(MSG_EXT_INFO, self.GOOD)
        self.assertEqual(self.client.peerExtensions, {b"server-sig-algs": b"rsa-sha2-256"})

    def test_later_ones_are_not_read(self) -> None:
        self.packet(MSG_IGNORE, NS(b""))
        for payload in (self.GOOD, b"", no_extensions(8192)):
            self.packet(MSG_EXT_INFO, payload)
        self.assertEqual(self.client.peerExtensions, {})
        self.assertIsNone(self.client._failure)

    def test_too_many(self) -> None:
        self.packet(MSG_EXT_INFO, no_extensions(200_000))
        self.assertIn("25000 extensions of 200004 bytes", self.client.lost_reason)

    def test_bounds(self) -> None:
        most = uint32(MAX_EXTENSIONS) + (NS(b"") + NS(b"")) * MAX_EXTENSIONS
        self.assertEqual(read_extensions(most), {})
        for payload in (
            b"", b"\0", uint32(1), uint32(1) + NS(b"a"), uint32(1) + NS(b"a") + uint32(2) + b"b", uint32(2**32 - 1),
            uint32(MAX_EXTENSIONS + 1) + bytes(8 * MAX_EXTENSIONS + 8), uint32(1) + NS(b"a") + NS(bytes(MAX_SIZE)),
        ):  # fmt: skip
            if payload in (b"", b"\0"):
                self.assertEqual(read_extensions(payload), {})
                continue
            with self.assertRaises(Breach):
                read_extensions(payload)

    @given(st.dictionaries(st.binary(max_size=20), st.binary(max_size=100), max_size=MAX_EXTENSIONS))
    def test_well_formed_ones(self, extensions: dict[bytes, bytes]) -> None:
        payload = uint32(len(extensions)) + b"".join(NS(name) + NS(value) for name, value in extensions.items())
        wanted = {name: value for name, value in extensions.items() if name == b"server-sig-algs"}
        self.assertEqual(read_extensions(payload), wanted)


class VersionTests(LogTestCase):
    """The greeting, in pieces."""

    def read(self, pieces: list[bytes]) -> tuple[bytes, bytes] | str | None:
        reader = VersionReader()
        for number, piece in enumerate(pieces):
            try:
                found = reader.read(piece)
            except NoVersion as error:
                return str(error)
            if found is not None:
                return found[0], b"".join([piece[found[1] :], *pieces[number + 1 :]])
        return None

    @given(
        st.lists(
            st.sampled_from(
                [b"SSH-", b"2.0-x", b"1.5-x", b"\r", b"\n", b"\r\n", b"HTT", b"P/1", b"x" * 30, b"x" * 8192]
            )
        ).map(b"".join),
        st.lists(st.integers(0, 60), max_size=6).map(sorted),
    )  # fmt: skip
    def test_pieces_make_no_difference(self, data: bytes, cuts: list[int]) -> None:
        pieces = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        expected = self.read([data])
        self.assertEqual(self.read(pieces), expected)

    def test_lines_without_end(self) -> None:
        self.assertIn("8192 bytes without a version", str(self.read([b"\n"] * (MAX_PREAMBLE + 1))))
        self.assertIn("without a version", str(self.read([b"x" * MAX_PREAMBLE + b"\nSSH-2.0-x\n"])))

    def test_no_line_is_read_twice(self) -> None:
        reader = VersionReader()
        reader.read(b"notice\n" * 100 + b"SSH-2.0")
        self.assertEqual(reader._line, 700)  # where it goes on
        self.assertEqual(reader.read(b"-x\n"), (b"SSH-2.0-x", 3))


class PlainTests(LogTestCase):
    """The first packets."""

    def test_the_limit_is_that_of_the_protocol(self) -> None:
        header = memoryview((MAX_PLAIN_PACKET - 4 - (MAX_PLAIN_PACKET % 8)).to_bytes(4, "big"))
        self.assertLessEqual(Plain().packet_size(0, header), 35_000)


class BehindAJumpHostTests(SecuredCase):
    """`Pacer`, in a connection that comes through another one."""

    def setUp(self) -> None:
        super().setUp()
        self.connection = ClientConnection(self.clock, Owner(), 15.0)
        self.client.setService(self.connection)
        self.forward = Forward("far", 22, lambda: None, lambda: None)
        self.connection.start(self.forward)
        self.packet(MSG_CHANNEL_OPEN_CONFIRMATION, uint32(0, 0, 1 << 30, 32768))
        self.far = ClientTransport(self.clock, "far", 22, KnownHosts("/nonexistent", "ignore"), COMPATIBLE)
        self.far.on_failure = self.failures.append
        self.far.pace.way = self.forward.pace
        self.forward.connect(self.far)
        self.far.dataReceived(b"SSH-2.0-Test\r\n")
        self.far_sealer = AESGCMPackets(KEY, IV)
        agree_on_keys(self.far, AESGCMPackets(KEY, IV))
        self.far_connection = ClientConnection(self.clock, Owner(), 15.0)
        self.far.setService(self.far_connection)

    def passed_on(self, payload: bytes) -> bytes:
        """A packet of the host, in one of the jump host."""
        return self.sealed(bytes((MSG_CHANNEL_DATA,)) + uint32(0) + NS(self.far_sealer.seal(0, payload)))

    def run_far(self) -> Session:
        session = Session(Command(b"true", 1000), lambda: None, lambda: None)
        number = self.far_connection._channels._next
        self.far_connection.start(session)
        self.receive(self.passed_on(bytes((MSG_CHANNEL_OPEN_CONFIRMATION,)) + uint32(number, 0, 0, 32768)))
        self.receive(self.passed_on(bytes((MSG_CHANNEL_SUCCESS,)) + uint32(number)))
        return session

    def room_given(self) -> int:
        """Bytes that the jump host was allowed to send since the last call."""
        sent = self.wire.value()
        self.wire.clear()
        room = 0
        while sent:
            size = int.from_bytes(sent[:4], "big")
            if sent[5] == MSG_CHANNEL_WINDOW_ADJUST:
                room += int.from_bytes(sent[10:14], "big")
            sent = sent[4 + size :]
        return room

    def line_by_line(self, rate: int) -> None:
        """Each line is a packet as long as the jump host takes them; then, as from any SSH server, many are one."""
        session = self.run_far()
        room = self.connection._channels.by_number[0].window
        lines, waiting = 8 * rate, 0
        under_way: list[bytes] = []
        self.room_given()
        for at in range(2 * lines):
            self.clock.advance(1 / rate)
            waiting += at < lines
            room += self.room_given()
            while waiting:
                together = 1 if waiting < 10 else min(waiting, 250)
                packet = bytes((MSG_CHANNEL_DATA,)) + uint32(0) + NS(together * LINE)
                if room < len(packet) + 64:
                    break
                waiting -= together
                sealed = self.far_sealer.seal(0, packet)
                room -= len(sealed)
                under_way.append(self.sealed(bytes((MSG_CHANNEL_DATA,)) + uint32(0) + NS(sealed)))
            if not self.held:
                self.receive(b"".join(under_way))
                under_way.clear()
            if self.forward.state is not State.RUNNING:
                self.fail(f"it was cut off after {at} lines")
        self.assertEqual(self.failures, [])
        self.assertEqual(session.stdout.total, len(LINE) * lines)

    def test_who_writes_line_by_line_is_not_cut_off(self) -> None:
        self.line_by_line(8_000)

    def test_nor_who_does_so_fast(self) -> None:
        self.line_by_line(12_000)

    def test_commands_pay_for_the_way_of_their_answers(self) -> None:
        for number in range(4000):
            self.clock.advance(0.001)
            session = self.run_far()
            for message in (MSG_CHANNEL_REQUEST, MSG_CHANNEL_EOF, MSG_CHANNEL_CLOSE):
                rest = NS(b"exit-status") + b"\0" + uint32(0) if message == MSG_CHANNEL_REQUEST else b""
                self.receive(self.passed_on(bytes((message,)) + uint32(number) + rest))
                self.assertFalse(self.held)
            self.assertEqual(session.exit.status, 0)
