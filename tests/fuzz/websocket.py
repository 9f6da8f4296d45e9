"""
The bytes of a main server, before and after it opens the WebSocket: HTTP answers and frames.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from relayd.uplink.connection import Outcome, UplinkConnection
from relayd.uplink.message_limit import MessageLimit
from relayd.uplink.request import Request
from relayd.uplink.stages import Timing
from relayd.uplink.websocket import WebSocketClient, WebSocketFactory
from relayd.wire.dialects import native
from tests.fuzz.engine import CANARY, Target, check, check_words, grow
from tests.fuzz.hub import MemoryTransport
from tests.fuzz.uplink import Owner, Receiver, connection_settings

#: Bits of the first byte: the WebSocket is open already; what follows comes in pieces, of as many bytes as the second
#: byte says.
_OPEN, _PIECES = 1, 2
#: Stands for the only right value of Sec-WebSocket-Accept (RFC 6455, section 4.2.2).
_ACCEPT = b"@ACCEPT@"
_ANSWER = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: @ACCEPT@\r\n\r\n"
)
_MAX_FRAME = 1 << 16
_WORDS = (
    *(b"HTTP/1.1 ", b" 101 ", b"401", b"429", b"503", b"\r\n", b"\r\n\r\n", b"Retry-After: ", b"Location: ", _ACCEPT),
    *(b"Sec-WebSocket-Accept: ", b"Sec-WebSocket-Extensions: ", b"permessage-deflate", b"Sec-WebSocket-Protocol: "),
    *(
        b"Wed, 21 Oct 2015 07:28:00 GMT",
        b" +9999",
        b"99999999999999999999",
        b"Upgrade: ",
        b"websocket",
        b"Connection: ",
    ),
    *(b"\x81", b"\x88", b"\x89", b"\x8a", b"\x80", b"\x01", b"\x7e", b"\x7f", b"\xff" * 8, b"\x03\xe8", b"{}"),
)


def _run(data: bytes) -> None:
    if len(data) < 2:
        return
    flags, size, data = data[0], data[1] + 1, grow(data[2:])
    clock: Any = Clock()
    receiver, outcomes = Receiver(), list[Outcome]()
    request = Request(resource=f"/proxy?apiKey={CANARY}", host="main", user_agent="relayd")
    client = WebSocketClient(lambda: request, server_name=None)
    limit, settings = MessageLimit(clock, "main"), connection_settings(Timing())
    connection = UplinkConnection(clock, client, native.NativeRelayDialect(), receiver, Owner(), limit, settings)
    note: Any = outcomes.append
    connection.finished.addCallback(note)
    client.factory = WebSocketFactory(clock, lambda: client, _MAX_FRAME)
    transport = MemoryTransport()
    client.makeConnection(transport)
    key: Any = client.websocket_key
    digest = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    accept = base64.b64encode(digest)
    transport.clear()
    if flags & _OPEN:
        client.dataReceived(_ANSWER.replace(_ACCEPT, accept))
        check(client.state == client.STATE_OPEN, "the handshake of the harness itself")
    data = data.replace(_ACCEPT, accept)
    step = max(size, len(data) // 256 + 1) if flags & _PIECES else len(data) + 1
    for start in range(0, len(data), step):
        client.dataReceived(data[start : start + step])
        check(len(client.data) <= 2 * _MAX_FRAME + step, "what was received piles up")
        check(len(transport.value()) <= len(data) * 4 + 4096, "more is sent than was received")
        clock.advance(0.1)
    client.connectionLost(Failure(ConnectionDone()))
    clock.pump([0.0] * 4)  # what had to wait for a turn of its own
    check(len(outcomes) == 1, "it does not end")
    check_words(outcomes[0].error)
    check(receiver.ready == receiver.lost <= 1, "a link that is not lost, or lost twice")
    check(not clock.getDelayedCalls(), "a timer is left")


def _frame(opcode: int, payload: bytes, final: int = 0x80) -> bytes:
    size = len(payload)
    return bytes((final | opcode,)) + (bytes((size,)) if size < 126 else b"\x7e" + size.to_bytes(2, "big")) + payload


def _seeds() -> Iterator[bytes]:
    plain, opened = bytes((0, 0)), bytes((_OPEN, 0))
    yield plain + _ANSWER
    yield bytes((_PIECES, 7)) + _ANSWER + _frame(1, b"{}")
    for status in (b"401 Unauthorized", b"404 Not Found", b"429 Too Many", b"301 Moved", b"200 OK"):
        yield plain + b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n"
    for date in (b"120", b"Wed, 21 Oct 2015 07:28:00 GMT", b"Wed, 21 Oct 2015 07:28:00 +0100"):
        yield plain + b"HTTP/1.1 503 Busy\r\nRetry-After: " + date + b"\r\n\r\n"
    yield plain + _ANSWER[:-2] + b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
    yield plain + b"HTTP/1.1 1 OK\r\n\r\n" + bytes((9, 0, 15, 0xFF))
    yield opened + _frame(1, b'{"event":"x","data":1}') + _frame(9, b"ping") + _frame(8, b"\x03\xe8bye")
    yield opened + _frame(1, b'{"event":', 0) + _frame(9, b"") + _frame(0, b'"x"}')
    yield opened + _frame(2, b"binary") + _frame(10, bytes(8)) + _frame(8, b"")
    yield opened + _frame(1, b"x" * 300)
    yield opened + b"\x81\x7f" + (1 << 20).to_bytes(8, "big")
    yield bytes((_OPEN | _PIECES, 0)) + _frame(1, "ä€😀".encode()) + _frame(8, b"\x04\x00" + b"a" * 100)
    yield opened + _frame(9, b"") + bytes((0, 1, 14, 0xFF))


TARGETS = {"websocket": Target(_run, _seeds, _WORDS)}
