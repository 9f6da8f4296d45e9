"""
The relay's command logic: what becomes of each order of the main server, and of each result.
It knows no wire, no SSH and no disk: those are behind the seams of `relayd.interfaces`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from relayd.commands.active import ActiveCommand
from relayd.commands.admission import Admission
from relayd.commands.drains import Drains
from relayd.commands.duplicates import Duplicates
from relayd.commands.failures import explain_failure, failed_result
from relayd.commands.fingerprints import Fingerprints
from relayd.commands.input_budget import InputBudget
from relayd.commands.origins import Origins
from relayd.commands.outbox import Outbox
from relayd.commands.reports import CommandReports
from relayd.commands.scheduler import Scheduler
from relayd.commands.stats import Stats
from relayd.commands.streaming import Streams
from relayd.errors import AuditUnavailable, InvalidMessage, Overloaded, RelayError, ShuttingDown, TooMuchInput
from relayd.interfaces import (
    Acknowledge,
    Blame,
    Claims,
    IAudit,
    ICommandReceiver,
    ICommandRunner,
    IJournal,
    ILink,
    JournalEntry,
)
from relayd.language.charsets import UTF8
from relayd.language.texts import Translate, english, printable, span
from relayd.network.host_rules import HostTable
from relayd.policy.rules import Policy
from relayd.wire.failure_results import failure_result
from relayd.wire.messages import EXECUTE_COMMAND, MAX_COMMAND_ID, CommandResult, CommandState, ExecuteCommand, Receipt

_log = Logger("relayd.commands")

#: The part of its timeout by which a command is ended early at most.
LARGEST_MARGIN: Final = 0.1


class Limits(Struct, frozen=True, kw_only=True):
    """
    How much the dispatcher accepts, and how long commands may take.

    :ivar max_commands: commands that run at a time.
    :ivar max_queue: commands that wait for their turn.
    :ivar default_timeout: seconds for a command that names no timeout.
    :ivar max_timeout: seconds that no command exceeds.
    :ivar output_encoding: character set of output that is sent as it arrives, see `relayd.language.charsets`.
    :ivar hosts: what the site says of single hosts, before that.
    :ivar timeout_margin: seconds by which a command is ended before its timeout, so that the main server has its result
        by then; at most `LARGEST_MARGIN` of the timeout.
    """

    max_commands: int
    max_queue: int
    default_timeout: float
    max_timeout: float
    output_encoding: str = UTF8
    hosts: HostTable = HostTable()
    timeout_margin: float = 0.0


@implementer(ICommandReceiver)
class Dispatcher:
    """
    Runs each command at most once, and answers each.

    More than 25 methods, as it is what three seams ask for: `ICommandReceiver`, the status and the service.

    :param clock: the clock of all deadlines.
    :param fingerprint_key: gives the key of `Fingerprints`, which lives as long as *journal* and is kept apart from it.
        By default the key lives as long as the process.
    :param policy: the rules of the site; by default they allow everything but special addresses.
    :param audit: gets every command; while it cannot be written, new commands are refused.
    :param translate: to the language of what results say.
    :param servers: the names of the main servers, where each result goes to the one that ordered the command.
    """

    def __init__(
        self,
        clock: IReactorTime,
        runner: ICommandRunner,
        journal: IJournal,
        limits: Limits,
        fingerprint_key: Callable[[], bytes] | None = None,
        policy: Policy | None = None,
        audit: IAudit | None = None,
        translate: Translate = english,
        servers: Sequence[str] = (),
    ) -> None:
        self._clock = clock
        self._runner = runner
        self._policy = policy or Policy()
        self._fingerprints = Fingerprints(fingerprint_key or partial(os.urandom, 32))
        self._journal = journal
        self._limits = limits
        self._translate = translate
        self.stats = Stats()
        self._reports = CommandReports(clock, self.stats, audit)
        self._admission: Admission[ActiveCommand] = Admission(limits.max_commands, limits.max_queue)
        self._origins = Origins(journal, servers)
        self._streams = Streams(clock, self.stats, limits.output_encoding, limits.hosts, self._origins)
        self._scheduler = Scheduler(
            clock, runner, journal, self._admission, self._streams, self, translate, self._origins
        )
        self._active = self._scheduler.active
        self._drains = Drains(clock, self._is_drained, self._scheduler.cancel_all)
        self._outbox = Outbox(clock, journal, self.stats, self._drains.check, translate, self._origins)
        self._duplicates = Duplicates(
            self._active, journal, self._outbox, self.stats, self._reports, self._refuse, self._overloaded, translate
        )
        self._inputs = InputBudget()
        self._accepting = True

    @property
    def undelivered(self) -> int:
        """Results that the main server has not confirmed."""
        return self._outbox.undelivered

    @property
    def running(self) -> int:
        """Commands that run now."""
        return self._admission.running

    @property
    def queued(self) -> int:
        """Commands that wait for their turn now."""
        return self._admission.queued

    @property
    def limits(self) -> Limits:
        """The limits of now."""
        return self._limits

    @property
    def accepting(self) -> bool:
        """Whether new commands are taken; once they are not, they never are again."""
        return self._accepting

    @property
    def active(self) -> Mapping[str, ActiveCommand]:
        """Every command that is under way, by its id, oldest first."""
        return self._active

    def claims_of(self, server: str) -> Claims:
        """What the relay owes the main server *server*; any one, where results go to whichever is connected."""
        commands = any(self._origins.is_for(each.command.origin, server) for each in self._active.values())
        return Claims(commands=commands, results=self._outbox.undelivered_for(server) > 0)

    # ICommandReceiver

    def command_received(self, command: ExecuteCommand, acknowledge: Acknowledge) -> None:
        """See `ICommandReceiver.command_received`."""
        received = self._clock.seconds()
        fingerprint = self._fingerprints.fingerprint_of(command, self._origins.distinct(command.origin))
        if (active := self._active.get(command.command_id)) is not None:
            self._duplicates.join(active, command, fingerprint, acknowledge)
        elif (known := self._journal.lookup(command.command_id)) is not None:
            self._duplicates.answer(known, command, fingerprint, acknowledge)
        elif (refusal := self._refusal_of(command)) is not None:
            self._refuse(command, refusal, acknowledge)
        elif self._inputs.reserve(command):
            timeout = min(command.timeout or self._limits.default_timeout, self._limits.max_timeout)
            margin = min(self._limits.timeout_margin, timeout * LARGEST_MARGIN)
            if not self._scheduler.submit(ActiveCommand(command, fingerprint, received, timeout, acknowledge, margin)):
                self._inputs.release(command)
                self._refuse(command, self._overloaded(), acknowledge)
        else:
            self._refuse(command, TooMuchInput(megabytes=self._inputs.used / 1e6), acknowledge)

    def invalid_received(self, error: InvalidMessage, acknowledge: Acknowledge) -> None:
        """See `ICommandReceiver.invalid_received`."""
        command_id = error.command_id
        self.stats.refused[error.code] += 1
        shown = None if command_id is None else printable(command_id, MAX_COMMAND_ID)
        _log.warn("The main server sent an invalid message ({id}): {error}", id=shown, error=str(error))
        if command_id is None or error.fields["event"] != EXECUTE_COMMAND:
            acknowledge(error)
            return
        failure = failure_result(
            command_id, error, numeric_id=error.numeric_id, extended=error.extended, translate=self._translate
        )
        if self._duplicates.is_due(command_id):
            self._duplicates.acknowledge_or_tell(failure, error, acknowledge)
        else:
            acknowledge(error)
            self._outbox.send_unrecorded(failure, self._outbox.server)

    def receipt_received(self, link: ILink, receipt: Receipt) -> None:
        """See `ICommandReceiver.receipt_received`."""
        self._outbox.receipt_received(link, receipt)

    def cancel_received(self, command_id: str) -> CommandState:
        """See `ICommandReceiver.cancel_received`."""
        state = self.status_asked(command_id)
        _log.info("The main server cancels command {id}, which is {state}", id=command_id, state=state.value)
        if (active := self._active.get(command_id)) is not None and state is not CommandState.UNKNOWN:
            self._scheduler.cancel(active)
        return state

    def status_asked(self, command_id: str) -> CommandState:
        """See `ICommandReceiver.status_asked`."""
        asking = self._outbox.server
        if (active := self._active.get(command_id)) is not None:
            return active.state if self._origins.is_for(active.command.origin, asking) else CommandState.UNKNOWN
        known = self._journal.lookup(command_id)
        foreign = known and known.origin and not self._origins.is_for(self._origins.name_of(known.origin), asking)
        if known is None or foreign:
            return CommandState.UNKNOWN
        return CommandState.FINISHED

    def check_asked(self, command: ExecuteCommand) -> RelayError | None:
        """See `ICommandReceiver.check_asked`."""
        return self._policy.refusal_of(command)

    def origin_of(self, command_id: str) -> str:
        """The main server to which the result of a recorded command goes; empty: to any."""
        known = self._journal.lookup(command_id)
        return self._origins.name_of(0 if known is None else known.origin)

    def link_ready(self, link: ILink) -> None:
        """See `ICommandReceiver.link_ready`."""
        self._streams.link_ready(link)
        self._outbox.link_ready(link, self._active)
        self._drains.check()

    def link_lost(self, link: ILink, blame: Blame) -> None:
        """See `ICommandReceiver.link_lost`."""
        self._streams.link_lost(link)
        self._outbox.link_lost(link, blame)

    # The service around it

    def configure(self, limits: Limits, policy: Policy) -> None:
        """
        Change limits and rules.

        Commands that run go on as they are. Those that wait and are not allowed any more are answered so.
        """
        self._limits, self._policy = limits, policy
        self._streams.charset, self._streams.hosts = limits.output_encoding, limits.hosts
        for active in list(self._active.values()):
            if active.run is None and (refusal := policy.refusal_of(active.command)) is not None:
                self._scheduler.cancel(active, refusal)
        self._admission.resize(limits.max_commands, limits.max_queue)
        self._scheduler.grant_slots()

    def drain(self, timeout: float) -> Deferred[None]:
        """
        Take no more commands, for good, and wait until all have ended and their results are confirmed.

        Shortly before the time is over, commands that still run or wait are cancelled, and answered so.

        :param timeout: seconds.
        :return: fires when all is delivered, or when the time is over.
        """
        self._accepting = False
        self._outbox.hurry()
        if not self._is_drained():
            _log.info("Waiting {span} at most for {what}", span=span(timeout), what=self._awaited())
        return self._drains.begin(timeout).addBoth(self._drained)

    def _is_drained(self) -> bool:
        return not self._active and not self._outbox.deliverable

    def _drained(self, outcome: object) -> object:
        self._outbox.stop()
        if not self._is_drained():
            _log.warn("Gave up waiting for {what}", what=self._awaited())
        return outcome

    def _awaited(self) -> str:
        """What a drain waits for, for the log."""
        away = "" if self._outbox.has_link else "; there is no connection to it"
        return (
            f"{len(self._active)} commands to end and {self._outbox.deliverable} results to be confirmed by the main "
            f"server{away}"
        )

    # Owner of the scheduler

    def command_accepted(self, active: ActiveCommand) -> None:
        """See `relayd.commands.scheduler.Owner`."""
        self._reports.report_accepted(active.command)
        self._outbox.forget(active.command.command_id)
        for acknowledge in active.acknowledges:
            acknowledge(None)

    def command_not_accepted(self, active: ActiveCommand, error: RelayError) -> None:
        """See `relayd.commands.scheduler.Owner`."""
        self._inputs.release(active.command)
        acknowledge, *others = active.acknowledges
        self._refuse(active.command, error, acknowledge)
        for other in others:
            other(error)
        self._drains.check()

    def command_known(self, active: ActiveCommand, known: JournalEntry) -> None:
        """See `relayd.commands.scheduler.Owner`."""
        self._inputs.release(active.command)
        for acknowledge in active.acknowledges:
            self._duplicates.answer(known, active.command, active.fingerprint, acknowledge)
        self._drains.check()

    def command_ended(self, active: ActiveCommand, result: CommandResult, recorded: bool) -> None:
        """See `relayd.commands.scheduler.Owner`."""
        self._inputs.release(active.command)
        if recorded:
            self._outbox.send_recorded(result, active.command.origin)
        else:  # a result that a crash would lose is still better than silence
            self._outbox.send_unrecorded(result, active.command.origin)
        self._reports.report_ended(active, result)
        self._drains.check()

    # Commands that are not taken on

    def _refusal_of(self, command: ExecuteCommand) -> RelayError | None:
        """Why relay, site or runner will not take a new command."""
        if not self._accepting:
            return ShuttingDown()
        if not self._reports.auditable:
            return AuditUnavailable()
        try:
            return self._policy.refusal_of(command) or self._runner.refuses(command)
        except Exception:  # they promise not to raise, but no command shall go unanswered
            return explain_failure(Failure(), "check", command.command_id, RelayError())

    def _overloaded(self) -> Overloaded:
        return Overloaded(running=self.running, queued=self.queued)

    def _refuse(self, command: ExecuteCommand, error: RelayError, acknowledge: Acknowledge) -> None:
        """Answer a command that is not taken on.  Not recorded: the same command may come again, and run then."""
        self._reports.report_refused(command, error)
        acknowledge(error)
        self._outbox.send_unrecorded(failed_result(command, error, self._translate), command.origin)
