"""
The durable record of commands accepted and of results that the main server has not confirmed.

It is written in a thread of its own.  What is asked for while it writes is written together next time, so that
the cost of a commit is shared by all that wait for it.
"""

from __future__ import annotations

import os
import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from sys import getsizeof
from threading import Thread
from typing import Any, Final

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from relayd.errors import ConfigError, JournalFull, JournalUnavailable, OutcomeLost
from relayd.interfaces import EntryState, IJournal, JournalEntry
from relayd.journal.index import Bounds, Figures, Index
from relayd.journal.salvage import salvage, set_aside
from relayd.journal.store import PRUNE_ROWS, Call, Recovery, Store, explain, is_damage
from relayd.language.texts import Text, Translate, english
from relayd.wire.messages import CommandResult, ExecuteCommand

#: Seconds between two looks for what has been kept for long enough.
PRUNE_INTERVAL: Final = 60.0
#: Seconds until the next one where there was too much for one.
PRUNE_AGAIN: Final = 1.0
#: What is written together at most: all who waited for it go on in one turn of the reactor.
MAX_BATCH: Final = 128
#: Bytes of memory for its output beyond which a result is written by itself.
LARGE: Final = 256 << 10
#: Seconds for which confirmations wait for something that is more urgent.
LINGER: Final = 0.1
#: Seconds without any writing after which what is left of confirmed results is removed from the disk; and those after
#: which that is done though there is something to write.
CLEAN_IDLE: Final = 5.0
CLEAN_BUSY: Final = 55.0
#: Confirmed commands that are known without a look at the disk.
RECENT: Final = 10_000
#: Seconds between two attempts to record what could not be recorded.
RETRY_INTERVAL: Final = 5.0


#: What is to be written, with what says that it was.
_Queue = list[tuple[Call, Deferred[Any]]] | deque[tuple[Call, Deferred[Any]]]


class _Worker:
    """A thread that does one thing after the other, and is cheaper to reach than a pool of them."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._jobs: SimpleQueue[tuple[Callable[[], Any], Callable[[Any], None]] | None] = SimpleQueue()
        # The process need not wait for it: what was not written was not promised.
        Thread(target=self._work, name="journal", daemon=True).start()

    def do(self, job: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Call *job*, which does not raise, in the thread, and then *then* with what it gave, in the reactor's."""
        self._jobs.put((job, then))

    def stop(self) -> None:
        """End the thread when it has done all that it was given."""
        self._jobs.put(None)

    def _work(self) -> None:
        while (item := self._jobs.get()) is not None:
            job, then = item
            self._reactor.callFromThread(then, job())


@implementer(IJournal)
class DurableJournal:
    """
    A journal in a file, in a folder that is this user's alone.

    :param reactor: provides time and a way back from a thread.
    :param path: of the file; its folder is made where it is missing.
    :param durable: whether a commit outlives a loss of power, and not only of the process.
    :param translate: to the language of the results of commands that an earlier process left unfinished.
    """

    _log = Logger("relayd.journal")

    def __init__(
        self,
        reactor: Any,
        path: str,
        *,
        durable: bool,
        bounds: Bounds | None = None,
        translate: Translate = english,
    ) -> None:
        self._reactor = reactor
        self._path = path
        self._durable = durable
        self._index = Index(bounds or Bounds(), RECENT)
        self._store = Store(path, durable=durable, translate=translate)
        self._worker: _Worker
        self._notes: dict[str, str] = {}
        self._confirmed = 0
        self._pending: list[tuple[Call, Deferred[Any]]] = []
        # Large results. One of them is written after each batch of everything else: a megabyte takes some 10 ms, and
        # nobody waits for more than one of these.
        self._large: deque[tuple[Call, Deferred[Any]]] = deque()
        self._large_next = False
        self._busy = False
        self._linger: IDelayedCall | None = None
        self._closed: Deferred[None] | None = None
        self._prune_call: IDelayedCall | None = None
        # When it is looked whether to remove what is left of confirmed results, since when there may be some, and when
        # something was written last.
        self._clean_call: IDelayedCall | None = None
        self._unclean_since = 0.0
        self._wrote = 0.0
        # What could not be recorded yet: confirmations, and ends of commands, with their results as long as these are
        # not confirmed.
        self._unwritten: list[str] = []
        self._ends: dict[str, CommandResult | None] = {}
        #: Why nothing can be recorded now; ``None``: it can.
        self.trouble: str | None = None

    @property
    def outstanding(self) -> int:
        """See `IJournal`."""
        return self._index.outstanding

    def figures(self) -> Figures:
        """How things stand."""
        return self._index.figures(self._store.now(), self.trouble)

    def open(self) -> Sequence[tuple[str, str]]:
        """See `IJournal.open`."""
        try:
            recovery = self._open()
        except (sqlite3.Error, OSError, JournalUnavailable) as error:
            reason = f"the journal {self._path} cannot be used: {explain(error).fields['reason']}"
            raise ConfigError(option="--state-dir", reason=reason) from None
        for command_id, live in recovery.live.items():
            self._index.hold(command_id, live)
        self._notes = recovery.notes
        self._confirmed = recovery.confirmed
        if recovery.ended:
            unknown = sum(code == OutcomeLost.code for _, code in recovery.ended)
            self._log.warn(
                "relayd did not stop in good order: of the commands at hand then, {unknown} may or may not have run "
                "to their end, and {not_executed} were not run; their results say so",
                unknown=unknown,
                not_executed=len(recovery.ended) - unknown,
            )
        self._worker = _Worker(self._reactor)
        self._prune_call = self._reactor.callLater(PRUNE_AGAIN, self._prune)
        self._clean_later()  # the process before this one may not have come to it
        return recovery.ended

    def _open(self) -> Recovery:
        os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
        try:
            return self._store.open()
        except sqlite3.Error as error:
            if not is_damage(error):
                raise
        kept = set_aside(self._path)
        self._store.open()
        self._store.close()
        saved = salvage(kept, self._path)
        # Loud, and kept: a command whose id was not saved would run again, should the main server send it again.
        self._log.critical(
            "The journal was damaged. It is kept as {kept}; {commands} commands and {results} results could be read "
            "and go on. Others may be lost: they are not known any more when they come again",
            kept=saved.kept,
            commands=saved.commands,
            results=saved.results,
        )
        recovery = self._store.open()
        self._store.apply([(self._store.note, (f"damaged {saved.kept}", f"{saved.commands} commands saved"))])
        return recovery

    # IJournal

    def accept(self, command: ExecuteCommand, fingerprint: bytes) -> Deferred[JournalEntry | None]:
        """See `IJournal.accept`."""
        if (refusal := self._index.refusal()) is not None:
            return fail(refusal)
        accepting = self._submit(
            self._store.accept, command.command_id, fingerprint, command.extended, command.numeric_id
        )
        return accepting.addCallback(self._accepted, command.command_id, fingerprint)

    def _accepted(self, known: JournalEntry | None, command_id: str, fingerprint: bytes) -> JournalEntry | None:
        if known is None:
            self._index.accepted(command_id, fingerprint, self._store.now())
        return known

    def start(self, command_id: str) -> Deferred[None]:
        """See `IJournal.start`."""
        if self._index.size >= self._index.bounds.max_bytes:
            return fail(JournalFull(results=len(self._index.finished), megabytes=self._index.size / 1e6))
        return self._submit(self._store.start, command_id).addCallback(self._started, command_id)

    def _started(self, _: None, command_id: str) -> None:
        self._index.unfinished[command_id].state = EntryState.STARTED

    def finish(self, result: CommandResult) -> Deferred[None]:
        """See `IJournal.finish`."""
        large = getsizeof(result.stdout) + getsizeof(result.stderr) > LARGE
        finishing = self._submit(self._store.finish, result, queue=self._large if large else self._pending)
        return finishing.addCallbacks(
            self._finished, self._not_finished, callbackArgs=(result.command_id,), errbackArgs=(result,)
        )

    def _not_finished(self, failure: Failure, result: CommandResult) -> Failure:
        # After a restart it would otherwise count as one that may still run.
        self._ends[result.command_id] = result
        return failure

    def _finished(self, size: int, command_id: str) -> None:
        self._index.finish(command_id, size, self._store.now())

    def confirm(self, command_id: str) -> None:
        """See `IJournal.confirm`.  What is not finished, or was confirmed before, is left as it is."""
        if command_id in self._ends:
            self._ends[command_id] = None
        elif self._index.settle(command_id):
            self._confirmed += 1
            self._write_confirmation(command_id)

    def _write_confirmation(self, command_id: str) -> None:
        # Nobody waits for it: alone, it would hold up the next command by a commit.
        writing = self._add(self._store.confirm, command_id)
        writing.addErrback(lambda _: self._unwritten.append(command_id))
        if self._clean_call is None:
            self._clean_later()
        if not self._busy and self._linger is None:
            self._linger = self._reactor.callLater(LINGER, self._lingered)

    def _lingered(self) -> None:
        self._linger = None
        if not self._busy:
            self._busy = True
            self._write()

    def _write_end(self, command_id: str, result: CommandResult | None) -> None:
        if result is not None:
            self.finish(result).addErrback(lambda _: None)
        else:
            if (live := self._index.unfinished.pop(command_id, None)) is not None:
                self._index.remember(command_id, live.fingerprint)
            self._submit(self._store.end, command_id).addErrback(lambda _: self._ends.setdefault(command_id))

    def bury(self, command_id: str) -> None:
        """See `IJournal.bury`."""
        self._index.bury(command_id)
        self._submit(self._store.bury, command_id).addErrback(lambda _: None)  # it is tried again after a restart

    def lookup(self, command_id: str) -> JournalEntry | None:
        """See `IJournal.lookup`."""
        return self._index.lookup(command_id)

    def load(self, command_id: str) -> Deferred[CommandResult | None]:
        """See `IJournal.load`."""
        return self._submit(self._store.load, command_id)

    def unconfirmed(self) -> Sequence[str]:
        """See `IJournal.unconfirmed`."""
        return self._index.unconfirmed()

    def dead_letters(self) -> Sequence[str]:
        """See `IJournal.dead_letters`."""
        return self._index.dead_letters()

    def note(self, name: str, value: str) -> None:
        """See `IJournal.note`."""
        self._notes[name] = value
        self._submit(self._store.note, name, value).addErrback(lambda _: None)  # it will be found out again

    def noted(self, name: str) -> str | None:
        """See `IJournal.noted`."""
        return self._notes.get(name)

    def close(self) -> Deferred[None]:
        """See `IJournal.close`."""
        if self._prune_call is not None:
            self._prune_call.cancel()
            self._prune_call = None
        if self._clean_call is not None:
            self._clean_call.cancel()
            self._clean_call = None
        self._catch_up()  # a result that was delivered must not be "outcome unknown" after the next start
        self._closed = Deferred()
        if not self._busy:
            self._busy = True
            self._write()  # confirmations may linger
        return self._closed

    # Writing

    def _add(self, method: Callable[..., object], *arguments: object, queue: _Queue | None = None) -> Deferred[Any]:
        """Have something done with what is written next, or when *queue* has its turn."""
        if self._closed is not None:
            return fail(JournalUnavailable(reason=Text("relayd stops")))
        done: Deferred[Any] = Deferred()
        (self._pending if queue is None else queue).append(((method, arguments), done))
        return done

    def _submit(self, method: Callable[..., object], *arguments: object, queue: _Queue | None = None) -> Deferred[Any]:
        """Have something done soon."""
        done = self._add(method, *arguments, queue=queue)
        if not self._busy and self._closed is None:
            self._busy = True
            # at the end of this turn of the reactor: what the same frame brings is then written together
            self._reactor.callLater(0, self._write)
        return done

    def _write(self) -> None:
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        if self._large and (self._large_next or not self._pending):
            batch, self._large_next = [self._large.popleft()], False
        else:
            batch, self._pending = self._pending[:MAX_BATCH], self._pending[MAX_BATCH:]
            self._large_next = True
        calls = [call for call, _ in batch]
        self._worker.do(lambda: self._store.apply(calls), lambda outcomes: self._written(batch, outcomes))

    def _written(self, batch: list[tuple[Call, Deferred[Any]]], outcomes: list[object]) -> None:
        self._wrote = self._reactor.seconds()
        self._judge(outcomes)
        for (_, done), outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, Exception):
                done.errback(outcome)
            else:
                done.callback(outcome)
        if self._pending or self._large:
            self._write()
        else:
            self._busy = self._large_next = False
            if self._closed is not None:
                self._end()

    def _judge(self, outcomes: list[object]) -> None:
        """Tell once when it begins to fail, and once when it works again."""
        failed = next((outcome for outcome in outcomes if isinstance(outcome, JournalUnavailable)), None)
        if failed is not None and self.trouble is None:
            self.trouble = str(failed.fields["reason"])
            self._log.error("{error}", error=str(failed))
        elif failed is None and self.trouble is not None:
            self.trouble = None
            self._log.info("The journal can be written again")

    def _end(self) -> None:
        closed = self._closed
        assert closed is not None
        self._worker.do(self._store.close, lambda _: closed.callback(None))
        self._worker.stop()

    # What has been kept for long enough

    def _catch_up(self) -> None:
        """Try once more to record what could not be recorded."""
        ends, self._ends = self._ends, {}
        for command_id, result in ends.items():
            self._write_end(command_id, result)
        unwritten, self._unwritten = self._unwritten, []
        for command_id in unwritten:
            self._write_confirmation(command_id)

    def _prune(self) -> None:
        self._catch_up()
        now, bounds = self._store.now(), self._index.bounds
        expired = self._index.expired(now)
        if expired:
            self._log.warn(
                "{count} results were not confirmed for {days:g} days, and expire",
                count=len(expired),
                days=bounds.retention / 86400,
            )
            for command_id in expired:
                self.confirm(command_id)
        pruning = self._submit(self._store.prune, now - bounds.retention, bounds.max_ids, self._confirmed)
        pruning.addCallbacks(self._pruned, lambda _: 0)
        pruning.addCallback(self._prune_later)

    def _pruned(self, removed: int) -> int:
        self._confirmed -= removed
        return removed

    def _prune_later(self, removed: int) -> None:
        if self._closed is None:
            delay = PRUNE_AGAIN if removed >= PRUNE_ROWS else PRUNE_INTERVAL if self.trouble is None else RETRY_INTERVAL
            self._prune_call = self._reactor.callLater(delay, self._prune)

    # What is left of what was confirmed

    def _clean_later(self) -> None:
        self._unclean_since = self._reactor.seconds()
        self._clean_call = self._reactor.callLater(CLEAN_IDLE, self._clean)

    def _clean(self) -> None:
        now = self._reactor.seconds()
        idle = not self._busy and self._linger is None and now - self._wrote >= CLEAN_IDLE
        if not idle and now - self._unclean_since < CLEAN_BUSY:
            self._clean_call = self._reactor.callLater(CLEAN_IDLE, self._clean)
            return
        self._clean_call = None
        self._worker.do(self._store.clean, lambda done: self._cleaned(done and idle))

    def _cleaned(self, done: bool) -> None:
        # What was confirmed while that was done may have been too late for it.
        if not done and self._clean_call is None and self._closed is None:
            self._clean_later()
