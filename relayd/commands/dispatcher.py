"""
The relay's command logic: what becomes of each order of the main server, and of each result.
Knows no wire, no SSH and no disk: those are behind the seams of `relayd.interfaces`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from hashlib import blake2b

import msgspec
from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from relayd.commands.admission import Admission
from relayd.commands.outbox import Outbox
from relayd.commands.scheduler import ActiveCommand, Scheduler, explain
from relayd.commands.stats import Ended, Stats
from relayd.commands.streaming import Streams
from relayd.errors import (
    AlreadyConfirmed,
    AuditUnavailable,
    DuplicateMismatch,
    InvalidMessage,
    OutcomeLost,
    Overloaded,
    RelayError,
    ShuttingDown,
    TooMuchInput,
)
from relayd.interfaces import (
    Acknowledge,
    Blame,
    EntryState,
    IAudit,
    ICommandReceiver,
    ICommandRunner,
    IJournal,
    ILink,
    JournalEntry,
)
from relayd.language.charsets import UTF8
from relayd.language.texts import Translate, english, printable
from relayd.policy.rules import Policy
from relayd.wire.messages import (
    EXECUTE_COMMAND,
    MAX_COMMAND_ID,
    CommandResult,
    CommandState,
    ExecuteCommand,
    JumpHost,
    Receipt,
    failure_result,
)

#: Seconds before the end of a drain at which what still runs is cancelled, so that its results can be delivered; at
#: most a quarter of the drain.
DRAIN_GRACE = 5.0
#: The part of its timeout by which a command is ended early at most.
LARGEST_MARGIN = 0.1
#: Bytes of large commands, with what they read and their credentials, that are at hand at a time; a single one may be
#: larger.
MAX_INPUT = 24 << 20
#: Bytes from which on a command is a large one: the others are bounded by their number.
LARGE_INPUT = 4 << 10
#: Duplicates of a command that wait together for the journal to take it.
MAX_WAITING = 100


class Limits(Struct, frozen=True, kw_only=True):
    """
    What the dispatcher takes on.

    :ivar max_commands: commands that run at a time.
    :ivar max_queue: commands that wait for their turn.
    :ivar default_timeout: seconds for a command that names none.
    :ivar max_timeout: seconds that no command exceeds.
    :ivar output_encoding: in which output is read that is sent as it arrives, see `relayd.language.charsets`.
    :ivar timeout_margin: seconds by which a command is ended before its timeout, so that the main server has its result
        by then; at most `LARGEST_MARGIN` of the timeout.
    """

    max_commands: int
    max_queue: int
    default_timeout: float
    max_timeout: float
    output_encoding: str = UTF8
    timeout_margin: float = 0.0


class _Drain:
    """One wait for the end: two alarms, and a Deferred that always fires."""

    def __init__(self, clock: IReactorTime, timeout: float, cancel: Callable[[], None]) -> None:
        self._calls = [
            clock.callLater(timeout - min(DRAIN_GRACE, timeout / 4), cancel),
            clock.callLater(timeout, self.end),
        ]
        self.done: Deferred[None] = Deferred(lambda _: self._stop())

    def end(self) -> None:
        self._stop()
        self.done.callback(None)

    def _stop(self) -> None:
        for call in self._calls:
            if call.active():
                call.cancel()


@implementer(ICommandReceiver)
class Dispatcher:
    """
    Runs each command once and answers it, whatever becomes of it.

    :param clock: tells the time that deadlines count in.
    :param fingerprint_key: gives up to 64 secret bytes, which live as long as *journal* does and are kept apart from
        it; asked for once, with the first command.  By default they live as long as the process.  Requests may hold
        secrets that are easily guessed: who has the journal alone must not be able to try them out on its fingerprints.
    :param policy: the rules of the site; by default it allows all but special addresses.
    :param audit: is told of every command; while it cannot be written, new ones are refused.
    :param translate: to the language of what results say.
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
    ) -> None:
        self._log = Logger("relayd.commands")
        self._clock = clock
        self._runner = runner
        self._policy = policy or Policy()
        self._read_fingerprint_key = fingerprint_key or partial(os.urandom, 32)
        self._journal = journal
        self._limits = limits
        self._audit = audit
        self._translate = translate
        self.stats = Stats()
        self._admission: Admission[ActiveCommand] = Admission(limits.max_commands, limits.max_queue)
        self._streams = Streams(clock, self.stats, limits.output_encoding)
        self._scheduler = Scheduler(clock, runner, journal, self._admission, self._streams, self, translate)
        self._active = self._scheduler.active
        self._outbox = Outbox(clock, journal, self.stats, self._check_drained, translate)
        #: The sizes of the large commands at hand, by id, and their sum.
        self._inputs: dict[str, int] = {}
        self._input = 0
        self._accepting = True
        self._drains: list[_Drain] = []

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
        """What is taken on now."""
        return self._limits

    @property
    def accepting(self) -> bool:
        """Whether new commands are taken; once they are not, they never are again."""
        return self._accepting

    @property
    def active(self) -> Mapping[str, ActiveCommand]:
        """Every command at hand, by its id, oldest first."""
        return self._active

    # ICommandReceiver

    def command_received(self, command: ExecuteCommand, acknowledge: Acknowledge) -> None:
        """See `ICommandReceiver.command_received`."""
        received = self._clock.seconds()
        fingerprint = self._fingerprint(command)
        if (active := self._active.get(command.command_id)) is not None:
            self._duplicate_of_active(active, command, fingerprint, acknowledge)
        elif (known := self._journal.lookup(command.command_id)) is not None:
            self._duplicate_of_known(known, command, fingerprint, acknowledge)
        elif not self._accepting:
            self._refuse(command, ShuttingDown(), acknowledge)
        elif self._audit is not None and not self._audit.available:
            self._refuse(command, AuditUnavailable(), acknowledge)
        elif (refusal := self._refusal_of(command)) is not None:
            self._refuse(command, refusal, acknowledge)
        elif self._takes_input(command):
            timeout = min(command.timeout or self._limits.default_timeout, self._limits.max_timeout)
            margin = min(self._limits.timeout_margin, timeout * LARGEST_MARGIN)
            if not self._scheduler.submit(ActiveCommand(command, fingerprint, received, timeout, acknowledge, margin)):
                self._drop_input(command)
                self._refuse(command, Overloaded(running=self.running, queued=self.queued), acknowledge)
        else:
            self._refuse(command, TooMuchInput(megabytes=self._input / 1e6), acknowledge)

    def invalid_received(self, error: InvalidMessage, acknowledge: Acknowledge) -> None:
        """See `ICommandReceiver.invalid_received`."""
        command_id = error.command_id
        self.stats.refused[error.code] += 1
        shown = None if command_id is None else printable(command_id, MAX_COMMAND_ID)
        self._log.warn("The main server sent what is not valid ({id}): {error}", id=shown, error=str(error))
        acknowledge(error)
        if command_id is not None and error.fields["event"] == EXECUTE_COMMAND and not self._owes(command_id):
            self._outbox.send_unrecorded(
                failure_result(command_id, error, numeric_id=error.numeric_id, translate=self._translate)
            )

    def receipt_received(self, link: ILink, receipt: Receipt) -> None:
        """See `ICommandReceiver.receipt_received`."""
        self._outbox.receipt_received(link, receipt)

    def cancel_received(self, command_id: str) -> CommandState:
        """See `ICommandReceiver.cancel_received`."""
        state = self.status_asked(command_id)
        self._log.info("The main server wants command {id} to end, which is {state}", id=command_id, state=state.value)
        if (active := self._active.get(command_id)) is not None:
            self._scheduler.cancel(active)
        return state

    def status_asked(self, command_id: str) -> CommandState:
        """See `ICommandReceiver.status_asked`."""
        if (active := self._active.get(command_id)) is not None:
            return active.state
        return CommandState.UNKNOWN if self._journal.lookup(command_id) is None else CommandState.FINISHED

    def link_ready(self, link: ILink) -> None:
        """See `ICommandReceiver.link_ready`."""
        self._streams.link_ready(link)
        self._outbox.link_ready(link, self._active)

    def link_lost(self, link: ILink, blame: Blame) -> None:
        """See `ICommandReceiver.link_lost`."""
        self._streams.link_lost(link)
        self._outbox.link_lost(link, blame)

    def configure(self, limits: Limits, policy: Policy) -> None:
        """
        From now on these count. What runs goes on as it is; what waits and is not allowed any more is answered so.
        """
        self._limits, self._policy = limits, policy
        self._streams.charset = limits.output_encoding
        for active in list(self._active.values()):
            if active.run is None and (refusal := policy.refusal_of(active.command)) is not None:
                self._scheduler.cancel(active, refusal)
        self._admission.resize(limits.max_commands, limits.max_queue)
        self._scheduler.grant()

    def drain(self, timeout: float) -> Deferred[None]:
        """
        Take no more commands, for good, and wait until those at hand have ended and their results are confirmed.

        Shortly before the time is over, what still runs or waits is cancelled, and answered so.

        :param timeout: seconds.
        :return: fires when all is delivered, or when the time is over.
        """
        self._accepting = False
        self._outbox.hurry()
        drain = _Drain(self._clock, timeout, self._scheduler.cancel_all)
        drain.done.addBoth(self._drained, drain)
        self._drains.append(drain)
        self._check_drained()
        return drain.done

    # Owner of the scheduler

    def command_accepted(self, active: ActiveCommand) -> None:
        """See `relayd.commands.scheduler.Owner`."""
        command = active.command
        self.stats.accepted += 1
        if self._audit is not None:
            self._audit.accepted(command)
        self._outbox.forget(command.command_id)
        for acknowledge in active.acknowledges:
            acknowledge(None)
        # Formatting costs Twisted's log some microseconds a field, so that these two lines would cost more than all
        # else that relayd does for a command: their text comes as one field, beside those that programs read.
        self._log.info(
            "Accepted command {text}",
            text=f"{command.command_id} for {_where(command)}",
            event="accepted", id=command.command_id, user=command.username, host=command.host, port=command.port,
        )  # fmt: skip

    def command_not_accepted(self, active: ActiveCommand, error: RelayError) -> None:
        """See `relayd.commands.scheduler.Owner`."""
        self._drop_input(active.command)
        acknowledge, *others = active.acknowledges
        self._refuse(active.command, error, acknowledge)
        for other in others:
            other(error)
        self._check_drained()

    def command_known(self, active: ActiveCommand, known: JournalEntry) -> None:
        """See `relayd.commands.scheduler.Owner`."""
        self._drop_input(active.command)
        for acknowledge in active.acknowledges:
            self._duplicate_of_known(known, active.command, active.fingerprint, acknowledge)
        self._check_drained()

    def command_ended(self, active: ActiveCommand, result: CommandResult, recorded: bool) -> None:
        """See `relayd.commands.scheduler.Owner`."""
        command, details = active.command, result.details
        self._drop_input(command)
        outcome = "nonzero" if result.exit_code else "ok"
        if details.error is not None:
            outcome = str(details.error["code"])
        if recorded:
            self._outbox.send(result)
        else:  # a result that a crash would lose is still better than silence
            self._outbox.send_unrecorded(result)
        now = self._clock.seconds()
        duration = now - active.received
        where = (command.host, command.port, command.username)
        queued = None if active.began is None else active.began - active.received
        self.stats.ended(Ended(command.command_id, *where, outcome, result.exit_code, duration, now), queued, details)
        if self._audit is not None:
            self._audit.ended(command, outcome, result, duration)
        self._log.info(
            "Finished command {text}",
            text=f"{command.command_id} for {_where(command)}: {outcome}, exit {result.exit_code}, {duration:.3f} s, "
            f"{details.stdout_bytes} bytes of output, {details.stderr_bytes} of errors",
            event="finished", id=command.command_id, user=command.username, host=command.host, port=command.port,
            outcome=outcome, exit=result.exit_code, duration=duration,
            stdout_bytes=details.stdout_bytes, stderr_bytes=details.stderr_bytes,
        )  # fmt: skip
        self._check_drained()

    # Commands that are new

    def _refusal_of(self, command: ExecuteCommand) -> RelayError | None:
        """Why site or runner will not have *command*; they promise not to raise, but no command shall go unanswered."""
        try:
            return self._policy.refusal_of(command) or self._runner.refuses(command)
        except Exception:
            return explain(Failure(), "check", command.command_id, RelayError(), self._log)

    def _takes_input(self, command: ExecuteCommand) -> bool:
        """Whether there is room for what *command* brings, which it takes then."""
        size = _size(command)
        if size < LARGE_INPUT:
            return True
        if self._inputs and self._input + size > MAX_INPUT:
            return False
        self._inputs[command.command_id] = size
        self._input += size
        return True

    def _drop_input(self, command: ExecuteCommand) -> None:
        if self._inputs:
            self._input -= self._inputs.pop(command.command_id, 0)

    # Commands that are not new

    @cached_property
    def _fingerprint_key(self) -> bytes:
        return self._read_fingerprint_key()

    def _fingerprint(self, command: ExecuteCommand) -> bytes:
        """
        What is asked, without the credentials: a password that was changed meanwhile asks for no other command.
        """
        # Hosts as they were written: a dot at the end may lead to another machine.
        hops = [(hop.written_host, hop.port, hop.username) for hop in command.via]
        asked = (
            command.written_host, command.port, command.username, command.command,
            command.cwd, sorted(command.env), command.stdin, hops,
        )  # fmt: skip
        return blake2b(msgspec.msgpack.encode(asked), digest_size=16, key=self._fingerprint_key).digest()

    def _duplicate_of_active(
        self, active: ActiveCommand, command: ExecuteCommand, fingerprint: bytes, acknowledge: Acknowledge
    ) -> None:
        if fingerprint != active.fingerprint:
            self._mismatch(command, acknowledge)
            return
        self.stats.joined += 1
        self._log.info("Command {id} came again; it is under way, and one result answers both", id=command.command_id)
        if active.accepted:
            acknowledge(None)
        elif len(active.acknowledges) < MAX_WAITING:
            active.acknowledges.append(acknowledge)
        else:
            acknowledge(Overloaded(running=self.running, queued=self.queued))

    def _duplicate_of_known(
        self, known: JournalEntry, command: ExecuteCommand, fingerprint: bytes, acknowledge: Acknowledge
    ) -> None:
        unrecorded = self._outbox.unrecorded(command.command_id)
        recent = self._outbox.recent(command.command_id)
        if fingerprint != known.fingerprint:
            self._mismatch(command, acknowledge)
        elif known.holds_result:
            self._resent(command, acknowledge)
            self._outbox.send_again(command.command_id)
        elif known.state is EntryState.CONFIRMED and recent is not None:  # no failure in the place of what it got
            self._resent(command, acknowledge)
            self._outbox.send_unrecorded(recent)
        elif known.state is EntryState.CONFIRMED:
            self._refuse(command, AlreadyConfirmed(), acknowledge)
        elif unrecorded is not None:  # it ended, and the journal could not record that
            self._resent(command, acknowledge)
            self._outbox.send_unrecorded(unrecorded)
        else:
            self._refuse(command, OutcomeLost(), acknowledge)

    def _resent(self, command: ExecuteCommand, acknowledge: Acknowledge) -> None:
        self.stats.resent += 1
        self._log.info("Command {id} came again; its result is sent again", id=command.command_id)
        acknowledge(None)

    def _mismatch(self, command: ExecuteCommand, acknowledge: Acknowledge) -> None:
        """Another request under an id that is taken: while a result is due under that id, it gets no other."""
        error = DuplicateMismatch()
        if self._owes(command.command_id):
            self._count_refusal(command, error)
            acknowledge(error)
        else:
            self._refuse(command, error, acknowledge)

    def _owes(self, command_id: str) -> bool:
        """Whether a result under this id is still due, so that another one would be taken for it."""
        if command_id in self._active:
            return True
        known = self._journal.lookup(command_id)
        return known is not None and known.state is not EntryState.CONFIRMED

    def _refuse(self, command: ExecuteCommand, error: RelayError, acknowledge: Acknowledge) -> None:
        """Answer a command that is not taken on.  Not recorded: the same command may come again, and run then."""
        self._count_refusal(command, error)
        acknowledge(error)
        result = failure_result(
            command.command_id,
            error,
            extended=command.extended,
            numeric_id=command.numeric_id,
            translate=self._translate,
        )
        self._outbox.send_unrecorded(result)

    def _count_refusal(self, command: ExecuteCommand, error: RelayError) -> None:
        self.stats.refused[error.code] += 1
        if self._audit is not None:
            self._audit.refused(command, error)
        self._log.info(
            "Refused command {id} for {where}: {code}", where=_where(command),
            event="refused", id=command.command_id, user=command.username, host=command.host, port=command.port,
            code=error.code,
        )  # fmt: skip

    # The end

    def _check_drained(self) -> None:
        if self._drains and not self._active and self._outbox.empty:
            for drain in list(self._drains):
                drain.end()

    def _drained(self, outcome: object, drain: _Drain) -> object:
        self._drains.remove(drain)
        self._outbox.stop()
        return outcome


def _size(command: ExecuteCommand) -> int:
    """About how many bytes *command* takes, with all that can be large."""
    size = len(command.command) + len(command.stdin) + _size_of_credential(command)
    if command.env:
        size += sum(len(name) + len(value) for name, value in command.env)
    if command.via:
        size += sum(map(_size_of_credential, command.via))
    return size


def _size_of_credential(of: ExecuteCommand | JumpHost) -> int:
    size = 0 if of.certificate is None else len(of.certificate)
    for secret in (of.password, of.private_key, of.passphrase):
        if secret is not None:
            size += len(secret)
    return size


def _where(command: ExecuteCommand) -> str:
    return f"{command.username}@{command.written_host}:{command.port}"
