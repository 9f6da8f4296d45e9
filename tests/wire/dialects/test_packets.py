"""Socket.IO packets: read and written as python-socketio does, whose clients and servers are at the other end."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from socketio.packet import Packet as PythonPacket
from twisted.trial.unittest import SynchronousTestCase

from relayd.errors import ProtocolError
from relayd.wire.dialects import packets
from relayd.wire.dialects.codec import MOST_UNCHECKED
from relayd.wire.dialects.packets import Packet, plain_event, read_packet
from tests.wire.dialects.test_native import json_values

namespaces = st.from_regex(r"/[^,?\s]{0,20}", fullmatch=True)
ids = st.none() | st.integers(0, packets.MAX_ACK_ID)
#: Texts that are packets, or almost.
heads = st.lists(
    st.sampled_from(["0", "2", "3", "5", "7", "-", "/", "/proxy", ",", "?a", "[]", "[1]", "{", " ", '"a"', "12"])
)


def as_python_reads(text: str) -> tuple[Any, ...]:
    """What python-socketio makes of *text*. :raises ValueError: where it makes nothing of it."""
    packet = PythonPacket(encoded_packet=text)
    return packet.packet_type, packet.namespace or "/", packet.id, packet.attachment_count, packet.data


def as_relayd_reads(text: str) -> tuple[Any, ...]:
    packet = read_packet(text)
    return packet.kind, packet.namespace, packet.id, packet.attachment_count, packet.data


class DifferentialTests(SynchronousTestCase):
    @given(kind=st.sampled_from(range(5)), data=st.lists(json_values), namespace=namespaces, number=ids)
    def test_written_as_python_socketio_writes(self, kind: int, data: Any, namespace: str, number: int | None) -> None:
        text = Packet(kind, data, namespace, number).encode()
        self.assertEqual(as_python_reads(text), (kind, namespace, number, 0, data))
        self.assertEqual(as_relayd_reads(text), (kind, namespace, number, 0, data))

    @given(kind=st.sampled_from(range(7)), data=st.none() | st.lists(json_values), namespace=namespaces, number=ids)
    def test_reads_what_python_socketio_writes(self, kind: int, data: Any, namespace: str, number: int | None) -> None:
        encoded = PythonPacket(kind, data, namespace, number, binary=False).encode()
        text = encoded[0] if isinstance(encoded, list) else encoded
        self.assertEqual(as_relayd_reads(text), (kind, namespace, number, 0, data))

    @given(heads.map("".join))
    @example("2,[1]")
    @example("2/proxy")
    @example("2/proxy?a=1,[1]")
    @example("51-/proxy,7[1]")
    @example("2-[1]")
    @example("2007[1]")
    def test_reads_all_else_as_python_socketio_does_or_refuses_it(self, text: str) -> None:
        try:
            read = as_relayd_reads(text)
        except ProtocolError:
            try:
                kind, _, number, attachments, _ = as_python_reads(text)
            except (ValueError, TypeError):
                return
            # What relayd alone refuses: no packet, an unknown type, attachments that cannot be, huge numbers.
            self.assertTrue(
                not text
                or kind > packets.BINARY_ACK
                or (attachments and kind < packets.BINARY_EVENT)
                or len(str(number)) > 16,
                text,
            )
        else:
            self.assertEqual(read, as_python_reads(text))


#: Texts that are plain events, or almost.
EVENTS = st.lists(
    st.sampled_from(
        [
            "42/proxy,",
            "42",
            "/proxy",
            ",",
            "7",
            "[",
            "]",
            '["a"',
            '["a",{}]',
            '["\\ud800",1]',
            "[NaN]",
            "[1]",
            "[]",
            " ",
            "5",
        ]
    )
    | st.sampled_from(["\ud800", '{"x":1e999}', "0" * 16, '"' + "n" * 257 + '"', "[" * 2000, "]" * 2000]),
    max_size=6,
)


class PlainEventTests(SynchronousTestCase):
    """`plain_event` gives what `read_packet` gives, or nothing."""

    @given(EVENTS.map("".join) | EVENTS.map(lambda parts: "42/proxy," + "".join(parts)))
    @example('42/proxy,12["command",{"a":"b"},3]')
    @example("42/proxy,9007199254740993[1]")
    @example('42/proxy?a,["x"]')
    def test_the_same(self, text: str) -> None:
        plain = plain_event(text)
        if plain is not None:
            packet = read_packet(text[1:])
            name, *more = packet.arguments
            self.assertEqual(plain, (name, more[0] if more else None, packet.id))
            self.assertEqual((text[0], packet.kind, packet.namespace), ("4", packets.EVENT, "/proxy"))

    def test_what_is_plain(self) -> None:
        self.assertEqual(plain_event('42/proxy,["a"]'), ("a", None, None))
        self.assertEqual(plain_event('42/proxy,12["command",{"a":"b"},3]'), ("command", {"a": "b"}, 12))
        self.assertEqual(plain_event('42/proxy,9007199254740992["a"]'), None)
        self.assertIsNone(plain_event(f'42/proxy,["a","{"x" * MOST_UNCHECKED}"]'))


class ReadTests(SynchronousTestCase):
    def test_only_ascii_digits_are_digits(self) -> None:
        for text in ("٢[1]", "2٣[1]", "²[1]"):
            self.assertRaises(ProtocolError, read_packet, text)

    def test_numbers_too_long_are_refused(self) -> None:
        for text in ("2" + "1" * 17 + "[]", "5" + "1" * 11 + "-[]", "2" + "0" * 5_000_000):
            self.assertRaises(ProtocolError, read_packet, text)
