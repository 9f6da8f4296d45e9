"""
The journal on disk: everything is written to a log first, and what a log comes to is moved to the archive.

Without Twisted. `Store.prepare` and `Store.settle` do not look at the disk, and are for the thread of the reactor. One
other thread calls `Store.write`, `Store.apply` and `Store.rotate`, each between these two or while there is nothing to
settle, and a third `Store.archive` and `Store.prune`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from msgspec import Struct

from relayd.errors import JournalUnavailable
from relayd.journal.archive import VERSION, WITH_LOGS, Archive, Recovery
from relayd.journal.disk import Disk
from relayd.journal.known_ids import KnownIds
from relayd.journal.leftovers import DamagedLog, take_over
from relayd.journal.log import Frame, Log
from relayd.journal.sqlite_errors import as_unavailable
from relayd.journal.steps import NeedsDisk, Steps
from relayd.language.texts import Text, Translate, english

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


class Prepared(Struct, frozen=True):
    """
    What is to be written together.

    :ivar calls: what it is for.
    :ivar outcomes: what they gave, if it can be written.
    :ivar frame: what is to be written; ``None``: nothing.
    """

    calls: Sequence[Call]
    outcomes: list[object]
    frame: Frame | None


class Store:
    """
    The files of a journal.

    :param path: path of the archive; the logs are beside it.
    :param durable: whether what is written survives a loss of power, and not only the end of the process.
    :param max_ids: ids that the archive keeps.
    :param translate: to the language of the results that unfinished commands get here.
    :param disk: where the logs are written.
    :ivar damaged: the logs that `open` found damaged.
    :ivar steps: what can be asked for in `apply`.
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
        # How the folder was when all files were there, see `_check_files`.
        self._seen: tuple[int, int, int] | None = None
        self._known = KnownIds(max_ids)
        self._learned = 0
        self.archived = Archive(path, durable=durable)
        self.steps = Steps(self.archived, self._known)
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
            self._next, damaged = take_over(self._folder, self.archived, self._disk)
            self.damaged += damaged
            # The journal's time never goes backwards, even if the system's does.
            self._time_offset = max(time.time(), self.archived.last_time()) - time.monotonic()
            recovery = self.archived.recover(self.now(), self._translate)
            self.archived.mark(WITH_LOGS)
            self._begin_log()
        except BaseException:
            self.archived.close()
            raise
        return recovery

    def _begin_log(self) -> None:
        log = Log(self._folder, self._next, self._disk, synced=self._durable)
        self._next += 1
        with self.steps.changing:
            self.steps.logs = [*self.steps.logs, log]

    def now(self) -> float:
        """The journal's own time, in seconds: the system's when the files were opened, and steady since then."""
        return time.monotonic() + self._time_offset

    # Writing

    @property
    def is_full(self) -> bool:
        """Whether it is time for the next log."""
        return self.steps.logs[-1].size >= FULL

    def apply(self, calls: Sequence[Call]) -> list[object]:
        """
        Make *calls* and write together what they come to.

        :return: for each call what it gave, or the `JournalUnavailable` with which it alone failed.
        """
        try:
            prepared = self._prepare(calls, without_disk=False)
        except Exception as error:  # something of it cannot be encoded
            return self._apply_each(calls, error)
        failed = self.write(prepared)
        return self.settle(prepared) if failed is None else failed

    def prepare(self, calls: Sequence[Call]) -> Prepared | None:
        """
        The first step of `apply`, where that needs no look at the disk; `write` and `settle` have to follow.

        :return: ``None``: it needs one, or `apply` has to find out what is wrong.
        """
        try:
            return self._prepare(calls, without_disk=True)
        except Exception:
            return None

    def _prepare(self, calls: Sequence[Call], *, without_disk: bool) -> Prepared:
        records = self.steps.begin(without_disk)
        outcomes: list[object] = []
        for method, arguments in calls:
            try:
                outcomes.append(method(*arguments))  # the last thing that each does is to add a record, or none
            except NeedsDisk:
                raise
            except Exception as error:
                outcomes.append(as_unavailable(error))
        frame = self.steps.logs[-1].frame(records, time.time(), self.now()) if records else None
        return Prepared(calls, outcomes, frame)

    def write(self, prepared: Prepared) -> list[object] | None:
        """
        The second step of `apply`.

        :return: ``None``: it is written. Otherwise the outcomes: there is nothing to settle.
        """
        calls = prepared.calls
        try:
            self._check_files()
        except Exception as error:
            return [as_unavailable(error)] * len(calls)
        if prepared.frame is not None:
            try:
                if len(self.steps.logs) > MOST_LOGS:
                    reason = Text("its logs cannot be moved to its archive; look into relayd's log")
                    raise JournalUnavailable(reason=reason)
                self.steps.logs[-1].write(prepared.frame)
            except Exception as error:
                return self._apply_each(calls, error)
        return None

    def _apply_each(self, calls: Sequence[Call], error: Exception) -> list[object]:
        """*calls* failed together: the disk may be nearly full, and still take what is small."""
        if len(calls) > 1:
            return [outcome for call in calls for outcome in self.apply([call])]
        return [as_unavailable(error)]

    def settle(self, prepared: Prepared) -> list[object]:
        """The third step of `apply`: it is written. Gives the outcomes."""
        if prepared.frame is not None:
            self.steps.logs[-1].add(prepared.frame)
        return prepared.outcomes

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
        if not self.steps.logs[-1].is_there:
            raise JournalUnavailable(reason=Text("somebody removed or replaced its file; restart relayd"))
        if seen is not None and time.time() - seen[2] / 1e9 > SETTLED:
            self._seen = seen

    def rotate(self) -> None:
        """
        Begin the next log, if there is something in this one.

        :raises OSError: when that is not possible; this one goes on.
        """
        if self.steps.logs[-1].changes:
            self._begin_log()

    # Archiving

    def archive(self) -> bool:
        """
        Move all logs but the one that is written to the archive, and remove them.

        :return: whether nothing of confirmed results is left but in the log that is written.
        :raises sqlite3.Error: when the archive cannot be written; as much as was moved is moved.
        :raises OSError: when a log cannot be removed.
        """
        for log in self.steps.logs[:-1]:
            self._move(log)
        return self.archived.clean()

    def _move(self, log: Log) -> None:
        if log.changes and log.number > self.archived.last_log:
            self._known.add(log.changes.commands)
            self.archived.move(log.number, log.changes, log.body_of)
        with self.steps.changing:
            self.steps.logs = [each for each in self.steps.logs if each is not log]
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
            for log in self.steps.logs:
                self._move(log)
            self.archived.note("time", str(self.now()))
            self.archived.mark(VERSION)
        finally:
            for log in self.steps.logs:
                log.close()
            self.archived.clean()
            self.archived.close()
