"""
A run that has not ended, in memory: its machine, its invocations in compact form, and how effects become changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.logger import Logger

from relayd.hub.decisions.effects import (
    Accept,
    Ask,
    AskCancel,
    Correct,
    Effect,
    End,
    EndByResult,
    NoteCancel,
    Queue,
    Rearm,
    RunIs,
    Store,
    Write,
)
from relayd.hub.decisions.ends import Verdict
from relayd.hub.decisions.run_machine import RunMachine
from relayd.hub.decisions.states import RUN_ENDS, InvocationState
from relayd.hub.runs.changes import Changes, Progress
from relayd.hub.runs.outputs import Kept, Outputs
from relayd.hub.store.output import NewChunk
from relayd.hub.store.runs import Run
from relayd.language.texts import printable, without_surrogates
from relayd.wire.messages import CommandResult, ExecuteCommand

_log = Logger("relayd.hub")

#: Characters of the words of a failure that are kept.
MAX_ERROR = 2000
_EXIT_CODES = range(-(2**31), 2**31)


class OpenRun:
    """
    One run that has not ended.

    :param template: its command without id and host; ``None``: what is secret of it cannot be opened.
    :param ids: of its invocations, by position.
    :param snapshots: of their hosts.
    :param relays: to which each was sent.
    """

    def __init__(
        self,
        run: Run,
        template: ExecuteCommand | None,
        ids: Sequence[str],
        snapshots: Sequence[str],
        relays: list[str | None],
        machine: RunMachine,
        changes: Changes,
        now: Callable[[], int],
    ) -> None:
        self.id = run.id
        self.template = template
        self.ids = ids
        self.snapshots = snapshots
        self.relays = relays
        self.machine = machine
        self._changes = changes
        self._now = now
        self._limit = run.output_limit
        self._change = run.change
        self._ended_at: int | None = None
        self._outputs: dict[int, Outputs] = {}
        #: Whether it is to be forgotten once all of it is stored.
        self.leaving = False
        #: The result that is being taken in.
        self.result: CommandResult | None = None
        #: What the engine does: the only effects that are not changes.
        self.to_send: list[Store] = []
        self.to_write: list[Write] = []
        self.to_ask: list[Ask | AskCancel] = []

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.machine.state in RUN_ENDS

    def progress(self, change: int) -> Progress:
        """How far it is; *change*: the number that its last change got, 0: none since."""
        self._change = max(self._change, change)
        counts = {str(state): count for state, count in self.machine.slots.counts.items() if count}
        return Progress(self.id, self._change, self.machine.state, counts, self._ended_at)

    def do(self, effects: Sequence[Effect]) -> None:
        """Note what is to be stored, and leave the rest to the engine."""
        for effect in effects:
            _DO[type(effect)](self, effect)

    def resumed(self, slot: int) -> None:
        """Another process may have stored some of its outputs."""
        self._outputs[slot] = Outputs(self._limit, AFTER_END, resumed=True)

    def outputs_of(self, slot: int) -> Outputs:
        """What comes of its outputs."""
        outputs = self._outputs.get(slot)
        if outputs is None:
            outputs = self._outputs[slot] = Outputs(self._limit)
        return outputs

    # Effects

    def _row(self, slot: int, **values: Any) -> None:
        self._changes.row(self.id, self.ids[slot], values)

    def _store(self, effect: Store) -> None:
        self.relays[effect.slot] = effect.relay
        self._row(
            effect.slot,
            state=InvocationState.SENT,
            relay=effect.relay,
            journal_id=effect.journal,
            sent_at=self._now(),
            deadline=effect.deadline,
        )
        self.to_send.append(effect)

    def _write(self, effect: Write) -> None:
        self.to_write.append(effect)

    def _ask(self, effect: Ask | AskCancel) -> None:
        self.to_ask.append(effect)

    def _queue(self, effect: Queue) -> None:
        self.relays[effect.slot] = None
        self._row(
            effect.slot,
            state=InvocationState.QUEUED,
            relay=None,
            journal_id=None,
            sent_at=None,
            deadline=effect.deadline,
        )

    def _accept(self, effect: Accept) -> None:
        self._row(effect.slot, state=InvocationState.ACCEPTED, accepted_at=self._now(), deadline=effect.deadline)

    def _rearm(self, effect: Rearm) -> None:
        self._row(effect.slot, deadline=effect.deadline)

    def _note_cancel(self, effect: NoteCancel) -> None:
        self._row(effect.slot, cancel_asked_at=self._now())

    def _end(self, effect: End) -> None:
        values: dict[str, Any] = {
            "state": effect.end,
            "deadline": None,
            "ended_at": self._now(),
            "error_code": effect.code,
            "error": shown(effect.why),
        }
        outputs = self._outputs.pop(effect.slot, None)
        if outputs is not None:
            values |= {f"{stream}_kept": kept for stream, kept in outputs.kept_so_far().items()}
        if not effect.sent:
            self.relays[effect.slot] = None
            values |= {"relay": None, "journal_id": None, "sent_at": None}
        self._row(effect.slot, **values)

    def _end_by_result(self, effect: EndByResult) -> None:
        values = self._of_result(effect.slot, effect.verdict)
        self._row(effect.slot, **values, ended_at=self._now())

    def _correct(self, effect: Correct) -> None:
        correction = effect.correction
        values = self._of_result(effect.slot, effect.verdict, anew=True)
        self._row(effect.slot, **values, former_end=correction.former)
        say_late(self.ids[effect.slot], str(self.relays[effect.slot]), correction.former, correction.end)

    def _run_is(self, effect: RunIs) -> None:
        if effect.state in RUN_ENDS and self._ended_at is None:
            self._ended_at = self._now()
        self._changes.run(self.id)

    def _of_result(self, slot: int, verdict: Verdict, anew: bool = False) -> dict[str, Any]:
        result = self.result
        if result is None:
            raise AssertionError("an end by a result comes with one")
        # Its pieces are forgotten when it has ended: the numbers of those that follow are above theirs.
        outputs = self._outputs.pop(slot, None) or Outputs(self._limit, AFTER_END if anew else 0)
        kept = outputs.ended(result)
        if anew:
            for stream in ("stdout", "stderr"):
                self._changes.forget_stream(self.ids[slot], stream)
        self._take_output(slot, kept)
        return values_of(result, verdict, kept)

    def _take_output(self, slot: int, kept: Kept) -> None:
        invocation_id = self.ids[slot]
        for stream in kept.anew:
            self._changes.forget_stream(invocation_id, stream)
        for piece in kept.pieces:
            chunk = NewChunk(invocation_id, self.id, piece.sequence, piece.stream, piece.offset, piece.data)
            self._changes.chunk(chunk)


#: Numbers of pieces of an output that comes again after the invocation had ended begin here.
AFTER_END = 1_000_000

_DO: dict[type[Any], Callable[[OpenRun, Any], None]] = {
    Store: OpenRun._store,
    Write: OpenRun._write,
    Queue: OpenRun._queue,
    Accept: OpenRun._accept,
    Rearm: OpenRun._rearm,
    Ask: OpenRun._ask,
    AskCancel: OpenRun._ask,
    NoteCancel: OpenRun._note_cancel,
    End: OpenRun._end,
    EndByResult: OpenRun._end_by_result,
    Correct: OpenRun._correct,
    RunIs: OpenRun._run_is,
}


def values_of(result: CommandResult, verdict: Verdict, kept: Kept) -> dict[str, Any]:
    """The columns of an invocation that a result says."""
    failed = verdict.end is not InvocationState.SUCCEEDED and verdict.code is not None
    timings = result.details.timings
    seconds = timings.get("run") if timings is not None else None
    exit_code = result.exit_code if result.exit_code in _EXIT_CODES else None
    return {
        "state": verdict.end,
        "with_result": True,
        "deadline": None,
        "exit_code": exit_code,
        "error_code": shown(verdict.code) if verdict.code is not None else None,
        "error": shown(result.stderr.rstrip().rpartition("\n")[2]) if failed else None,
        "duration_ms": _milliseconds(seconds),
        "stdout_kept": kept.kept["stdout"],
        "stderr_kept": kept.kept["stderr"],
        "stdout_size": kept.sizes["stdout"],
        "stderr_size": kept.sizes["stderr"],
        "output_digest": kept.digest,
    }


def _milliseconds(seconds: object) -> int | None:
    if isinstance(seconds, (int, float)) and 0 <= seconds < 10**9:
        return round(seconds * 1000)
    return None


def shown(text: str) -> str:
    """Words of a relay, or ours, fit for a column of the database."""
    return printable(without_surrogates(text), MAX_ERROR)


def say_late(invocation_id: str, relay: str, former: InvocationState, end: InvocationState) -> None:
    """A result has come late, and knows better."""
    certain = former not in (InvocationState.UNKNOWN, InvocationState.CANCELLED)
    level = _log.error if certain else _log.info
    level(
        "A late result of relay {relay} says how {id} ended: {end}; it was taken for {former}",
        relay=printable(relay, 200),
        id=invocation_id,
        end=str(end),
        former=str(former),
    )
