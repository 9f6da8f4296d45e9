"""
One relay's WebSocket at the main server: both dialects on one port, the key checked, dead links found.
"""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Protocol

from autobahn.twisted.websocket import WebSocketServerFactory
from autobahn.util import encode_truncate
from autobahn.websocket.types import ConnectionDeny, ConnectionRequest
from msgspec import Struct
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from relayd.errors import InvalidMessage, ProtocolError
from relayd.hub.doorway import Doorway
from relayd.hub.wire import BoundedServer
from relayd.interfaces import (
    AckReceived,
    Broken,
    Connected,
    DialectEvent,
    Disconnected,
    EventReceived,
    Ignored,
)
from relayd.language.texts import printable, span
from relayd.wire.dialects import native, socketio
from relayd.wire.messages import (
    COMMAND_OUTPUT,
    COMMAND_RESULT,
    COMMAND_RESULT_RECEIVED,
    COMMAND_STATUS,
    EXECUTE_COMMAND,
    CommandOutput,
    CommandResult,
    CommandStatus,
    ExecuteCommand,
)
from relayd.wire.parsing import parse_command_output, parse_command_result, parse_command_status

ServerDialect = native.ServerDialect | socketio.ServerDialect

#: Bytes of a frame that is still coming in that count as a sign of life, as at the relay's side.
LEAST_PROGRESS = 4096

#: WebSocket close codes (RFC 6455, section 7.4.1).
_NORMAL, _GOING_AWAY, _PROTOCOL_ERROR = 1000, 1001, 1002


class HubSettings(Struct, frozen=True, kw_only=True):
    """
    :ivar ping_interval: seconds between two heartbeats.
    :ivar ping_timeout: seconds that a relay has to show a sign of life after one.
    :ivar write_timeout: seconds that a relay may take nothing of what is sent to it.
    :ivar join_timeout: seconds that a connection has to become a relay's.
    :ivar max_joining: connections at a time that have not become a relay's yet.
    :ivar max_payload: bytes in the largest message taken from a relay.
    :ivar result_timeout: seconds that a result may take where neither caller nor command say.
    :ivar grace: seconds added to that, for the way there and back.
    :ivar answer_timeout: seconds that a relay has to answer a question.
    """

    ping_interval: float = 25.0
    ping_timeout: float = 20.0
    write_timeout: float = 120.0
    join_timeout: float = 10.0
    max_joining: int = 1000
    max_payload: int = 16 * 2**20
    result_timeout: float = 30.0
    grace: float = 5.0
    answer_timeout: float = 10.0


class RelayListener(Protocol):
    """What the connections ask of the main server and tell it."""

    def accepts(self, proxy_id: str, api_key: str) -> bool:
        """Whether this is that relay's key."""

    def relay_connected(self, link: RelayConnection) -> None:
        """``link.proxy_id`` has joined, with the right key."""

    def relay_lost(self, link: RelayConnection) -> None:
        """That link is gone. Called once for each `relay_connected`."""

    def result_received(self, link: RelayConnection, result: CommandResult) -> None:
        """A result came, and has been confirmed."""

    def output_received(self, link: RelayConnection, output: CommandOutput) -> None:
        """A piece of the output of a command that runs."""

    def status_received(self, link: RelayConnection, status: CommandStatus) -> None:
        """The relay says how far it has come with a command, without an acknowledgement."""

    def ack_received(self, link: RelayConnection, ack_id: int, data: object) -> None:
        """The relay acknowledged what `RelayConnection.send_command` or `RelayConnection.ask` gave that number."""

    def connection_closed(self) -> None:
        """A connection has ended, whether it was a relay's or not."""


class RelayConnection(BoundedServer):
    """
    One connection, from the TCP accept to its end.

    :ivar proxy_id: whose it is, or claims to be until `RelayListener.relay_connected`.
    """

    _log = Logger("relayd.hub")
    factory: RelayConnectionFactory
    transport: Any

    def __init__(self, clock: IReactorTime, listener: RelayListener, settings: HubSettings) -> None:
        super().__init__()
        self._clock = clock
        self._listener = listener
        self._settings = settings
        self.proxy_id = ""
        self._dialect: ServerDialect = native.ServerDialect()
        self._authentic = False
        self._joined = False
        #: Why we turned the handshake down, in words without anything from the request.
        self._denial = ""
        #: Whether anything arrived since the last heartbeat.
        self._heard = True
        #: Bytes since the last sign of life.
        self._progress = 0
        #: When the relay last took some of what waits for it.
        self._last_taken = 0.0
        self._heartbeat: IDelayedCall | None = None
        self._join_deadline: IDelayedCall | None = None

    @property
    def dialect(self) -> str:
        """``socketio`` or ``native``."""
        return self._dialect.name

    # What the main server does with it

    def send_command(self, command: ExecuteCommand) -> int | None:
        """
        Send ``execute_command``.

        :return: the number that its acknowledgement will carry, where the dialect has such.
        """
        return self._order(EXECUTE_COMMAND, command.to_wire())

    def ask(self, event: str, command_id: str) -> int | None:
        """
        Send ``cancel_command`` or ``command_status``.

        :return: as `send_command`.
        """
        return self._order(event, {"commandId": command_id})

    def _order(self, event: str, data: object) -> int | None:
        """However much of this waits, what the relay sends meanwhile is read."""
        ack_id = self._dialect.request(event, data)
        self._answering = False
        try:
            self._flush()
        finally:
            self._answering = True
        return ack_id

    def shut(self, reason: str, *, going_away: bool = False) -> None:
        """Close the connection in the dialect's own way; autobahn enforces it after some seconds."""
        if self.state in (self.STATE_CONNECTING, self.STATE_CLOSED):
            self.transport.abortConnection()
            return
        self._dialect.close()
        self._flush()
        self._end(_GOING_AWAY if going_away else _NORMAL, reason)

    # The handshake

    def connectionMade(self) -> None:
        self.factory.connections.add(self)
        self._join_deadline = self._clock.callLater(self._settings.join_timeout, self._not_joined)
        super().connectionMade()
        host = getattr(self.transport.getPeer(), "host", "")
        leaving = self.factory.doorway.enter(self, host, self._clock.seconds())
        if leaving is not None:
            leaving.transport.abortConnection()
        # autobahn asks for it before the transport can, and swallows the error: an acknowledgement and a result
        # in two small frames would then cost 40 ms
        if hasattr(self.transport, "setTcpNoDelay"):
            self.transport.setTcpNoDelay(True)

    def onConnect(self, request: ConnectionRequest) -> None:
        """
        Choose the dialect by the path and check the key.

        :raises ConnectionDeny: with an HTTP status and a reason without anything from the request, which holds the key.
        """
        self.proxy_id = _only(request.params, "proxyId")
        if request.path.rstrip("/") == "/socket.io":
            if _only(request.params, "EIO") != "4":
                self._deny(400, "Only revision 4 of the Engine.IO protocol is spoken here: use Socket.IO 3 or later.")
            if _only(request.params, "transport") != "websocket":
                self._deny(400, "Only the websocket transport is spoken here: use transport=websocket.")
            self._dialect = socketio.ServerDialect(
                ping_interval=self._settings.ping_interval,
                ping_timeout=self._settings.ping_timeout,
                accepts=self._settings.max_payload,
            )
        elif request.path.rstrip("/") != "/proxy":
            self._deny(404, "Relays connect to /proxy, or with Socket.IO to /socket.io/.")
        self._authentic = self._listener.accepts(self.proxy_id, _only(request.params, "apiKey"))
        if not self._authentic and isinstance(self._dialect, native.ServerDialect):
            self._deny(401, "The proxyId or the apiKey is wrong.")

    def _deny(self, status: int, reason: str) -> None:
        self._denial = reason
        raise ConnectionDeny(status, reason)

    def failHandshake(self, reason: str, code: int = 400, responseHeaders: Any = None) -> None:
        """
        Overridden because autobahn logs and echoes *reason*, which can quote the request line with the key, and
        because its answers have no body.
        """
        if code == HTTPStatus.UPGRADE_REQUIRED and self.http_request_path.startswith("/socket.io"):
            code = HTTPStatus.BAD_REQUEST
            self._denial = "The polling transport is not supported here: use transport=websocket."
        text = self._denial or HTTPStatus(code).phrase
        self.wasNotCleanReason = text
        self._log.info("Refused a connection from {peer}: {code} {reason}", peer=self.peer, code=int(code), reason=text)
        body = text.encode() + b"\n"
        headers = [
            *(responseHeaders or ()),
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Length", len(body)),
            ("Connection", "close"),
        ]
        self.sendHttpErrorResponse(int(code), HTTPStatus(code).phrase, headers)
        self.sendData(body)
        self.wasClean = True  # an answer given is no broken connection: autobahn would warn
        self.dropConnection(abort=False)

    def onOpen(self) -> None:
        super().onOpen()
        self._beat_later(self._settings.ping_interval)
        self._handle(self._dialect.opened())

    def _not_joined(self) -> None:
        self._join_deadline = None
        self._drop(f"it did not join within {span(self._settings.join_timeout)}")
        self.transport.abortConnection()  # where it was closed already, but the peer does not let go

    # Heartbeats: the dialect's where it has such, otherwise the WebSocket's own. Whatever arrives is a sign of
    # life, but for single bytes of a frame that does not end.

    def dataReceived(self, data: bytes) -> None:
        self._progress += len(data)
        if self._progress >= LEAST_PROGRESS:
            self._alive()
        super().dataReceived(data)

    def onFrameEnd(self) -> bool | None:
        self._alive()
        return super().onFrameEnd()

    def _alive(self) -> None:
        self._heard = True
        self._progress = 0

    def _beat_later(self, seconds: float) -> None:
        self._heartbeat = self._clock.callLater(seconds, self._beat)

    def _beat(self) -> None:
        self._heard = False
        if isinstance(self._dialect, native.ServerDialect):
            self.sendPing()
        else:
            self._dialect.ping()
            self._flush()
        self._heartbeat = self._clock.callLater(self._settings.ping_timeout, self._check_heartbeat)

    def on_full(self) -> None:
        self._last_taken = self._clock.seconds()

    def on_taken(self) -> None:
        self._last_taken = self._clock.seconds()
        super().on_taken()

    def _check_heartbeat(self) -> None:
        self._heartbeat = None
        if not self.flow.writable and self._clock.seconds() - self._last_taken >= self._settings.write_timeout:
            self._drop(f"it read nothing of what was sent to it for {span(self._settings.write_timeout)}")
        elif self._heard or self.deaf:  # what is not read proves nothing
            self._beat_later(max(0.0, self._settings.ping_interval - self._settings.ping_timeout))
        else:
            self._drop(f"it was silent for {span(self._settings.ping_timeout)}")

    def _drop(self, reason: str) -> None:
        self.wasNotCleanReason = reason
        self.dropConnection(abort=True)

    # What arrives

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        try:
            dialect = self._dialect
            # autobahn has checked that a text is UTF-8
            events = dialect.receive_binary(payload) if isBinary else dialect.receive_text(payload.decode())
        except ProtocolError as error:
            self._break(str(error.fields["reason"]))
        else:
            self._handle(events)

    def _break(self, reason: str) -> None:
        self._log.warn("Closing {proxy_id}: it sent {reason}", proxy_id=self._shown_id, reason=reason)
        self._flush()
        self._end(_PROTOCOL_ERROR, reason)

    def _handle(self, events: Sequence[DialectEvent]) -> None:
        for event in events:
            if isinstance(event, Connected):
                self._join()
            elif isinstance(event, EventReceived):
                self._event(event)
            elif isinstance(event, AckReceived):
                self._listener.ack_received(self, event.ack_id, event.data)
            elif isinstance(event, Disconnected):
                self._end(_NORMAL, "")
            elif isinstance(event, Broken):
                self._break(event.reason)
            elif isinstance(event, Ignored):
                self._log.debug("Ignored from {proxy_id}: {what}", proxy_id=self._shown_id, what=event.what)
        self._flush()

    def _join(self) -> None:
        if not self._authentic:
            # what the known main servers do: the namespace is joined first, then comes the disconnect packet
            self._log.warn("Refused relay {proxy_id} from {peer}", proxy_id=self._shown_id, peer=self.peer)
            self._dialect.refuse("The proxyId or the apiKey is wrong.")
            self._flush()
            self._end(_NORMAL, "")
            return
        if self._join_deadline is not None:
            self._join_deadline.cancel()
            self._join_deadline = None
        self.factory.doorway.leave(self)
        self._joined = True
        self.trust()
        self._flush()  # the answer to its joining goes before any command
        self._listener.relay_connected(self)

    def _event(self, event: EventReceived) -> None:
        try:
            if event.name == COMMAND_RESULT:
                self._result(event.data)
            elif event.name == COMMAND_OUTPUT:
                self._listener.output_received(self, parse_command_output(event.data))
            elif event.name == COMMAND_STATUS:
                self._listener.status_received(self, parse_command_status(event.data))
            else:
                name = printable(event.name, 80)
                self._log.debug("Ignored from {proxy_id}: event {name}", proxy_id=self._shown_id, name=name)
        except InvalidMessage as error:
            self._log.warn("From {proxy_id}: {error}", proxy_id=self._shown_id, error=str(error))
            if event.name == COMMAND_RESULT:
                self._confirm({"success": False, "error": str(error)}, error.command_id)

    def _result(self, data: object) -> None:
        result = parse_command_result(data)
        # confirmed even when nobody waits for it any more: the relay would send it again for ever
        self._confirm({"success": True}, result.command_id)
        self._listener.result_received(self, result)

    def _confirm(self, receipt: dict[str, object], command_id: str | None) -> None:
        if command_id is not None:
            receipt["commandId"] = command_id
        self._dialect.send_event(COMMAND_RESULT_RECEIVED, receipt)
        self._flush()

    def _flush(self) -> None:
        for frame in self._dialect.frames_to_send():
            if self.state == self.STATE_OPEN:  # autobahn raises once the closing handshake has begun
                self.sendMessage(frame.encode())

    @property
    def _shown_id(self) -> str:
        return printable(self.proxy_id, 80)

    # The end

    def _end(self, code: int, reason: str) -> None:
        """Begin the closing handshake. autobahn's `sendClose` refuses the codes that are a server's to send."""
        self.flow.end()
        self.sendCloseFrame(code, encode_truncate(reason, 123))

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        for timer in (self._heartbeat, self._join_deadline):
            if timer is not None and timer.active():
                timer.cancel()
        if self._joined:
            self._joined = False
            self._log.info(
                "Relay {proxy_id} is gone: {reason}",
                proxy_id=self._shown_id,
                reason="it closed the connection" if wasClean else printable(str(self.wasNotCleanReason), 200),
            )
            self._listener.relay_lost(self)
        self.factory.doorway.leave(self)
        self.factory.connections.discard(self)
        self._listener.connection_closed()


class RelayConnectionFactory(WebSocketServerFactory):
    """Makes the connections of one main server, and bounds what they take."""

    noisy = False

    def __init__(self, reactor: IReactorTime, listener: RelayListener, settings: HubSettings) -> None:
        super().__init__(reactor=reactor, server="")
        self.setProtocolOptions(
            webStatus=False,
            maxFramePayloadSize=settings.max_payload,
            maxMessagePayloadSize=settings.max_payload,
            # autobahn's own timers are cut to whole seconds, so they come up to a second early
            openHandshakeTimeout=0,
            closeHandshakeTimeout=3,
            failByDrop=False,  # say with a close code what was wrong: too big, not UTF-8, a protocol error
        )
        # permessage-deflate is refused by default: no `perMessageCompressionAccept` is set
        self.protocol = lambda: RelayConnection(reactor, listener, settings)  # type: ignore[assignment]
        #: Those that have not joined yet.
        self.doorway: Doorway[RelayConnection] = Doorway(settings.max_joining)
        #: Every connection that is not closed yet.
        self.connections: set[RelayConnection] = set()


def _only(parameters: dict[str, list[str]], name: str) -> str:
    """The value of a query parameter that stands there exactly once, otherwise the empty string."""
    values = parameters.get(name, [])
    return values[0] if len(values) == 1 else ""
