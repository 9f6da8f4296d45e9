"""
The seams of relayd: what its wings ask of each other, so that no wing needs to know another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import TYPE_CHECKING

from msgspec import Struct
from zope.interface import Attribute, Interface

from relayd.errors import InvalidMessage, RelayError
from relayd.wire.messages import CommandOutput, CommandResult, CommandState, ExecuteCommand, Receipt, StreamName

if TYPE_CHECKING:  # it takes as long to import as all the rest of ``relayctl journal``
    from twisted.internet.defer import Deferred

#: Tells the main server that a command was accepted (``None``), or why it was refused. Called exactly once.
Acknowledge = Callable[[RelayError | None], None]


def no_acknowledgement(error: RelayError | None) -> None:
    """The `Acknowledge` of a command for which the main server asked for none: nobody gets to know."""


class Claims(Struct, frozen=True):
    """
    What the relay owes one main server.

    :ivar commands: whether commands that it ordered are under way.
    :ivar results: whether results that are for it are not confirmed yet.
    """

    commands: bool = False
    results: bool = False


class ILink(Interface):
    """One connection to the main server on which events flow."""

    server: str = Attribute("The name of the main server, a URL without secrets; empty where there is only one.")

    max_payload: int = Attribute("The largest text frame, in bytes, that the main server takes, as far as is known.")
    writable: bool = Attribute("Whether what was sent leaves quickly enough; if not, more should wait.")

    def send_output(output: CommandOutput) -> None:
        """Send *output*, which the caller has made small enough (`max_payload`). It may not arrive."""

    def when_writable() -> Deferred[None]:
        """A Deferred that fires when `writable` holds again, or the link is lost. It may be cancelled."""

    def send_result(result: CommandResult) -> None:
        """
        Send *result*, cut to what the link carries. Only a receipt shows that it has arrived.
        """

    def probe() -> Deferred[None]:
        """
        Ask for a sign of life that comes after everything sent so far.

        :return: fires when the main server's end of the WebSocket has read all that; never on a link that is lost.
        """


class Blame(Enum):
    """Whether what was sent on a link may be why it was lost."""

    #: Either side gave another reason.
    NONE = 1
    #: The main server turned the relay away soon after it had connected: usually for another reason.
    REFUSED = 2
    POSSIBLE = 3


class ICommandReceiver(Interface):
    """The relay's command logic, as the uplink sees it. No method raises."""

    def command_received(command: ExecuteCommand, acknowledge: Acknowledge) -> None:
        """The main server orders *command*."""

    def invalid_received(error: InvalidMessage, acknowledge: Acknowledge) -> None:
        """The main server ordered something invalid; ``error.command_id`` is its id, as far as that can be read."""

    def receipt_received(link: ILink, receipt: Receipt) -> None:
        """The main server confirms or refuses a result that was sent on *link*."""

    def cancel_received(command_id: str) -> CommandState:
        """
        The main server wants a command to end.  If the command has no result yet, it gets one soon.

        :return: how far the command had come before that.
        """

    def status_asked(command_id: str) -> CommandState:
        """The main server wants to know how far a command has come."""

    def check_asked(command: ExecuteCommand) -> RelayError | None:
        """The main server wants to know whether the site's rules allow *command*, which is not run: why they do not."""

    def link_ready(link: ILink) -> None:
        """Events can flow: results that are not confirmed yet may be sent again."""

    def link_lost(link: ILink, blame: Blame) -> None:
        """
        *link* was lost. Called once for each `link_ready`.

        :param blame: whether what was sent on it may be the cause.
        """


class IOutputSink(Interface):
    """Where the output of one running command goes as it arrives."""

    def write(stream: StreamName, offset: int, data: bytes) -> Deferred[None] | None:
        """
        Take a piece of output. All pieces of a stream are written, in order, before the command's result is given.

        :param offset: how many bytes of *stream* came before it.
        :return: ``None``: more may be written at once.  A Deferred: no more output of this command may be written
            before it fires, which it always does, and never with a failure.
        """


#: Makes sure that the host may be told to run a command, see `ICommandRunner.run_command`.
Starting = Callable[[], "Deferred[None]"]


class ICommandRunner(Interface):
    """Runs commands somewhere."""

    def refuses(command: ExecuteCommand) -> RelayError | None:
        """
        Why *command* cannot be run at all, as far as that is known without trying; asked before it is accepted.
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
        :param starting: called once, shortly before the host can be told to run the command.  The host must not be told
            before the Deferred fires, nor at all when that fails with a `RelayError`, which is then the run's outcome.
        :param output: where to write its output as it arrives, besides giving it in the result.
        :param timeout: seconds from receipt to the deadline, for messages; by default from now.
        :param grace: seconds after the deadline by which the result of a command that the deadline ended is given, with
            what is known by then; its processes are ended all the same.  By default as many as that usually takes.
        :return: a Deferred of its result, or of a `RelayError` that says whether it ran.  A command that the deadline
            ended has a result, with the output until then.  Cancelling the Deferred ends the command.
        """

    def close() -> Deferred[None]:
        """Close what is held open; the Deferred fires when that is done."""


class EntryState(Enum):
    """How far a command has come, as the journal knows it."""

    ACCEPTED = 1
    #: It may have been run.
    STARTED = 2
    #: It ended, and its result is held.
    FINISHED = 3
    #: It ended, and its result was confirmed and is not held any more.
    CONFIRMED = 4
    #: Its result is held, and nobody waits for its delivery any more: the main server did not take it.
    DEAD = 5


class JournalEntry(Struct, frozen=True, kw_only=True):
    """
    One command in the journal.

    :ivar fingerprint: tells this request from another with the same ``commandId``.
    :ivar origin: the number of the main server that ordered it, see `IJournal.accept`; 0: it is not known.
    """

    fingerprint: bytes
    state: EntryState
    origin: int = 0

    @property
    def holds_result(self) -> bool:
        """Whether `IJournal.load` gives its result."""
        return self.state in (EntryState.FINISHED, EntryState.DEAD)


class IJournal(Interface):
    """
    The record of commands accepted and of results not yet confirmed.

    Deferreds of these methods fail with a `RelayError` that says why nothing can be recorded.
    """

    outstanding: int = Attribute("How many results are `unconfirmed`.")

    def open() -> Sequence[tuple[str, str]]:
        """
        Open the journal, and give results to the commands that an earlier process left unfinished. Called once, first.

        :return: of each such command the id, and the code of the error that is its result.
        :raises ConfigError: when the journal cannot be used.
        """

    def accept(command: ExecuteCommand, fingerprint: bytes, origin: int = 0) -> Deferred[JournalEntry | None]:
        """
        Record that *command* was accepted.

        :param fingerprint: tells this request from another with the same ``commandId``; what the request holds cannot
            be read out of it.
        :param origin: the number of the main server that ordered it, where there are several; 0: none is recorded.
        :return: fires with ``None`` when the record is as durable as the journal's mode promises.  Where the id is
            taken, nothing is recorded, and it fires with what is known of that command.
        """

    def start(command_id: str) -> Deferred[None]:
        """Record that a command is about to be run. The ``exec`` request must not be sent before this fires."""

    def finish(result: CommandResult) -> Deferred[None]:
        """Record the result of a command. It must not be sent before this fires."""

    def confirm(command_id: str) -> None:
        """Remove the result of a command: the main server has it. The id is kept for a while."""

    def bury(command_id: str) -> None:
        """Keep the result of a command, but not among the `unconfirmed`: the main server does not take it."""

    def lookup(command_id: str) -> JournalEntry | None:
        """
        What is known of a command from memory, at once.  That is not there for commands whose results were confirmed
        long ago: `accept` finds those.
        """

    def load(command_id: str) -> Deferred[CommandResult | None]:
        """The result of a command; ``None``: none is held."""

    def unconfirmed() -> Sequence[str]:
        """The commands whose results are to be sent and confirmed, in the order in which they ended."""

    def outstanding_from(origin: int) -> int:
        """How many of the `unconfirmed` results are of commands from the main server with that number, not 0."""

    def dead_letters() -> Sequence[str]:
        """The commands whose results are held and nobody waits for (`bury`), in the order in which they ended."""

    def note(name: str, value: str) -> None:
        """Keep a fact for later processes."""

    def noted(name: str) -> str | None:
        """The fact that was kept under that name."""

    def close() -> Deferred[None]:
        """Write what is pending and close."""


class IAudit(Interface):
    """The record for people of who ordered what, and of what came of it. No method raises or waits."""

    available: bool = Attribute("Whether it can be written; if not, no new command should be accepted.")

    def record_accepted(command: ExecuteCommand) -> None:
        """*command* was accepted: it is going to run."""

    def record_ended(command: ExecuteCommand, outcome: str, result: CommandResult, duration: float) -> None:
        """
        *command* has its result.

        :param outcome: ``ok``, ``nonzero`` or the code of an error.
        :param duration: seconds since it was received.
        """

    def record_recovered(command_id: str, outcome: str, server: str = "") -> None:
        """
        A command that an earlier process left unfinished has its result.

        :param outcome: as in `record_ended`.
        :param server: the main server that ordered it, where there are several.
        """

    def record_refused(command: ExecuteCommand, error: RelayError) -> None:
        """*command* was not accepted."""

    def close() -> Deferred[None]:
        """Write what is pending and close."""
