"""
The way of a command from its admission until its result is recorded: wait, start, run, record.
"""

from __future__ import annotations

from functools import partial
from typing import Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from relayd.commands.active import ActiveCommand
from relayd.commands.admission import Admission, Placement
from relayd.commands.failures import explain_failure, failed_result
from relayd.commands.origins import Origins
from relayd.commands.streaming import Streams
from relayd.errors import Cancelled, Interrupted, QueueTimeout, RelayError
from relayd.interfaces import ICommandRunner, IJournal, JournalEntry
from relayd.language.texts import Translate, span
from relayd.process.logs import is_logged
from relayd.wire.messages import CommandResult

_log = Logger("relayd.commands")


class Owner(Protocol):
    """What hears from a `Scheduler` how its commands fare."""

    def command_accepted(self, active: ActiveCommand) -> None:
        """The journal has the command: it will get a result."""

    def command_not_accepted(self, active: ActiveCommand, error: RelayError) -> None:
        """The journal could not take the command: the scheduler has forgotten it."""

    def command_known(self, active: ActiveCommand, known: JournalEntry) -> None:
        """The journal knew the command already: it is not new, and the scheduler has forgotten it."""

    def command_ended(self, active: ActiveCommand, result: CommandResult, recorded: bool) -> None:
        """The command has its result; *recorded*: whether the journal has it, too."""


class Scheduler:
    """
    Runs commands as their turn comes, each once.

    :param clock: the clock of all deadlines.
    :param admission: decides whose turn it is.
    :param streams: sends the output of commands as it arrives, where they ask for that.
    :param translate: to the language of what results say.
    :param origins: the main servers, as the journal knows them.
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
        origins: Origins,
    ) -> None:
        self._clock = clock
        self._runner = runner
        self._journal = journal
        self._admission = admission
        self._streams = streams
        self._owner = owner
        self._translate = translate
        self._origins = origins
        self._granting = False
        self._alarm: IDelayedCall | None = None
        #: Every command that is under way, by its id.
        self.active: dict[str, ActiveCommand] = {}

    def submit(self, active: ActiveCommand) -> bool:
        """
        Take on a command that is new.

        :return: whether there is room; its `Owner` hears the rest.
        """
        placement = self._admission.offer(active.key, active, active.deadline)
        if placement is Placement.REFUSED:
            return False
        if placement is Placement.STARTED:
            active.has_slot = True
        else:
            self._set_alarm()
        self.active[active.command.command_id] = active
        origin = self._origins.number_of(active.command.origin)
        self._journal.accept(active.command, active.fingerprint, origin).addCallbacks(
            self._accepted, self._not_accepted, callbackArgs=(active,), errbackArgs=(active,)
        )
        if active.has_slot and not active.dropped:
            # Meanwhile: what comes first takes longer, and the command is told to run only when the journal has it.
            self._run(active)
        return True

    def cancel(self, active: ActiveCommand, error: RelayError | None = None) -> None:
        """
        End a command: at once if it waits, or else as soon as the runner can.

        :param error: why a command that waits is not run; by default it was cancelled.
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
        """End every command."""
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
        """Forget a command that the journal did not take; it was certainly not told to run."""
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
            active.output = self._streams.open_stream(command)
        try:
            active.run = self._runner.run_command(
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
        """Record that the command is about to be told to run; it is not told before that."""
        return self._journal.start(active.command.command_id).addCallbacks(
            self._started, self._not_started, callbackArgs=(active,), errbackArgs=(active,)
        )

    def _started(self, _: None, active: ActiveCommand) -> None:
        if is_logged("debug"):
            _log.debug("Starting command {id}", event="started", id=active.command.command_id)

    def _not_started(self, failure: Failure, active: ActiveCommand) -> Failure:
        return failure if active.dropped else Failure(self._explain(failure, "record the start of", active))

    def _run_failed(self, failure: Failure, active: ActiveCommand) -> None:
        if isinstance(failure.value, CancelledError):
            error: RelayError = Interrupted()
        else:
            unexplained = RelayError()
            unexplained.executed = "unknown"
            error = explain_failure(failure, "run", active.command.command_id, unexplained)
        self._fail(active, error)

    def _time_out(self, active: ActiveCommand) -> None:
        self._fail(active, QueueTimeout(time=span(active.timeout)))

    def _fail(self, active: ActiveCommand, error: RelayError) -> None:
        self._ended(failed_result(active.command, error, self._translate), active)

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
        return explain_failure(failure, doing, active.command.command_id, RelayError())

    # The queue

    def _release(self, active: ActiveCommand) -> None:
        """*active* needs its slot no more: the next command may have it."""
        self._admission.release(active.key)
        self.grant_slots()

    def grant_slots(self) -> None:
        """Run the commands that wait, as far as there are slots."""
        if self._granting:  # a command ended at once: the loop below goes on, rather than one call deeper
            return
        self._granting = True
        try:
            while (following := self._admission.take_next()) is not None:
                following.has_slot = True
                self._run(following)
        finally:
            self._granting = False
        self._set_alarm()

    def _set_alarm(self) -> None:
        """Have one delayed call at the first deadline in the queue, or earlier, and none while the queue is empty."""
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
