"""
The WebSocket's opening handshake: its request says which dialect is spoken, which relay connects, and with which key.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final, NoReturn

from autobahn.websocket.types import ConnectionDeny, ConnectionRequest
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from relayd.hub.links.bounded_server import BoundedServer
from relayd.hub.links.identity import Authenticate, RelayIdentity
from relayd.hub.settings import HubSettings
from relayd.language.texts import printable
from relayd.network.forwarded import client_address
from relayd.wire.dialects import native, socketio

_log = Logger("relayd.hub")

ServerDialect = native.NativeServerDialect | socketio.SocketIOServerDialect


#: Seconds after which a relay whose key cannot be checked now may come again.
_RETRY_AFTER: Final = 5


class HandshakeServer(BoundedServer):
    """
    A connection until its WebSocket is open: chooses the dialect, checks the key, and says in words what it refuses.

    :param authenticate: whether a ``proxyId`` and an ``apiKey`` belong together.
    :ivar proxy_id: the relay that the request names; only `identity` says whether that is true.
    :ivar identity: whose key it was; ``None``: nobody's.
    :ivar address: where the relay comes from, behind proxies that are trusted; empty where that is not known.
    """

    def __init__(self, authenticate: Authenticate, settings: HubSettings) -> None:
        super().__init__()
        self.proxy_id = ""
        self.identity: RelayIdentity | None = None
        self.address = ""
        self._authenticate = authenticate
        self._settings = settings
        self._dialect: ServerDialect = native.NativeServerDialect()
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

    def onConnect(self, request: ConnectionRequest) -> Any:
        """
        Choose the dialect by the path, and check the key.

        :return: a Deferred that fires when the WebSocket may be opened; never, if the connection ends before.
        :raises ConnectionDeny: with an HTTP status and a reason without anything from the request, which holds the key.
        """
        self.proxy_id = _only(request.params, "proxyId")
        path = request.path.rstrip("/")
        if path == "/socket.io":
            self._dialect = self._socketio(request)
        elif path != "/proxy":
            self._deny(404, "Relays connect to /proxy, or with Socket.IO to /socket.io/.")
        self.address = client_address(
            str(getattr(self.transport.getPeer(), "host", "")),
            request.headers.get("x-forwarded-for", ""),
            self._settings.trusted_proxies,
        )
        may_open: Deferred[None] = Deferred()
        self.hold("its key is being checked", True)
        checking = self._authenticate(self.proxy_id, _only(request.params, "apiKey"), self.address)
        checking.addBoth(self._checked, may_open)
        checking.addErrback(lambda why: _log.failure("A connection could not be answered", failure=why))
        return may_open

    def _checked(self, outcome: RelayIdentity | Failure | None, may_open: Deferred[None]) -> None:
        if self.state != self.STATE_CONNECTING:  # it has ended meanwhile
            return
        try:
            if isinstance(outcome, Failure):
                _log.failure("The key of {proxy_id} could not be checked", failure=outcome, proxy_id=self.shown_id)
                self._deny(503, "The key cannot be checked now.")
            self.identity = outcome
            # A relay that speaks Socket.IO is refused after it has joined, as the known main servers do.
            if outcome is None and isinstance(self._dialect, native.NativeServerDialect):
                self._deny(401, "The proxyId or the apiKey is wrong.")
        except ConnectionDeny:
            may_open.errback()
        else:
            may_open.callback(None)
        self.hold("its key is being checked", False)

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
            *((("Retry-After", _RETRY_AFTER),) if code == HTTPStatus.SERVICE_UNAVAILABLE else ()),
        ]
        self.sendHttpErrorResponse(int(code), HTTPStatus(code).phrase, headers)
        self.sendData(body)
        self.wasClean = True  # a connection that got its response is not broken: autobahn would warn
        self.dropConnection(abort=False)


def _only(parameters: dict[str, list[str]], name: str) -> str:
    """The value of a query parameter that appears exactly once, otherwise the empty string."""
    values = parameters.get(name, [])
    return values[0] if len(values) == 1 else ""
