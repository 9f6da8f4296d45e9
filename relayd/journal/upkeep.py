"""
What a journal does from time to time: move its log to its archive, and remove what was kept for long enough.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from relayd.journal.archive import PRUNE_ROWS
from relayd.journal.index import JournalIndex
from relayd.journal.sqlite_errors import as_unavailable
from relayd.journal.store import Store
from relayd.journal.writer import Writer
from relayd.process.worker import Worker

_log = Logger("relayd.journal")

#: Seconds between two looks for what has been kept for long enough.
PRUNE_INTERVAL: Final = 60.0
#: Seconds until the next look where there was too much for one.
PRUNE_AGAIN: Final = 1.0
#: Seconds between two attempts to record, or to move to the archive, what could not be.
RETRY_INTERVAL: Final = 5.0
#: Seconds until the next ids of the archive are learned.
LEARN_AGAIN: Final = 0.01
#: Seconds without any writing after which what is left of confirmed results is removed from the disk.
CLEAN_IDLE: Final = 5.0
#: Seconds after which that is done though there is something to write.
CLEAN_BUSY: Final = 55.0


class Archiver:
    """
    Moves the log to the archive when it is full, or holds results that were confirmed and there is little to write.

    :ivar do: does something else in its thread, see `Worker.do`.
    """

    def __init__(self, reactor: Any, store: Store, writer: Writer) -> None:
        self._reactor = reactor
        self._store = store
        self._writer = writer
        self._worker: Worker
        self._call: IDelayedCall | None = None
        self._learning: IDelayedCall | None = None
        #: Since when there may be something to remove.
        self._since = 0.0
        self._idle = False
        self._moving = False
        self._failed: float | None = None
        self._stopped = False

    def start(self) -> None:
        """Start the thread: the store is open."""
        self._worker = Worker(self._reactor, "journal-archive")
        self.do = self._worker.do
        self._learn()

    def _learn(self) -> None:
        self._learning = None
        self.do(self._store.learn, self._learned)

    def _learned(self, outcome: bool | Exception) -> None:
        if outcome is False and not self._stopped:
            self._learning = self._reactor.callLater(LEARN_AGAIN, self._learn)

    def archive_soon(self) -> None:
        """There may be something to remove."""
        if self._call is None and not self._stopped:
            self._since = self._reactor.seconds()
            self._call = self._reactor.callLater(CLEAN_IDLE, self._look)

    def archive(self) -> None:
        """Begin the next log, and move those before it; not again soon after that failed."""
        if self._moving or (self._failed is not None and self._reactor.seconds() - self._failed < RETRY_INTERVAL):
            return
        self._moving = True
        self._writer.call_between(self._store.rotate, self._rotated)

    def stop(self) -> None:
        """Begin nothing more."""
        self._stopped = True
        for call in (self._call, self._learning):
            if call is not None:
                call.cancel()
        self._call = self._learning = None

    def close(self, then: Callable[[None], None]) -> None:
        """Move everything to the archive, close the store, end the thread, and then call *then*."""
        self.do(self._store.close, self._judge)
        self._worker.stop(then)

    def _look(self) -> None:
        self._call = None
        self._idle = self._writer.is_idle(CLEAN_IDLE)
        if not self._moving and (self._idle or self._reactor.seconds() - self._since >= CLEAN_BUSY):
            self.archive()
        else:
            self._call = self._reactor.callLater(CLEAN_IDLE, self._look)

    def _rotated(self, outcome: Exception | None) -> None:
        if outcome is None:
            self.do(self._store.archive, self._archived)
        else:
            self._archived(outcome)

    def _archived(self, outcome: bool | Exception) -> None:
        self._moving = False
        self._judge(outcome)
        if outcome is not True or not self._idle:  # what was confirmed meanwhile may have been too late for it
            self.archive_soon()

    def _judge(self, outcome: bool | Exception | None) -> None:
        """Log it once when it begins to fail, and once when it works again."""
        if isinstance(outcome, Exception):
            if self._failed is None:
                _log.error(
                    "The journal's log cannot be moved to its archive, and grows until it can be: {reason}",
                    reason=str(as_unavailable(outcome).fields["reason"]),
                )
            self._failed = self._reactor.seconds()
        elif self._failed is not None:
            self._failed = None
            _log.info("The journal's log can be moved to its archive again")


class Pruner:
    """
    Lets results expire that nobody confirms, and removes ids that were kept for long enough.

    :param archiver: does it in its thread.
    :param catch_up: called first each time: tries once more to record what could not be recorded.
    :param expire: called with each command whose result expires.
    :ivar confirmed: how many ids of confirmed commands there are.
    """

    def __init__(
        self,
        reactor: Any,
        store: Store,
        index: JournalIndex,
        writer: Writer,
        archiver: Archiver,
        catch_up: Callable[[], None],
        expire: Callable[[str], None],
    ) -> None:
        self._reactor = reactor
        self._store = store
        self._index = index
        self._writer = writer
        self._archiver = archiver
        self._catch_up = catch_up
        self._expire = expire
        self.confirmed = 0
        self._call: IDelayedCall | None = None

    def start(self, confirmed: int) -> None:
        """Begin, with so many ids of confirmed commands in the file."""
        self.confirmed = confirmed
        self._call = self._reactor.callLater(PRUNE_AGAIN, self._prune)

    def stop(self) -> None:
        """Prune no more."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

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
        before, most, confirmed = now - limits.retention, limits.max_ids, self.confirmed
        self._archiver.do(lambda: self._store.prune(before, most, confirmed), self._pruned)

    def _pruned(self, outcome: int | Exception) -> None:
        removed = 0 if isinstance(outcome, Exception) else outcome
        self.confirmed -= removed
        if self._writer.closing:
            return
        if removed >= PRUNE_ROWS:
            delay = PRUNE_AGAIN
        elif self._writer.trouble is None:
            delay = PRUNE_INTERVAL
        else:
            delay = RETRY_INTERVAL
        self._call = self._reactor.callLater(delay, self._prune)
