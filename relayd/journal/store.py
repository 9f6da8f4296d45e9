"""
The journal on disk: everything is written to a log first, and what a log comes to is moved to the archive.

Without Twisted. One thread calls `Store.apply` and `Store.rotate`, another `Store.archive` and `Store.prune`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any, Final

from msgspec import Struct

from relayd.errors import JournalUnavailable
from relayd.interfaces import EntryState, JournalEntry
from relayd.journal.archive import VERSION, WITH_LOGS, Archive, Recovery, form_of
from relayd.journal.bodies import decode_result, encode_result
from relayd.journal.disk import Disk
from relayd.journal.known_ids import KnownIds
from relayd.journal.log import Log, log_name, log_numbers, read_log
from relayd.journal.records import (
    Accepted,
    AnyRecord,
    Buried,
    Changes,
    Confirmed,
    Finished,
    Noted,
    Started,
    body_in,
)
from relayd.journal.sqlite_errors import as_unavailable
from relayd.language.texts import Text, Translate, english
from relayd.wire.messages import CommandResult

#: Bytes of a log after which the next one is begun.
FULL: Final = 4 << 20
#: Logs that could not be moved to the archive, beyond which nothing more is written.
MOST_LOGS: Final = 16

#: Seconds after which a file system gives another time to the next change, also one whose times are coarse.
SETTLED: Final = 3.0

#: Ids of the archive that are learned at a time, so that the reactor's thread does not wait long.
LEARNED: Final = 500

#: One thing to do: a method of the store and its arguments.
Call = tuple[Callable[..., object], tuple[Any, ...]]


def journal_file(state_dir: str) -> str:
    """The archive of a relay's journal: in a folder of its own, as the state directory may be open to others."""
    return os.path.join(state_dir, "journal", "journal.sqlite3")


class DamagedLog(Struct, frozen=True):
    """
    A log of which something could not be read.

    :ivar kept: path of the damaged file.
    :ivar commands: how many commands could be read.
    :ivar results: how many results could be read.
    """

    kept: str
    commands: int
    results: int


class Store:
    """
    The files of a journal.

    :param path: path of the archive; the logs are beside it.
    :param durable: whether what is written survives a loss of power, and not only the end of the process.
    :param max_ids: ids that the archive keeps.
    :param translate: to the language of the results that unfinished commands get here.
    :param disk: where the logs are written.
    :ivar damaged: the logs that `open` found damaged.
    """

    def __init__(
        self,
        path: str,
        *,
        durable: bool,
        max_ids: int = 1_000_000,
        translate: Translate = english,
        disk: Disk | None = None,
    ) -> None:
        self._path = path
        self._folder = os.path.dirname(path)
        self._durable = durable
        self._translate = translate
        self._disk = disk or Disk()
        self._time_offset = 0.0
        self._next = 1
        # Those that are to be moved to the archive, in order, and then the one that is written.
        self._logs: list[Log] = []
        # Held while they change, and while a result is read from one.
        self._changing = Lock()
        # What is to be written together.
        self._records: list[AnyRecord] = []
        self._coming: dict[str, EntryState] = {}
        # How the folder was when all files were there, see `_check_files`.
        self._seen: tuple[int, int, int] | None = None
        self._known = KnownIds(max_ids)
        self._learned = 0
        self.archived = Archive(path, durable=durable)
        self.damaged: list[DamagedLog] = []

    def open(self) -> Recovery:
        """
        Open the files, and give results to the commands that an earlier process left unfinished.

        :raises sqlite3.Error: when SQLite cannot do that; `is_damage` tells whether the archive is beyond use.
        :raises OSError: when a file cannot be made or opened.
        :raises JournalUnavailable: when another version of relayd wrote the files.
        """
        self.archived.open()
        try:
            self._take_over()
            # The journal's time never goes backwards, even if the system's does.
            self._time_offset = max(time.time(), self.archived.last_time()) - time.monotonic()
            recovery = self.archived.recover(self.now(), self._translate)
            self.archived.mark(WITH_LOGS)
            self._begin_log()
        except BaseException:
            self.archived.close()
            raise
        return recovery

    def _take_over(self) -> None:
        """Move to the archive what an earlier process left in logs."""
        numbers = log_numbers(self._folder)
        self._next = max([*numbers, self.archived.last_log]) + 1
        for number in numbers:
            path = os.path.join(self._folder, log_name(number))
            if number > self.archived.last_log:
                with open(path, "rb") as file:
                    data = file.read()
                content = read_log(data)
                self.archived.move(number, content.changes, content.body_of)
                if content.damaged:
                    self._keep(path, content.changes)
                    continue
            self._disk.unlink(path)
        if numbers:
            self._disk.sync_folder(self._folder)

    def _keep(self, path: str, changes: Changes) -> None:
        kept = f"{path}.damaged-{time.strftime('%Y%m%dT%H%M%S')}"
        self._disk.rename(path, kept)
        found = DamagedLog(kept, len(changes.commands), len(changes.results))
        self.damaged.append(found)
        self.archived.note(f"damaged {kept}", f"{found.commands} commands saved")

    def _begin_log(self) -> None:
        log = Log(self._folder, self._next, self._disk, synced=self._durable)
        self._next += 1
        with self._changing:
            self._logs = [*self._logs, log]

    def now(self) -> float:
        """The journal's own time, in seconds: the system's when the files were opened, and steady since then."""
        return time.monotonic() + self._time_offset

    # Writing

    @property
    def is_full(self) -> bool:
        """Whether it is time for the next log."""
        return self._logs[-1].size >= FULL

    def apply(self, calls: Sequence[Call]) -> list[object]:
        """
        Make *calls* and write together what they come to.

        :return: for each call what it gave, or the `JournalUnavailable` with which it alone failed.
        """
        self._records, self._coming = [], {}
        try:
            self._check_files()
        except Exception as error:
            return [as_unavailable(error)] * len(calls)
        outcomes: list[object] = []
        for method, arguments in calls:
            try:
                outcomes.append(method(*arguments))  # the last thing that each does is to add a record, or none
            except Exception as error:
                outcomes.append(as_unavailable(error))
        if self._records:
            try:
                self._write()
            except Exception as error:
                if len(calls) > 1:  # a disk that is nearly full still takes what is small
                    return [outcome for call in calls for outcome in self.apply([call])]
                return [as_unavailable(error)]
        return outcomes

    def _check_files(self) -> None:
        """
        Find out whether somebody removed the files: what is written to them then would be gone at the next start.

        :raises JournalUnavailable: when one is gone.
        """
        # To remove, replace or rename a file changes the time of its folder: one look for both files.
        try:
            status = os.stat(self._folder)
        except FileNotFoundError:
            seen = None
        else:
            seen = status.st_dev, status.st_ino, status.st_mtime_ns
            if seen == self._seen:
                return
        self._seen = None
        self.archived.check_file()
        if not self._logs[-1].is_there:
            raise JournalUnavailable(reason=Text("somebody removed or replaced its file; restart relayd"))
        if seen is not None and time.time() - seen[2] / 1e9 > SETTLED:
            self._seen = seen

    def _write(self) -> None:
        if len(self._logs) > MOST_LOGS:
            raise JournalUnavailable(reason=Text("its logs cannot be moved to its archive; look into relayd's log"))
        self._logs[-1].append(self._records, time.time(), self.now())

    def rotate(self) -> None:
        """
        Begin the next log, if there is something in this one.

        :raises OSError: when that is not possible; this one goes on.
        """
        if self._logs[-1].changes:
            self._begin_log()

    # What can be done, by `apply`

    def accept(
        self, command_id: str, fingerprint: bytes, extended: bool, numeric_id: bool = False
    ) -> JournalEntry | None:
        """Record a command; gives what is known of its id, and records nothing, if that is there already."""
        if not self._is_new(command_id) and (known := self._find(command_id)) is not None:
            return known
        self._coming[command_id] = EntryState.ACCEPTED
        self._records.append(Accepted(command_id, fingerprint, form_of(extended, numeric_id)))
        return None

    def start(self, command_id: str) -> None:
        """Record that a command may run from now on."""
        self._step(Started(command_id), EntryState.STARTED, EntryState.ACCEPTED)

    def finish(self, result: CommandResult) -> int:
        """Record the result of a command; gives the bytes that it takes."""
        body = encode_result(result)
        self._step(Finished(result.command_id, body), EntryState.FINISHED, EntryState.ACCEPTED, EntryState.STARTED)
        return len(body)

    def end(self, command_id: str) -> None:
        """Record that a command has ended and its result was confirmed, though the result was never recorded."""
        self._step(Confirmed(command_id), EntryState.CONFIRMED, EntryState.ACCEPTED, EntryState.STARTED)

    def confirm(self, command_id: str) -> None:
        """Remove the result of a command, which was confirmed."""
        self._step(Confirmed(command_id), EntryState.CONFIRMED, EntryState.FINISHED, EntryState.DEAD)

    def bury(self, command_id: str) -> None:
        """Record that the result of a command is kept, and not sent any more."""
        self._step(Buried(command_id), EntryState.DEAD, EntryState.FINISHED)

    def note(self, name: str, value: str) -> None:
        """Keep a fact."""
        self._records.append(Noted(name, value))

    def load(self, command_id: str) -> CommandResult | None:
        """The result of a command; ``None``: none is held."""
        state = self._coming.get(command_id)
        if state is EntryState.CONFIRMED:
            return None
        body = None if state is None else body_in(self._records, command_id)
        with self._changing:
            for log in reversed(self._logs):
                if body is not None:
                    break
                if (change := log.changes.commands.get(command_id)) is None:
                    continue
                if change.state is EntryState.CONFIRMED:
                    return None
                if (place := log.changes.results.get(command_id)) is not None:
                    body = body_in(log.read(place), command_id)
        return self.archived.load(command_id) if body is None else decode_result(body)

    def _step(self, record: AnyRecord, state: EntryState, *before: EntryState) -> None:
        known = self._coming.get(record.id)
        if (known or self._state_of(record.id)) not in before:
            raise JournalUnavailable(reason=Text("it does not have the command {id} as it should", id=record.id))
        self._coming[record.id] = state
        self._records.append(record)

    def _state_of(self, command_id: str) -> EntryState | None:
        """How far a command has come, with what is about to be written."""
        if (state := self._coming.get(command_id)) is not None:
            return state
        # In this order: a log is only taken away when the archive has what is in it.
        for log in reversed(self._logs):
            if (change := log.changes.commands.get(command_id)) is not None:
                return change.state
        entry = self.archived.find(command_id)
        return None if entry is None else entry.state

    def _is_new(self, command_id: str) -> bool:
        """Whether nothing is known of a command, as far as that can be said without a look at the disk."""
        if command_id in self._coming:
            return False
        for log in self._logs:
            if command_id in log.changes.commands:
                return False
        return not self._known.may_have(command_id)

    def _find(self, command_id: str) -> JournalEntry | None:
        """What is known of a command, with what is about to be written."""
        state = self._state_of(command_id)
        if state is None:
            return None
        for record in self._records:
            if isinstance(record, Accepted) and record.id == command_id:
                return JournalEntry(fingerprint=record.fingerprint, state=state)
        for log in reversed(self._logs):
            change = log.changes.commands.get(command_id)
            if change is not None and change.fingerprint is not None:
                return JournalEntry(fingerprint=change.fingerprint, state=state)
        entry = self.archived.find(command_id)
        return JournalEntry(fingerprint=b"" if entry is None else entry.fingerprint, state=state)

    # Archiving

    def archive(self) -> bool:
        """
        Move all logs but the one that is written to the archive, and remove them.

        :return: whether nothing of confirmed results is left but in the log that is written.
        :raises sqlite3.Error: when the archive cannot be written; as much as was moved is moved.
        :raises OSError: when a log cannot be removed.
        """
        for log in self._logs[:-1]:
            self._move(log)
        return self.archived.clean()

    def _move(self, log: Log) -> None:
        if log.changes and log.number > self.archived.last_log:
            self._known.add(log.changes.commands)
            self.archived.move(log.number, log.changes, log.body_of)
        with self._changing:
            self._logs = [each for each in self._logs if each is not log]
            log.close()
        if os.path.exists(log.path):  # somebody may have removed it
            self._disk.unlink(log.path)
        self._disk.sync_folder(self._folder)

    def learn(self) -> bool:
        """
        Get to know some more of the ids in the archive; until all are known, `accept` looks for each on the disk.

        :return: whether all are known.
        """
        rows = self.archived.ids_after(self._learned, LEARNED)
        self._known.add(command_id for _, command_id in rows)
        if rows:
            self._learned = rows[-1][0]
        self._known.complete = len(rows) < LEARNED
        return self._known.complete

    def prune(self, before: float, keep: int, count: int) -> int:
        """See `Archive.prune`."""
        return self.archived.prune(before, keep, count, self.now())

    def close(self) -> None:
        """Move everything to the archive, as far as that is possible, and close the files."""
        try:
            for log in self._logs:
                self._move(log)
            self.archived.note("time", str(self.now()))
            self.archived.mark(VERSION)
        finally:
            for log in self._logs:
                log.close()
            self.archived.clean()
            self.archived.close()
