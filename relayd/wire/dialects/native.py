"""
The native dialect: one JSON text message ``{"event": name, "data": …}`` for each event, over a plain WebSocket.

The specification gives the URL and the events but no framing; this is the framing of Nest's ``WsAdapter``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec.structs import replace
from zope.interface import implementer

from relayd.errors import ProtocolError
from relayd.wire.dialects.codec import (
    MAX_NAME,
    NO_LIMIT,
    PROXY_PATH,
    FrameQueue,
    check_cost,
    json_encoder,
    read_json,
    websocket_url,
)
from relayd.wire.dialects.events import (
    Broken,
    Connected,
    DialectEvent,
    EventReceived,
    HandshakeReceived,
    IDialect,
    Ignored,
)
from relayd.wire.unsent import NO_UTF8, Unsent

NAME: Final = "native"


def url(server: str, proxy_id: str, api_key: str, path: str = PROXY_PATH) -> str:
    """
    The URL to dial (specification, "connection URL"). It holds the key: log the server's URL instead.

    :param path: the path after that of *server*.
    :raises ConfigError: when *server* is not an http(s) or ws(s) URL.
    """
    return websocket_url(server, path, {"proxyId": proxy_id, "apiKey": api_key})


class _Frame(msgspec.Struct):
    """One message. Members other than these two are ignored, and so is a message without an ``event``."""

    event: Any = None
    data: Any = None


_decoder = msgspec.json.Decoder(_Frame)

#: White space of JSON (RFC 8259, section 2), and what else may come before a text.
_SPACE: Final = " \t\r\n"
_BEFORE: Final = (*_SPACE, "\ufeff")
#: Characters that an ignored text may have: a longer one is not a greeting, and reading it takes time.
_LONGEST_IGNORED: Final = 64 * 1024
#: Lines that are not blank, and breaks of lines, which one message may have.
_MOST_LINES: Final = 1024
_MOST_BREAKS: Final = 8 * _MOST_LINES
#: Zeros after a text.
_MOST_ZEROS: Final = 64


@implementer(IDialect)
class NativeDialect(FrameQueue):
    """What both ends do: the messages are the same in both directions."""

    name = NAME
    max_payload = NO_LIMIT

    def opened(self) -> Sequence[DialectEvent]:
        """Events can flow at once: there is no handshake but the WebSocket's."""
        return (HandshakeReceived(heartbeat=None), Connected())

    def receive_text(self, text: str) -> Sequence[DialectEvent]:
        """
        Read one text message: an event, perhaps after a byte order mark, or anything else, which hand-written servers
        send as a greeting or as a ping.

        :raises ProtocolError: when it is a large text that is not JSON, or the greeting of a Socket.IO server.
        """
        if text.startswith(_BEFORE):
            text = _without_space(text.removeprefix("\ufeff"))
        if not text.startswith("{"):
            if text.startswith('0{"sid"'):
                raise ProtocolError(reason="the greeting of a Socket.IO server, which is the other dialect")
            return (Ignored("a text that is not a JSON object", strange=True),)
        try:
            frame: _Frame = read_json(text, _decoder)
        except ProtocolError:
            if text.endswith("\0") and (shorter := _without_zeros(text)):  # as in C
                return self.receive_text(shorter)
            lines = _lines(text)
            if 1 < len(lines) <= _MOST_LINES:
                return self._receive_lines(lines)
            if len(text) > _LONGEST_IGNORED:
                raise
            return (Ignored("a text that begins like a JSON object but is not one", strange=True),)
        if isinstance(frame.event, str) and 0 < len(frame.event) <= MAX_NAME:
            return (EventReceived(frame.event, frame.data),)
        return (Ignored("JSON without the name of an event, or with one that is too long", strange=True),)

    def _receive_lines(self, lines: list[str]) -> Sequence[DialectEvent]:
        """Read the lines of one message: some servers join messages that had to wait."""
        events: list[DialectEvent] = []
        check_cost(lines)
        for line in lines:
            try:
                events += self.receive_text(line)
            except ProtocolError as error:
                return (*events, Broken(str(error.fields["reason"])))
        return events

    def receive_binary(self, data: bytes) -> Sequence[DialectEvent]:
        """
        Read one binary message: some servers send texts as binary messages, and some of them not in UTF-8.

        Where the character set is unknown, strings of an event that are not ASCII become `Unsent`; the rest is read.
        """
        try:
            return self.receive_text(data.decode(json.detect_encoding(data)))
        except UnicodeDecodeError:
            text = data.decode("utf-8", "replace")
        if not text.startswith("{"):
            return (Ignored("a binary message that is not UTF-8", strange=True),)
        return [_with_unread(event) for event in self.receive_text(text)]

    def abandon(self, number: int) -> Sequence[DialectEvent]:
        """Nothing: in this dialect an event is one message."""
        return ()

    def send_event(self, name: str, data: object) -> None:
        """Queue one event for the peer."""
        self._frames.append(self.event_frame(name, data).decode())

    def event_frame(self, name: str, data: object) -> bytes:
        """See `IDialect.event_frame`."""
        return json_encoder.encode({"event": name, "data": data})

    def acknowledge(self, ack_id: int, data: object | None) -> None:
        """Nothing: this dialect has no acknowledgements."""

    def ping(self) -> None:
        """Nothing: WebSocket pings keep this link."""

    def close(self) -> None:
        """Nothing: the WebSocket's closing handshake says it."""


def _without_space(text: str) -> str:
    """*text* without the white space before it, or without any text if that is long: to look through it takes time."""
    begin = text[:_LONGEST_IGNORED].lstrip(_SPACE)
    return begin + text[_LONGEST_IGNORED:] if begin else ""


def _without_zeros(text: str) -> str | None:
    """*text* without the zeros after it; ``None``: they are many."""
    shorter = text[:-_MOST_ZEROS] + text[-_MOST_ZEROS:].rstrip("\0")
    return None if shorter.endswith("\0") else shorter


def _lines(text: str) -> list[str]:
    """The lines that are not blank; none where there are too many."""
    if text.count("\n") + text.count("\r") > _MOST_BREAKS:
        return []
    return [line for line in text.replace("\r", "\n").split("\n") if line and not line.isspace()]


def _with_unread(event: DialectEvent) -> DialectEvent:
    """*event* with `Unsent` in place of strings that could not be read: nothing else must be run in their place."""
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
    """The relay's end."""


class NativeServerDialect(NativeDialect):
    """The main server's end."""

    def request(self, name: str, data: object) -> int | None:
        """
        Queue an event that should be acknowledged.

        :return: ``None``: this dialect has no acknowledgements.
        """
        self.send_event(name, data)
        return None

    def refuse(self, reason: str) -> None:
        """Nothing: this dialect has no message for it, so the caller closes the WebSocket."""
