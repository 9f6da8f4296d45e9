"""
The seams of relayd: what its parts ask of each other, so that none of them needs to know another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum

from msgspec import Struct
from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from relayd.errors import InvalidMessage, RelayError
from relayd.wire.messages import CommandOutput, CommandResult, CommandState, ExecuteCommand, Receipt, StreamName

#: Tells the main server that a command was accepted (``None``) or why it was refused. Called exactly once.
Acknowledge = Callable[[RelayError | None], None]


class ILink(Interface):
    """One connection to the main server on which events flow."""

    max_payload: int = Attribute("The largest text frame, in bytes, that the main server takes, as far as is known.")
    writable: bool = Attribute("Whether what was sent leaves quickly enough; if not, output had better wait.")

    def send_output(output: CommandOutput) -> None:
        """Send *output*, which the caller has made small enough (`max_payload`). Nothing promises its arrival."""

    def when_writable() -> Deferred[None]:
        """A Deferred that fires when `writable` holds again, or the link is lost. It may be cancelled."""

    def send_result(result: CommandResult) -> None:
        """
        Send *result*, cut to what the link carries. Sending is no promise of arrival: only a receipt is.
        """

    def probe() -> Deferred[None]:
        """
        Ask for a sign of life that comes after everything sent so far: its Deferred fires when the main server's end of
        the WebSocket has read all that.  On a link that is lost before, it never fires.
        """


class Blame(Enum):
    """Whether what was sent on a link may be why it was lost."""

    #: Either side said that it is something else.
    NONE = 1
    #: The main server turned the relay away soon after it had come: usually for another reason.
    REFUSED = 2
    POSSIBLE = 3


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

    def link_lost(link: ILink, blame: Blame) -> None:
        """
        *link* is gone. Called once for each `link_ready`.

        :param blame: whether what was sent on it may be the cause.
        """


class IOutputSink(Interface):
    """Where the output of one running command goes as it arrives."""

    def write(stream: StreamName, offset: int, data: bytes) -> Deferred[None] | None:
        """
        A piece of output. All pieces of a stream are written, in order, until the command's result is given.

        :param offset: how many bytes of *stream* came before it.
        :return: ``None``: more may come at once.  A Deferred: no more of this command before it fires, which it always
            does, and never with a failure.
        """


#: Makes sure that a command may be told to run now, see `ICommandRunner.run_command`.
Starting = Callable[[], Deferred[None]]


class ICommandRunner(Interface):
    """Runs commands somewhere."""

    def refuses(command: ExecuteCommand) -> RelayError | None:
        """
        Why *command* cannot be run at all, where that is known without trying: asked before it is accepted.
        """

    def run_command(
        command: ExecuteCommand,
        deadline: float,
        starting: Starting,
        output: IOutputSink | None = None,
        *,
        timeout: float | None = None,
        grace: float | None = None,
    ) -> Deferred[CommandResult]:
        """
        Run *command* once.

        :param deadline: in seconds of the relay's clock; covers every phase.
        :param starting: called, once, shortly before the command can be told to run; it must not be before the Deferred
            fires, nor at all when that fails with a `RelayError`, which is then the run's outcome.
        :param timeout: seconds that the deadline is said to have given it, from receipt; by default from now.
        :param grace: seconds after the deadline by which the result of a command that it ended is given, whatever is
            known of that end by then; its processes are seen to all the same.  By default as many as that takes as a
            rule.
        :param output: where to write its output as it arrives, besides giving it in the result.
        :return: a Deferred of its result, or of a `RelayError` that says whether it ran.  A command that was ended by
            the deadline has a result, with the output until then.  Cancelling it ends the command.
        """

    def close() -> Deferred[None]:
        """Close what is held open; the Deferred fires when that is done."""


class EntryState(Enum):
    """How far the journal knows a command to have come."""

    ACCEPTED = 1
    #: It may have been run.
    STARTED = 2
    #: It ended, and its result is held.
    FINISHED = 3
    #: It ended, and its result is not held any more.
    CONFIRMED = 4
    #: Its result is held, and nobody waits for its delivery any more: the main server would not have it.
    DEAD = 5


class JournalEntry(Struct, frozen=True, kw_only=True):
    """
    One command in the journal.

    :ivar fingerprint: tells this request from another with the same ``commandId``.
    """

    fingerprint: bytes
    state: EntryState

    @property
    def holds_result(self) -> bool:
        """Whether `IJournal.load` gives its result."""
        return self.state in (EntryState.FINISHED, EntryState.DEAD)


class IJournal(Interface):
    """
    The record of commands accepted and results not yet confirmed.

    What fires later fails with a `RelayError` that says why nothing can be recorded.
    """

    outstanding: int = Attribute("How many results are `unconfirmed`.")

    def open() -> Sequence[tuple[str, str]]:
        """
        Make it ready, and give what an earlier process left unfinished a result: called once, before anything else.

        :return: of each such command the id, and the code of the error that its result has.
        :raises ConfigError: when it cannot be used.
        """

    def accept(command: ExecuteCommand, fingerprint: bytes) -> Deferred[JournalEntry | None]:
        """
        Record that *command* was accepted. Fires when the record is as durable as the journal's mode promises.

        :param fingerprint: tells this request from another with the same ``commandId``; nobody can read out of it what
            the request holds.
        :return: fires with ``None``, or, where the id is taken, with what is known of it; nothing is recorded then.
        """

    def start(command_id: str) -> Deferred[None]:
        """Record that the command is about to be run. The ``exec`` request must not leave before this fires."""

    def finish(result: CommandResult) -> Deferred[None]:
        """Record the result. It must not be sent before this fires."""

    def confirm(command_id: str) -> None:
        """The main server has the result, which is removed; the id is kept for a while."""

    def bury(command_id: str) -> None:
        """The main server will not have the result: keep it, but not among the `unconfirmed`."""

    def lookup(command_id: str) -> JournalEntry | None:
        """
        What is known of a command at once, from memory: of all but those whose results were confirmed a while ago,
        which `accept` finds.
        """

    def load(command_id: str) -> Deferred[CommandResult | None]:
        """The result that is held of a command, or ``None``."""

    def unconfirmed() -> Sequence[str]:
        """The commands whose results are to be sent and confirmed, in the order in which they ended."""

    def dead_letters() -> Sequence[str]:
        """The commands whose results are held and not among those (`bury`), in the order in which they ended."""

    def note(name: str, value: str) -> None:
        """Keep a fact beyond this process."""

    def noted(name: str) -> str | None:
        """The fact that was kept under that name."""

    def close() -> Deferred[None]:
        """Write what is pending and close."""


class IAudit(Interface):
    """The record of who ordered what and what came of it, for people. No method raises or waits."""

    available: bool = Attribute("Whether it can be written; if not, no new command should be taken on.")

    def record_accepted(command: ExecuteCommand) -> None:
        """*command* was taken on: it is going to run."""

    def record_ended(command: ExecuteCommand, outcome: str, result: CommandResult, duration: float) -> None:
        """
        *command* has its result.

        :param outcome: ``ok``, ``nonzero`` or the code of an error.
        :param duration: seconds since it was received.
        """

    def record_recovered(command_id: str, outcome: str) -> None:
        """A command that an earlier process left unfinished has its result; *outcome* as in `record_ended`."""

    def record_refused(command: ExecuteCommand, error: RelayError) -> None:
        """*command* was not taken on."""

    def close() -> Deferred[None]:
        """Write what is pending and close."""
