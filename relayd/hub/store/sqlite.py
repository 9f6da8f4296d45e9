"""
The hub's database in an SQLite file: one connection writes, others read what was committed before.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from errno import EDQUOT, ENOSPC
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import QueuePool

from relayd.hub.store.database import CHANGED_BY_READ, Database, Health, Stage
from relayd.hub.store.errors import (
    CommitUnknown,
    Conflict,
    StillReferred,
    StoreError,
    StoreInUse,
    StoreUnavailable,
    StoreUnusable,
)
from relayd.hub.store.migrations import migrate
from relayd.language.texts import Text
from relayd.network.descriptors import shortage, words_of

#: ``PRAGMA application_id``: "rlhb".
APPLICATION_ID: Final = 0x726C6862
#: Seconds for which another program may lock the file.
BUSY_TIMEOUT: Final = 5.0
#: Connections that read: one may be busy with a search.
READERS: Final = 2
#: Bytes to which the write-ahead log is cut after much was in it.
_MAX_LOG: Final = 32 << 20
#: KiB of the file that a connection keeps in memory.
_CACHE: Final = 8000

#: Why nothing can be done until somebody has done something about it.
_UNUSABLE: Final = {
    "SQLITE_READONLY": Text("its file system is read-only"),
    "SQLITE_CORRUPT": Text("its file is damaged; stop the hub and restore a backup"),
    "SQLITE_NOTADB": Text("its file is damaged, or is no SQLite database; stop the hub and restore a backup"),
    "SQLITE_CANTOPEN": Text("its folder is gone, or this user may not write there"),
    "SQLITE_PERM": Text("this user may not write to its file"),
}
#: Why it may be possible later.
_UNAVAILABLE: Final = {
    "SQLITE_FULL": Text("the disk is full; make room"),
    "SQLITE_IOERR": Text("the disk reports errors"),
    "SQLITE_BUSY": Text("another program has locked its file; end that"),
    "SQLITE_LOCKED": Text("another program has locked its file; end that"),
    "SQLITE_NOMEM": Text("there is no memory left"),
}


class SQLiteDatabase(Database):
    """
    An SQLite file that one process uses.

    :param path: of the file, which is made for this user alone where there is none; its folder exists.
    """

    readers = READERS

    def __init__(self, path: str) -> None:
        self.place = f"SQLite {path}"
        self._path = os.path.abspath(path)
        self._lock: int | None = None
        self._file: tuple[int, int] = (0, 0)

    def open(self) -> None:
        """See `Database.open`."""
        try:
            self._lock = claim(self._path)
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            status = os.stat(self._path)
        except OSError as error:
            self._release()
            if error.errno in (ENOSPC, EDQUOT):
                raise StoreUnavailable(reason=_UNAVAILABLE["SQLITE_FULL"]) from None
            raise StoreUnusable(reason=Text("{path}: {error}", path=self._path, error=words_of(error))) from None
        self._file = status.st_dev, status.st_ino
        self._writer = self._engine("BEGIN IMMEDIATE", 1, _prepare)
        self._reader = self._engine("BEGIN", READERS, _prepare_reader)
        try:
            with self._writer.begin() as connection:
                migrate(connection)
        except BaseException as error:
            self.close()
            if isinstance(error, Exception):
                raise self._in_our_words(error, Stage.BEGINNING) from None
            raise

    def close(self) -> None:
        """See `Database.close`."""
        super().close()
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _engine(self, begin: str, connections: int, prepare: Any) -> Engine:
        def connect() -> sqlite3.Connection:
            # The driver's own transactions begin too late, and never for a read.
            connection = sqlite3.connect(
                self._path, isolation_level=None, check_same_thread=False, timeout=BUSY_TIMEOUT
            )
            try:
                prepare(connection)
            except BaseException:
                connection.close()
                raise
            return connection

        def begun(connection: Connection) -> None:
            self._check_file()
            connection.exec_driver_sql(begin)

        engine = create_engine(
            "sqlite+pysqlite://",
            creator=connect,
            poolclass=QueuePool,
            pool_size=connections,
            max_overflow=0,
            hide_parameters=True,
        )
        event.listen(engine, "begin", begun)
        return engine

    def _check_file(self) -> None:
        """SQLite would go on with a file that somebody removed, and all of that would be gone at the next start."""
        try:
            status = os.stat(self._path)
        except OSError:
            found = None
        else:
            found = status.st_dev, status.st_ino
        if found != self._file:
            raise StoreUnusable(reason=Text("somebody removed or replaced its file; restart the hub"))

    def _execute(self, connection: Connection, statement: str) -> None:
        connection.connection.driver_connection.execute(statement)  # type: ignore[union-attr]

    def _health(self, connection: Connection) -> Health:
        is_there = connection.connection.driver_connection.in_transaction  # type: ignore[union-attr]
        return Health.GOOD if is_there else Health.GONE

    def _translate(self, error: SQLAlchemyError, stage: Stage) -> StoreError:
        cause = error.orig if isinstance(error, DBAPIError) else None
        if isinstance(cause, sqlite3.Error):
            return in_words(cause, stage)
        return StoreError(reason=Text("an internal error, {error}", error=type(error).__name__))


def claim(path: str) -> int:
    """
    Keep other processes from the database at *path*: the descriptor of a lock, which holds until that is closed.

    :raises StoreInUse: when another process has it.
    :raises OSError: when that cannot be found out.
    """
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        os.pwrite(lock, b"%d\n" % os.getpid(), 0)
    except BlockingIOError:
        holder = os.pread(lock, 20, 0).decode("ascii", "replace").strip()
        os.close(lock)
        raise StoreInUse(path=path, process=f" ({holder})" if holder.isdigit() else "") from None
    except OSError:
        os.close(lock)
        raise
    return lock


def in_words(error: sqlite3.Error, stage: Stage = Stage.BEGINNING) -> StoreError:
    """An error of SQLite as one of ours."""
    name = getattr(error, "sqlite_errorname", "")
    kind = "_".join(name.split("_")[:2])
    if kind == "SQLITE_CONSTRAINT":
        return _broken_constraint(name, str(error))
    if kind == "SQLITE_READONLY" and stage is Stage.READING:
        return StoreError(reason=CHANGED_BY_READ)
    if kind == "SQLITE_CANTOPEN" and (words := shortage()) is not None:
        return StoreUnavailable(reason=words)
    if kind == "SQLITE_IOERR" and stage is Stage.COMMITTING:
        # What could not be synced may be on the disk nevertheless, and be found there after a crash.
        return CommitUnknown(reason=_UNAVAILABLE[kind])
    if kind in _UNUSABLE:
        return StoreUnusable(reason=_UNUSABLE[kind])
    if kind in _UNAVAILABLE:
        return StoreUnavailable(reason=_UNAVAILABLE[kind])
    # A mistake in a statement, which holds no values.
    said = str(error) if kind == "SQLITE_ERROR" else name or type(error).__name__
    return StoreError(reason=Text("SQLite says {error}", error=said))


def _broken_constraint(name: str, text: str) -> StoreError:
    if name in ("SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY"):
        # "UNIQUE constraint failed: hosts.name, hosts.port"
        columns = [column.strip().partition(".") for column in text.partition(": ")[2].split(",")]
        return Conflict(table=columns[0][0], columns=[column for _, _, column in columns])
    if name in ("SQLITE_CONSTRAINT_FOREIGNKEY", "SQLITE_CONSTRAINT_TRIGGER"):
        return StillReferred(table="")
    return StoreError(reason=Text("SQLite says {error}", error=text))


def _check_owner(connection: sqlite3.Connection) -> None:
    """
    :raises StoreUnusable: when the file is another program's.
    """
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if application == APPLICATION_ID:
        return
    if application or tables:
        raise StoreUnusable(reason=Text("its file is the database of another program; name another one"))
    _pragmas(connection, "auto_vacuum = INCREMENTAL", f"application_id = {APPLICATION_ID}")


def _prepare(connection: sqlite3.Connection) -> None:
    _check_owner(connection)
    _pragmas(
        connection,
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
        f"journal_size_limit = {_MAX_LOG}",
        # What was deleted is overwritten where that costs no further writing.
        "secure_delete = FAST",
        "temp_store = MEMORY",
        f"cache_size = -{_CACHE}",
    )


def _prepare_reader(connection: sqlite3.Connection) -> None:
    _pragmas(connection, "query_only = ON", "temp_store = MEMORY", f"cache_size = -{_CACHE}")


def _pragmas(connection: sqlite3.Connection, *pragmas: str) -> None:
    for pragma in pragmas:
        connection.execute(f"PRAGMA {pragma}")
