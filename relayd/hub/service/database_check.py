"""
Looks at the database of a hub without changing it, for ``relayctl hub check``.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from typing import Final
from urllib.parse import quote

from relayd.errors import ConfigError
from relayd.hub.store.migrations import KNOWN, VERSION_TABLE

_QUESTION: Final = f"SELECT version_num FROM {VERSION_TABLE}"


def database_state(place: str) -> str:
    """
    What is at *place*, in words.

    :param place: a path or a URL, see `relayd.hub.service.parts.place_of`.
    :raises ConfigError: when a hub could not use it.
    """
    version = _of_postgresql(place) if "://" in place else _of_sqlite(place)
    if version == KNOWN:
        return f"its tables have the version of this relayd ({KNOWN})"
    if version is None:
        return "it has no tables yet; the hub makes them when it starts"
    if version > KNOWN:
        reason = f"its tables have version {version}, and this relayd knows none after {KNOWN}: a newer one wrote it"
        raise ConfigError(option="database", reason=reason)
    return f"its tables have version {version}; the hub brings them to {KNOWN} when it starts"


def _of_sqlite(path: str) -> str | None:
    if not os.path.exists(path):
        return None
    try:
        with closing(sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True)) as found:
            row = found.execute(_QUESTION).fetchone()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return None
        raise ConfigError(option="database", reason=f"{path} cannot be read: {error}") from None
    except sqlite3.DatabaseError:
        raise ConfigError(option="database", reason=f"{path} is damaged, or is no SQLite database") from None
    return None if row is None else str(row[0])


def _of_postgresql(url: str) -> str | None:
    import psycopg
    from psycopg import errors

    try:
        with psycopg.connect(url, connect_timeout=10) as found:
            row = found.execute(_QUESTION).fetchone()
    except errors.UndefinedTable:
        return None
    except psycopg.Error as error:
        # The library's words name host, user and database, and never a password.
        first = str(error).strip().partition("\n")[0]
        raise ConfigError(option="database", reason=f"it cannot be used: {first}") from None
    return None if row is None else str(row[0])
