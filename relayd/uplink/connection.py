"""
One connection to the main server: joins WebSocket, dialect and machine, and passes events to the relay's command logic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import Any, Final, Protocol

from msgspec import Struct
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from relayd.errors import (
    DialectMismatch,
    FrameTooLarge,
    InvalidMessage,
    ProtocolError,
    RelayError,
    UplinkIncomplete,
    UplinkLost,
    UplinkRefused,
    UplinkSilent,
    UplinkStuck,
    UplinkUnreachable,
)
from relayd.interfaces import Acknowledge, Blame, ICommandReceiver, ILink
from relayd.language.texts import Translate, english, printable
from relayd.network.flow import Flow
from relayd.uplink import closing
from relayd.uplink.answers import Answer, error_of
from relayd.uplink.endpoint import describe
from relayd.uplink.message_limit import MessageLimit, UnderWay, says_too_big
from relayd.uplink.quoting import Quoting
from relayd.uplink.result_sender import DeferToThread, ResultSender
from relayd.uplink.stages import LinkCore, LinkInputs, Stage, Timing, start
from relayd.uplink.turns import Turns
from relayd.wire.dialects.codec import NO_LIMIT, PROXY_PATH
from relayd.wire.dialects.events import (
    AckReceived,
    AttachmentsDue,
    Broken,
    Connected,
    DialectEvent,
    Disconnected,
    EventReceived,
    HandshakeReceived,
    HeartbeatReceived,
    IDialect,
    Ignored,
)
from relayd.wire.messages import (
    CANCEL_COMMAND,
    COMMAND_OUTPUT,
    COMMAND_RESULT_RECEIVED,
    COMMAND_STATUS,
    EXECUTE_COMMAND,
    PROXY_STATUS_UPDATE,
    CommandOutput,
    CommandResult,
    CommandState,
    CommandStatus,
)
from relayd.wire.parsing import parse_execute_command, parse_question, parse_receipt

#: What no main server sends to a stranger: others, such as greetings, everybody may get.
_FOR_RELAYS: Final = frozenset((EXECUTE_COMMAND, COMMAND_RESULT_RECEIVED, CANCEL_COMMAND, COMMAND_STATUS))
#: Seconds that a closing handshake may take.
CLOSE_TIMEOUT: Final = 5.0
#: Seconds that the bytes of a binary event may take after it.
ATTACHMENT_TIMEOUT: Final = 60.0
#: Characters of a message from which on its steps get turns of the event loop of their own.
LARGE: Final = 1 << 20

#: What servers say of a namespace that they do not have: socket.io, and python-socketio.
_NO_NAMESPACE: Final = ("Invalid namespace", "Unable to connect")


class Outcome(Struct, frozen=True):
    """
    How a connection ended.

    :ivar stage: how far it had come.
    :ivar recognised: whether the peer was seen to speak the dialect.
    :ivar status: of the answer that opened nothing; 0 where that was no HTTP, ``None`` where there was none.
    :ivar silence: seconds since it was last heard, where a connection that was accepted was simply cut.
    """

    error: RelayError
    stage: Stage
    recognised: bool
    status: int | None = None
    silence: float | None = None


class Wire(Protocol):
    """What a connection asks of its WebSocket (`relayd.uplink.websocket`) or its polling
    (`relayd.uplink.polling.client`)."""

    flow: Flow

    def send_text(self, payload: bytes) -> None:
        """Send one text message."""

    def ping(self, payload: bytes = b"") -> None:
        """Send a ping."""

    def hold(self, on: bool) -> None:
        """Read nothing more for now, or go on."""

    def close(self, code: int) -> None:
        """Begin the closing handshake."""

    def abort(self) -> None:
        """Drop the connection."""


class Host(Protocol):
    """Whose connection it is."""

    def on_connection_ready(self, connection: Connection) -> None:
        """Events can flow."""

    def on_connection_accepted(self, connection: Connection) -> None:
        """The main server has really accepted the relay."""

    def on_connection_ignored(self, connection: Connection) -> None:
        """The main server sent something that relayd has no use for."""

    def on_status_told(self, connection: Connection, data: Any) -> None:
        """The main server tells everybody of one of its relays."""


@implementer(ILink)
class Connection:
    """
    :param dialect: a new one.
    :param server: the main server's name in errors and logs.
    :param path: where on it we ask, for errors.
    :param defer_to_thread: runs a function in another thread.
    :param max_result: bytes in the largest result that we send, where the main server names no limit.
    :param limit: what is known of the main server's, from earlier connections.
    :param translate: to the language of what acknowledgements and cut results say.
    :param quote: makes what the main server said fit to be shown.
    :ivar finished: fires with the `Outcome` once TCP is gone; cancelling it drops the connection.
    :ivar unknown_events: how many events came that relayd has no use for.
    :ivar orders: how many commands came.
    :ivar upgraded_at: when a session that began with polling went on over a WebSocket, by the clock.
    """

    _log = Logger("relayd.uplink")

    def __init__(
        self,
        clock: IReactorTime,
        receiver: ICommandReceiver,
        host: Host,
        dialect: IDialect,
        *,
        server: str,
        path: str,
        timing: Timing,
        defer_to_thread: DeferToThread,
        max_result: int,
        limit: MessageLimit,
        translate: Translate = english,
        quote: Callable[[str], str] = Quoting(),  # noqa: B008
    ) -> None:
        self._quote = quote
        self.dialect = dialect
        self.finished: Deferred[Outcome] = Deferred(lambda _: self._abort())
        self.unknown_events = 0
        self.orders = 0
        self.upgraded_at: float | None = None
        self._clock = clock
        self._receiver = receiver
        self._host = host
        self._server = server
        self._path = path
        self._translate = translate
        self._max_result = max_result
        self._limit = limit
        self._under_way = UnderWay(clock, limit, self._ping_now)
        self._results = ResultSender(
            dialect, self._flush, defer_to_thread, self._largest_result, self._send_text, translate=translate
        )
        self._core = LinkCore(clock, self, server, timing)
        self._wire: Wire
        self._machine: LinkInputs
        self._heartbeat: float | None = None
        self._recognised = False
        self._status: int | None = None
        self._ready = False
        self._accepted = False
        self._closed = False
        self._outcome: Outcome | None = None
        #: Whether one of the two takes leave; and what the main server said where a message was too large.
        self._leaves = False
        self._too_big: str | None = None
        self._probes: dict[bytes, Deferred[None]] = {}
        self._probe_numbers = count()
        self._linger: IDelayedCall | None = None
        self._attachments: IDelayedCall | None = None
        #: What was ignored and told the log.
        self._told: set[str] = set()
        self._handlers: dict[type[Any], Callable[[Any], None]] = {
            HandshakeReceived: self._handshake_received,
            Connected: lambda _: self._machine.connected(self._heartbeat),
            EventReceived: self._event_received,
            Disconnected: self._disconnected,
            AckReceived: lambda _: None,  # we ask for none
            HeartbeatReceived: lambda _: None,  # any frame is a sign of life already
            Ignored: self._ignored,
            AttachmentsDue: self._attachments_due,
            Broken: lambda event: self._break(ProtocolError(reason=event.reason)),
        }

    def attach(self, wire: Wire) -> None:
        """TCP is connected."""
        self._wire = wire
        self._turns = Turns(self._clock, self._hold)
        self._machine = start(self._core)

    # Of the wire of that moment: a polling session may have moved to a WebSocket meanwhile.

    def _hold(self, on: bool) -> None:
        self._wire.hold(on)

    def _abort(self) -> None:
        self._wire.abort()

    def rewire(self, wire: Wire) -> None:
        """What was a polling session goes on over a WebSocket."""
        self._wire = wire
        self.upgraded_at = self._clock.seconds()

    def close(self, error: RelayError | None = None) -> None:
        """
        Take leave politely; `finished` tells when it is done.

        :param error: why; by default because the relay wants to.
        """
        if self._outcome is None:
            self._leaves = True
            self.dialect.close()
            self._flush()
            self._machine.failed(error or UplinkLost(server=self._server, reason="this relay closed it"))

    # ILink

    @property
    def max_payload(self) -> int:
        """See `ILink`."""
        return min(self.dialect.max_payload, self._limit.bytes)

    def _largest_result(self) -> int:
        named = self.max_payload
        return self._max_result if named >= NO_LIMIT else named

    @property
    def writable(self) -> bool:
        """See `ILink`."""
        return self._wire.flow.writable and not self._results.busy

    def when_writable(self) -> Deferred[None]:
        """See `ILink.when_writable`."""
        if self._results.busy:
            return self._results.when_idle().addCallback(lambda _: self._wire.flow.when_writable())
        return self._wire.flow.when_writable()

    def send_output(self, output: CommandOutput) -> None:
        """See `ILink.send_output`."""
        self.dialect.send_event(COMMAND_OUTPUT, output.to_wire())
        self._flush()

    def send_result(self, result: CommandResult) -> None:
        """Send *result*, cut to what the link carries; on a link that is gone, nowhere. See `ILink`."""
        self._results.send(result)

    def probe(self) -> Deferred[None]:
        """See `ILink.probe`: the answer to a WebSocket ping, whichever dialect is spoken."""
        probe: Deferred[None] = Deferred()
        self._results.then(partial(self._ping, probe))
        return probe

    def _ping_now(self) -> Deferred[None]:
        probe: Deferred[None] = Deferred()
        self._ping(probe)
        return probe

    def _ping(self, probe: Deferred[None]) -> None:
        self._probes[payload := next(self._probe_numbers).to_bytes(8, "big")] = probe
        self._wire.ping(payload)

    # What the WebSocket tells (relayd.uplink.websocket.WebSocketListener)

    def on_secured(self) -> None:
        self._machine.secured()

    def on_upgrade_refused(self, answer: Answer) -> None:
        self._status = answer.status
        self._machine.failed(
            error_of(answer, self._quote, server=self._server, dialect=self.dialect.name, path=self._path)
        )

    def on_upgraded(self) -> None:
        self._machine.upgraded()
        self._handle(self.dialect.opened)

    def on_heard(self) -> None:
        self._core.last_heard = self._clock.seconds()
        self._turns.begin()

    def on_pong(self, payload: bytes) -> None:
        # An answer may stand for earlier pings, too (RFC 6455, section 5.5.3).
        if payload in self._probes:
            answered = [each for each in self._probes if each <= payload]
            for probe in [self._probes.pop(each) for each in answered]:
                probe.callback(None)

    def on_full(self) -> None:
        self._core.watch_writing(self._machine)

    def on_taken(self) -> None:
        self._core.last_taken = self._clock.seconds()

    def on_deaf(self, on: bool) -> None:
        self._core.deaf = on
        if not on:
            self._core.last_heard = self._clock.seconds()

    def on_text(self, text: str) -> None:
        receive = partial(self.dialect.receive_text, text)
        self._turns.add(partial(self._handle, receive), large=len(text) > LARGE)

    def on_binary(self, data: bytes) -> None:
        receive = partial(self.dialect.receive_binary, data)
        self._turns.add(partial(self._handle, receive), large=len(data) > LARGE)

    def on_broken(self, error: ProtocolError) -> None:
        self._turns.add(partial(self._break, error))

    def on_close_received(self, code: int | None, reason: str) -> None:
        self._turns.add(partial(self._close_received, code, reason))

    def on_too_large(self, reason: str) -> None:
        self._too_big = reason
        self._machine.failed(UplinkLost(server=self._server, reason=f"it does not take what was sent ({reason})"))

    def on_closed(self, error: BaseException, verify_error: str) -> None:
        self._turns.add(partial(self._wire_closed, error, verify_error))

    # In their turn

    def _break(self, error: ProtocolError) -> None:
        self._machine.failed(error if self._recognised else self._mismatch(str(error.fields.get("reason", error))))

    def _close_received(self, code: int | None, reason: str) -> None:
        words = closing.words_of(code, self._quote(reason))
        self._leaves = code in closing.LEAVING
        self._too_big = reason if says_too_big(code, reason, self._under_way.largest_meant()) else None
        if closing.refuses(code) and self._too_big is None:
            self._machine.turned_away(words)
        else:
            self._machine.failed(self._ended(words))

    def _wire_closed(self, error: BaseException, verify_error: str) -> None:
        self._closed = True
        reason = describe(error, verify_error)
        if self._core.stage is Stage.SECURING:
            self._machine.failed(UplinkUnreachable(server=self._server, reason=reason))
        else:
            self._machine.failed(self._ended(reason))
        self._finish()

    def _ended(self, reason: str) -> UplinkLost:
        """Only a link that was there can be lost."""
        stage = self._core.stage
        if stage in (Stage.PROBATION, Stage.ACCEPTED):
            return UplinkLost(server=self._server, reason=reason)
        return UplinkIncomplete(server=self._server, phase=stage.value, reason=reason)

    # What the machine tells (relayd.uplink.stages.LinkOwner)

    def on_ready(self) -> None:
        self._ready = True
        self._host.on_connection_ready(self)
        self._tell(self._receiver.link_ready, self)

    def on_accepted(self) -> None:
        self._accepted = self._recognised = True
        self._host.on_connection_accepted(self)

    def on_over(self, error: RelayError, stage: Stage) -> None:
        cut = self._closed and stage is Stage.ACCEPTED and isinstance(error, UplinkLost)
        silence = self._clock.seconds() - self._core.last_heard if cut else None
        self._outcome = Outcome(error, stage, self._recognised, status=self._status, silence=silence)
        if self._attachments is not None and self._attachments.active():
            self._attachments.cancel()
        blame = self._blame_for(error)
        if self._ready:
            self._tell(self._receiver.link_lost, self, blame)
        self._results.end()
        self._wire.flow.end()
        if self._closed:
            self._finish()
        elif isinstance(error, UplinkSilent | UplinkStuck):
            self._wire.abort()
        else:
            self._linger = self._clock.callLater(CLOSE_TIMEOUT, self._abort)
            self._wire.close(_close_code(error))

    def _blame_for(self, error: RelayError) -> Blame:
        """Whether what was sent may be why the connection ends; not where the next one gets smaller messages."""
        if self._leaves or isinstance(error, UplinkSilent | UplinkStuck | ProtocolError | DialectMismatch):
            return Blame.NONE
        if self._too_big is not None:
            smaller = self._limit.too_big(self._under_way.largest_meant(), self._too_big)
        else:
            smaller = self._limit.lost(self._under_way.suspect(unsent=self.unsent))
        if smaller:
            return Blame.NONE
        return Blame.REFUSED if isinstance(error, UplinkRefused) else Blame.POSSIBLE

    @property
    def unsent(self) -> bool:
        return not self._wire.flow.writable

    def on_ping_due(self) -> None:
        self._wire.ping()

    def _finish(self) -> None:
        if self._linger is not None and self._linger.active():
            self._linger.cancel()
        if self._outcome is not None and not self.finished.called:
            self.finished.callback(self._outcome)

    # What the dialect tells

    def _handle(self, receive: Callable[[], Sequence[DialectEvent]]) -> None:
        try:
            for event in receive():
                if self._outcome is not None:
                    return
                self._handlers[type(event)](event)
        except ProtocolError as error:
            self._break(error)
        except RecursionError:
            self._break(ProtocolError(reason="JSON that nests too deeply"))
        self._flush()

    def _ignored(self, event: Ignored) -> None:
        self._host.on_connection_ignored(self)
        if event.strange and event.what not in self._told:
            self._told.add(event.what)
            self._log.info(
                "The main server sent {what}, which is no event: it is ignored, and so are others like it, which the "
                "metric relayd_uplink_ignored_total counts",
                what=event.what,
            )
        else:
            self._log.debug("Ignored {what}", what=event.what)

    def _attachments_due(self, event: AttachmentsDue) -> None:
        if self._attachments is not None and self._attachments.active():
            self._attachments.cancel()
        abandon = partial(self._handle, partial(self.dialect.abandon, event.number))
        self._attachments = self._clock.callLater(ATTACHMENT_TIMEOUT, self._turns.add, abandon)

    def _handshake_received(self, event: HandshakeReceived) -> None:
        self._recognised = event.heartbeat is not None
        self._heartbeat = event.heartbeat
        if self._recognised:
            self._machine.proved()

    def _disconnected(self, event: Disconnected) -> None:
        reason = self._quote(event.reason)
        if event.refused and event.reason.startswith(_NO_NAMESPACE):
            self._machine.failed(self._mismatch(f'it seems to have no namespace {PROXY_PATH}: it says "{reason}"'))
        else:
            self._machine.turned_away(reason)

    def _event_received(self, event: EventReceived) -> None:
        if not self._accepted:
            self._recognised = True
            if event.name in _FOR_RELAYS:
                self._machine.event_received()
            if self._outcome is not None:  # to be accepted was all that was wanted
                return
        if event.name == EXECUTE_COMMAND:
            self.orders += 1
            acknowledge = self._acknowledger(event.ack_id)
            try:
                command = parse_execute_command(event.data)
            except InvalidMessage as error:
                self._tell(self._receiver.invalid_received, error, acknowledge)
            else:
                tell = partial(self._tell, self._receiver.command_received, command, acknowledge)
                if len(command.stdin) + len(command.command) > LARGE:
                    self._turns.insert(tell)
                else:
                    tell()
        elif event.name == COMMAND_RESULT_RECEIVED:
            try:
                receipt = parse_receipt(event.data)
            except InvalidMessage as error:
                self._log.warn("{reason}", reason=str(error))
            else:
                self._tell(self._receiver.receipt_received, self, receipt)
        elif event.name == CANCEL_COMMAND:
            self._tell(self._question_received, event, self._receiver.cancel_received)
        elif event.name == COMMAND_STATUS:
            self._tell(self._question_received, event, self._receiver.status_asked)
        elif event.name == PROXY_STATUS_UPDATE:
            self._host.on_status_told(self, event.data)
        else:
            self.unknown_events += 1
            self._host.on_connection_ignored(self)
            self._log.debug("Ignored the event {name}", name=printable(event.name, 100))

    def _question_received(self, event: EventReceived, ask: Callable[[str], CommandState]) -> None:
        """Answered where it was asked: in the acknowledgement, or else, what asks for a status, with an event."""
        try:
            command_id, numeric_id = parse_question(event.name, event.data)
        except InvalidMessage as error:
            self._log.warn("{reason}", reason=str(error))
            answer = {"error": self._words(error)}
        else:
            answer = CommandStatus(command_id=command_id, numeric_id=numeric_id, state=ask(command_id)).to_wire()
            if event.ack_id is None and event.name == COMMAND_STATUS:
                self.dialect.send_event(COMMAND_STATUS, answer)
        if event.ack_id is not None:
            self.dialect.acknowledge(event.ack_id, answer)
        self._flush()

    def _acknowledger(self, ack_id: int | None) -> Acknowledge:
        if ack_id is None:
            return lambda error: None

        def acknowledge(error: RelayError | None) -> None:
            answer = None if error is None else {"error": self._words(error)}
            self.dialect.acknowledge(ack_id, answer)
            self._flush()

        return acknowledge

    def _words(self, error: RelayError) -> str:
        """What an acknowledgement says of an error: one cannot be cut later, to what the main server takes."""
        return error.text.within(self._translate)[: max(1, self.max_payload // 8)]

    def _flush(self) -> None:
        for frame in self.dialect.frames_to_send():
            self._send_text(frame.encode())

    def _send_text(self, payload: bytes) -> None:
        self._wire.send_text(payload)
        self._under_way.sent(len(payload))

    def _tell(self, method: Callable[..., None], *args: object) -> None:
        """The command logic promises not to raise; if it does, the link shall not pay for it."""
        try:
            method(*args)
        except (CancelledError, RecursionError):
            raise
        except Exception:
            self._log.failure("Internal error: {method} failed", method=getattr(method, "__name__", "a callback"))

    def _mismatch(self, reason: str) -> DialectMismatch:
        return DialectMismatch(
            server=self._server, dialect=self.dialect.name, path=self._path, reason=self._quote(reason)
        )


def _close_code(error: RelayError) -> int:
    if isinstance(error, FrameTooLarge):
        return closing.TOO_BIG
    return closing.PROTOCOL_ERROR if isinstance(error, ProtocolError | DialectMismatch) else closing.NORMAL
