"""Frames that are read and written without autobahn are the same as those that it reads and writes."""

from __future__ import annotations

import struct
from typing import Any
from unittest import mock

from autobahn.websocket import protocol as autobahn
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from relayd.errors import ProtocolError
from relayd.uplink import frames, websocket
from relayd.uplink.frames import LONGEST, LongText, masked_text, whole_text
from relayd.uplink.request import Request
from relayd.uplink.websocket import WebSocketClient, WebSocketFactory
from relayd.uplink.wire import Pieces

MOST = 70_000


class Listener:
    """Keeps what a WebSocket reports, and perhaps closes it at one of the messages."""

    def __init__(self) -> None:
        self.reports: list[Any] = []
        self.client: Any = None
        self.close_at = -1

    def __getattr__(self, name: str) -> Any:
        return lambda *args: self.reports.append((name, *map(_comparable, args)))

    def on_heard(self) -> None:
        """Not kept: once for each frame, or once for several."""

    def on_text(self, text: str) -> None:
        self.reports.append(("on_text", text))
        if len([each for each in self.reports if each[0] == "on_text"]) == self.close_at:
            self.client.close(1000)


def _comparable(value: Any) -> Any:
    return str(value) if isinstance(value, ProtocolError) else value


def opened(most: int = MOST) -> tuple[WebSocketClient, Listener, StringTransport]:
    """A WebSocket after its handshake."""
    factory = WebSocketFactory(Clock(), lambda: WebSocketClient(_no_request, server_name=None), most)
    client, listener, transport = factory.buildProtocol(None), Listener(), StringTransport()
    with mock.patch.object(client, "_request_upgrade"):
        client.makeConnection(transport)
    state: Any = client
    state.state, state.data, state.websocket_version = client.STATE_OPEN, b"", 13
    state.inside_message, state.current_frame, state._perMessageCompress = False, None, None
    listener.client = client
    client.registerProducer(client.flow, True)
    client.report_to(listener)  # type: ignore[arg-type]
    return client, listener, transport


def _no_request() -> Request:
    raise AssertionError


def frame(first: int, payload: bytes, *, mask: bool = False) -> bytes:
    """A frame with any first byte."""
    size = len(payload)
    bit = 0x80 if mask else 0
    if size < 126:
        head = bytes((first, bit | size))
    elif size <= LONGEST:
        head = bytes((first, bit | 126)) + struct.pack("!H", size)
    else:
        head = bytes((first, bit | 127)) + struct.pack("!Q", size)
    return head + (bytes(4) if mask else b"") + payload


PAYLOADS = st.sampled_from(
    [
        b"",
        b"a",
        "é".encode(),
        b"\xff",
        b"\xc3",
        b"x" * 125,
        b"x" * 126,
        b"x" * LONGEST,
        b"x" * (LONGEST + 1),
        b"x" * MOST,
    ]
)
#: Texts, whole and in parts, binary messages, pings, pongs, closes, and what is none of these.
FIRST = st.sampled_from([0x81, 0x01, 0x80, 0x00, 0x82, 0x89, 0x8A, 0x88, 0xC1, 0x83, 0x71])
FRAMES = st.builds(frame, st.just(0x81), PAYLOADS) | st.builds(frame, FIRST, PAYLOADS, mask=st.booleans())
NOT_MINIMAL = b"\x81\x7e\x00\x01a"


class ReadTests(SynchronousTestCase):
    """`WebSocketClient` against itself with autobahn's reader alone."""

    def read(self, pieces: list[bytes], close_at: int, most: int = MOST) -> tuple[list[Any], int]:
        client, listener, transport = opened(most)
        listener.close_at = close_at
        with mock.patch("random.getrandbits", return_value=0):
            for piece in pieces:
                client.dataReceived(piece)
        return listener.reports, len(transport.value())

    @given(st.lists(FRAMES, max_size=6), st.lists(st.integers(0, 300), max_size=6), st.sampled_from([-1, 1, 2]))
    @example([frame(0x81, b"a"), NOT_MINIMAL], [], -1)
    @example([frame(0x81, b"a" * 300), frame(0x81, b"b")], [299, 1, 1, 2], -1)
    @example([frame(0x01, b"a"), frame(0x81, b"b")], [3], -1)
    @example([frame(0x81, b"a"), frame(0x81, b"\xff"), frame(0x81, b"b")], [], -1)
    @example([frame(0x81, b"a"), frame(0x81, b"b"), frame(0x88, b"")], [], 1)
    def test_the_same_reports(self, sent: list[bytes], cuts: list[int], close_at: int) -> None:
        data, pieces = b"".join(sent), []
        for cut in cuts:
            pieces.append(data[:cut])
            data = data[cut:]
        pieces = [piece for piece in [*pieces, data] if piece]
        found = self.read(pieces, close_at)
        with mock.patch.object(websocket, "whole_text", return_value=None):
            self.assertEqual(found, self.read(pieces, close_at))

    def test_the_same_at_the_limit(self) -> None:
        for size in range(990, 1010):
            pieces = [frame(0x81, b"x" * size)]
            found = self.read(pieces, -1, 1000)
            with mock.patch.object(websocket, "whole_text", return_value=None):
                self.assertEqual(found, self.read(pieces, -1, 1000))

    def test_it_is_read_without_autobahn(self) -> None:
        client, listener, _ = opened()
        with mock.patch.object(client, "_dataReceived") as others:
            client.dataReceived(frame(0x81, b"a") + frame(0x81, b"b" * 200))
        others.assert_not_called()
        self.assertEqual(listener.reports, [("on_text", "a"), ("on_text", "b" * 200)])

    def test_what_is_whole(self) -> None:
        data = b"..." + frame(0x81, b"abc") + b"\x81"
        self.assertEqual(whole_text(data, 3), ("abc", 8))
        self.assertIsNone(whole_text(data, 8))
        self.assertIsNone(whole_text(data, 9))


class WriteTests(SynchronousTestCase):
    """`masked_text` against autobahn's ``sendFrame``."""

    @given(st.binary(max_size=300) | st.sampled_from([125, 126, 127, LONGEST]).map(bytes), st.integers(0, 2**32 - 1))
    def test_the_same_bytes(self, payload: bytes, mask: int) -> None:
        client, _, transport = opened()
        with mock.patch.object(autobahn.random, "getrandbits", return_value=mask):
            client.sendFrame(opcode=1, payload=payload)
        with mock.patch.object(frames, "getrandbits", return_value=mask):
            self.assertEqual(masked_text(payload), transport.value())

    def test_long_ones(self) -> None:
        for size in (LONGEST, LONGEST + 1):
            client, _, transport = opened()
            client.send_text(b"x" * size)
            self.assertEqual(len(transport.value()) - size, 8 if size <= LONGEST else 14)

    @given(st.integers(LONGEST + 1, 3 * LONGEST), st.integers(15, 2 * LONGEST), st.integers(0, 2**32 - 1))
    def test_long_ones_in_pieces(self, size: int, most: int, mask: int) -> None:
        payload = bytes(range(251)) * (size // 251 + 1)
        client, _, transport = opened()
        with mock.patch.object(autobahn.random, "getrandbits", return_value=mask):
            client.sendFrame(opcode=1, payload=payload)
        with mock.patch.object(frames, "getrandbits", return_value=mask):
            text = LongText(payload)
        pieces = []
        while len(text):
            pieces.append(text.take(most))
        self.assertEqual(b"".join(pieces), transport.value())
        self.assertEqual({len(piece) for piece in pieces[:-1]} - {most}, set())

    @given(st.lists(st.integers(0, LONGEST), min_size=2, max_size=6), st.integers(15, 2 * LONGEST))
    def test_long_ones_that_come_in_pieces(self, sizes: list[int], most: int) -> None:
        parts = [bytes([number]) * size for number, size in enumerate([*sizes, LONGEST + 1])]
        client, _, transport = opened()
        with mock.patch.object(autobahn.random, "getrandbits", return_value=77):
            client.sendFrame(opcode=1, payload=b"".join(parts))
        with mock.patch.object(frames, "getrandbits", return_value=77):
            text = LongText(Pieces(parts))
        pieces = []
        while len(text):
            pieces.append(text.take(most))
        self.assertEqual(b"".join(pieces), transport.value())

    @given(st.binary(max_size=600), st.binary(min_size=4, max_size=4))
    def test_without_native_code(self, data: bytes, mask: bytes) -> None:
        masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))
        self.assertEqual(frames._masked_by_python(data, mask), masked)
        self.assertEqual(frames._masked_natively(data, mask), masked)

    def test_masks_differ(self) -> None:
        self.assertGreater(len({masked_text(b"a") for _ in range(20)}), 15)
