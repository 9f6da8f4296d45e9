"""
The journal on disk: an SQLite file and what can be done to it, in one thread at a time and without Twisted.

SQLite with a write-ahead log survives ``kill -9`` in any mode, and the loss of power with ``synchronous=FULL``
(sqlite.org/pragma.html#pragma_synchronous).
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from relayd.errors import JournalUnavailable, NotExecuted, OutcomeLost
from relayd.interfaces import EntryState, JournalEntry
from relayd.journal.index import LiveCommand
from relayd.journal.sqlite_errors import as_unavailable, damage
from relayd.language.texts import Text, Translate, english, without_surrogates
from relayd.wire.messages import CommandResult, failure_result

#: ``PRAGMA user_version`` of the files that this module writes.
VERSION: Final = 1
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

#: What `Store.open` makes in an empty file.
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

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(CommandResult).decode


# Bits of the column "extended" of a command: the form of its result, in case relayd dies before there is a result.
_EXTENDED: Final = 1
_NUMERIC_ID: Final = 2


def journal_file(state_dir: str) -> str:
    """The file of a relay's journal: in a folder of its own, as the state directory may be open to others."""
    return os.path.join(state_dir, "journal", "journal.sqlite3")


def existing(path: str, mode: str) -> str:
    """
    The URI by which SQLite opens a file that exists, and makes none.

    :param mode: ``ro`` or ``rw``.
    """
    return f"{Path(path).absolute().as_uri()}?mode={mode}"  # a path may hold signs that mean something in a URI


def decode_result(body: bytes) -> CommandResult:
    """
    The result in a row.

    :raises JournalUnavailable: when it is damaged, which SQLite does not always see.
    """
    try:
        return _decode(body)
    # msgspec does not turn everything into an error of its own; TypeError: the row does not hold bytes
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, TypeError):
        raise JournalUnavailable(reason=Text("its file is damaged: a result is not as relayd wrote it")) from None


class Recovery(Struct, kw_only=True):
    """
    What a start finds in the file.

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


#: One thing to do: a method of the store and its arguments.
Call = tuple[Callable[..., object], tuple[Any, ...]]


class Store:
    """
    The file of a journal.

    :param path: path of the file, which is made for this user alone where there is none.
    :param durable: whether a commit survives a loss of power, and not only the end of the process.
    :param translate: to the language of the results that unfinished commands get here.
    """

    def __init__(self, path: str, *, durable: bool, translate: Translate = english) -> None:
        self._path = path
        self._durable = durable
        self._translate = translate
        self._db: sqlite3.Connection
        self._file: tuple[int, int] = (0, 0)
        self._time_offset = 0.0

    def open(self) -> Recovery:
        """
        Open the file, and give results to the commands that an earlier process left unfinished.

        :raises sqlite3.Error: when SQLite cannot do that; `is_damage` tells whether the file is beyond use.
        :raises OSError: when the file cannot be made or opened.
        :raises JournalUnavailable: when another version of relayd wrote the file.
        """
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=_BUSY_TIMEOUT)
        try:
            return self._prepare()
        except (ValueError, TypeError, sqlite3.IntegrityError):  # an unknown state, a time that is no number
            self._db.close()
            raise damage() from None
        except BaseException:
            self._db.close()
            raise

    def _prepare(self) -> Recovery:
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
        elif version != VERSION:
            raise JournalUnavailable(reason=Text("it was written by a newer version of relayd; install that one again"))
        elif execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise damage()
        status = os.stat(self._path)
        self._file = (status.st_dev, status.st_ino)
        return self._recover()

    def _recover(self) -> Recovery:
        execute = self._db.execute
        notes = dict(execute("SELECT name, value FROM note"))
        # The journal's time never goes backwards, even if the system's does.
        self._time_offset = max(time.time(), float(notes.get("time", 0))) - time.monotonic()
        recovery = Recovery(live={}, notes=notes, confirmed=0, ended=[])
        with self._transaction():
            rows = execute("SELECT id, state, extended FROM command WHERE state IN (1, 2) ORDER BY serial").fetchall()
            for command_id, state, extended in rows:
                error = OutcomeLost() if state == EntryState.STARTED.value else NotExecuted()
                recovery.ended.append((command_id, error.code))
                self.finish(
                    failure_result(
                        command_id,
                        error,
                        extended=bool(extended & _EXTENDED),
                        numeric_id=bool(extended & _NUMERIC_ID),
                        translate=self._translate,
                    )
                )
        recovery.confirmed = execute("SELECT count(*) FROM command WHERE state = 4").fetchone()[0]
        recovery.live = {
            command_id: LiveCommand(fingerprint, EntryState(state), size, since)
            for command_id, fingerprint, state, size, since in execute(
                "SELECT command, fingerprint, state, length(body), since FROM result JOIN command ON id = command"
                " ORDER BY result.serial"
            )
        }
        return recovery

    def apply(self, calls: Sequence[Call]) -> list[object]:
        """
        Make *calls* and commit them together.

        :return: for each call what it gave, or the exception with which it alone failed.
        """
        try:
            return self._commit(calls)
        except Exception as error:
            if len(calls) == 1:
                return [as_unavailable(error)]
        outcomes: list[object] = []
        for call in calls:  # one that fails does not take the others with it
            try:
                outcomes += self._commit([call])
            except Exception as error:
                outcomes.append(as_unavailable(error))
        return outcomes

    def _commit(self, calls: Sequence[Call]) -> list[object]:
        self._check_file()
        with self._transaction():
            return [method(*arguments) for method, arguments in calls]

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

    def _check_file(self) -> None:
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

    def now(self) -> float:
        """The journal's own time, in seconds: the system's when the file was opened, and steady since then."""
        return time.monotonic() + self._time_offset

    # What can be done, inside a transaction

    def accept(
        self, command_id: str, fingerprint: bytes, extended: bool, numeric_id: bool = False
    ) -> JournalEntry | None:
        """Record a command; gives what is known of its id, and records nothing, if that is there already."""
        form = (_EXTENDED if extended else 0) | (_NUMERIC_ID if numeric_id else 0)
        done = self._db.execute(
            "INSERT INTO command (id, fingerprint, state, extended, accepted, since) VALUES (?, ?, 1, ?, ?, ?)"
            " ON CONFLICT DO NOTHING",
            (command_id, fingerprint, form, time.time(), self.now()),
        )
        if done.rowcount:
            return None
        known, state = self._db.execute("SELECT fingerprint, state FROM command WHERE id = ?", (command_id,)).fetchone()
        return JournalEntry(fingerprint=known, state=EntryState(state))

    def start(self, command_id: str) -> None:
        """Record that a command may run from now on."""
        self._move(command_id, "state = 2, started = ?", "state = 1")

    def finish(self, result: CommandResult) -> int:
        """Record the result of a command; gives the bytes that it takes."""
        try:
            body = _encode(result)
        except UnicodeEncodeError:  # half a surrogate pair, from a text that was not decoded strictly
            stdout, stderr = without_surrogates(result.stdout), without_surrogates(result.stderr)
            body = _encode(msgspec.structs.replace(result, stdout=stdout, stderr=stderr))
        self._db.execute("INSERT INTO result (command, body) VALUES (?, ?)", (result.command_id, body))
        self._move(result.command_id, "state = 3, finished = ?", "state IN (1, 2)")
        return len(body)

    def end(self, command_id: str) -> None:
        """Record that a command has ended and its result was confirmed, though the result was never recorded."""
        self._move(command_id, "state = 4, confirmed = ?", "state IN (1, 2)")

    def confirm(self, command_id: str) -> None:
        """Remove the result of a command, which was confirmed."""
        self._db.execute("DELETE FROM result WHERE command = ?", (command_id,))
        self._move(command_id, "state = 4, confirmed = ?", "state IN (3, 5)")

    def bury(self, command_id: str) -> None:
        """Record that the result of a command is kept, and not sent any more."""
        self._move(command_id, "state = 5, confirmed = ?", "state = 3")

    def _move(self, command_id: str, change: str, condition: str) -> None:
        done = self._db.execute(
            f"UPDATE command SET {change}, since = ? WHERE id = ? AND {condition}",
            (time.time(), self.now(), command_id),
        )
        if not done.rowcount:
            raise JournalUnavailable(reason=Text("it does not have the command {id} as it should", id=command_id))

    def load(self, command_id: str) -> CommandResult | None:
        """The result of a command; ``None``: none is held."""
        row = self._db.execute("SELECT body FROM result WHERE command = ?", (command_id,)).fetchone()
        return None if row is None else decode_result(row[0])

    def note(self, name: str, value: str) -> None:
        """Keep a fact."""
        self._db.execute("INSERT OR REPLACE INTO note (name, value) VALUES (?, ?)", (name, value))

    def prune(self, before: float, keep: int, count: int) -> int:
        """
        Remove confirmed commands that are older than *before*, and the oldest ones until *keep* are left.

        :param count: how many there are.
        :return: how many were removed. At most `PRUNE_ROWS` are: if there were as many, call it again.
        """
        excess = max(0, count - keep)
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
        self.note("time", str(self.now()))
        self._db.execute(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})").fetchall()
        return removed

    def clean(self) -> bool:
        """
        Empty the write-ahead log, in which deleted results can still be read. Not to be called in a transaction.

        SQLite overwrites deleted rows in the file itself. It does not empty the log, but writes it anew from its
        beginning, so that the end of a long log stays until another log is as long. The blocks of the log are given
        back to the file system; nobody overwrites them there.

        :return: whether it was done: it cannot be while another program reads the file, or the disk is full.
        """
        try:
            self._db.execute("PRAGMA busy_timeout = 0")  # while this waits, commands wait, too
            try:
                busy: int = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            finally:
                self._db.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT * 1000:.0f}")
        except sqlite3.Error:
            return False
        return busy == 0

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def forget_what_is_deleted(db: sqlite3.Connection) -> None:
    """Have SQLite overwrite what is deleted, and keep temporary data in memory."""
    db.execute("PRAGMA secure_delete = ON")
    db.execute("PRAGMA temp_store = MEMORY")
