"""
One connection to the main server, from its TCP handshake to its end: joins wire, machine, dialect and command logic.
"""

from __future__ import annotations

from functools import partial
from typing import Final, Protocol

from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from relayd.errors import (
    DialectMismatch,
    ProtocolError,
    RelayError,
    UplinkIncomplete,
    UplinkLost,
    UplinkSilent,
    UplinkStuck,
    UplinkUnreachable,
)
from relayd.interfaces import ICommandReceiver
from relayd.network.tls_faults import TLSFailed
from relayd.uplink import closing
from relayd.uplink.answers import HttpResponse, error_of
from relayd.uplink.blame import EndInquiry
from relayd.uplink.conversation import Conversation
from relayd.uplink.endpoint import describe
from relayd.uplink.link import Link
from relayd.uplink.message_limit import MessageLimit
from relayd.uplink.orders import Orders
from relayd.uplink.settings import ConnectionSettings
from relayd.uplink.stages import LinkCore, Stage, start_machine
from relayd.uplink.turns import Turns
from relayd.uplink.wire import Wire
from relayd.wire.dialects.events import IDialect

#: Seconds that a closing handshake may take.
CLOSE_TIMEOUT: Final = 5.0


class Outcome(Struct, frozen=True):
    """
    How a connection ended.

    :ivar stage: how far it had come.
    :ivar recognised: whether the main server had shown that it speaks the dialect.
    :ivar status: of the HTTP response that opened nothing; 0 where it was not HTTP, ``None`` where there was none.
    :ivar silence: seconds since the last sign of life, where a connection that was accepted was simply cut.
    """

    error: RelayError
    stage: Stage
    recognised: bool
    status: int | None = None
    silence: float | None = None


class UplinkConnectionOwner(Protocol):
    """Keeps a connection to the main server, and hears from it."""

    def on_connection_ready(self, connection: UplinkConnection) -> None:
        """Events can flow."""

    def on_connection_accepted(self, connection: UplinkConnection) -> None:
        """The main server has really accepted the relay."""

    def on_message_ignored(self, connection: UplinkConnection) -> None:
        """The main server sent something that relayd does not use."""

    def on_status_update(self, connection: UplinkConnection, data: object) -> None:
        """The main server said that a relay is online or offline (``proxy_status_update``)."""


class UplinkConnection:
    """
    The life of one connection, whose TCP handshake is done: how it comes about, and how it ends.

    More than 25 methods, as there is one for each thing that its wire, its machine and its messages may report.

    :param dialect: a new one.
    :param limit: what earlier connections taught about the largest message that the main server takes.
    :ivar finished: fires with the `Outcome` once TCP is gone; cancelling it drops the connection.
    :ivar link: what the command logic sends on.
    :ivar orders: what came for the command logic.
    """

    def __init__(
        self,
        clock: IReactorTime,
        wire: Wire,
        dialect: IDialect,
        receiver: ICommandReceiver,
        owner: UplinkConnectionOwner,
        limit: MessageLimit,
        settings: ConnectionSettings,
    ) -> None:
        self.dialect = dialect
        self.finished: Deferred[Outcome] = Deferred(lambda _: self._abort())
        self.link = Link(clock, wire, dialect, limit, settings)
        self._clock = clock
        self._owner = owner
        self._settings = settings
        self._core = LinkCore(clock, self, settings.server, settings.timing)
        self._machine = start_machine(self._core)
        self._turns = Turns(clock, self._hold)
        self.orders = Orders(self.link, receiver, self._turns, settings.translate, settings.describe)
        self._conversation = Conversation(
            clock, self, self._machine, dialect, self.link, self.orders, self._turns, settings
        )
        self._inquiry = EndInquiry(limit, self.link.under_way)
        self._status: int | None = None
        #: Whether TCP is gone, and whether the relay wanted the end.
        self._closed = False
        self._leaving = False
        self._outcome: Outcome | None = None
        self._linger: IDelayedCall | None = None
        wire.report_to(self)

    def close(self, error: RelayError | None = None) -> None:
        """
        Close the connection politely; `finished` fires when that is done.

        :param error: why; by default because the relay wants to.
        """
        if self._outcome is None:
            self._leaving = True
            self._inquiry.note_leaving()
            self.dialect.close()
            self.link.flush()
            self._machine.failed(error or UplinkLost(server=self._settings.server, reason="this relay closed it"))

    # The wire may have changed meanwhile: a polling session moves to a WebSocket.

    def _abort(self) -> None:
        self.link.wire.abort()

    def _hold(self, on: bool) -> None:
        self.link.wire.hold(on)

    # From the wire (relayd.uplink.wire.SessionListener)

    def on_secured(self) -> None:
        self._machine.secured()

    def on_upgrade_refused(self, response: HttpResponse) -> None:
        settings = self._settings
        self._status = response.status
        self._machine.failed(
            error_of(response, settings.quote, server=settings.server, dialect=self.dialect.name, path=settings.path)
        )

    def on_upgraded(self) -> None:
        self._machine.upgraded()
        self._conversation.begin()

    def on_heard(self) -> None:
        self._core.last_heard = self._clock.seconds()
        self._turns.begin_turn()

    def on_pong(self, payload: bytes) -> None:
        self.link.on_pong(payload)

    def on_full(self) -> None:
        self._core.watch_writing(self._machine)

    def on_taken(self) -> None:
        self._core.last_taken = self._clock.seconds()

    def on_deaf(self, on: bool) -> None:
        self._core.deaf = on
        if not on:
            self._core.last_heard = self._clock.seconds()

    def on_text(self, text: str) -> None:
        self._conversation.receive_text(text)

    def on_binary(self, data: bytes) -> None:
        self._conversation.receive_binary(data)

    def on_broken(self, error: ProtocolError) -> None:
        self._turns.take_in_turn(partial(self._conversation.break_off, error))

    def on_close_received(self, code: int | None, reason: str) -> None:
        self._turns.take_in_turn(partial(self._close_received, code, reason))

    def on_too_large(self, reason: str) -> None:
        self._inquiry.note_too_big(reason)
        self._machine.failed(
            UplinkLost(server=self._settings.server, reason=f"it does not take what was sent ({reason})")
        )

    def on_moved(self, wire: Wire) -> None:
        self.link.move_to(wire)

    def on_closed(self, error: BaseException) -> None:
        self._turns.take_in_turn(partial(self._wire_closed, error))

    # In their turn

    def _close_received(self, code: int | None, reason: str) -> None:
        words = closing.words_of(code, self._settings.quote(reason))
        if self._inquiry.note_close(code, reason):
            self._machine.turned_away(words)
        else:
            self._machine.failed(self._lost(words))

    def _wire_closed(self, error: BaseException) -> None:
        self._closed = True
        reason = describe(error, self._settings.quote)
        stage = self._core.stage
        # In TLS 1.3 a server refuses the certificate of a client after the handshake.
        if stage is Stage.SECURING or (stage is Stage.UPGRADING and isinstance(error, TLSFailed)):
            self._machine.failed(UplinkUnreachable(server=self._settings.server, reason=reason))
        else:
            if stage is Stage.UPGRADING and isinstance(error, ConnectionDone | ConnectionLost) and self._is_plain:
                reason += " without an answer, as a TLS port does; if it is one, use wss:// in --server"
            self._machine.failed(self._lost(reason))
        self._finish()

    @property
    def _is_plain(self) -> bool:
        return self._settings.server.startswith(("ws:", "http:"))

    def _lost(self, reason: str) -> UplinkLost:
        """The error for a connection that is lost; one that was never complete is another error."""
        stage = self._core.stage
        if stage in (Stage.PROBATION, Stage.ACCEPTED):
            return UplinkLost(server=self._settings.server, reason=reason)
        return UplinkIncomplete(server=self._settings.server, phase=stage.value, reason=reason)

    # From the machine (relayd.uplink.stages.LinkOwner)

    def on_ready(self) -> None:
        self._owner.on_connection_ready(self)
        if not self._settings.aside:
            self.orders.announce_link()

    def on_accepted(self) -> None:
        self._conversation.on_accepted()
        self._owner.on_connection_accepted(self)
        if self._settings.aside and not self._leaving:
            self.orders.announce_link()

    def on_over(self, error: RelayError, stage: Stage) -> None:
        cut = self._closed and stage is Stage.ACCEPTED and isinstance(error, UplinkLost)
        silence = self._clock.seconds() - self._core.last_heard if cut else None
        recognised = self._conversation.recognised
        self._outcome = Outcome(error, stage, recognised, status=self._status, silence=silence)
        self._conversation.end()
        self.orders.withdraw_link(self._inquiry.blame_for(error, unsent=self.unsent))
        self.link.end()
        if self._closed:
            self._finish()
        elif isinstance(error, UplinkSilent | UplinkStuck):
            self._abort()
        else:
            self._linger = self._clock.callLater(CLOSE_TIMEOUT, self._abort)
            self.link.wire.close(_close_code(error))

    @property
    def unsent(self) -> bool:
        return not self.link.wire.flow.writable

    def on_ping_due(self) -> None:
        self.link.wire.ping()

    # From the messages (relayd.uplink.conversation.ConversationOwner)

    def on_message_ignored(self) -> None:
        self._owner.on_message_ignored(self)

    def on_status_update(self, data: object) -> None:
        self._owner.on_status_update(self, data)

    def _finish(self) -> None:
        if self._linger is not None and self._linger.active():
            self._linger.cancel()
        if self._outcome is not None and not self.finished.called:
            self.finished.callback(self._outcome)


def _close_code(error: RelayError) -> int:
    return error.close_code if isinstance(error, ProtocolError | DialectMismatch) else closing.NORMAL
