"""
Main servers that send no receipts: what they have read, as a sign of life shows, counts as delivered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from relayd.commands.in_flight import Key, Sendings
from relayd.interfaces import IJournal

#: Seconds with a result under way, on one link or on several, after which a main server that has never sent a receipt
#: is asked for a sign of life instead; and those for one that is known not to send any, or while relayd wants to stop.
PATIENCE: Final = 30.0
IMPATIENCE: Final = 1.0
DRAIN_PATIENCE: Final = 5.0

#: The name under which the journal notes whether the main server sends receipts.
_RECEIPTS: Final = "receipts"


class WithoutReceipts:
    """
    Finds out whether the main server sends receipts, and does without them where it does not.

    :param delivered: called with each result that counts as delivered, as it was taken off its link.
    """

    def __init__(self, clock: IReactorTime, journal: IJournal, delivered: Callable[[Key], None]) -> None:
        self._log = Logger("relayd.commands")
        self._clock = clock
        self._journal = journal
        self._delivered = delivered
        self._patience = PATIENCE
        self._stopped = False

    def stop(self) -> None:
        """Ask no more."""
        self._stopped = True

    def hurry(self, state: Sendings | None) -> None:
        """relayd wants to stop: do not wait long for receipts that never come."""
        self._patience = min(self._patience, DRAIN_PATIENCE)
        if state is not None and state.watch is not None and state.watch.active():
            state.watch.reset(max(0.0, min(self._wait(), state.watch.getTime() - self._clock.seconds())))

    def receipt_received(self) -> None:
        """The main server does send them."""
        if self._journal.noted(_RECEIPTS) != "yes":
            self._journal.note(_RECEIPTS, "yes")

    def watch(self, state: Sendings) -> None:
        """Something was sent on a link."""
        if state.watch is None and not self._stopped and self._journal.noted(_RECEIPTS) != "yes":
            state.watched = self._clock.seconds()
            state.watch = self._clock.callLater(self._wait(), self._ask, state)

    def link_lost(self, state: Sendings) -> None:
        """Links that are lost soon do not have the relay wait for ever: the time on them counts, too."""
        if state.watch is not None and state.watch.active() and self._journal.noted(_RECEIPTS) is None:
            self._patience = max(0.0, self._patience - (self._clock.seconds() - state.watched))

    def read(self, state: Sendings, last: int) -> None:
        """The main server has read all that was sent on the link, up to number *last*."""
        if self._journal.noted(_RECEIPTS) == "never":
            while state.in_flight and next(iter(state.in_flight)) <= last:
                key = state.take(None)
                if key is not None:
                    self._delivered(key)

    def _wait(self) -> float:
        return IMPATIENCE if self._journal.noted(_RECEIPTS) == "never" else self._patience

    def _ask(self, state: Sendings) -> None:
        state.watch = None
        if state.in_flight and state.probe is None and self._journal.noted(_RECEIPTS) != "yes":
            state.probe = state.link.probe()
            state.probe.addCallbacks(self._answered, lambda _: None, callbackArgs=(state, state.last))

    def _answered(self, _: None, state: Sendings, last: int) -> None:
        state.probe = None
        state.read = max(state.read, last)
        if self._journal.noted(_RECEIPTS) is None:
            self._journal.note(_RECEIPTS, "never")
            self._log.info("The main server sends no receipts: results that it has read count as delivered")
        self.read(state, last)
        if state.in_flight:
            self.watch(state)
