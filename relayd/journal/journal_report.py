"""
What is in a journal, for people: read from its files, whether or not a relay is using it.
"""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

from msgspec import Struct

from relayd.errors import JournalUnavailable, NoJournal
from relayd.interfaces import EntryState
from relayd.journal.archive import LAST_LOG, SCHEMA, VERSION, WITH_LOGS, existing
from relayd.journal.bodies import decode_result
from relayd.journal.log import LogContent, log_name, log_numbers, read_log
from relayd.journal.sqlite_errors import as_unavailable
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
    with _opened(path) as (db, logs):
        commands: dict[str, JournalRow] = {
            str(command_id): JournalRow(
                command_id=str(command_id),
                state=EntryState(state),
                accepted=_time(accepted),
                finished=None if finished is None else _time(finished),
                size=size or 0,
            )
            for command_id, state, accepted, finished, size in db.execute(_ROWS)
        }
        confirmed = db.execute("SELECT count(*) FROM command WHERE state = 4").fetchone()[0]
        for log in logs:
            confirmed += _add(commands, log)
        notes = db.execute("SELECT name, value FROM note WHERE name LIKE 'damaged %' ORDER BY name")
        damages = {name.removeprefix("damaged "): value for name, value in notes}
    rows = sorted(commands.values(), key=lambda row: row.accepted)
    counts = Counter(row.state for row in rows)
    if confirmed:
        counts[EntryState.CONFIRMED] = confirmed
    return Report(counts=dict(counts), size=sum(row.size for row in rows), rows=rows, damages=damages)


def _add(commands: dict[str, JournalRow], log: LogContent) -> int:
    """Add what a log comes to; gives how many commands were confirmed in it."""
    confirmed = 0
    for command_id, change in log.changes.commands.items():
        before = commands.pop(command_id, None)
        if change.state is EntryState.CONFIRMED:
            confirmed += 1
            continue
        accepted = change.accepted if before is None else before.accepted
        size = 0 if before is None else before.size
        if (place := log.changes.results.get(command_id)) is not None:
            size = len(log.bodies[command_id, place])
        commands[command_id] = JournalRow(
            command_id=command_id,
            state=change.state,
            accepted=change.since if accepted is None else accepted,
            finished=change.finished or (None if before is None else before.finished),
            size=size,
        )
    return confirmed


def read_result(path: str, command_id: str) -> CommandResult | None:
    """
    The result that the journal at *path* holds of a command.

    :raises NoJournal: when there is none that can be read.
    """
    with _opened(path) as (db, logs):
        for log in reversed(logs):
            if (place := log.changes.results.get(command_id)) is not None:
                return decode_result(log.bodies[command_id, place])
            change = log.changes.commands.get(command_id)
            if change is not None and change.state is EntryState.CONFIRMED:
                return None
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


_ROWS = (
    "SELECT id, state, accepted, finished, length(body) FROM command LEFT JOIN result ON result.command = id"
    " WHERE state != 4"
)


#: The archive, and the logs that have not been moved there.
_Files = tuple[sqlite3.Connection, list[LogContent]]


@contextmanager
def _opened(path: str) -> Iterator[_Files]:
    if not os.path.exists(path):
        raise NoJournal(reason=f"there is no journal at {path}; name the right one with --state-dir")
    if not os.path.isfile(path):  # SQLite would wait for a pipe
        raise NoJournal(reason=f"{path} is not a file: move it away, and restart relayd")
    try:
        # First the logs: one that is moved to the archive meanwhile is in both then, and the archive says so.
        logs = _read_logs(os.path.dirname(path))
        with closing(sqlite3.connect(existing(path, "ro"), uri=True, timeout=5.0, isolation_level=None)) as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0 and db.execute("SELECT 1 FROM sqlite_master").fetchone() is None:
                # The file was made, and nothing was written to it yet: the relay was killed, or the disk was full.
                with closing(sqlite3.connect(":memory:")) as empty:
                    empty.executescript(SCHEMA)
                    yield empty, []
                return
            if version not in (VERSION, WITH_LOGS):
                raise NoJournal(reason="it was written by another version of relayd; use the relayctl of that")
            db.execute("BEGIN")
            last = db.execute("SELECT value FROM note WHERE name = ?", (LAST_LOG,)).fetchone()
            moved = 0 if last is None else int(last[0])
            yield db, [content for number, content in logs if number > moved]
    except (sqlite3.Error, JournalUnavailable) as error:
        raise NoJournal(reason=as_unavailable(error).fields["reason"]) from None
    except OSError as error:
        raise NoJournal(reason=f"{error.filename}: {error.strerror}") from None
    except (ValueError, TypeError):  # damage that SQLite does not see
        raise NoJournal(reason="its file is damaged: a row is not as relayd wrote it") from None


def _read_logs(folder: str) -> list[tuple[int, LogContent]]:
    """The logs in a folder, in order, with their numbers."""
    logs = []
    for number in log_numbers(folder):
        path = os.path.join(folder, log_name(number))
        with suppress(FileNotFoundError):  # it was moved to the archive just now
            content = _read_log(path)
            if content.damaged:  # or it was written to while it was read
                content = _read_log(path)
            logs.append((number, content))
    return logs


def _read_log(path: str) -> LogContent:
    with open(path, "rb") as file:
        return read_log(file.read())
