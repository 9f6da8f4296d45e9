"""
What is in a journal, for people: read from its file, whether or not a relay is using it.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager

from msgspec import Struct

from relayd.errors import JournalUnavailable, NoJournal
from relayd.interfaces import EntryState
from relayd.journal.sqlite_errors import as_unavailable
from relayd.journal.store import SCHEMA, VERSION, decode_result, existing
from relayd.wire.messages import CommandResult


class JournalRow(Struct, frozen=True, kw_only=True):
    """
    One command in the journal.

    :ivar accepted: when it was accepted, in seconds since the epoch.
    :ivar finished: when it ended, in seconds since the epoch; ``None``: it has not.
    :ivar size: bytes of its result; 0: none is held.
    """

    command_id: str
    state: EntryState
    accepted: float
    finished: float | None
    size: int


class Report(Struct, frozen=True, kw_only=True):
    """
    A whole journal.

    :ivar counts: how many commands there are, by state.
    :ivar size: bytes of all results.
    :ivar rows: the commands that are not confirmed, oldest first.
    :ivar damages: what was saved of damaged files, in words, by the paths of these.
    """

    counts: dict[EntryState, int]
    size: int
    rows: list[JournalRow]
    damages: dict[str, str]


def read_report(path: str) -> Report:
    """
    Read the journal at *path*.

    :raises NoJournal: when there is none that can be read.
    """
    with _opened(path) as db:
        counts = {EntryState(state): count for state, count in db.execute(_COUNTS)}
        rows = [
            JournalRow(
                command_id=str(command_id),
                state=EntryState(state),
                accepted=_time(accepted),
                finished=None if finished is None else _time(finished),
                size=size or 0,
            )
            for command_id, state, accepted, finished, size in db.execute(_ROWS)
        ]
        notes = db.execute("SELECT name, value FROM note WHERE name LIKE 'damaged %' ORDER BY name")
        damages = {name.removeprefix("damaged "): value for name, value in notes}
    return Report(counts=counts, size=sum(row.size for row in rows), rows=rows, damages=damages)


def read_result(path: str, command_id: str) -> CommandResult | None:
    """
    The result that the journal at *path* holds of a command.

    :raises NoJournal: when there is none that can be read.
    """
    with _opened(path) as db:
        row = db.execute("SELECT body FROM result WHERE command = ?", (command_id,)).fetchone()
        return None if row is None else decode_result(row[0])


_YEAR_10000 = 253402300800


def _time(value: float) -> float:
    """
    Check a time from the file, in seconds since the epoch.

    :raises ValueError: when it is not a time of the calendar.
    """
    if not 0 <= value < _YEAR_10000:
        raise ValueError(value)
    return value


_COUNTS = "SELECT state, count(*) FROM command GROUP BY state"
_ROWS = (
    "SELECT id, state, accepted, finished, length(body) FROM command LEFT JOIN result ON result.command = id"
    " WHERE state != 4 ORDER BY accepted"
)


@contextmanager
def _opened(path: str) -> Iterator[sqlite3.Connection]:
    if not os.path.exists(path):
        raise NoJournal(reason=f"there is no journal at {path}; name the right one with --state-dir")
    if not os.path.isfile(path):  # SQLite would wait for a pipe
        raise NoJournal(reason=f"{path} is not a file: move it away, and restart relayd")
    try:
        with closing(sqlite3.connect(existing(path, "ro"), uri=True, timeout=5.0)) as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0 and db.execute("SELECT 1 FROM sqlite_master").fetchone() is None:
                # The file was made, and nothing was written to it yet: the relay was killed, or the disk was full.
                with closing(sqlite3.connect(":memory:")) as empty:
                    empty.executescript(SCHEMA)
                    yield empty
                return
            if version != VERSION:
                raise NoJournal(reason="it was written by another version of relayd; use the relayctl of that")
            yield db
    except (sqlite3.Error, JournalUnavailable) as error:
        raise NoJournal(reason=as_unavailable(error).fields["reason"]) from None
    except (ValueError, TypeError):  # damage that SQLite does not see
        raise NoJournal(reason="its file is damaged: a row is not as relayd wrote it") from None
