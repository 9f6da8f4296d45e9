"""Socket.IO packets: read and written as python-socketio does, whose clients and servers are at the other end."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from socketio.packet import Packet as PythonPacket
from twisted.trial.unittest import SynchronousTestCase

from relayd.errors import ProtocolError
from relayd.wire.dialects import packets
from relayd.wire.dialects.packets import Packet, read_packet
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


class ReadTests(SynchronousTestCase):
    def test_only_ascii_digits_are_digits(self) -> None:
        for text in ("٢[1]", "2٣[1]", "²[1]"):
            self.assertRaises(ProtocolError, read_packet, text)

    def test_numbers_too_long_are_refused(self) -> None:
        for text in ("2" + "1" * 17 + "[]", "5" + "1" * 11 + "-[]", "2" + "0" * 5_000_000):
            self.assertRaises(ProtocolError, read_packet, text)
