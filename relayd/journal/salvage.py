"""
What becomes of a damaged journal: it is renamed, never deleted, and what can still be read goes into a new one.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any

from msgspec import Struct

from relayd.errors import JournalUnavailable
from relayd.journal.archive import existing, forget_what_is_deleted
from relayd.journal.bodies import decode_result

#: Endings of the files of a database: its own, and those that SQLite may keep beside it.
_COMPANIONS = ("", "-wal", "-shm")
_COLUMNS = "id, fingerprint, state, extended, accepted, started, finished, confirmed, since"
#: Rows read at a time.
_CHUNK = 500
#: Rows that cannot be read, one after the other, after which a table is taken to have ended.
_LARGEST_HOLE = 10_000_000


class Salvage(Struct, frozen=True, kw_only=True):
    """
    What could be saved of a damaged journal.  Nobody knows what could not.

    :ivar kept: path of the damaged file.
    :ivar commands: how many commands were saved.
    :ivar results: how many results were saved.
    """

    kept: str
    commands: int
    results: int


def set_aside(path: str) -> str:
    """
    Rename a damaged journal, so that a new one can be made in its place.

    :return: its new path.
    :raises OSError: when it cannot be renamed.
    """
    kept = f"{path}.damaged-{time.strftime('%Y%m%dT%H%M%S')}"
    for companion in _COMPANIONS:
        with suppress(FileNotFoundError):
            os.rename(path + companion, kept + companion)
    return kept


def salvage(kept: str, path: str) -> Salvage:
    """
    Copy what can be read of the journal *kept* into the journal at *path*, which is new and not in use.

    :raises sqlite3.Error: when the new one cannot be written.
    """
    with closing(sqlite3.connect(path, isolation_level=None)) as new:
        forget_what_is_deleted(new)
        new.execute("BEGIN IMMEDIATE")
        commands = results = 0
        for _, *row in _rows(kept, "command", _COLUMNS):
            if _is_command(row):
                commands += new.execute(
                    f"INSERT OR IGNORE INTO command ({_COLUMNS}) VALUES ({', '.join('?' * len(row))})", row
                ).rowcount
        for serial, command_id, body in _rows(kept, "result", "command, body"):
            if _is_result(command_id, body):
                results += new.execute(
                    "INSERT OR IGNORE INTO result (serial, command, body) VALUES (?, ?, ?)", (serial, command_id, body)
                ).rowcount
        new.execute("INSERT OR IGNORE INTO note SELECT 'time', max(since) FROM command WHERE since IS NOT NULL")
        # A result without its command is of no use. A command whose result is lost may have run.
        new.execute("DELETE FROM result WHERE command NOT IN (SELECT id FROM command WHERE state IN (3, 5))")
        new.execute("UPDATE command SET state = 2 WHERE state IN (3, 5) AND id NOT IN (SELECT command FROM result)")
        new.execute("COMMIT")
    return Salvage(kept=kept, commands=commands, results=results)


def _rows(kept: str, table: str, columns: str) -> Iterator[tuple[Any, ...]]:
    """The rows that can be read, each with its number first: damaged ones are stepped over."""
    with closing(sqlite3.connect(existing(kept, "rw"), uri=True)) as old:
        last = hole = 0
        while hole < _LARGEST_HOLE:
            try:
                rows = old.execute(
                    f"SELECT serial, {columns} FROM {table} WHERE serial > ? ORDER BY serial LIMIT ?",
                    (last + hole, 1 if hole else _CHUNK),
                )
                before = last
                for row in rows:
                    yield row
                    last, hole = row[0], 0
                if last == before:
                    return
            except sqlite3.Error:
                hole += 1 + hole // 8


def _is_command(row: list[Any]) -> bool:
    """Whether a row is as relayd writes it: SQLite does not see all damage."""
    command_id, fingerprint, state, *_, since = row
    return (
        isinstance(command_id, str)
        and isinstance(fingerprint, bytes)
        and state in (1, 2, 3, 4, 5)
        and isinstance(since, float)
    )


def _is_result(command_id: object, body: object) -> bool:
    if not isinstance(command_id, str) or not isinstance(body, bytes):
        return False
    try:
        return decode_result(body).command_id == command_id
    except JournalUnavailable:
        return False
