"""
The native dialect: one JSON text message ``{"event": name, "data": …}`` an event, over a plain WebSocket.

The specification gives the URL and the events but no framing; this is the one of Nest's ``WsAdapter``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from zope.interface import implementer

from relayd.dialects.base import MAX_NAME, NO_LIMIT, PROXY_PATH, Outbox, StrictJSON, websocket_url
from relayd.interfaces import Connected, DialectEvent, EventReceived, HandshakeReceived, IDialect, Ignored

NAME: Final = "native"


def url(server: str, proxy_id: str, api_key: str) -> str:
    """
    The URL to dial (specification, "connection URL"). It holds the key: log the server's URL instead.

    :raises ConfigError: when *server* is no http(s) or ws(s) URL.
    """
    return websocket_url(server, PROXY_PATH, {"proxyId": proxy_id, "apiKey": api_key})


class _Frame(msgspec.Struct):
    """Members beyond these two are ignored; so is a frame without an ``event``."""

    event: Any = None
    data: Any = None


_decoder = msgspec.json.Decoder(_Frame)


@implementer(IDialect)
class NativeDialect(Outbox):
    """Both roles: the wire is the same in both directions."""

    name = NAME
    max_payload = NO_LIMIT

    def opened(self) -> Sequence[DialectEvent]:
        """The WebSocket's own handshake is all there is."""
        return (HandshakeReceived(heartbeat=None), Connected())

    def receive_text(self, text: str) -> Sequence[DialectEvent]:
        """
        One text message: an event, or JSON of another shape, which hand-written servers send as a greeting.

        :raises ProtocolError: when it is no JSON.
        """
        if text.lstrip(" \t\r\n").startswith("{"):
            frame: _Frame = StrictJSON.loads(text, _decoder)
            if isinstance(frame.event, str) and 0 < len(frame.event) <= MAX_NAME:
                return (EventReceived(frame.event, frame.data),)
        else:
            StrictJSON.loads(text)
        return (Ignored("JSON that names no event, or one of too many characters"),)

    def receive_binary(self, data: bytes) -> Sequence[DialectEvent]:
        """Ignored: events are text."""
        return (Ignored("a binary message"),)

    def send_event(self, name: str, data: object) -> None:
        """Queue one event for the peer."""
        self._frames.append(StrictJSON.dumps({"event": name, "data": data}))

    def acknowledge(self, ack_id: int, data: object | None) -> None:
        """Nothing: no event asks for it on this wire."""

    def ping(self) -> None:
        """Nothing: WebSocket pings keep this link."""

    def close(self) -> None:
        """Nothing: the WebSocket's closing handshake says it."""


class RelayDialect(NativeDialect):
    """The role that dials."""


class ServerDialect(NativeDialect):
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
