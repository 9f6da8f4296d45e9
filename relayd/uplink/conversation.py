"""
What the main server says on one connection, message by message: the dialect reads it, and here it gets its meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from relayd.errors import DialectMismatch, ProtocolError
from relayd.language.texts import printable
from relayd.uplink.link import Link
from relayd.uplink.orders import ORDERS, Orders
from relayd.uplink.settings import ConnectionSettings
from relayd.uplink.stages import LinkInputs
from relayd.uplink.turns import LARGE, Turns
from relayd.wire.dialects.codec import PROXY_PATH
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
from relayd.wire.messages import PROXY_STATUS_UPDATE

_log = Logger("relayd.uplink")

#: Seconds that the attachments of a binary event may take to come.
ATTACHMENT_TIMEOUT: Final = 60.0

#: What servers say of a namespace that they do not have: socket.io, and python-socketio.
_NO_NAMESPACE: Final = ("Invalid namespace", "Unable to connect")


class ConversationOwner(Protocol):
    """The connection that a conversation belongs to."""

    def on_message_ignored(self) -> None:
        """The main server sent something that relayd does not use."""

    def on_status_update(self, data: object) -> None:
        """The main server said that a relay is online or offline (``proxy_status_update``)."""


class Conversation:
    """
    The messages of one connection: each moves the machine of the connection, or goes to the command logic.

    :param machine: of the connection.
    :ivar recognised: whether the main server has shown that it speaks the dialect.
    """

    def __init__(
        self,
        clock: IReactorTime,
        owner: ConversationOwner,
        machine: LinkInputs,
        dialect: IDialect,
        link: Link,
        orders: Orders,
        turns: Turns,
        settings: ConnectionSettings,
    ) -> None:
        self.recognised = False
        self._clock = clock
        self._owner = owner
        self._machine = machine
        self._dialect = dialect
        self._link = link
        self._orders = orders
        self._turns = turns
        self._settings = settings
        self._heartbeat: float | None = None
        self._accepted = False
        self._over = False
        self._attachments: IDelayedCall | None = None
        #: What was ignored, and logged.
        self._logged: set[str] = set()
        self._handlers: dict[type[Any], Callable[[Any], None]] = {
            HandshakeReceived: self._handshake_received,
            Connected: self._connected,
            EventReceived: self._event_received,
            Disconnected: self._disconnected,
            AckReceived: self._nothing,  # relayd asks for none
            HeartbeatReceived: self._nothing,  # the frame has been taken for a sign of life already
            Ignored: self._ignored,
            AttachmentsDue: self._attachments_due,
            Broken: self._broken,
        }

    def begin(self) -> None:
        """The wire is open."""
        self._handle(self._dialect.opened)

    def receive_text(self, text: str) -> None:
        """Take a text message, in its turn."""
        self._take(partial(self._dialect.receive_text, text), large=len(text) > LARGE)

    def receive_binary(self, data: bytes) -> None:
        """Take a binary message, in its turn."""
        self._take(partial(self._dialect.receive_binary, data), large=len(data) > LARGE)

    def _take(self, receive: Callable[[], Sequence[DialectEvent]], *, large: bool) -> None:
        self._turns.take_in_turn(partial(self._handle, receive, apart=large), large=large)

    def on_accepted(self) -> None:
        """The main server has really accepted this relay."""
        self._accepted = self.recognised = True

    def break_off(self, error: ProtocolError) -> None:
        """End the connection because of *error*: a breach of the protocol, or another protocol."""
        if self.recognised:
            self._machine.failed(error)
            return
        mismatch = self._mismatch(str(error.fields.get("reason", error)))
        mismatch.close_code = error.close_code
        self._machine.failed(mismatch)

    def end(self) -> None:
        """The connection is over: nothing more is read."""
        self._over = True
        self._cancel_attachments()

    def _handle(self, receive: Callable[[], Sequence[DialectEvent]], *, apart: bool = False) -> None:
        """
        Read something, and do what it says.

        :param apart: whether it takes long to read, so that what it says has the next turn.
        """
        try:
            events = receive()
            if apart:
                self._turns.take_next(partial(self._handle, lambda: events))
                return
            for event in events:
                if self._over:
                    return
                self._handlers[type(event)](event)
            if len(events) == 1 and type(events[0]) is EventReceived:
                return  # the dialect had nothing to say to it, and what answers it was sent at once
        except ProtocolError as error:
            self.break_off(error)
        except RecursionError:
            self.break_off(ProtocolError(reason="JSON that nests too deeply"))
        self._link.flush()

    def _handshake_received(self, event: HandshakeReceived) -> None:
        self.recognised = event.heartbeat is not None
        self._heartbeat = event.heartbeat
        if self.recognised:
            self._machine.proved()

    def _connected(self, event: Connected) -> None:
        self._machine.connected(self._heartbeat)

    def _event_received(self, event: EventReceived) -> None:
        if not self._accepted:
            self.recognised = True
            if event.name in ORDERS:
                self._machine.event_received()
            if self._over:  # the owner has closed the connection at once
                return
        if event.name in ORDERS:
            self._orders.receive(event)
        elif event.name == PROXY_STATUS_UPDATE:
            self._owner.on_status_update(event.data)
        else:
            self._owner.on_message_ignored()
            _log.debug("Ignored the event {name}", name=printable(event.name, 100))

    def _disconnected(self, event: Disconnected) -> None:
        reason = self._settings.quote(event.reason)
        if event.refused and event.reason.startswith(_NO_NAMESPACE):
            self._machine.failed(self._mismatch(f'it seems to have no namespace {PROXY_PATH}: it says "{reason}"'))
        else:
            self._machine.turned_away(reason)

    def _broken(self, event: Broken) -> None:
        self.break_off(ProtocolError(reason=event.reason))

    def _nothing(self, event: object) -> None:
        """Do nothing."""

    def _ignored(self, event: Ignored) -> None:
        self._owner.on_message_ignored()
        if event.strange and event.what not in self._logged:
            self._logged.add(event.what)
            _log.info(
                "The main server sent {what}, which is not an event. relayd ignores it, and further ones like it: see "
                "the metric relayd_uplink_ignored_total",
                what=event.what,
            )
        else:
            _log.debug("Ignored {what}", what=event.what)

    def _attachments_due(self, event: AttachmentsDue) -> None:
        self._cancel_attachments()
        abandon = partial(self._handle, partial(self._dialect.abandon, event.number))
        self._attachments = self._clock.callLater(ATTACHMENT_TIMEOUT, self._turns.take_in_turn, abandon)

    def _cancel_attachments(self) -> None:
        if self._attachments is not None and self._attachments.active():
            self._attachments.cancel()

    def _mismatch(self, reason: str) -> DialectMismatch:
        settings = self._settings
        return DialectMismatch(
            server=settings.server, dialect=self._dialect.name, path=settings.path, reason=settings.quote(reason)
        )
