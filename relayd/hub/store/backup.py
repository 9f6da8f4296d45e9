"""
Copies of the hub's database that are consistent although the hub goes on, and the way back.

This is for SQLite; PostgreSQL has ``pg_dump``, which does the same.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from errno import ENOENT
from typing import Final

from relayd.hub.store.errors import BackupFailed, RestoreFailed, StoreInUse
from relayd.hub.store.migrations import KNOWN, VERSION_TABLE
from relayd.hub.store.sqlite import APPLICATION_ID, BUSY_TIMEOUT, claim, in_words
from relayd.language.texts import Fault, Text
from relayd.network.descriptors import words_of
from relayd.process.whole_files import sync_directory

#: What SQLite may have beside a database, and does not go with another one.
_BESIDE: Final = ("-wal", "-shm", "-journal")


def back_up(place: str, to: str) -> None:
    """
    Copy a database, which a hub may use meanwhile: the copy has what was committed at one moment.

    :param place: the path of the hub's SQLite file.
    :param to: the file to make, for this user alone.  One that exists is replaced, whole or not at all.
    :raises BackupFailed: when there is no new file.
    """
    try:
        if "://" in place:
            raise Fault("the database is on a PostgreSQL server, where pg_dump makes a backup")
        if os.path.exists(to) and os.path.samefile(place, to):
            raise Fault("it is the database itself; name another file")
        with _new_file(to) as new:
            _copy(place, new)
    except (OSError, sqlite3.Error, Fault) as error:
        raise BackupFailed(path=to, reason=_words(error, place)) from None


def restore(backup: str, place: str) -> str | None:
    """
    Put a backup in the place of a database that no hub uses.

    :param place: the path of the hub's SQLite file.
    :return: where the database that was there is now; ``None``: there was none.
    :raises StoreInUse: when a hub runs.
    :raises RestoreFailed: when nothing was changed, for example as the backup is damaged, or of a newer relayd.
    """
    try:
        if "://" in place:
            raise Fault("the database is on a PostgreSQL server, where pg_restore restores a backup")
        lock = claim(os.path.abspath(place))
        try:
            with _new_file(place) as new:
                if (version := _copy(backup, new)) > KNOWN:
                    raise Fault(
                        "it has version {found} of the tables, and this relayd knows none after {known}; install the "
                        "version of relayd that made it",
                        found=version,
                        known=KNOWN,
                    )
                return _set_aside(place)
        finally:
            os.close(lock)
    except StoreInUse:
        raise
    except (OSError, sqlite3.Error, Fault) as error:
        raise RestoreFailed(path=backup, reason=_words(error, backup)) from None


def _copy(path: str, new: str) -> str:
    """Copy a database of the hub to a file, and look whether it is sound; gives the version of its tables."""
    if not os.path.exists(path):  # SQLite would make it
        raise FileNotFoundError(ENOENT, os.strerror(ENOENT), path)
    with closing(_connect(path)) as source, closing(_connect(new)) as copy:
        # In one step: several would begin again after each change of the hub's. Nobody has to wait for it.
        source.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")  # it is one file then
        if copy.execute("PRAGMA application_id").fetchone() != (APPLICATION_ID,):
            raise Fault("{path} is not a database of the hub", path=path)
        if copy.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise Fault("{path} is damaged", path=path)
        (version,) = copy.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchone()
    return str(version)


def _connect(path: str) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, timeout=BUSY_TIMEOUT)


@contextmanager
def _new_file(path: str) -> Iterator[str]:
    """The path of a new file that takes the place of *path* at the end; after an error it is gone."""
    descriptor, new = tempfile.mkstemp(prefix=f"{os.path.basename(path)}.", dir=os.path.dirname(path) or ".")
    os.close(descriptor)
    try:
        yield new
        os.replace(new, path)
    except BaseException:
        for name in (new, *(new + end for end in _BESIDE)):
            with suppress(OSError):
                os.unlink(name)
        raise
    sync_directory(path)


def _set_aside(path: str) -> str | None:
    """Give a database another name as well, and take away what is beside it."""
    if not os.path.exists(path):
        return None
    with suppress(sqlite3.Error), closing(_connect(path)) as old:  # it may be damaged, and restored for that
        old.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    aside = f"{path}.before-restore-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    os.link(path, aside)
    for end in _BESIDE:
        with suppress(FileNotFoundError):
            os.rename(path + end, aside + end)
    return aside


def _words(error: Exception, path: str) -> Text:
    if isinstance(error, sqlite3.Error):
        told = in_words(error).fields["reason"]
        return Text("{path}: {error}", path=path, error=told)
    if isinstance(error, OSError):
        return Text("{path}: {error}", path=error.filename or path, error=words_of(error))
    return error.text if isinstance(error, Fault) else Text(str(error))
