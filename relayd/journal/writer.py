"""
Writes to a store in a thread of its own, and in few batches.

What is asked for while the thread is busy is done together next time, so that all who wait share the cost of a batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from relayd.errors import JournalUnavailable
from relayd.journal.store import Call, Prepared, Store
from relayd.language.texts import Text
from relayd.network.loop_turns import turns_of
from relayd.process.worker import Worker

_log = Logger("relayd.journal")

#: How much is written together at most: all that waited for it goes on in one turn of the reactor.
MAX_BATCH: Final = 128
#: Bytes beyond which a request is large, and those of large requests that are written together: a megabyte takes some
#: 10 ms, in which everything else waits.
LARGE: Final = 256 << 10
LARGE_BATCH: Final = 1 << 20
#: Bytes of requests up to which the reactor's thread encodes a batch, which takes it some 0.1 ms: it does that cheaper
#: than the other thread, which has to wait for it.
QUICK: Final = 64 << 10
#: Seconds from the end of a batch for which the next one waits until it is worth while, see `Writer`.
PACE: Final = 0.004
#: Seconds for which what nobody waits for is put off until something more urgent is written.
LINGER: Final = 0.1

#: Gets what a call gave, or the exception with which it failed.
Told = Callable[[Any], None]
#: Something to do in a batch, and who is told of its outcome.
_Request = tuple[Call, Told]


class Writer:
    """
    Has the store of a journal do what is asked for, and says when that is on the disk.

    :param reactor: provides time and a way back from a thread.
    :param share: tells how many requests are worth a batch, soon after the one before.
    :param when_full: called after each batch as long as the store is full.
    :ivar trouble: why nothing can be recorded now; ``None``: it can be.
    """

    def __init__(self, reactor: Any, store: Store, share: Callable[[], int], when_full: Callable[[], None]) -> None:
        self._reactor = reactor
        self._store = store
        self._share = share
        self._when_full = when_full
        turns = turns_of(reactor)
        self._call_at_end = None if turns is None else turns.call_at_end
        self._worker: Worker
        self._pending: list[_Request] = []
        self._size = 0
        self._between: deque[tuple[Callable[[], Any], Callable[[Any], None]]] = deque()
        # Large requests, with their sizes. Up to `LARGE_BATCH` of them are written after each batch of everything else,
        # which so waits for one of these at most.
        self._large: deque[tuple[_Request, int]] = deque()
        self._large_next = False
        self._large_failed = False
        self._busy = False
        #: Whether it is decided at the end of this turn of the reactor whether to write.
        self._deciding = False
        self._timer: IDelayedCall | None = None
        #: The end of what lingers. It is not cancelled when that is written: to do so for each command is dear.
        self._lingering: IDelayedCall | None = None
        self._closed: Deferred[None] | None = None
        self._wrote = 0.0
        self.trouble: str | None = None

    @property
    def closing(self) -> bool:
        """Whether nothing more is written but what was asked for before."""
        return self._closed is not None

    def start(self) -> None:
        """Start the thread: the store is open."""
        self._worker = Worker(self._reactor, "journal")

    def is_idle(self, seconds: float) -> bool:
        """Whether nothing was written for so many seconds, and nothing is to be."""
        waits = self._busy or self._pending or self._large
        return not waits and self._reactor.seconds() - self._wrote >= seconds

    def submit(
        self, method: Callable[..., object], *arguments: object, size: int = 0, alone: bool = True
    ) -> Deferred[Any]:
        """See `request`; gives a Deferred that fires with what the method gave."""
        done: Deferred[Any] = Deferred()
        self.request((method, arguments), partial(fire, done), size, alone=alone)
        return done

    def request(self, call: Call, told: Told, size: int = 0, *, alone: bool = True) -> None:
        """
        Have a method of the store called soon.

        :param told: called when what it gave is on the disk.
        :param size: bytes that it has to write; what is small need not say.
        :param alone: ``False``: more is likely to come in this turn of the reactor, and is waited for.
        """
        if self._closed is not None:
            told(JournalUnavailable(reason=Text("relayd stops")))
            return
        if size > LARGE:
            self._large.append(((call, told), size))
            alone = False
        else:
            self._pending.append((call, told))
            self._size += size
        if not (self._busy or self._deciding):
            self._decide_soon(at_once=alone)

    def request_later(self, call: Call, told: Told) -> None:
        """
        Have a method of the store called with what is written next, or after `LINGER` seconds.

        Nobody waits for it: alone, it would hold up the next command by a batch.
        """
        if self._closed is not None:
            told(JournalUnavailable(reason=Text("relayd stops")))
            return
        self._pending.append((call, told))
        if self._lingering is None:
            self._lingering = self._reactor.callLater(LINGER, self._lingered)

    def call_between(self, job: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Call *job* in the thread, between two batches, and then *then* with what it gave."""
        self._between.append((job, then))
        if not self._busy:
            self._go_on()

    def close(self) -> Deferred[None]:
        """Write what is pending, and end the thread."""
        self._closed = Deferred()
        if self._lingering is not None:
            self._lingering.cancel()
        if not self._busy:
            self._write()  # what lingers
        return self._closed

    def _decide_soon(self, *, at_once: bool) -> None:
        """
        Decide whether to write: at the end of this turn of the reactor, so that all that is asked for in it goes along.

        :param at_once: or now, where nobody tells when a turn ends.
        """
        if self._call_at_end is None:
            self._write_or_wait(at_once=at_once)
        else:
            self._deciding = True
            self._call_at_end(self._decide)

    def _decide(self) -> None:
        self._deciding = False
        if not self._busy and (self._pending or self._large):
            self._write_or_wait(at_once=True)

    def _write_or_wait(self, *, at_once: bool) -> None:
        """Write what is pending, or wait for more to share the batch: where there is little to do, nobody waits."""
        wait = self._wrote + PACE - self._reactor.seconds()
        if wait > 0 and not self._large and self._closed is None and len(self._pending) < min(self._share(), MAX_BATCH):
            self._write_within(wait)
        elif at_once:
            self._write()
        else:
            self._write_within(0.0)

    def _write_within(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = self._reactor.callLater(seconds, self._timed_out)
        elif self._reactor.seconds() + seconds < self._timer.getTime():
            self._timer.reset(seconds)

    def _timed_out(self) -> None:
        self._timer = None
        self._write()

    def _lingered(self) -> None:
        self._lingering = None
        if self._pending and not self._busy:
            self._write()

    def _write(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._busy = True
        large = bool(self._large) and (self._large_next or not self._pending)
        self._large_next = not large
        if large:
            self._apply(self._take_large(), True)
            return
        batch, self._pending = self._pending[:MAX_BATCH], self._pending[MAX_BATCH:]
        quick = self._size <= QUICK
        if not self._pending:
            self._size = 0
        prepared = self._store.prepare([call for call, _ in batch]) if quick else None
        if prepared is None:
            self._apply(batch, False)
        else:
            self._worker.do(partial(self._store.write, prepared), partial(self._prepared_written, batch, prepared))

    def _apply(self, batch: list[_Request], large: bool) -> None:
        calls = [call for call, _ in batch]
        self._worker.do(partial(self._store.apply, calls), partial(self._written, batch, large))

    def _prepared_written(self, batch: list[_Request], prepared: Prepared, failed: list[object] | None) -> None:
        self._written(batch, False, self._store.settle(prepared) if failed is None else failed)

    def _take_large(self) -> list[_Request]:
        request, total = self._large.popleft()
        batch = [request]
        while self._large and total + self._large[0][1] <= LARGE_BATCH:
            request, size = self._large.popleft()
            batch.append(request)
            total += size
        return batch

    def _written(self, batch: list[_Request], large: bool, outcomes: Sequence[object]) -> None:
        self._wrote = self._reactor.seconds()
        for outcome in outcomes:
            if isinstance(outcome, JournalUnavailable):
                self._failed(outcome, large)
                break
        else:
            # A disk that is nearly full still takes what is small.
            if self.trouble is not None and (large or not self._large_failed):
                self.trouble = None
                _log.info("The journal can be written again")
        # What is asked for by those who hear of it now goes into one batch.
        for (_, told), outcome in zip(batch, outcomes, strict=True):
            try:
                told(outcome)
            except Exception:
                _log.failure("What the journal has written could not be told")
        if self._store.is_full:
            self._when_full()
        self._go_on()

    def _go_on(self) -> None:
        """Nothing is being written."""
        self._busy = bool(self._between)
        if self._between:
            job, then = self._between.popleft()
            self._worker.do(job, partial(self._called_between, then))
        elif self._pending or self._large:
            self._decide_soon(at_once=True)
        else:
            self._large_next = False
            if self._closed is not None:
                self._end(self._closed)

    def _called_between(self, then: Callable[[Any], None], outcome: Any) -> None:
        try:
            then(outcome)
        finally:
            self._go_on()

    def _failed(self, error: JournalUnavailable, large: bool) -> None:
        """Log it once when writing begins to fail, and once when it works again."""
        self._large_failed = large
        if self.trouble is None:
            self.trouble = str(error.fields["reason"])
            _log.error("{error}", error=str(error))

    def _end(self, closed: Deferred[None]) -> None:
        self._worker.stop(lambda _: closed.callback(None))


def fire(done: Deferred[Any], outcome: object) -> None:
    """Have *done* fire with an outcome, or fail with it."""
    if isinstance(outcome, Exception):
        done.errback(outcome)
    else:
        done.callback(outcome)
