"""
What a relay says to a main server of ours: the HTTP request, and text messages in both dialects.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from relayd.errors import InvalidMessage
from relayd.hub.server import Hub
from relayd.wire.messages import Secret
from relayd.wire.parsing import parse_command_output, parse_command_result, parse_command_status, parse_execute_command
from tests.fuzz.engine import CANARY, Target, check, check_words, grow
from tests.fuzz.uplink import BINARY, COMMANDS, NEXT, WORDS, canaries

_REQUEST = (
    "GET {path}proxyId=r&apiKey={key} HTTP/1.1\r\nHost: main\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_PATHS = {b"s": "/socket.io/?EIO=4&transport=websocket&", b"n": "/proxy?"}
_HTTP = b"h"
_RESULT = {"commandId": "c1", "result": {"stdout": "o", "stderr": "", "exitCode": 0}}
_DETAILS = {
    "error": {"code": "x", "phase": "y", "executed": "no", "retriable": False},
    "signal": "TERM",
    "truncated": True,
    "stdoutBytes": 3,
    "timings": {"run": 0.5},
    "killed": "confirmed",
    "encoding": "base64",
}
_EVENTS: tuple[tuple[str, Any], ...] = (
    ("command_result", _RESULT),
    ("command_result", {"commandId": "c1", "result": {**_RESULT["result"], **_DETAILS}}),  # type: ignore[dict-item]
    ("command_output", {"commandId": "c1", "stream": "stdout", "offset": 0, "data": "x", "encoding": "base64"}),
    ("command_status", {"commandId": "c1", "state": "running"}),
    ("other", None),
)
_WORDS = (
    *(
        word.encode()
        for word in (*WORDS, *_DETAILS, "command_result", "command_output", "result", "exitCode", "stream")
    ),
    *(b"stdout", b"offset", b"state", b"confirmed", b"unsupported", b"proxyId=", b"apiKey=", b"\r\n", b"Upgrade: "),
)


class MemoryTransport(StringTransport):
    """TCP to nowhere."""

    def abortConnection(self) -> None:
        self.disconnecting = True

    def pauseProducing(self) -> None:
        """TCP may be asked for that even when it closes; likewise to go on."""

    def resumeProducing(self) -> None:
        pass

    def unregisterProducer(self) -> None:
        """TCP minds it as little when there is none."""
        self.producer = None


def _run(data: bytes) -> None:
    kind, data = data[:1], grow(data[1:])
    if kind not in _PATHS and kind != _HTTP:
        return
    clock: Any = Clock()
    hub = Hub(clock, {"r": Secret(CANARY)})
    hub.links.factory.setProtocolOptions(
        closeHandshakeTimeout=0
    )  # a timer of the global reactor, which does not run here
    link: Any = hub.links.factory.buildProtocol(None)
    link.factory = hub.links.factory
    transport = MemoryTransport()
    link.makeConnection(transport)
    done: Deferred[Any] | None = None
    if kind == _HTTP:
        link.dataReceived(data.replace(b"@KEY@", CANARY.encode()))
    else:
        link.dataReceived(_REQUEST.format(path=_PATHS[kind], key=CANARY).encode())
        check(link.state == link.STATE_OPEN, "the handshake of the harness itself")
        for message in data.split(NEXT):
            if message.startswith(BINARY):
                link.onMessage(message, True)
            else:
                link.onMessage(message.decode("utf-8", "ignore").encode(), False)
                _parse(message)
            if done is None and "r" in hub.relays:
                done = hub.execute("r", _command(), on_output=lambda _: None)
                done.addErrback(_check_failure)
    check(CANARY.encode() not in transport.value(), "the key comes back")
    link.connectionLost(Failure(ConnectionDone()))
    check("r" not in hub.relays, "a relay that is not gone")
    clock.advance(3600)
    check(done is None or done.called, "a command without an end")
    check(not clock.getDelayedCalls(), "a timer is left")


def _check_failure(failure: Any) -> None:
    check_words(failure.value)


def _command() -> Any:
    return parse_execute_command({**COMMANDS[0], "stream": True})


def _parse(message: bytes) -> None:
    """Each parser of data, whatever the name of the event was."""
    try:
        data = json.loads(message[message.find(b"{") :])
    except (ValueError, RecursionError):
        return
    for parse in (parse_command_result, parse_command_output, parse_command_status):
        for each in (data, data.get("data")) if isinstance(data, dict) else (data,):
            try:
                value: Any = parse(each)
            except InvalidMessage as error:
                check_words(error)
                _parse_canaries(parse, each)
            else:
                check(parse(value.to_wire()) == value or value.to_wire() != each, "to_wire and back is another")
                check_words(repr(value), 100_000)
                _parse_canaries(parse, each)


def _parse_canaries(parse: Any, data: object) -> None:
    """What is wrong with the data is told without any of it."""
    try:
        parse(canaries(data))
    except InvalidMessage as error:
        check_words(error)


def _seeds() -> Iterator[bytes]:
    joined = b"s40/proxy,"
    for name, data in _EVENTS:
        text = json.dumps([name, data]).encode()
        yield NEXT.join((joined, b"42/proxy," + text, b"42/proxy,5" + text))
        yield b"n" + json.dumps({"event": name, "data": data}).encode()
    yield NEXT.join((joined, b"43/proxy,0[]", b"3", b"41/proxy,"))
    yield NEXT.join((joined, b'43/proxy,0[{"error":"no"}]', b"2probe", b"1"))
    yield NEXT.join((b"s40/x,", b"40", b"42[1]"))
    for path in _PATHS.values():
        yield _HTTP + _REQUEST.format(path=path, key="@KEY@").encode()
    yield _HTTP + b"GET /socket.io/?EIO=4&transport=polling&proxyId=r&apiKey=@KEY@ HTTP/1.1\r\nHost: a\r\n\r\n"


TARGETS = {"hub": Target(_run, _seeds, _WORDS)}
