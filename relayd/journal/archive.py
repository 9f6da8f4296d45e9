"""
The archive of the journal: an SQLite file with every command that is not only in a log yet.

It survives ``kill -9`` in any mode, and the loss of power with ``synchronous=FULL``
(sqlite.org/pragma.html#pragma_synchronous).
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Final

from msgspec import Struct

from relayd.errors import JournalUnavailable, NotExecuted, OutcomeLost
from relayd.interfaces import EntryState, JournalEntry
from relayd.journal.bodies import decode_result, encode_result
from relayd.journal.index import LiveCommand
from relayd.journal.records import Change, Changes
from relayd.journal.sqlite_errors import damage
from relayd.language.texts import Text, Translate, english
from relayd.wire.failure_results import failure_result
from relayd.wire.messages import CommandResult

#: ``PRAGMA user_version`` of a file that has everything.
VERSION: Final = 1
#: The same while there may be logs: a version of relayd that knows none does not open the file then, and run again what
#: is only in a log.
WITH_LOGS: Final = 2
#: ``PRAGMA application_id``: "rlyd".
APPLICATION_ID: Final = 0x726C7964
#: Rows that one step of a clean-up removes, so that no command waits long for it.
PRUNE_ROWS: Final = 5000
#: Pages that are given back to the file system at a time.
_VACUUM_PAGES: Final = 4096
#: Bytes to which the write-ahead log is cut after a large result was in it.
_MAX_LOG: Final = 32 << 20
#: Seconds for which another program may lock the file.
_BUSY_TIMEOUT: Final = 5.0

#: What `Archive.open` makes in an empty file.
SCHEMA: Final = """
CREATE TABLE command (
    serial INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    fingerprint BLOB NOT NULL,
    state INTEGER NOT NULL,
    extended INTEGER NOT NULL,
    accepted REAL NOT NULL,
    started REAL,
    finished REAL,
    confirmed REAL,
    since REAL NOT NULL
);
CREATE INDEX confirmed_since ON command (since) WHERE state = 4;
CREATE TABLE result (
    serial INTEGER PRIMARY KEY AUTOINCREMENT,
    command TEXT NOT NULL UNIQUE,
    body BLOB NOT NULL
);
CREATE TABLE note (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""

# Bits of the column "extended" of a command: the form of its result, in case relayd dies before there is a result.
# Above them is the number of its main server: versions of relayd that know only one do not look there.
_EXTENDED: Final = 1
_NUMERIC_ID: Final = 2
_ORIGIN: Final = 2
#: The name of the note that says which log was the last whose changes are in the archive.
LAST_LOG: Final = "log"
#: Commands that one statement brings to the archive: Python's other threads can run while SQLite works on them.
_ROWS: Final = 64
_COLUMNS: Final = "id, fingerprint, state, extended, accepted, started, finished, confirmed, since"
_PLACES: Final = "(?, ?, ?, ?, ?, ?, ?, ?, ?)"


def existing(path: str, mode: str) -> str:
    """
    The URI by which SQLite opens a file that exists, and makes none.

    :param mode: ``ro`` or ``rw``.
    """
    return f"{Path(path).absolute().as_uri()}?mode={mode}"  # a path may hold signs that mean something in a URI


def form_of(extended: bool, numeric_id: bool, origin: int = 0) -> int:
    """The bits of the column ``extended`` of a command; *origin*: the number of its main server, 0 for none."""
    return (_EXTENDED if extended else 0) | (_NUMERIC_ID if numeric_id else 0) | origin << _ORIGIN


class Recovery(Struct, kw_only=True):
    """
    What a start finds.

    :ivar live: every command whose result is not confirmed, in the order in which they ended.
    :ivar notes: the facts that were kept.
    :ivar confirmed: how many other commands there are.
    :ivar ended: the commands that the process before this one left unfinished, each with the code of the error that is
        now its result.
    """

    live: dict[str, LiveCommand]
    notes: dict[str, str]
    confirmed: int
    ended: list[tuple[str, str]]


class Archive:
    """
    The SQLite file of a journal.

    What changes it is called in one thread at a time; `find`, `load` and `check_file` may be called in another.

    :param path: path of the file, which is made for this user alone where there is none.
    :param durable: whether a commit survives a loss of power, and not only the end of the process.
    :ivar last_log: the number of the last log whose changes are here.
    """

    def __init__(self, path: str, *, durable: bool) -> None:
        self._path = path
        self._durable = durable
        self._db: sqlite3.Connection
        self._reader: sqlite3.Connection
        self._file: tuple[int, int] = (0, 0)
        self.last_log = 0

    def open(self) -> None:
        """
        Open the file.

        :raises sqlite3.Error: when SQLite cannot do that; `is_damage` tells whether the file is beyond use.
        :raises OSError: when the file cannot be made or opened.
        :raises JournalUnavailable: when another version of relayd wrote the file.
        """
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=_BUSY_TIMEOUT)
        try:
            with _damage_seen():
                self._prepare()
            self._reader = sqlite3.connect(
                existing(self._path, "ro"), uri=True, check_same_thread=False, timeout=_BUSY_TIMEOUT
            )
        except BaseException:
            self._db.close()
            raise

    def _prepare(self) -> None:
        execute = self._db.execute
        version = execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            execute("PRAGMA auto_vacuum = INCREMENTAL")
        execute("PRAGMA journal_mode = WAL")
        execute(f"PRAGMA synchronous = {'FULL' if self._durable else 'NORMAL'}")
        execute(f"PRAGMA journal_size_limit = {_MAX_LOG}")
        forget_what_is_deleted(self._db)
        if version == 0:
            with self._transaction():
                for statement in SCHEMA.split(";"):
                    execute(statement)
                execute(f"PRAGMA application_id = {APPLICATION_ID}")
                execute(f"PRAGMA user_version = {VERSION}")
        elif version not in (VERSION, WITH_LOGS):
            raise JournalUnavailable(reason=Text("it was written by a newer version of relayd; install that one again"))
        elif execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise damage()
        status = os.stat(self._path)
        self._file = (status.st_dev, status.st_ino)
        self.last_log = int(self.notes().get(LAST_LOG, 0))

    def mark(self, version: int) -> None:
        """Say whether there may be logs: `VERSION` or `WITH_LOGS`."""
        self._db.execute(f"PRAGMA user_version = {version}")

    def notes(self) -> dict[str, str]:
        """The facts that are kept."""
        return dict(self._db.execute("SELECT name, value FROM note"))

    def last_time(self) -> float:
        """
        The journal's own time when it was last written here.

        :raises sqlite3.Error: as `open` does.
        """
        with _damage_seen():
            return float(self.notes().get("time", 0))

    def recover(self, now: float, translate: Translate = english) -> Recovery:
        """
        Give results to the commands that an earlier process left unfinished, and tell what is here.

        :param now: the journal's own time.
        :param translate: to the language of those results.
        :raises sqlite3.Error: as `open` does.
        """
        with _damage_seen():
            return self._recover(now, translate)

    def _recover(self, now: float, translate: Translate) -> Recovery:
        execute = self._db.execute
        recovery = Recovery(live={}, notes=self.notes(), confirmed=0, ended=[])
        with self._transaction():
            rows = execute("SELECT id, state, extended FROM command WHERE state IN (1, 2) ORDER BY serial").fetchall()
            for command_id, state, form in rows:
                error = OutcomeLost() if state == EntryState.STARTED.value else NotExecuted()
                recovery.ended.append((command_id, error.code))
                extended, numeric_id = bool(form & _EXTENDED), bool(form & _NUMERIC_ID)
                result = failure_result(
                    command_id, error, extended=extended, numeric_id=numeric_id, translate=translate
                )
                execute("INSERT INTO result (command, body) VALUES (?, ?)", (command_id, encode_result(result)))
                execute(
                    "UPDATE command SET state = 3, finished = ?, since = ? WHERE id = ?", (time.time(), now, command_id)
                )
        recovery.confirmed = execute("SELECT count(*) FROM command WHERE state = 4").fetchone()[0]
        recovery.live = {
            command_id: LiveCommand(fingerprint, EntryState(state), size, since, form >> _ORIGIN)
            for command_id, fingerprint, state, size, since, form in execute(
                "SELECT command, fingerprint, state, length(body), since, extended FROM result"
                " JOIN command ON id = command ORDER BY result.serial"
            )
        }
        return recovery

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def check_file(self) -> None:
        """
        Find out whether the file is still there: SQLite would go on writing to a file that somebody removed, and all of
        that would be gone at the next start.
        """
        try:
            status = os.stat(self._path)
        except FileNotFoundError:
            found = None
        else:
            found = (status.st_dev, status.st_ino)
        if found != self._file:
            raise JournalUnavailable(reason=Text("somebody removed or replaced its file; restart relayd"))

    # What is known

    def find(self, command_id: str) -> JournalEntry | None:
        """How far a command has come, as far as that is here."""
        row = self._reader.execute("SELECT fingerprint, state FROM command WHERE id = ?", (command_id,)).fetchone()
        return None if row is None else JournalEntry(fingerprint=row[0], state=EntryState(row[1]))

    def ids_after(self, serial: int, most: int) -> list[tuple[int, str]]:
        """The ids of *most* commands after one with this number, each with its number; called where it is changed."""
        rows = self._db.execute(
            "SELECT serial, id FROM command WHERE serial > ? ORDER BY serial LIMIT ?", (serial, most)
        )
        return rows.fetchall()

    def load(self, command_id: str) -> CommandResult | None:
        """The result of a command; ``None``: none is held here."""
        row = self._reader.execute("SELECT body FROM result WHERE command = ?", (command_id,)).fetchone()
        return None if row is None else decode_result(row[0])

    # What is changed

    def move(self, number: int, changes: Changes, body_of: Callable[[str, int], bytes | None]) -> None:
        """
        Bring the changes of a log here, in one transaction. What is here already from the same log is replaced.

        :param number: of the log.
        :param body_of: gives a result by the id of its command and its place in the log; ``None``: it is lost.
        """
        with self._transaction():
            new = ((each, change) for each, change in changes.commands.items() if change.fingerprint is not None)
            self._insert(_row(command_id, change, change.fingerprint) for command_id, change in new)
            for command_id, change in changes.commands.items():
                if change.fingerprint is None:
                    self._update(command_id, change)
            for command_id, place in changes.results.items():
                body = body_of(command_id, place)
                if body is None:  # its command may have run
                    self._db.execute("UPDATE command SET state = 2 WHERE id = ?", (command_id,))
                else:
                    self._db.execute("INSERT OR REPLACE INTO result (command, body) VALUES (?, ?)", (command_id, body))
            for name, value in {**changes.notes, LAST_LOG: str(number)}.items():
                self._note(name, value)
            self._note("time", str(max(changes.now, self.last_time())))
        self.last_log = number

    def _insert(self, rows: Iterable[tuple[object, ...]]) -> None:
        left = iter(rows)
        while chunk := list(islice(left, _ROWS)):
            places = ", ".join([_PLACES] * len(chunk))
            self._db.execute(
                f"INSERT OR REPLACE INTO command ({_COLUMNS}) VALUES {places}", list(chain.from_iterable(chunk))
            )

    def _update(self, command_id: str, change: Change) -> None:
        """A command that is here since an earlier log; where that was damaged, it may be missing, and must not run."""
        done = self._db.execute(
            "UPDATE command SET state = ?, started = coalesce(?, started), finished = coalesce(?, finished),"
            " confirmed = coalesce(?, confirmed), since = ? WHERE id = ?",
            (change.state.value, change.started, change.finished, change.confirmed, change.since, command_id),
        )
        if not done.rowcount:
            self._insert([_row(command_id, change, b"")])
        if change.state is EntryState.CONFIRMED:
            self._db.execute("DELETE FROM result WHERE command = ?", (command_id,))

    def note(self, name: str, value: str) -> None:
        """Keep a fact."""
        with self._transaction():
            self._note(name, value)

    def _note(self, name: str, value: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO note (name, value) VALUES (?, ?)", (name, value))

    def prune(self, before: float, keep: int, count: int, now: float) -> int:
        """
        Remove confirmed commands that are older than *before*, and the oldest ones until *keep* are left.

        :param count: how many there are.
        :param now: the journal's own time.
        :return: how many were removed. At most `PRUNE_ROWS` are: if there were as many, call it again.
        """
        excess = max(0, count - keep)
        with self._transaction():
            removed = self._db.execute(
                "DELETE FROM command WHERE serial IN (SELECT serial FROM command WHERE state = 4 AND since < ?"
                " ORDER BY since LIMIT ?)",
                (before, PRUNE_ROWS),
            ).rowcount
            if removed < min(excess, PRUNE_ROWS):
                removed += self._db.execute(
                    "DELETE FROM command WHERE serial IN"
                    " (SELECT serial FROM command WHERE state = 4 ORDER BY since LIMIT ?)",
                    (min(excess, PRUNE_ROWS) - removed,),
                ).rowcount
            self._note("time", str(now))
            self._db.execute(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})").fetchall()
        return removed

    def clean(self) -> bool:
        """
        Empty SQLite's write-ahead log, in which deleted results can still be read.

        SQLite overwrites deleted rows in the file itself. It does not empty its log, but writes it anew from its
        beginning, so that the end of a long log stays until another log is as long. The blocks of the log are given
        back to the file system; nobody overwrites them there.

        :return: whether it was done: it cannot be while another program reads the file, or the disk is full.
        """
        try:
            self._db.execute("PRAGMA busy_timeout = 0")
            try:
                busy: int = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            finally:
                self._db.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT * 1000:.0f}")
        except sqlite3.Error:
            return False
        return busy == 0

    def close(self) -> None:
        """Close the file."""
        self._reader.close()
        self._db.close()


def _row(command_id: str, change: Change, fingerprint: bytes | None) -> tuple[object, ...]:
    accepted = change.since if change.accepted is None else change.accepted
    return (
        command_id, fingerprint, change.state.value, change.form, accepted,
        change.started, change.finished, change.confirmed, change.since,
    )  # fmt: skip


@contextmanager
def _damage_seen() -> Iterator[None]:
    """Turn into an error of SQLite what shows that a row is not as relayd wrote it."""
    try:
        yield
    except (ValueError, TypeError, sqlite3.IntegrityError):  # an unknown state, a time that is no number
        raise damage() from None


def forget_what_is_deleted(db: sqlite3.Connection) -> None:
    """Have SQLite overwrite what is deleted, and keep temporary data in memory."""
    db.execute("PRAGMA secure_delete = ON")
    db.execute("PRAGMA temp_store = MEMORY")
