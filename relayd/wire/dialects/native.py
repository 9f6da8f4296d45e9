"""
The native dialect: one JSON text message ``{"event": name, "data": …}`` an event, over a plain WebSocket.

The specification gives the URL and the events but no framing; this is the one of Nest's ``WsAdapter``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec.structs import replace
from zope.interface import implementer

from relayd.errors import ProtocolError
from relayd.wire.dialects.codec import MAX_NAME, NO_LIMIT, PROXY_PATH, FrameQueue, StrictJSON, websocket_url
from relayd.wire.dialects.events import (
    Broken,
    Connected,
    DialectEvent,
    EventReceived,
    HandshakeReceived,
    IDialect,
    Ignored,
)
from relayd.wire.messages import NO_UTF8, Unsent

NAME: Final = "native"


def url(server: str, proxy_id: str, api_key: str, path: str = PROXY_PATH) -> str:
    """
    The URL to dial (specification, "connection URL"). It holds the key: log the server's URL instead.

    :param path: what stands after the path of *server*.
    :raises ConfigError: when *server* is no http(s) or ws(s) URL.
    """
    return websocket_url(server, path, {"proxyId": proxy_id, "apiKey": api_key})


class _Frame(msgspec.Struct):
    """Members beyond these two are ignored; so is a frame without an ``event``."""

    event: Any = None
    data: Any = None


_decoder = msgspec.json.Decoder(_Frame)

#: White space of JSON (RFC 8259, section 2), and with it what else may stand before a text.
_SPACE: Final = " \t\r\n"
_BEFORE: Final = (*_SPACE, "\ufeff")
#: Characters of a text that may be ignored: a larger one is no greeting, and to read it took its time.
_LONGEST_IGNORED: Final = 64 * 1024
#: A line that is not blank, and how many of them are taken in one message.
_LINE: Final = re.compile(r"[^\r\n]*[^\s][^\r\n]*")
_MOST_LINES: Final = 1024


@implementer(IDialect)
class NativeDialect(FrameQueue):
    """Both roles: the wire is the same in both directions."""

    name = NAME
    max_payload = NO_LIMIT

    def opened(self) -> Sequence[DialectEvent]:
        """The WebSocket's own handshake is all there is."""
        return (HandshakeReceived(heartbeat=None), Connected())

    def receive_text(self, text: str) -> Sequence[DialectEvent]:
        """
        One text message: an event, perhaps after a byte order mark, or anything else, which hand-written servers send
        as a greeting or to see whether somebody is there.

        :raises ProtocolError: when it is a large text that is no JSON, or the greeting of a Socket.IO server.
        """
        if text.startswith(_BEFORE):
            text = text.removeprefix("\ufeff").lstrip(_SPACE)
        if not text.startswith("{"):
            if text.startswith('0{"sid"'):
                raise ProtocolError(reason="the greeting of a Socket.IO server, which is the other dialect")
            return (Ignored("a text that is not a JSON object", strange=True),)
        try:
            frame: _Frame = StrictJSON.loads(text, _decoder)
        except ProtocolError:
            if text.endswith("\0"):  # as in C
                return self.receive_text(text.rstrip("\0"))
            if 1 < len(lines := _LINE.findall(text)) <= _MOST_LINES:
                return self._receive_lines(lines)
            if len(text) > _LONGEST_IGNORED:
                raise
            return (Ignored("a text that begins like a JSON object but is not one", strange=True),)
        if isinstance(frame.event, str) and 0 < len(frame.event) <= MAX_NAME:
            return (EventReceived(frame.event, frame.data),)
        return (Ignored("JSON without the name of an event, or with one that is too long", strange=True),)

    def _receive_lines(self, lines: list[str]) -> Sequence[DialectEvent]:
        """Servers that were not read for a while send what waited as the lines of one message."""
        events: list[DialectEvent] = []
        for line in lines:
            try:
                events += self.receive_text(line)
            except ProtocolError as error:
                return (*events, Broken(str(error.fields["reason"])))
        return events

    def receive_binary(self, data: bytes) -> Sequence[DialectEvent]:
        """
        One binary message: some servers send what should be a text so, and some not in UTF-8.

        Where a character set cannot be told, what is not ASCII in an event cannot be read; the rest can.
        """
        try:
            return self.receive_text(data.decode(json.detect_encoding(data)))
        except UnicodeDecodeError:
            text = data.decode("utf-8", "replace")
        if not text.startswith("{"):
            return (Ignored("a binary message that is not UTF-8", strange=True),)
        return [_with_unread(event) for event in self.receive_text(text)]

    def abandon(self, number: int) -> Sequence[DialectEvent]:
        """Nothing: on this wire an event is one message."""
        return ()

    def send_event(self, name: str, data: object) -> None:
        """Queue one event for the peer."""
        self._frames.append(StrictJSON.dumps({"event": name, "data": data}))

    def acknowledge(self, ack_id: int, data: object | None) -> None:
        """Nothing: no event asks for it on this wire."""

    def ping(self) -> None:
        """Nothing: WebSocket pings keep this link."""

    def close(self) -> None:
        """Nothing: the WebSocket's closing handshake says it."""


def _with_unread(event: DialectEvent) -> DialectEvent:
    """*event*, and in it, where bytes could not be read, what says so: nothing else may be run in their place."""
    if not isinstance(event, EventReceived):
        return event
    around = [event.data]
    waiting: list[Any] = [around]
    while waiting:
        within = waiting.pop()
        for key, value in within.items() if isinstance(within, dict) else enumerate(within):
            if isinstance(value, str) and "\N{REPLACEMENT CHARACTER}" in value:
                within[key] = Unsent(NO_UTF8)
            elif isinstance(value, (dict, list)):
                waiting.append(value)
    return replace(event, data=around[0])


class NativeRelayDialect(NativeDialect):
    """The role that dials."""


class NativeServerDialect(NativeDialect):
    """The role that is dialled."""

    def request(self, name: str, data: object) -> int | None:
        """
        Queue an event that should be acknowledged.

        :return: ``None``: this wire has no acknowledgements.
        """
        self.send_event(name, data)
        return None

    def refuse(self, reason: str) -> None:
        """Nothing: this wire has no words for it, so the caller closes the WebSocket."""
