"""
The seams of relayd: what its parts ask of each other, so that none of them needs to know another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct
from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from relayd.errors import InvalidMessage, RelayError
from relayd.messages import CommandOutput, CommandResult, CommandState, ExecuteCommand, Receipt, StreamName

#: Tells the main server that a command was accepted (``None``) or why it was refused. Called exactly once.
Acknowledge = Callable[[RelayError | None], None]


# What a dialect tells its caller, whichever dialect it is ------------------------------------------------------------


class HandshakeReceived(Struct, frozen=True):
    """
    The main server described the connection.

    :ivar heartbeat: seconds of silence after which the link is dead; ``None``: the WebSocket's own pings tell.
    """

    heartbeat: float | None


class Connected(Struct, frozen=True):
    """
    Events can flow.  Main servers check the key only after this, so it is no proof of having been accepted.
    """


class EventReceived(Struct, frozen=True):
    """
    The peer sent an event.

    :ivar data: decoded JSON: the first argument, ``None`` where there is none.
    :ivar ack_id: the peer wants `IDialect.acknowledge` called with this number.
    """

    name: str
    data: object
    ack_id: int | None = None

    def __repr__(self) -> str:  # the data of a command holds secrets
        return f"<EventReceived {self.name!r} ack_id={self.ack_id}>"


class AckReceived(Struct, frozen=True):
    """The peer acknowledged our event number *ack_id*; *data* is its first argument."""

    ack_id: int
    data: object


class HeartbeatReceived(Struct, frozen=True):
    """The peer is alive."""


class Disconnected(Struct, frozen=True):
    """
    The peer ends the conversation, and says so in the dialect's own terms.

    :ivar refused: whether it turned us away rather than closed.
    """

    reason: str
    refused: bool


class Ignored(Struct, frozen=True):
    """Something well-formed that relayd has no use for: another namespace, a binary event."""

    what: str


DialectEvent = HandshakeReceived | Connected | EventReceived | AckReceived | HeartbeatReceived | Disconnected | Ignored


# The seams -----------------------------------------------------------------------------------------------------------


class IDialect(Interface):
    """
    How events are framed on one uplink connection: a codec with no I/O, made new for each connection.

    Both roles share it: the *relay* opens the WebSocket, the *main server* accepts it.  After each call the caller
    writes what `frames_to_send` gives.
    """

    name: str = Attribute("``socketio`` or ``native``.")
    max_payload: int = Attribute("The largest text frame, in bytes, that the peer takes; huge where no limit is known.")

    def opened() -> Sequence[DialectEvent]:
        """
        The WebSocket is open.

        :return: what that means already.
        """

    def receive_text(text: str) -> Sequence[DialectEvent]:
        """
        One text message arrived.

        :raises ProtocolError: when it means nothing; the connection should be closed.
        """

    def receive_binary(data: bytes) -> Sequence[DialectEvent]:
        """
        One binary message arrived: no dialect has a use for it, so it is refused or ignored, as suits the wire.

        :raises ProtocolError: when the connection should be closed for it.
        """

    def send_event(name: str, data: object) -> None:
        """Queue one event for the peer."""

    def acknowledge(ack_id: int, data: object | None) -> None:
        """Queue the answer to an event that asked for one (`EventReceived.ack_id`); ``None`` is an empty answer."""

    def ping() -> None:
        """Queue a heartbeat, where it is ours to send; otherwise nothing."""

    def close() -> None:
        """Queue a polite good-bye, where the wire has one."""

    def frames_to_send() -> list[str]:
        """The text messages queued since the last call, in order."""


class ILink(Interface):
    """One connection to the main server on which events flow."""

    max_payload: int = Attribute("The largest text frame, in bytes, that the main server takes.")
    writable: bool = Attribute("Whether what was sent leaves quickly enough; if not, output had better wait.")

    def send_output(output: CommandOutput) -> None:
        """Send *output*, which the caller has made small enough (`max_payload`). Nothing promises its arrival."""

    def when_writable() -> Deferred[None]:
        """A Deferred that fires when `writable` holds again, or the link is lost. It may be cancelled."""

    def send_result(result: CommandResult) -> None:
        """
        Send *result*, cut to what the link carries. Sending is no promise of arrival: only a receipt is.
        """


class ICommandReceiver(Interface):
    """What an uplink tells the relay's command logic. No method raises."""

    def command_received(command: ExecuteCommand, acknowledge: Acknowledge) -> None:
        """The main server orders *command*."""

    def invalid_received(error: InvalidMessage, acknowledge: Acknowledge) -> None:
        """The main server ordered something that cannot be accepted; ``error.command_id`` names it where readable."""

    def receipt_received(link: ILink, receipt: Receipt) -> None:
        """The main server confirms, or refuses, a result that was sent on *link*."""

    def cancel_received(command_id: str) -> CommandState:
        """
        The main server wants a command ended: it gets its result soon, if it has none.

        :return: how far it had come before that.
        """

    def status_asked(command_id: str) -> CommandState:
        """The main server wants to know how far a command has come."""

    def link_ready(link: ILink) -> None:
        """Events can flow: results that are not confirmed yet may be sent again."""

    def link_lost(link: ILink) -> None:
        """*link* is gone. Called once for each `link_ready`."""


class IOutputSink(Interface):
    """Where the output of one running command goes as it arrives."""

    def write(stream: StreamName, offset: int, data: bytes) -> Deferred[None] | None:
        """
        A piece of output. All pieces of a stream are written, in order, until the command's result is given.

        :param offset: how many bytes of *stream* came before it.
        :return: ``None``: more may come at once.  A Deferred: no more of this command before it fires, which it always
            does, and never with a failure.
        """


class ICommandRunner(Interface):
    """Runs commands somewhere."""

    def refuses(command: ExecuteCommand) -> RelayError | None:
        """
        Why *command* cannot be run at all, where that is known without trying: asked before it is accepted.
        """

    def run(command: ExecuteCommand, deadline: float, output: IOutputSink | None = None) -> Deferred[CommandResult]:
        """
        Run *command* once.

        :param deadline: in seconds of the relay's clock; covers every phase.
        :param output: where to write its output as it arrives, besides giving it in the result.
        :return: a Deferred of its result, or of a `RelayError` that says whether it ran.  A command that was ended by
            the deadline has a result, with the output until then.  Cancelling it ends the command.
        """

    def close() -> Deferred[None]:
        """Close what is held open; the Deferred fires when that is done."""


class JournalEntry(Struct, frozen=True, kw_only=True):
    """
    One command in the journal.

    :ivar fingerprint: tells this request from another with the same ``commandId``.
    :ivar finished: whether the command has ended.
    :ivar result: how, where that is still held.
    """

    fingerprint: bytes
    finished: bool
    result: CommandResult | None

    def __repr__(self) -> str:
        return f"<JournalEntry finished={self.finished}>"


class IJournal(Interface):
    """The record of commands accepted and results not yet confirmed."""

    def accept(command: ExecuteCommand, fingerprint: bytes) -> Deferred[None]:
        """
        Record that *command* was accepted. Fires when the record is as durable as the journal's mode promises.

        :param fingerprint: tells this request from another with the same ``commandId``; nobody can read out of it what
            the request holds.
        """

    def start(command_id: str) -> Deferred[None]:
        """Record that the command is about to be run. The ``exec`` request must not leave before this fires."""

    def finish(result: CommandResult) -> Deferred[None]:
        """Record the result. It must not be sent before this fires."""

    def confirm(command_id: str) -> None:
        """The main server has the result."""

    def lookup(command_id: str) -> JournalEntry | None:
        """What is recorded of a command. Answers at once, from memory."""

    def unconfirmed() -> Sequence[CommandResult]:
        """Results that the main server has not confirmed, oldest first."""

    def close() -> Deferred[None]:
        """Write what is pending and close."""


class IAudit(Interface):
    """The record of who ordered what and what came of it, for people. No method raises or waits."""

    available: bool = Attribute("Whether it can be written; if not, no new command should be taken on.")

    def accepted(command: ExecuteCommand) -> None:
        """*command* was taken on: it is going to run."""

    def ended(command: ExecuteCommand, outcome: str, result: CommandResult, duration: float) -> None:
        """
        *command* has its result.

        :param outcome: ``ok``, ``nonzero`` or the code of an error.
        :param duration: seconds since it was received.
        """

    def refused(command: ExecuteCommand, error: RelayError) -> None:
        """*command* was not taken on."""

    def close() -> Deferred[None]:
        """Write what is pending and close."""
