"""
What a journal does from time to time: remove what was kept for long enough, also from the write-ahead log.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from relayd.journal.index import JournalIndex
from relayd.journal.store import PRUNE_ROWS, Store
from relayd.journal.writer import Writer

_log = Logger("relayd.journal")

#: Seconds between two looks for what has been kept for long enough.
PRUNE_INTERVAL: Final = 60.0
#: Seconds until the next look where there was too much for one.
PRUNE_AGAIN: Final = 1.0
#: Seconds between two attempts to record what could not be recorded.
RETRY_INTERVAL: Final = 5.0
#: Seconds without any writing after which what is left of confirmed results is removed from the disk.
CLEAN_IDLE: Final = 5.0
#: Seconds after which that is done though there is something to write.
CLEAN_BUSY: Final = 55.0


class Pruner:
    """
    Lets results expire that nobody confirms, and removes ids that were kept for long enough.

    :param catch_up: called first each time: tries once more to record what could not be recorded.
    :param expire: called with each command whose result expires.
    """

    def __init__(
        self,
        reactor: Any,
        store: Store,
        index: JournalIndex,
        writer: Writer,
        catch_up: Callable[[], None],
        expire: Callable[[str], None],
    ) -> None:
        self._reactor = reactor
        self._store = store
        self._index = index
        self._writer = writer
        self._catch_up = catch_up
        self._expire = expire
        self._confirmed = 0
        self._call: IDelayedCall | None = None

    def start(self, confirmed: int) -> None:
        """Begin, with so many ids of confirmed commands in the file."""
        self._confirmed = confirmed
        self._call = self._reactor.callLater(PRUNE_AGAIN, self._prune)

    def stop(self) -> None:
        """Prune no more."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def count_confirmed(self) -> None:
        """One more command was confirmed."""
        self._confirmed += 1

    def _prune(self) -> None:
        self._call = None
        self._catch_up()
        now, limits = self._store.now(), self._index.limits
        expired = self._index.expired(now)
        if expired:
            _log.warn(
                "{count} results were not confirmed for {days:g} days, and expire",
                count=len(expired),
                days=limits.retention / 86400,
            )
            for command_id in expired:
                self._expire(command_id)
        pruning = self._writer.submit(self._store.prune, now - limits.retention, limits.max_ids, self._confirmed)
        pruning.addCallbacks(self._pruned, lambda _: 0)
        pruning.addCallback(self._prune_later)

    def _pruned(self, removed: int) -> int:
        self._confirmed -= removed
        return removed

    def _prune_later(self, removed: int) -> None:
        if self._writer.closing:
            return
        if removed >= PRUNE_ROWS:
            delay = PRUNE_AGAIN
        elif self._writer.trouble is None:
            delay = PRUNE_INTERVAL
        else:
            delay = RETRY_INTERVAL
        self._call = self._reactor.callLater(delay, self._prune)


class Cleaner:
    """Empties the write-ahead log, in which confirmed results can still be read, when there is little else to write."""

    def __init__(self, reactor: Any, store: Store, writer: Writer) -> None:
        self._reactor = reactor
        self._store = store
        self._writer = writer
        self._call: IDelayedCall | None = None
        #: Since when there may be something to remove.
        self._since = 0.0
        self._stopped = False

    def clean_soon(self) -> None:
        """There may be something to remove."""
        if self._call is None and not self._stopped:
            self._since = self._reactor.seconds()
            self._call = self._reactor.callLater(CLEAN_IDLE, self._clean)

    def stop(self) -> None:
        """Clean no more."""
        self._stopped = True
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _clean(self) -> None:
        self._call = None
        idle = self._writer.is_idle(CLEAN_IDLE)
        if not idle and self._reactor.seconds() - self._since < CLEAN_BUSY:
            self._call = self._reactor.callLater(CLEAN_IDLE, self._clean)
        else:
            self._writer.call_outside(self._store.clean, lambda done: self._cleaned(done and idle))

    def _cleaned(self, done: bool) -> None:
        if not done:  # what was confirmed while that was done may have been too late for it
            self.clean_soon()
