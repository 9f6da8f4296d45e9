"""
One relay's connection at the main server: it joins, takes commands, and brings results, in either dialect.  This module
is long as each event of a connection has its method here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

from autobahn.twisted.websocket import WebSocketServerFactory
from autobahn.util import encode_truncate
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from relayd.errors import InvalidMessage, ProtocolError
from relayd.hub.links.doorway import Doorway
from relayd.hub.links.handshake import HandshakeServer
from relayd.hub.links.heartbeat import Heartbeat
from relayd.hub.links.identity import RelayIdentity, RelayProgram
from relayd.hub.links.intake import Intake
from relayd.hub.settings import HubSettings
from relayd.language.texts import printable, span
from relayd.wire.dialects import native
from relayd.wire.dialects.events import (
    AckReceived,
    Broken,
    Connected,
    DialectEvent,
    Disconnected,
    EventReceived,
    Ignored,
)
from relayd.wire.messages import (
    CHECK_COMMAND,
    COMMAND_OUTPUT,
    COMMAND_RESULT,
    COMMAND_RESULT_RECEIVED,
    COMMAND_STATUS,
    EXECUTE_COMMAND,
    MAX_COMMAND_ID,
    RELAY_INFO,
    CommandOutput,
    CommandResult,
    CommandStatus,
    ExecuteCommand,
)
from relayd.wire.parsing import (
    parse_command_output,
    parse_command_result,
    parse_command_status,
    parse_policy_answer,
)
from relayd.wire.policy_answer import PolicyAnswer

_log = Logger("relayd.hub")

#: WebSocket close codes (RFC 6455, section 7.4.1, and the IANA registry).
NORMAL: Final = 1000
GOING_AWAY: Final = 1001
SERVICE_RESTART: Final = 1012
_PROTOCOL_ERROR: Final = 1002

#: Characters of results of one relay that may wait to be recorded, before no more is read from it.
MAX_RECORDING: Final = 32 * 1024 * 1024
#: As how many characters a result counts beside its outputs.
_RESULT_SIZE: Final = 4096


class RelayListener(Protocol):
    """What connections ask of the main server, and what they report to it."""

    def authenticate(self, proxy_id: str, api_key: str, address: str) -> Deferred[RelayIdentity | None]:
        """See `relayd.hub.links.identity.Authenticate`."""

    def relay_connected(self, link: RelayConnection) -> None:
        """``link.proxy_id`` has joined, with the right key."""

    def relay_lost(self, link: RelayConnection) -> None:
        """*link* is gone.  Called once for each `relay_connected`."""

    def record(self, link: RelayConnection, result: CommandResult) -> Deferred[object] | None:
        """A result has arrived: its receipt is sent when the Deferred fires, or at once for ``None``."""

    def output_received(self, link: RelayConnection, output: CommandOutput) -> None:
        """A piece of the output of a running command has arrived."""

    def status_received(self, link: RelayConnection, status: CommandStatus) -> None:
        """The relay reports the state of a command, other than in an acknowledgement."""

    def check_received(self, link: RelayConnection, answer: PolicyAnswer) -> None:
        """The relay says what its rules say of a command, other than in an acknowledgement."""

    def info_received(self, link: RelayConnection, data: object) -> None:
        """The relay tells what it is, or that it does not tell it, other than in an acknowledgement."""

    def ack_received(self, link: RelayConnection, ack_id: int, data: object) -> None:
        """The relay acknowledged the event that a `RelayConnection` sent and numbered so."""

    def connection_closed(self) -> None:
        """A connection has ended, whether it had joined or not."""


class RelayConnection(HandshakeServer):
    """
    One connection, from the TCP accept to its end.

    More than 25 methods, as autobahn is adapted by overriding, and each of its events is one.

    :ivar proxy_id: the relay's name, which is only a claim until `RelayListener.relay_connected`.
    :ivar program: what it tells of itself.
    :ivar answered_close: whether it has answered the good-bye, so that its end was alive.
    """

    factory: RelayConnectionFactory
    transport: Any

    def __init__(self, clock: IReactorTime, listener: RelayListener, settings: HubSettings) -> None:
        super().__init__(listener.authenticate, settings)
        self.program = RelayProgram()
        self.answered_close = False
        self._clock = clock
        self._listener = listener
        self._heartbeat = Heartbeat(clock, settings, self, self._ping)
        self._joined = False
        self._join_deadline: IDelayedCall | None = None
        #: Characters of results that are being recorded.
        self._recording = 0
        self._all_recorded: list[Deferred[None]] = []

    @property
    def shown_peer(self) -> str:
        """Where it comes from, for the log."""
        if not self._settings.trusted_proxies or self.address == str(getattr(self.transport.getPeer(), "host", "")):
            return str(self.peer)
        return f"{self.address or 'an unknown address'} through {self.peer}"

    @property
    def journal_id(self) -> str:
        """Names the record of what the program at the other end was sent; empty: none is known."""
        return self.program.journal_id

    @property
    def joins_duplicates(self) -> bool:
        """Whether what was sent to the same `journal_id` before may be sent again: it runs once."""
        return self.program.joins_duplicates

    # What the main server does with it

    def send_command(self, command: ExecuteCommand) -> int | None:
        """
        Send ``execute_command``.

        :return: the number that its acknowledgement will carry; ``None`` where the dialect has no acknowledgements.
        """
        return self.ask(EXECUTE_COMMAND, command.to_wire())

    def ask(self, event: str, data: object) -> int | None:
        """
        Send an event that is answered, or an order: however many wait, what the relay sends meanwhile is read.

        :return: as `send_command`.
        """
        ack_id = self._dialect.request(event, data)
        self._answering = False
        try:
            self._flush()
        finally:
            self._answering = True
        return ack_id

    def shut(self, reason: str, code: int = NORMAL) -> None:
        """
        Close the connection; autobahn enforces it after some seconds.

        :param code: of the close frame. `NORMAL` also tells a relay that speaks Socket.IO that it is not wanted. With
            another one it comes again: common clients stay away once the main server has disconnected them.
        """
        if self.state in (self.STATE_CONNECTING, self.STATE_CLOSED):
            self.transport.abortConnection()
            return
        if code == NORMAL:
            self._dialect.close()
        self._flush()
        self._end(code, reason)

    # The beginning and the end

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.factory.intake.finish(self)
        super().connectionLost(reason)

    def connectionMade(self) -> None:
        self.factory.connections.add(self)
        self._join_deadline = self._clock.callLater(self._settings.join_timeout, self._not_joined)
        super().connectionMade()
        address = getattr(self.transport.getPeer(), "host", "")
        leaving = self.factory.doorway.enter(self, address, self._clock.seconds())
        if leaving is not None:
            leaving.transport.abortConnection()
        # autobahn asks for it before the transport can do it, and swallows the error: an acknowledgement and a result
        # in two small frames would then take 40 ms
        if hasattr(self.transport, "setTcpNoDelay"):
            self.transport.setTcpNoDelay(True)

    def onOpen(self) -> None:
        super().onOpen()
        self._heartbeat.start()
        self._handle(self._dialect.opened())

    def _not_joined(self) -> None:
        self._join_deadline = None
        self.drop(f"it did not join within {span(self._settings.join_timeout)}")
        self.transport.abortConnection()  # where it was closed already, but the peer does not close its side

    # Heartbeats: the dialect's where it has such, otherwise the WebSocket's own

    def dataReceived(self, data: bytes) -> None:
        self._heartbeat.received(len(data))
        if self.state != self.STATE_CLOSED:  # else nobody looks at it, in whichever turn
            self.factory.intake.take(self, data)

    def look_at(self, data: bytes) -> None:
        """See `relayd.hub.links.intake.Sender`."""
        super().dataReceived(data)

    def onFrameEnd(self) -> bool | None:
        self._heartbeat.alive()
        return super().onFrameEnd()

    def _ping(self) -> None:
        if isinstance(self._dialect, native.NativeServerDialect):
            self.sendPing()
        else:
            self._dialect.ping()
            self._flush()

    def on_full(self) -> None:
        self._heartbeat.taken()

    def on_taken(self) -> None:
        self._heartbeat.taken()
        super().on_taken()

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
        _log.warn("Closing {proxy_id}: it sent {reason}", proxy_id=self.shown_id, reason=reason)
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
                self._end(NORMAL, "")
            elif isinstance(event, Broken):
                self._break(event.reason)
            elif isinstance(event, Ignored):
                _log.debug("Ignored from {proxy_id}: {what}", proxy_id=self.shown_id, what=event.what)
        self._flush()

    def _join(self) -> None:
        if self.identity is None:
            # as the known main servers do: the namespace is joined first, then comes the disconnect packet
            _log.warn("Refused relay {proxy_id} from {peer}", proxy_id=self.shown_id, peer=self.peer)
            self._dialect.refuse("The proxyId or the apiKey is wrong.")
            self._flush()
            self._end(NORMAL, "")
            return
        if self._join_deadline is not None:
            self._join_deadline.cancel()
            self._join_deadline = None
        self.factory.doorway.leave(self)
        self._joined = True
        self.trust()
        self._flush()  # the response to its joining goes before any command
        self._listener.relay_connected(self)

    def _event(self, event: EventReceived) -> None:
        try:
            if event.name == COMMAND_RESULT:
                self._result(event.data)
            elif event.name == COMMAND_OUTPUT:
                self._listener.output_received(self, parse_command_output(event.data))
            elif event.name == COMMAND_STATUS:
                self._listener.status_received(self, parse_command_status(event.data))
            elif event.name == CHECK_COMMAND:
                self._listener.check_received(self, parse_policy_answer(event.data))
            elif event.name == RELAY_INFO:
                self._listener.info_received(self, event.data)  # which may be an error, as in an acknowledgement
            else:
                name = printable(event.name, 80)
                _log.debug("Ignored from {proxy_id}: event {name}", proxy_id=self.shown_id, name=name)
        except InvalidMessage as error:
            _log.warn("From {proxy_id}: {error}", proxy_id=self.shown_id, error=str(error))
            if event.name == COMMAND_RESULT:
                self._confirm({"success": False, "error": str(error)}, error.command_id)

    def _result(self, data: object) -> None:
        result = parse_command_result(data)
        recording = self._listener.record(self, result)
        if recording is None:
            self._recorded(result)
            return
        size = result.length + _RESULT_SIZE
        self._count_recording(size)
        recording.addCallbacks(lambda _: self._recorded(result), lambda why: self._unrecorded(result, why))
        recording.addBoth(lambda _: self._count_recording(-size))

    def _count_recording(self, size: int) -> None:
        self._recording += size
        self.pause("its results wait to be recorded", self._recording > MAX_RECORDING)
        if not self._recording:
            waiting, self._all_recorded = self._all_recorded, []
            for each in waiting:
                each.callback(None)

    def when_recorded(self) -> Deferred[None]:
        """A Deferred that fires once no result is being recorded: each has its receipt then.  It can be cancelled."""
        if not self._recording:
            return succeed(None)
        recorded: Deferred[None] = Deferred(self._all_recorded.remove)
        self._all_recorded.append(recorded)
        return recorded

    def _recorded(self, result: CommandResult) -> None:
        # a result that nobody waits for is confirmed too: the relay would send it again for ever
        self._confirm({"success": True}, result.command_id)

    def _unrecorded(self, result: CommandResult, why: Failure) -> None:
        name = printable(result.command_id, MAX_COMMAND_ID)
        _log.failure("The result of {command_id} could not be recorded", failure=why, command_id=name)
        self._confirm({"success": False, "error": "The main server could not record the result."}, result.command_id)

    def _confirm(self, receipt: dict[str, object], command_id: str | None) -> None:
        if command_id is not None:
            receipt["commandId"] = command_id
        self._dialect.send_event(COMMAND_RESULT_RECEIVED, receipt)
        self._flush()

    def _flush(self) -> None:
        for frame in self._dialect.frames_to_send():
            if self.state == self.STATE_OPEN:  # autobahn raises once the closing handshake has begun
                self.sendMessage(frame.encode())

    # The end

    def _end(self, code: int, reason: str) -> None:
        """Begin the closing handshake. autobahn's `sendClose` refuses the codes that are a server's to send."""
        self.flow.end()
        self.sendCloseFrame(code, encode_truncate(reason, 123))

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        self._heartbeat.stop()
        self.answered_close = wasClean and self.closedByMe
        if self._join_deadline is not None and self._join_deadline.active():
            self._join_deadline.cancel()
        if self._joined:
            self._joined = False
            _log.info(
                "Relay {proxy_id} is gone: {reason}",
                proxy_id=self.shown_id,
                reason="it closed the connection" if wasClean else printable(str(self.wasNotCleanReason), 200),
            )
            self._listener.relay_lost(self)
        self.factory.doorway.leave(self)
        self.factory.connections.discard(self)
        self._listener.connection_closed()


class RelayConnectionFactory(WebSocketServerFactory):
    """Makes the connections of one main server, and keeps them."""

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
            failByDrop=False,  # a close code says what was wrong: too big, not UTF-8, a protocol error
        )
        # permessage-deflate is refused by default: no `perMessageCompressionAccept` is set
        self.protocol = lambda: RelayConnection(reactor, listener, settings)  # type: ignore[assignment]
        #: The connections that have not joined yet.
        self.doorway: Doorway[RelayConnection] = Doorway(settings.max_joining)
        self.intake = Intake(reactor)
        #: Every connection that is not closed yet.
        self.connections: set[RelayConnection] = set()
