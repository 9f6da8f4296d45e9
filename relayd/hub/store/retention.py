"""
Removes what is older or larger than it may be: outputs first, then whole runs.

Each step is a transaction of its own that takes some hundredths of a second, and others change something between two
steps.  What was done is in the tables alone, so whoever begins again goes on.  Only runs that have ended are touched.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from msgspec import Struct
from sqlalchemy import Connection, Select, delete, func, select, tuple_, update
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from relayd.hub.store.errors import StoreError
from relayd.hub.store.store import Store
from relayd.hub.store.tables import invocations, output_chunks, runs

_log = Logger("relayd.hub")

T = TypeVar("T")

#: Seconds between two looks, and the pause after each step.
INTERVAL: Final = 60.0
PAUSE: Final = 0.02
#: Seconds that a step should take, and the rows that the first one removes; the next ones follow from the time.
AIM: Final = 0.02
FIRST_ROWS: Final = 32
MOST_ROWS: Final = 2000
#: Runs whose outputs are counted in one step.
_COUNTED: Final = 20
#: Pages of an SQLite file that are given back to the file system in one step.
_PAGES: Final = 256
#: Free pages that are kept, however small the file.
_SPARE: Final = 1024

_DAY: Final = 86400 * 1_000_000


class RetentionSettings(Struct, frozen=True, kw_only=True):
    """
    How long what is kept; ``None``: for ever.

    :ivar output_age: days after the end of a run for which its outputs are kept.
    :ivar output_bytes: bytes of all outputs of ended runs; beyond, the oldest go early.
    :ivar run_age: days after its end for which a run is kept, with its invocations.
    """

    output_age: float | None = 90
    output_bytes: int | None = None
    run_age: float | None = 365


class Retention(Service):
    """
    Looks once a minute whether something has to go.

    :param now_us: the time of now, in microseconds since 1970, UTC.
    :param clock: for the pauses.
    """

    def __init__(
        self, store: Store, settings: RetentionSettings, clock: IReactorTime, now_us: Callable[[], int]
    ) -> None:
        self._store = store
        self._clock: Any = clock
        self._now_us = now_us
        self._call: IDelayedCall | None = None
        self._looking: Deferred[None] | None = None
        self._rows = FIRST_ROWS
        self._failed = False
        self._stopping = False
        self.settings = settings

    def startService(self) -> None:
        """Begin to look."""
        super().startService()
        self._stopping = False
        self._look()

    def stopService(self) -> Deferred[None] | None:
        """Stop after the step that is being done."""
        super().stopService()
        self._stopping = True
        if self._call is not None:
            self._call.cancel()
            self._call = None
        return self._looking

    def _look(self) -> None:
        self._call = None
        self._looking = Deferred.fromCoroutine(self._look_once())

    async def _look_once(self) -> None:
        try:
            await self.sweep()
            self._failed = False
        except StoreError as error:
            # The next look goes on; a database that is away is said once.
            if not self._failed:
                _log.warn("What is too old was not removed from the hub's database: {error}", error=str(error))
            self._failed = True
        except Exception:
            _log.failure("What is too old could not be removed from the hub's database")
        self._looking = None
        if self.running:
            self._call = self._clock.callLater(INTERVAL, self._look)

    async def sweep(self) -> None:
        """
        Remove all that is too old or too large, until nothing is left to remove.

        :raises StoreError: when the database cannot be used; a later call goes on.
        """
        settings, now = self.settings, self._now_us()
        if settings.output_age is not None:
            await self._repeat(remove_old_output, int(now - settings.output_age * _DAY), now)
        await self._repeat(count_output)
        if settings.output_bytes is not None:
            over = await self._store.read(bytes_kept) - settings.output_bytes
            while over > 0 and (freed := await self._step(remove_oldest_output, now)) is not None:
                over -= freed
        if settings.run_age is not None:
            await self._repeat(remove_old_runs, int(now - settings.run_age * _DAY))
        await self._repeat(give_back)

    async def _repeat(self, function: Callable[..., bool], *args: Any) -> None:
        while await self._step(function, *args):
            pass

    async def _step(self, function: Callable[..., T], *args: Any) -> T | None:
        """What *function* gave; ``None`` when this stops."""
        if self._stopping:
            return None
        given, took = await self._store.run(_timed, function, self._rows, *args)
        if took > AIM:
            self._rows = max(1, self._rows // 2)
        elif took < AIM / 2:
            self._rows = min(MOST_ROWS, self._rows * 2)
        await deferLater(self._clock, PAUSE)
        return given


def _timed(connection: Connection, function: Callable[..., T], rows: int, *args: Any) -> tuple[T, float]:
    begun = time.monotonic()
    given = function(connection, rows, *args)
    return given, time.monotonic() - begun


def remove_old_output(connection: Connection, rows: int, before: int, now: int) -> bool:
    """
    Remove at most *rows* pieces of output of a run that ended before *before*.

    :return: whether there may be more to do, as with the other steps.
    """
    run_id = connection.execute(_with_output().where(runs.c.ended_at < before)).scalar()
    if run_id is not None and _remove_output(connection, rows, run_id):
        _note_removal(connection, run_id, now)
    return run_id is not None


def remove_oldest_output(connection: Connection, rows: int, now: int) -> int | None:
    """
    Remove at most *rows* pieces of output of the run that ended first.

    :return: the bytes of its outputs, if all of them are gone now, and else 0; ``None``: no run has any.
    """
    run_id = connection.execute(_with_output()).scalar()
    if run_id is None:
        return None
    if not _remove_output(connection, rows, run_id):
        return 0
    size = connection.execute(select(runs.c.output_bytes).where(runs.c.id == run_id)).scalar()
    _note_removal(connection, run_id, now)
    return size or 0


def _with_output() -> Select[Any]:
    """The run that ended first of those whose outputs are there."""
    kept = runs.c.output_deleted_at.is_(None), runs.c.ended_at.is_not(None)
    return select(runs.c.id).where(*kept).order_by(runs.c.ended_at).limit(1)


def _remove_output(connection: Connection, rows: int, run_id: str) -> bool:
    """:return: whether all output of the run is gone."""
    key = output_chunks.c.invocation_id, output_chunks.c.sequence
    some = select(*key).where(output_chunks.c.run_id == run_id).order_by(output_chunks.c.change).limit(rows)
    return connection.execute(delete(output_chunks).where(tuple_(*key).in_(some))).rowcount < rows


def _note_removal(connection: Connection, run_id: str, now: int) -> None:
    connection.execute(update(runs).where(runs.c.id == run_id).values(output_deleted_at=now))


def count_output(connection: Connection, rows: int) -> bool:
    """Count the outputs of runs that have ended since they were last counted."""
    uncounted = runs.c.output_bytes.is_(None), runs.c.ended_at.is_not(None)
    ids = connection.execute(select(runs.c.id).where(*uncounted).limit(_COUNTED)).scalars().all()
    kept = func.coalesce(func.sum(invocations.c.stdout_kept + invocations.c.stderr_kept), 0)
    for run_id in ids:
        size = select(kept).where(invocations.c.run_id == run_id).scalar_subquery()
        connection.execute(update(runs).where(runs.c.id == run_id).values(output_bytes=size))
    return len(ids) == _COUNTED


def bytes_kept(connection: Connection) -> int:
    """Bytes of the outputs of all runs that have ended, as far as they were counted."""
    kept = runs.c.output_deleted_at.is_(None), runs.c.ended_at.is_not(None)
    return int(connection.execute(select(func.coalesce(func.sum(runs.c.output_bytes), 0)).where(*kept)).scalar_one())


def remove_old_runs(connection: Connection, rows: int, before: int) -> bool:
    """Remove at most *rows* parts of a run that ended before *before*, and then the run itself."""
    run_id = connection.execute(
        select(runs.c.id).where(runs.c.ended_at < before).order_by(runs.c.ended_at).limit(1)
    ).scalar()
    if run_id is None:
        return False
    if _remove_output(connection, rows, run_id):
        some = select(invocations.c.id).where(invocations.c.run_id == run_id).order_by(invocations.c.position)
        if connection.execute(delete(invocations).where(invocations.c.id.in_(some.limit(rows)))).rowcount < rows:
            connection.execute(delete(runs).where(runs.c.id == run_id))
    return True


def give_back(connection: Connection, _: int) -> bool:
    """Have SQLite give room to the file system that it will not need soon; PostgreSQL does that by itself."""
    if connection.dialect.name != "sqlite":
        return False
    free, pages = (
        connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in ("freelist_count", "page_count")
    )
    if free < max(_SPARE, pages // 4):
        return False
    driver: Any = connection.connection.driver_connection
    driver.execute(f"PRAGMA incremental_vacuum({_PAGES})").fetchall()  # each row, of no column, is a page
    return True
