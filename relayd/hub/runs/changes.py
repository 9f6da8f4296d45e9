"""
Changes that wait to be stored, many in one transaction, and what is done once they are.

What changes while a transaction is under way goes into the next one; of one invocation only the last values of its
columns are written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from msgspec import Struct
from sqlalchemy import Connection
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from relayd.hub.decisions.states import RunState
from relayd.hub.runs.interfaces import Inventory, Login
from relayd.hub.store.errors import StoreUnavailable
from relayd.hub.store.invocations import save_changes
from relayd.hub.store.output import NewChunk, add_chunks, delete_stream, forget_chunks
from relayd.hub.store.runs import save_progress
from relayd.hub.store.store import Store
from relayd.language.texts import Text

_log = Logger("relayd.hub")

#: Seconds after which a transaction is tried again that the database did not take.
RETRY: Final = 1.0
#: Bytes of outputs that wait to be stored, beyond which live output is left to the results, and then results to relays.
MOST_LIVE: Final = 16 * 1024 * 1024
MOST_RESULTS: Final = 128 * 1024 * 1024
#: Columns that have neither words nor numbers of a relay.
_LEAST: Final = frozenset({"state", "deadline", "sent_at", "accepted_at", "ended_at", "change"})
#: Commands that are written in one turn of the loop.
_IN_A_TURN: Final = 100
#: Bytes, in round numbers, that a change takes beside its output.
_EACH: Final = 500


class Progress(Struct):
    """
    How far a run is, as it is to be stored.

    :ivar change: the last number that was given to a change.
    """

    run_id: str
    change: int
    state: RunState
    counts: dict[str, int]
    ended_at: int | None = None


class Work(Struct, kw_only=True):
    """One transaction."""

    rows: dict[str, dict[str, Any]]
    anew: list[tuple[str, str]]
    chunks: list[tuple[NewChunk, int]]
    progress: list[Progress]
    #: What `Inventory.logins` is asked.
    snapshots: list[str]
    #: Whether it may have been done already.
    again: bool = False


Logins = Sequence[Login | Text]
Done = Callable[[], None]


def do_work(connection: Connection, work: Work, inventory: Inventory) -> Logins:
    """Store it all, in a thread of the store."""
    if work.again:
        forget_chunks(connection, [chunk for chunk, _ in work.chunks])
    for invocation_id, stream in work.anew:
        delete_stream(connection, invocation_id, stream)
    save_changes(connection, work.rows)
    add_chunks(connection, work.chunks)
    for each in work.progress:
        save_progress(connection, each.run_id, each.change, each.state, each.counts, each.ended_at)
    return inventory.logins(connection, work.snapshots) if work.snapshots else ()


class Changes:
    """
    Collects changes, and has them stored.

    :param progress: gives how far a run is; it is asked when a transaction is made, and gives it the numbers of its
        changes.
    :param tell: is told of each run of which something has been stored.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        store: Store,
        inventory: Inventory,
        progress: Callable[[str, int], Progress],
        tell: Callable[[str], None],
    ) -> None:
        self._reactor = reactor
        self._store = store
        self._inventory = inventory
        self._progress = progress
        self._tell = tell
        self._busy = False
        self._stopped = False
        self._idle: list[Deferred[None]] = []
        self._begin()

    def _begin(self) -> None:
        self._rows: dict[str, dict[str, Any]] = {}
        self._runs: dict[str, None] = {}
        self._run_of: dict[str, str] = {}
        self._anew: list[tuple[str, str]] = []
        self._chunks: list[NewChunk] = []
        self._logins: list[tuple[str, Callable[[Login | Text], None]]] = []
        self._after: list[tuple[str | None, Callable[[], None], Callable[[Exception], None] | None]] = []
        self.bytes_waiting = 0

    def row(self, run_id: str, invocation_id: str, values: dict[str, Any]) -> None:
        """Columns of an invocation have new values."""
        known = self._rows.get(invocation_id)
        if known is None:
            self._rows[invocation_id] = values
            self._run_of[invocation_id] = run_id
            self.bytes_waiting += _EACH
        else:
            known.update(values)
        self.run(run_id)

    def run(self, run_id: str) -> None:
        """Something of a run has changed."""
        self._runs[run_id] = None
        if not self._busy and not self._stopped:
            self._busy = True
            self._reactor.callLater(0, self._write)

    def chunk(self, chunk: NewChunk) -> None:
        """A piece of output is to be stored."""
        self._chunks.append(chunk)
        self.bytes_waiting += len(chunk.data) + _EACH
        self.run(chunk.run_id)

    def forget_stream(self, invocation_id: str, stream: str) -> None:
        """What is stored of a stream, and what waits to be, is to be forgotten."""
        self._anew.append((invocation_id, stream))
        self._chunks = [
            chunk for chunk in self._chunks if (chunk.invocation_id, chunk.stream) != (invocation_id, stream)
        ]

    def login(self, snapshot: str, use: Callable[[Login | Text], None]) -> None:
        """How to log in is asked in the same transaction, and given to *use* once that is committed."""
        self._logins.append((snapshot, use))

    def when_stored(self, run_id: str, invocation_id: str | None = None) -> Deferred[None]:
        """
        Fires once all that has changed until now is stored.

        :param invocation_id: fails if what has changed of this invocation can never be stored.
        """
        stored: Deferred[None] = Deferred()
        self._after.append((invocation_id, partial(stored.callback, None), stored.errback))
        self.run(run_id)
        return stored

    def is_waiting(self, run_id: str) -> bool:
        """Whether something of a run waits to be stored."""
        return run_id in self._runs

    def after(self, function: Done) -> None:
        """Call a function once all that has changed until now is stored."""
        self._after.append((None, function, None))

    def stop(self) -> Deferred[None]:
        """Store what waits, and then nothing more; fires when that is done."""
        self._stopped = True
        done: Deferred[None] = Deferred()
        if self._busy:
            self._idle.append(done)
        else:
            done.callback(None)
        return done

    # Ours

    def _write(self) -> None:
        chunks: list[tuple[NewChunk, int]] = []
        numbers: dict[str, int] = {}
        progress: dict[str, Progress] = {}
        for run_id in self._runs:
            progress[run_id] = self._progress(run_id, 0)
            numbers[run_id] = progress[run_id].change
        for invocation_id, values in self._rows.items():
            run_id = self._run_of[invocation_id]
            values["change"] = numbers[run_id] = numbers[run_id] + 1
        for chunk in self._chunks:
            numbers[chunk.run_id] += 1
            chunks.append((chunk, numbers[chunk.run_id]))
        for run_id, known in progress.items():
            # The run itself has changed, too: who listens sees a number that is greater than all.
            known.change = self._progress(run_id, numbers[run_id] + 1).change
        work = Work(
            rows=self._rows,
            anew=self._anew,
            chunks=chunks,
            progress=list(progress.values()),
            snapshots=[snapshot for snapshot, _ in self._logins],
        )
        logins, after = self._logins, self._after
        after += [(None, partial(self._tell, run_id), None) for run_id in progress]
        self._begin()
        self._try(work, logins, after)

    def _try(self, work: Work, logins: Any, after: Any) -> None:
        stored = self._store.run(do_work, work, self._inventory)
        stored.addCallbacks(
            lambda found: self._stored(found, logins, after),
            lambda failure: self._failed(failure.value, work, logins, after),
        )
        stored.addErrback(lambda failure: _log.failure("What was stored could not be followed up", failure=failure))

    def _stored(self, found: Logins, logins: Any, after: Any) -> None:
        for _, function, _failed in after:
            _shield(function)
        self._next()
        self._use([(use, login) for (_, use), login in zip(logins, found, strict=True)])

    def _use(self, logins: list[tuple[Callable[[Login | Text], None], Login | Text]]) -> None:
        """Hand out logins, some in each turn of the loop: others are not to wait until a large run is sent."""
        for use, login in logins[:_IN_A_TURN]:
            _shield(use, login)
        if logins[_IN_A_TURN:]:
            self._reactor.callLater(0, self._use, logins[_IN_A_TURN:])

    def _next(self) -> None:
        if self._runs or self._after:
            self._reactor.callLater(0, self._write)
            return
        self._busy = False
        idle, self._idle = self._idle, []
        for done in idle:
            done.callback(None)

    def _failed(self, error: Exception, work: Work, logins: Any, after: Any) -> None:
        if isinstance(error, StoreUnavailable):
            if self._stopped:
                self._give_up(error, after)
                return
            if not work.again:
                _log.error("Runs cannot be stored; it is tried again each second: {error}", error=str(error))
            work.again = True
            self._reactor.callLater(RETRY, self._try, work, logins, after)
        elif len(work.rows) > 1 or (work.rows and work.chunks):
            _log.error(
                "Changes of runs cannot be stored together, and are stored one by one: {error}", error=str(error)
            )
            self._one_by_one(work, logins, after)
        else:
            _log.critical("A change of a run cannot be stored: {error}", error=str(error))
            self._give_up(error, after)

    def _give_up(self, error: Exception, after: Any) -> None:
        for _, _function, failed in after:
            if failed is not None:
                _shield(failed, error)
        self._next()

    def _one_by_one(self, work: Work, logins: Any, after: Any) -> None:
        """Something in it can never be stored: all else shall be."""
        parts: list[tuple[str, Work]] = []
        for invocation_id, values in work.rows.items():
            chunks = [each for each in work.chunks if each[0].invocation_id == invocation_id]
            anew = [each for each in work.anew if each[0] == invocation_id]
            parts.append((invocation_id, _part(work, rows={invocation_id: values}, chunks=chunks, anew=anew)))
        others = [each for each in work.chunks if each[0].invocation_id not in work.rows]
        parts += [(each[0].invocation_id, _part(work, chunks=[each])) for each in others]
        parts.append(("", _part(work, progress=work.progress, snapshots=work.snapshots)))
        lost: dict[str, Exception] = {}

        async def store() -> None:
            found: Logins = ()
            for invocation_id, part in parts:
                try:
                    found = await self._store.run(do_work, part, self._inventory)
                except Exception as error:
                    _log.critical("A change of {id} cannot be stored: {error}", id=invocation_id, error=str(error))
                    lost[invocation_id] = error
                    await self._store_the_least(part)
            if "" in lost:
                found = [Text("the database failed")] * len(logins)
            for invocation_id, function, failed in after:
                if failed is not None and invocation_id in lost:
                    _shield(failed, lost[invocation_id])
                else:
                    _shield(function)
            self._stored(found, logins, ())

        Deferred.fromCoroutine(store()).addErrback(lambda failure: _log.failure("Changes were lost", failure=failure))

    async def _store_the_least(self, part: Work) -> None:
        """Nothing is to stay open for ever: at least how it ended, where that is what cannot be stored."""
        for values in part.rows.values():
            for name in values.keys() - _LEAST:
                del values[name]
        part.chunks.clear()
        part.anew.clear()
        try:
            await self._store.run(do_work, part, self._inventory)
        except Exception as error:
            _log.critical("Nor can its state: {error}", error=str(error))


def _part(work: Work, **fields: Any) -> Work:
    nothing: dict[str, Any] = {"rows": {}, "anew": [], "chunks": [], "progress": [], "snapshots": []}
    return Work(**nothing | fields, again=work.again)


def _shield(function: Callable[..., None], *arguments: Any) -> None:
    try:
        function(*arguments)
    except Exception:
        _log.failure("What was stored could not be followed up")
