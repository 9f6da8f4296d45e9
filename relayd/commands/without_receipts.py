"""
Main servers that send no receipts: results that they have read, as a sign of life shows, count as delivered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from relayd.commands.in_flight import InFlight
from relayd.commands.undelivered import ResultKey
from relayd.interfaces import IJournal, ILink

_log = Logger("relayd.commands")

#: Seconds with a result in flight, on one link or on several, after which a main server that has never sent a receipt
#: is asked for a sign of life instead.
PATIENCE: Final = 30.0
#: The same for a main server that is known to send none, and while relayd wants to stop.
IMPATIENCE: Final = 1.0
DRAIN_PATIENCE: Final = 5.0

#: The name under which the journal notes whether the main server sends receipts, ``yes`` or ``never``; where there are
#: several, followed by its own name.
_RECEIPTS: Final = "receipts"


class _Watch:
    """
    The watch on one link.

    :ivar since: when it began.
    :ivar alarm: asks the main server for a sign of life; ``None``: nothing was sent since the last time.
    :ivar probe: the question, until it is answered.
    """

    __slots__ = ("alarm", "probe", "since")

    def __init__(self) -> None:
        self.since = 0.0
        self.alarm: IDelayedCall | None = None
        self.probe: Deferred[None] | None = None


class WithoutReceipts:
    """
    Finds out whether the main server sends receipts, and does without them where it does not.

    :param delivered: called with each result that counts as delivered; it was taken off its link.
    """

    def __init__(self, clock: IReactorTime, journal: IJournal, delivered: Callable[[ResultKey], None]) -> None:
        self._clock = clock
        self._journal = journal
        self._delivered = delivered
        self._patience = PATIENCE
        self._watches: dict[InFlight, _Watch] = {}
        #: Main servers that are known to send receipts, by `ILink.server`: asked twice for each command.
        self._confirming: set[str] = set()
        self._stopped = False

    def stop(self) -> None:
        """Ask no more."""
        self._stopped = True

    def hurry(self) -> None:
        """Do not wait long for receipts that never come: relayd wants to stop."""
        self._patience = min(self._patience, DRAIN_PATIENCE)
        for in_flight, watch in self._watches.items():
            if watch.alarm is not None:
                left = watch.alarm.getTime() - self._clock.seconds()
                watch.alarm.reset(max(0.0, min(self._wait(in_flight.link), left)))

    def receipt_received(self, link: ILink) -> None:
        """The main server at the other end of *link* does send receipts."""
        if link.server not in self._confirming and not self._receipts_come(link):
            self._confirming.add(link.server)
            self._journal.note(_note_of(link), "yes")

    def watch(self, in_flight: InFlight) -> None:
        """Something was sent on a link."""
        if self._stopped or in_flight.link.server in self._confirming or self._receipts_come(in_flight.link):
            return
        watch = self._watches.get(in_flight)
        if watch is None:
            watch = self._watches[in_flight] = _Watch()
        if watch.alarm is None:
            watch.since = self._clock.seconds()
            watch.alarm = self._clock.callLater(self._wait(in_flight.link), self._ask, in_flight, watch)

    def stop_watching(self, in_flight: InFlight) -> None:
        """Nothing more is sent on a link."""
        watch = self._watches.pop(in_flight, None)
        if watch is None:
            return
        if watch.alarm is not None:
            watch.alarm.cancel()
        if watch.probe is not None:
            watch.probe.cancel()

    def link_lost(self, in_flight: InFlight) -> None:
        """A link was lost. Its time counts: links that are lost soon must not make the relay wait for ever."""
        watch = self._watches.get(in_flight)
        if watch is not None and watch.alarm is not None and self._noted(in_flight.link) is None:
            self._patience = max(0.0, self._patience - (self._clock.seconds() - watch.since))
        self.stop_watching(in_flight)

    def results_read(self, in_flight: InFlight, last: int) -> None:
        """The main server has read all that was sent on a link, up to number *last*."""
        if self._noted(in_flight.link) == "never":
            while (key := in_flight.take_read(last)) is not None:
                self._delivered(key)

    def _noted(self, link: ILink) -> str | None:
        return self._journal.noted(_note_of(link))

    def _receipts_come(self, link: ILink) -> bool:
        if self._noted(link) != "yes":
            return False
        self._confirming.add(link.server)
        return True

    def _wait(self, link: ILink) -> float:
        return IMPATIENCE if self._noted(link) == "never" else self._patience

    def _ask(self, in_flight: InFlight, watch: _Watch) -> None:
        watch.alarm = None
        if in_flight and watch.probe is None and not self._receipts_come(in_flight.link):
            watch.probe = in_flight.link.probe()
            watch.probe.addCallbacks(self._answered, lambda _: None, callbackArgs=(in_flight, watch, in_flight.last))

    def _answered(self, _: None, in_flight: InFlight, watch: _Watch, last: int) -> None:
        watch.probe = None
        in_flight.mark_read(last)
        if self._noted(in_flight.link) is None:
            self._journal.note(_note_of(in_flight.link), "never")
            _log.info("The main server sends no receipts: results that it has read count as delivered")
        self.results_read(in_flight, last)
        if in_flight:
            self.watch(in_flight)


def _note_of(link: ILink) -> str:
    return f"{_RECEIPTS} {link.server}" if link.server else _RECEIPTS
