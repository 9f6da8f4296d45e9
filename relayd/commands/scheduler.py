"""
The way of a command from its admission until its result is recorded: wait, start, run, record.
"""

from __future__ import annotations

from functools import partial
from os.path import basename, dirname, relpath
from typing import Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

import relayd
from relayd.commands.admission import Admission, Verdict
from relayd.commands.streaming import OutputStream, Streams
from relayd.errors import Cancelled, Interrupted, QueueTimeout, RelayError
from relayd.interfaces import Acknowledge, ICommandRunner, IJournal, JournalEntry
from relayd.language.texts import Translate, span
from relayd.process.logs import is_logged
from relayd.wire.messages import CommandResult, CommandState, ExecuteCommand, failure_result


class ActiveCommand:
    """
    One command from its receipt until its result is recorded.

    :param timeout: seconds from receipt; messages name it.
    :param margin: seconds of them by which it is ended early, so that its result arrives in time.
    :ivar acknowledges: who is to hear that it was accepted.
    :ivar accepted: whether the journal has it.
    :ivar grace: seconds after the deadline by which a result has to be there; ``None``: it may take its time.
    :ivar has_slot: whether its turn came.
    :ivar began: when the runner was given it.
    :ivar cancelled: whether its end was asked for.
    :ivar dropped: whether the journal would not have it: what becomes of it is nobody's business.
    :ivar output: where its output goes as it arrives, if it asked for that.
    :ivar run: what the runner gave for it.
    :ivar result: how it ended; nothing happens to it after that but being recorded.
    """

    __slots__ = (
        "accepted", "acknowledges", "began", "cancelled", "command", "deadline", "dropped", "fingerprint", "grace",
        "has_slot", "key", "output", "received", "result", "run", "timeout",
    )  # fmt: skip

    def __init__(
        self,
        command: ExecuteCommand,
        fingerprint: bytes,
        received: float,
        timeout: float,
        acknowledge: Acknowledge,
        margin: float = 0.0,
    ) -> None:
        self.command = command
        self.fingerprint = fingerprint
        self.key = (command.host, command.port)
        self.received = received
        self.timeout = timeout
        self.deadline = received + timeout - margin
        # The other half is for the way of the order, which counts from sending, and that of the result.
        self.grace = margin / 2 if margin else None
        self.acknowledges = [acknowledge]
        self.accepted = False
        self.has_slot = False
        self.began: float | None = None
        self.cancelled = False
        self.dropped = False
        self.output: OutputStream | None = None
        self.run: Deferred[CommandResult] | None = None
        self.result: CommandResult | None = None

    @property
    def state(self) -> CommandState:
        """How far it has come."""
        if self.result is not None:
            return CommandState.FINISHED
        return CommandState.QUEUED if self.run is None else CommandState.RUNNING


class Owner(Protocol):
    """What a `Scheduler` tells of the commands it has."""

    def command_accepted(self, active: ActiveCommand) -> None:
        """The journal has the command: it will get a result."""

    def command_not_accepted(self, active: ActiveCommand, error: RelayError) -> None:
        """The journal could not take the command: it is forgotten."""

    def command_known(self, active: ActiveCommand, known: JournalEntry) -> None:
        """The journal has known the command for long: it is no new one, and is forgotten here."""

    def command_ended(self, active: ActiveCommand, result: CommandResult, recorded: bool) -> None:
        """The command has its result; *recorded*: the journal has it too, unless that failed."""


class Scheduler:
    """
    Runs commands as their turn comes, each once.

    :param clock: tells the time that deadlines count in.
    :param admission: decides whose turn it is.
    :param streams: takes the output of commands that ask for it.
    :param translate: to the language of what results say.
    """

    def __init__(
        self,
        clock: IReactorTime,
        runner: ICommandRunner,
        journal: IJournal,
        admission: Admission[ActiveCommand],
        streams: Streams,
        owner: Owner,
        translate: Translate,
    ) -> None:
        self._log = Logger("relayd.commands")
        self._clock = clock
        self._runner = runner
        self._journal = journal
        self._admission = admission
        self._streams = streams
        self._owner = owner
        self._translate = translate
        self._granting = False
        self._alarm: IDelayedCall | None = None
        #: Every command at hand, by its id.
        self.active: dict[str, ActiveCommand] = {}

    def submit(self, active: ActiveCommand) -> bool:
        """
        Take on a command that is new.

        :return: whether there is room; its `Owner` hears the rest.
        """
        verdict = self._admission.offer(active.key, active, active.deadline)
        if verdict is Verdict.REFUSED:
            return False
        if verdict is Verdict.STARTED:
            active.has_slot = True
        else:
            self._set_alarm()
        self.active[active.command.command_id] = active
        self._journal.accept(active.command, active.fingerprint).addCallbacks(
            self._accepted, self._not_accepted, callbackArgs=(active,), errbackArgs=(active,)
        )
        if active.has_slot and not active.dropped:
            # Meanwhile: what comes first takes longer, and the command is told to run only when the journal has it.
            self._run(active)
        return True

    def cancel(self, active: ActiveCommand, error: RelayError | None = None) -> None:
        """
        End a command at hand: one that waits at once, one that runs as soon as the runner can.

        :param error: why one that waits is not run; by default that it was cancelled.
        """
        if active.result is not None or active.cancelled:  # to cancel a run twice would cut its end short
            return
        active.cancelled = True
        if active.run is not None:
            active.run.cancel()
            return
        if not active.has_slot:
            self._admission.withdraw(active.key, active)
            self._set_alarm()
        self._fail(active, error or Cancelled())

    def cancel_all(self) -> None:
        """End every command at hand."""
        # those that wait go first: they would take the slots of the others
        for active in sorted(self.active.values(), key=lambda active: active.has_slot):
            self.cancel(active)

    # From step to step.  Plain callbacks and no coroutine: this is the hot path, and most steps are done at once.

    def _accepted(self, known: JournalEntry | None, active: ActiveCommand) -> None:
        if known is not None:
            self._drop(active)
            self._owner.command_known(active, known)
            return
        active.accepted = True
        self._owner.command_accepted(active)
        if active.result is not None:  # its deadline passed, or it was cancelled, or could not be run
            self._record(active, active.result)

    def _not_accepted(self, failure: Failure, active: ActiveCommand) -> None:
        self._drop(active)
        self._owner.command_not_accepted(active, self._explain(failure, "record", active))

    def _drop(self, active: ActiveCommand) -> None:
        """Forget a command that the journal would not have; it was certainly not told to run."""
        del self.active[active.command.command_id]
        active.dropped = True
        if active.result is not None:
            return
        if active.run is not None:
            active.run.cancel()
        elif active.has_slot:
            self._release(active)
        else:
            self._admission.withdraw(active.key, active)
            self._set_alarm()

    def _run(self, active: ActiveCommand) -> None:
        if active.result is not None:  # cancelled
            return
        now = self._clock.seconds()
        if active.deadline <= now:
            self._time_out(active)
            return
        active.began = now
        command = active.command
        if command.stream:
            active.output = self._streams.open(command)
        try:
            active.run = self._runner.run(
                command,
                active.deadline,
                partial(self._starting, active),
                active.output,
                timeout=active.timeout,
                grace=active.grace,
            )
        except Exception:
            self._run_failed(Failure(), active)
            return
        active.run.addCallbacks(self._ended, self._run_failed, callbackArgs=(active,), errbackArgs=(active,))

    def _starting(self, active: ActiveCommand) -> Deferred[None]:
        """The command is about to be told to run: not before that is recorded, and with it what came before."""
        if is_logged("debug"):
            self._log.debug("Starting command {id}", event="started", id=active.command.command_id)
        return self._journal.start(active.command.command_id).addErrback(self._not_started, active)

    def _not_started(self, failure: Failure, active: ActiveCommand) -> Failure:
        return failure if active.dropped else Failure(self._explain(failure, "record the start of", active))

    def _run_failed(self, failure: Failure, active: ActiveCommand) -> None:
        if isinstance(failure.value, CancelledError):
            error: RelayError = Interrupted()
        else:
            unexplained = RelayError()
            unexplained.executed = "unknown"
            error = explain(failure, "run", active.command.command_id, unexplained, self._log)
        self._fail(active, error)

    def _time_out(self, active: ActiveCommand) -> None:
        self._fail(active, QueueTimeout(time=span(active.timeout)))

    def _fail(self, active: ActiveCommand, error: RelayError) -> None:
        command = active.command
        result = failure_result(
            command.command_id,
            error,
            extended=command.extended,
            numeric_id=command.numeric_id,
            translate=self._translate,
        )
        self._ended(result, active)

    def _ended(self, result: CommandResult, active: ActiveCommand) -> None:
        active.result = result
        if active.output is not None:
            active.output.close()
        if active.accepted and not active.dropped:
            self._record(active, result)
        if active.has_slot:
            self._release(active)

    def _record(self, active: ActiveCommand, result: CommandResult) -> None:
        self._journal.finish(result).addCallbacks(
            self._recorded, self._not_recorded, callbackArgs=(active, result), errbackArgs=(active, result)
        )

    def _recorded(self, _: None, active: ActiveCommand, result: CommandResult) -> None:
        del self.active[active.command.command_id]
        self._owner.command_ended(active, result, True)

    def _not_recorded(self, failure: Failure, active: ActiveCommand, result: CommandResult) -> None:
        self._explain(failure, "record the result of", active)
        del self.active[active.command.command_id]
        self._owner.command_ended(active, result, False)

    def _explain(self, failure: Failure, doing: str, active: ActiveCommand) -> RelayError:
        return explain(failure, doing, active.command.command_id, RelayError(), self._log)

    # The queue

    def _release(self, active: ActiveCommand) -> None:
        """*active* needs its slot no more: the next may have it."""
        self._admission.release(active.key)
        self.grant()

    def grant(self) -> None:
        """Run what waits, as far as there are slots."""
        if self._granting:  # a command ended at once: the loop below goes on, rather than one call deeper
            return
        self._granting = True
        try:
            while (following := self._admission.next()) is not None:
                following.has_slot = True
                self._run(following)
        finally:
            self._granting = False
        self._set_alarm()

    def _set_alarm(self) -> None:
        """One delayed call wakes us at the first deadline in the queue, or earlier; none while the queue is empty."""
        deadline = self._admission.next_deadline()
        if deadline is None:
            if self._alarm is not None:
                self._alarm.cancel()
                self._alarm = None
            return
        delay = max(0.0, deadline - self._clock.seconds())
        if self._alarm is None:
            self._alarm = self._clock.callLater(delay, self._expire)
        elif deadline < self._alarm.getTime():
            self._alarm.reset(delay)

    def _expire(self) -> None:
        self._alarm = None
        for active in self._admission.expire(self._clock.seconds()):
            self._time_out(active)
        self._set_alarm()


def explain(failure: Failure, doing: str, command_id: str, unexplained: RelayError, log: Logger) -> RelayError:
    """
    The error for the main server.

    One that is not ours goes to the log by its class and place alone: a library's text may hold what it was given.
    """
    kind = type(failure.value)
    if isinstance(failure.value, RelayError):
        error, reason = failure.value, str(failure.value)
    else:
        error, reason = unexplained, f"{kind.__module__}.{kind.__qualname__} at {_place(failure)}"
    if error is unexplained or doing != "run":
        log.error("Could not {doing} command {id}: {reason}", doing=doing, id=command_id, reason=reason)
    return error


def _place(failure: Failure) -> str:
    """Where an exception was raised: the innermost place in our own code, where there is one."""
    package = dirname(relayd.__file__)
    place, ours = "an unknown place", False
    for function, path, line, *_ in failure.frames:  # the innermost last
        if dirname(path).startswith(package):
            place, ours = f"{relpath(path, dirname(package))}:{line} in {function}", True
        elif not ours:
            place = f"{basename(path)}:{line} in {function}"
    return place
