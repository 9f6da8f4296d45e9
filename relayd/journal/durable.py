"""
The durable record of commands accepted and of results that the main server has not confirmed.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from functools import partial
from sys import getsizeof
from typing import Any, Final

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from relayd.errors import ConfigError, JournalFull, JournalUnavailable, OutcomeLost
from relayd.interfaces import IJournal, JournalEntry
from relayd.journal.archive import Recovery
from relayd.journal.disk import Disk
from relayd.journal.index import Figures, JournalIndex, JournalLimits
from relayd.journal.records import STARTED
from relayd.journal.salvage import salvage, set_aside
from relayd.journal.sqlite_errors import as_unavailable, is_damage
from relayd.journal.store import Store
from relayd.journal.upkeep import Archiver, Pruner
from relayd.journal.writer import Writer, fire
from relayd.language.texts import Translate, english
from relayd.wire.files import length_of
from relayd.wire.messages import CommandResult, ExecuteCommand

_log = Logger("relayd.journal")

#: Confirmed commands that are known without a look at the disk.
RECENT: Final = 10_000


@implementer(IJournal)
class DurableJournal:
    """
    A journal in a file, in a folder that is this user's alone.

    More than 25 methods, as `IJournal` prescribes most of them.

    :param reactor: provides time and a way back from a thread.
    :param path: path of the archive; its folder is made where it is missing, and the logs are in there, too.
    :param durable: whether what is written survives a loss of power, and not only the end of the process.
    :param disk: where the logs are written; by default what the system has.
    :param translate: to the language of the results of commands that an earlier process left unfinished.
    """

    def __init__(
        self,
        reactor: Any,
        path: str,
        *,
        durable: bool,
        limits: JournalLimits | None = None,
        translate: Translate = english,
        disk: Disk | None = None,
    ) -> None:
        self._path = path
        limits = limits or JournalLimits()
        self._index = JournalIndex(limits, RECENT)
        self._store = Store(path, durable=durable, max_ids=limits.max_ids, translate=translate, disk=disk)
        self._steps = self._store.steps
        self._writer = Writer(reactor, self._store, self._share, self._log_is_full)
        self._archiver = Archiver(reactor, self._store, self._writer)
        self._pruner = Pruner(
            reactor, self._store, self._index, self._writer, self._archiver, self._catch_up, self.confirm
        )
        self._notes: dict[str, str] = {}
        # What could not be recorded yet: confirmations, and ends of commands, with their results as long as these are
        # not confirmed.
        self._unwritten: list[str] = []
        self._ends: dict[str, CommandResult | None] = {}
        # Ends that are being recorded once more, and whether their results were confirmed meanwhile.
        self._retried: dict[str, bool] = {}

    @property
    def outstanding(self) -> int:
        """See `IJournal`."""
        return self._index.outstanding

    def figures(self) -> Figures:
        """The journal in numbers."""
        return self._index.figures(self._store.now(), self._writer.trouble)

    def open(self) -> Sequence[tuple[str, str]]:
        """See `IJournal.open`."""
        try:
            recovery = self._open()
        except (sqlite3.Error, OSError, JournalUnavailable) as error:
            reason = f"the journal {self._path} cannot be used: {as_unavailable(error).fields['reason']}"
            raise ConfigError(option="--state-dir", reason=reason) from None
        for damaged in self._store.damaged:
            # Loud, and kept: a command whose acceptance was not saved would run again, should it be sent again.
            _log.critical(
                "A log of the journal was damaged. It is kept as {kept}; {commands} commands and {results} results "
                "could be read. Others may be lost: relayd does not know them if they come again",
                kept=damaged.kept,
                commands=damaged.commands,
                results=damaged.results,
            )
        for command_id, live in recovery.live.items():
            self._index.add_finished(command_id, live)
        self._notes = recovery.notes
        if recovery.ended:
            unknown = sum(code == OutcomeLost.code for _, code in recovery.ended)
            _log.warn(
                "relayd did not stop in good order: of the commands that were under way, {unknown} may or may not have "
                "run to their end, and {not_executed} were not run. Their results say so",
                unknown=unknown,
                not_executed=len(recovery.ended) - unknown,
            )
        self._writer.start()
        self._archiver.start()
        self._pruner.start(recovery.confirmed)
        self._archiver.archive_soon()  # the process before this one may not have come to it
        return recovery.ended

    def _open(self) -> Recovery:
        os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
        try:
            return self._store.open()
        except sqlite3.Error as error:
            if not is_damage(error):
                raise
        kept = set_aside(self._path)
        self._store.archived.open()
        self._store.archived.close()
        saved = salvage(kept, self._path)
        # Loud, and kept: a command whose id was not saved would run again, should the main server send it again.
        _log.critical(
            "The journal was damaged. It is kept as {kept}; {commands} commands and {results} results could be read, "
            "and are in the new one. Others may be lost: relayd does not know them if they come again. "
            "Check the disk below it",
            kept=saved.kept,
            commands=saved.commands,
            results=saved.results,
        )
        recovery = self._store.open()
        self._store.archived.note(f"damaged {saved.kept}", f"{saved.commands} commands saved")
        return recovery

    # Of a command: accepted, started, finished, confirmed

    def accept(self, command: ExecuteCommand, fingerprint: bytes, origin: int = 0) -> Deferred[JournalEntry | None]:
        """See `IJournal.accept`."""
        if (known := self._index.lookup(command.command_id)) is not None:
            return succeed(known)
        if (refusal := self._index.refusal()) is not None:
            return fail(refusal)
        done: Deferred[JournalEntry | None] = Deferred()
        self._writer.request(
            (self._steps.accept, (command.command_id, fingerprint, command.extended, command.numeric_id, origin)),
            partial(self._accepted, done, command.command_id, fingerprint, origin),
            alone=False,
        )
        return done

    # Plain functions instead of callbacks that are added to a Deferred: they are on the way of each command.

    def _accepted(
        self,
        done: Deferred[JournalEntry | None],
        command_id: str,
        fingerprint: bytes,
        origin: int,
        outcome: Exception | JournalEntry | None,
    ) -> None:
        if outcome is None:
            self._index.add_accepted(command_id, fingerprint, self._store.now(), origin)
            done.callback(None)
        else:
            fire(done, outcome)

    def start(self, command_id: str) -> Deferred[None]:
        """See `IJournal.start`."""
        if self._index.size >= self._index.limits.max_bytes:
            return fail(JournalFull(results=len(self._index.finished), megabytes=self._index.size / 1e6))
        done: Deferred[None] = Deferred()
        self._writer.request((self._steps.start, (command_id,)), partial(self._started, done, command_id))
        return done

    def _started(self, done: Deferred[None], command_id: str, outcome: Exception | None) -> None:
        if outcome is None:
            self._index.unfinished[command_id].state = STARTED
            done.callback(None)
        else:
            done.errback(outcome)

    def finish(self, result: CommandResult) -> Deferred[None]:
        """See `IJournal.finish`."""
        done: Deferred[None] = Deferred()
        size = getsizeof(result.stdout) + getsizeof(result.stderr)
        if result.details.fetched:
            size += length_of(result.details.fetched)
        self._writer.request((self._steps.finish, (result,)), partial(self._finished, done, result), size)
        return done

    def _finished(self, done: Deferred[None], result: CommandResult, outcome: Exception | int) -> None:
        if isinstance(outcome, Exception):
            # After a restart it would otherwise count as one that may still run.
            self._ends[result.command_id] = result
            done.errback(outcome)
        else:
            self._index.finish(result.command_id, outcome, self._store.now())
            done.callback(None)

    def confirm(self, command_id: str) -> None:
        """See `IJournal.confirm`.  What is not finished, or was confirmed before, is left as it is."""
        if command_id in self._ends:
            self._ends[command_id] = None
        elif command_id in self._retried:
            self._retried[command_id] = True
        elif self._index.settle(command_id):
            self._pruner.confirmed += 1
            self._record_confirmation(command_id)

    def _record_confirmation(self, command_id: str) -> None:
        self._writer.request_later((self._steps.confirm, (command_id,)), partial(self._confirmed, command_id))
        self._archiver.archive_soon()

    def _confirmed(self, command_id: str, outcome: Exception | None) -> None:
        if outcome is not None:
            self._unwritten.append(command_id)

    def bury(self, command_id: str) -> None:
        """See `IJournal.bury`."""
        self._index.bury(command_id)
        self._writer.submit(self._steps.bury, command_id).addErrback(lambda _: None)  # tried again after a restart

    def _share(self) -> int:
        """How many requests a batch waits for: where many commands are under way, more of them soon have one."""
        return len(self._index.unfinished) // 4

    def _log_is_full(self) -> None:
        self._archiver.archive()

    # What could not be recorded

    def _catch_up(self) -> None:
        """Try once more to record it."""
        ends, self._ends = self._ends, {}
        for command_id, result in ends.items():
            self._record_end(command_id, result)
        unwritten, self._unwritten = self._unwritten, []
        for command_id in unwritten:
            self._record_confirmation(command_id)

    def _record_end(self, command_id: str, result: CommandResult | None) -> None:
        if result is not None:
            self._retried[command_id] = False
            self.finish(result).addBoth(self._end_retried, command_id)
            return
        if (live := self._index.unfinished.pop(command_id, None)) is not None:
            self._index.remember(command_id, live.fingerprint)
        self._writer.submit(self._steps.end, command_id).addErrback(lambda _: self._ends.setdefault(command_id))

    def _end_retried(self, outcome: Failure | None, command_id: str) -> None:
        if self._retried.pop(command_id):  # its result was confirmed meanwhile
            if outcome is None:
                self.confirm(command_id)
            else:
                self._ends[command_id] = None

    # What is known

    def lookup(self, command_id: str) -> JournalEntry | None:
        """See `IJournal.lookup`."""
        return self._index.lookup(command_id)

    def load(self, command_id: str) -> Deferred[CommandResult | None]:
        """See `IJournal.load`."""
        return self._writer.submit(self._steps.load, command_id)

    def unconfirmed(self) -> Sequence[str]:
        """See `IJournal.unconfirmed`."""
        return self._index.unconfirmed()

    def outstanding_from(self, origin: int) -> int:
        """See `IJournal.outstanding_from`."""
        return self._index.outstanding_from(origin)

    def dead_letters(self) -> Sequence[str]:
        """See `IJournal.dead_letters`."""
        return self._index.dead_letters()

    def note(self, name: str, value: str) -> None:
        """See `IJournal.note`."""
        self._notes[name] = value
        self._writer.submit(self._steps.note, name, value).addErrback(lambda _: None)  # it will be found out again

    def noted(self, name: str) -> str | None:
        """See `IJournal.noted`."""
        return self._notes.get(name)

    def close(self) -> Deferred[None]:
        """See `IJournal.close`."""
        self._pruner.stop()
        self._archiver.stop()
        self._catch_up()  # a result that was delivered must not be "outcome unknown" after the next start
        closed: Deferred[None] = Deferred()
        self._writer.close().addCallback(lambda _: self._archiver.close(closed.callback))
        return closed
