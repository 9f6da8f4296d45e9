"""
The WebSocket's opening handshake: its request says which dialect is spoken, which relay connects, and with which key.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any, NoReturn

from autobahn.websocket.types import ConnectionDeny, ConnectionRequest
from twisted.logger import Logger

from relayd.hub.links.bounded_server import BoundedServer
from relayd.hub.settings import HubSettings
from relayd.language.texts import printable
from relayd.wire.dialects import native, socketio

_log = Logger("relayd.hub")

ServerDialect = native.NativeServerDialect | socketio.SocketIOServerDialect


class HandshakeServer(BoundedServer):
    """
    A connection until its WebSocket is open: chooses the dialect, checks the key, and says in words what it refuses.

    :param accepts: whether a ``proxyId`` and an ``apiKey`` belong together.
    :ivar proxy_id: the relay that the request names; only `_authentic` says whether that is true.
    """

    def __init__(self, accepts: Callable[[str, str], bool], settings: HubSettings) -> None:
        super().__init__()
        self.proxy_id = ""
        self._accepts = accepts
        self._settings = settings
        self._dialect: ServerDialect = native.NativeServerDialect()
        #: Whether the key was right.
        self._authentic = False
        #: Why the handshake was refused, without anything from the request.
        self._denial = ""

    @property
    def dialect(self) -> str:
        """``socketio`` or ``native``."""
        return self._dialect.name

    @property
    def shown_id(self) -> str:
        """`proxy_id` for the log."""
        return printable(self.proxy_id, 80)

    def onConnect(self, request: ConnectionRequest) -> None:
        """
        Choose the dialect by the path, and check the key.

        :raises ConnectionDeny: with an HTTP status and a reason without anything from the request, which holds the key.
        """
        self.proxy_id = _only(request.params, "proxyId")
        path = request.path.rstrip("/")
        if path == "/socket.io":
            self._dialect = self._socketio(request)
        elif path != "/proxy":
            self._deny(404, "Relays connect to /proxy, or with Socket.IO to /socket.io/.")
        self._authentic = self._accepts(self.proxy_id, _only(request.params, "apiKey"))
        # A relay that speaks Socket.IO is refused after it has joined, as the known main servers do.
        if not self._authentic and isinstance(self._dialect, native.NativeServerDialect):
            self._deny(401, "The proxyId or the apiKey is wrong.")

    def _socketio(self, request: ConnectionRequest) -> socketio.SocketIOServerDialect:
        if _only(request.params, "EIO") != "4":
            self._deny(400, "Only revision 4 of the Engine.IO protocol is supported here: use Socket.IO 3 or later.")
        if _only(request.params, "transport") != "websocket":
            self._deny(400, "Only the websocket transport is supported here: use transport=websocket.")
        return socketio.SocketIOServerDialect(
            ping_interval=self._settings.ping_interval,
            ping_timeout=self._settings.ping_timeout,
            accepts=self._settings.max_payload,
        )

    def _deny(self, status: int, reason: str) -> NoReturn:
        self._denial = reason
        raise ConnectionDeny(status, reason)

    def failHandshake(self, reason: str, code: int = 400, responseHeaders: Any = None) -> None:
        """
        Respond by HTTP, and log.  Overridden because autobahn logs and echoes *reason*, which can quote the request
        line with the key, and because its responses have no body.
        """
        if code == HTTPStatus.UPGRADE_REQUIRED and self.http_request_path.startswith("/socket.io"):
            code = HTTPStatus.BAD_REQUEST
            self._denial = "The polling transport is not supported here: use transport=websocket."
        text = self._denial or HTTPStatus(code).phrase
        self.wasNotCleanReason = text
        _log.info("Refused a connection from {peer}: {code} {reason}", peer=self.peer, code=int(code), reason=text)
        body = text.encode() + b"\n"
        headers = [
            *(responseHeaders or ()),
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Length", len(body)),
            ("Connection", "close"),
        ]
        self.sendHttpErrorResponse(int(code), HTTPStatus(code).phrase, headers)
        self.sendData(body)
        self.wasClean = True  # a connection that got its response is not broken: autobahn would warn
        self.dropConnection(abort=False)


def _only(parameters: dict[str, list[str]], name: str) -> str:
    """The value of a query parameter that appears exactly once, otherwise the empty string."""
    values = parameters.get(name, [])
    return values[0] if len(values) == 1 else ""
