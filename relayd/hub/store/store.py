"""
The hub's database as the event loop sees it: functions go in, and Deferreds fire once what they did is on the disk.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from sqlalchemy import Connection
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from relayd.hub.store.database import Call, Database, Raised
from relayd.hub.store.errors import StoreBusy, StoreClosed, StoreUnavailable, StoreUnusable
from relayd.network.loop_turns import turns_of
from relayd.network.threads import in_pool
from relayd.process.worker import Worker

_log = Logger("relayd.hub")

P = ParamSpec("P")
T = TypeVar("T")

#: Calls that share a transaction at most.
MOST_TOGETHER: Final = 256
#: Calls that may wait, beyond which others are refused.
MOST_WAITING: Final = 20_000

_Job = tuple[Call, "Deferred[Any]"]


class Store:
    """
    The hub's database.

    Functions that change something are called one after the other, in the order in which they were given.  Those of one
    turn of the event loop share a transaction.  A function may be called a second time after the database took back
    what it did, so it changes nothing but the database, and it is short: others wait for it.

    :param reactor: provides the way back from the threads.
    :param database: an open one.
    """

    def __init__(self, reactor: Any, database: Database) -> None:
        self._reactor = reactor
        self._database = database
        self._writer = _Writer(reactor, database)
        self._readers = _Readers(reactor, database)
        self._closed: Deferred[None] | None = None

    @property
    def trouble(self) -> str | None:
        """Why nothing can be changed now, as far as the last change tells; ``None``: it can be."""
        return self._writer.trouble

    @property
    def place(self) -> str:
        """What the database is and where, for people."""
        return self._database.place

    def run(self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """
        Call *function* with a connection, in a transaction.

        :return: fires with what it gave once that is committed; fails with what it raised, and nothing is changed then.
            Errors of the database are `StoreError`; `Conflict` where an entry must be unique, `StoreUnavailable` where
            the same may succeed later.
        """
        return self._writer.add(partial(_call, function, args, kwargs))

    def read(self, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """
        Call *function* with a connection that sees what is committed at one moment, and can change nothing.  It does
        not wait for those that change something.

        :return: fires with what it gave, or fails as `run` does.
        """
        return self._readers.add(partial(_call, function, args, kwargs))

    def close(self) -> Deferred[None]:
        """Do what was asked for before, and disconnect; nothing more is taken."""
        if self._closed is None:
            self._closed = Deferred.fromCoroutine(self._close())
        waiting: Deferred[None] = Deferred()
        self._closed.chainDeferred(waiting)
        return waiting

    async def _close(self) -> None:
        for closed in (self._writer.close(), self._readers.close()):  # both take nothing more from now on
            await closed
        await in_pool(self._reactor, self._database.close)


async def _open(reactor: Any, place: str) -> Store:
    database = database_at(place)
    await in_pool(reactor, database.open)
    return Store(reactor, database)


def open_store(reactor: Any, place: str) -> Deferred[Store]:
    """
    Connect to a database, which is brought to the tables of this relayd.

    :param place: the path of an SQLite file, which is made if need be, or ``postgresql://user:password@host/name``.
    :return: fails with `StoreTooNew`, `StoreInUse` or another `StoreError`.
    """
    return Deferred.fromCoroutine(_open(reactor, place))


def database_at(place: str) -> Database:
    """
    The database at a path or URL, which is not opened yet.

    :raises StoreUnusable: when it is a URL that cannot be understood.
    """
    if "://" not in place:
        from relayd.hub.store.sqlite import SQLiteDatabase

        return SQLiteDatabase(place)
    from relayd.hub.store.postgresql import PostgreSQLDatabase

    return PostgreSQLDatabase(place)


def _call(function: Callable[..., Any], args: Any, kwargs: Any, connection: Connection) -> Any:
    return function(connection, *args, **kwargs)


def _fire(done: Deferred[Any], outcome: Any) -> None:
    if done.called:  # it was cancelled
        return
    if isinstance(outcome, Raised):
        done.errback(outcome.error)
    elif isinstance(outcome, Exception):
        done.errback(outcome)
    else:
        done.callback(outcome)


class _Writer:
    """Has one thread do what changes something, in order, and as much as possible in one transaction."""

    def __init__(self, reactor: Any, database: Database) -> None:
        self._reactor = reactor
        self._database = database
        self._worker = Worker(reactor, "hub-store-writer")
        self._waiting: deque[_Job] = deque()
        self._busy = False
        self._closed: Deferred[None] | None = None
        self.trouble: str | None = None
        turns = turns_of(reactor)
        self._call_at_end = partial(reactor.callLater, 0) if turns is None else turns.call_at_end

    def add(self, call: Call) -> Deferred[Any]:
        """Have it called; fires or fails when that is committed."""
        done: Deferred[Any] = Deferred()
        if self._closed is not None:
            done.errback(StoreClosed())
        elif len(self._waiting) >= MOST_WAITING:
            done.errback(StoreBusy(waiting=len(self._waiting)))
        else:
            self._waiting.append((call, done))
            if not self._busy:
                # At the end of this turn of the loop, so that what else is asked for in it goes along.
                self._busy = True
                self._call_at_end(self._write)
        return done

    def close(self) -> Deferred[None]:
        """Do what waits, and end the thread."""
        self._closed = Deferred()
        if not self._busy:
            self._worker.stop(self._closed.callback)
        return self._closed

    def _write(self) -> None:
        batch: list[_Job] = []
        while self._waiting and len(batch) < MOST_TOGETHER:
            job = self._waiting.popleft()
            if not job[1].called:  # else it was cancelled
                batch.append(job)
        self._worker.do(partial(self._database.write, [call for call, _ in batch]), partial(self._written, batch))

    def _written(self, batch: list[_Job], outcomes: Sequence[Any] | Exception) -> None:
        if isinstance(outcomes, Exception):
            outcomes = [outcomes] * len(batch)
        self._note_trouble(outcomes)
        # For the others there was no time: they are first in the next transaction.
        self._waiting.extendleft(reversed(batch[len(outcomes) :]))
        for (_, done), outcome in zip(batch, outcomes, strict=False):
            _fire(done, outcome)
        if self._waiting:
            self._write()
            return
        self._busy = False
        if self._closed is not None:
            self._worker.stop(self._closed.callback)

    def _note_trouble(self, outcomes: Sequence[Any]) -> None:
        """Log it once when changes begin to fail, and once when they are made again."""
        if not outcomes:
            return
        errors = [outcome.error if isinstance(outcome, Raised) else None for outcome in outcomes]
        # A disk that is nearly full still takes what is small.
        works = any(not isinstance(error, StoreUnavailable | StoreUnusable) for error in errors)
        trouble = None if works else errors[0]
        if trouble is None:
            if self.trouble is not None:
                _log.info("The hub's database can be used again")
            self.trouble = None
        else:
            if self.trouble is None:
                _log.error("{error}", error=str(trouble))
            self.trouble = str(trouble)


class _Readers:
    """Has some threads read, each one thing at a time."""

    def __init__(self, reactor: Any, database: Database) -> None:
        self._database = database
        self._workers = [Worker(reactor, f"hub-store-reader-{number}") for number in range(database.readers)]
        self._idle = list(self._workers)
        self._waiting: deque[_Job] = deque()
        self._closed: Deferred[None] | None = None

    def add(self, call: Call) -> Deferred[Any]:
        """Have it called."""
        done: Deferred[Any] = Deferred()
        if self._closed is not None:
            done.errback(StoreClosed())
        elif len(self._waiting) >= MOST_WAITING:
            done.errback(StoreBusy(waiting=len(self._waiting)))
        else:
            self._waiting.append((call, done))
            if self._idle:
                self._read(self._idle.pop())
        return done

    def close(self) -> Deferred[None]:
        """Do what waits, and end the threads."""
        self._closed = Deferred()
        idle, self._idle = self._idle, []
        for worker in idle:
            self._stop(worker)
        return self._closed

    def _read(self, worker: Worker) -> None:
        while self._waiting:
            call, done = self._waiting.popleft()
            if not done.called:  # else it was cancelled
                worker.do(partial(self._database.read, call), partial(self._was_read, worker, done))
                return
        if self._closed is None:
            self._idle.append(worker)
        else:
            self._stop(worker)

    def _was_read(self, worker: Worker, done: Deferred[Any], outcome: Any) -> None:
        try:
            _fire(done, outcome)
        finally:
            self._read(worker)

    def _stop(self, worker: Worker) -> None:
        worker.stop(partial(self._stopped, worker))

    def _stopped(self, worker: Worker, _: None) -> None:
        self._workers.remove(worker)
        if not self._workers and self._closed is not None:
            self._closed.callback(None)
