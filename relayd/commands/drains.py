"""
Waiting for the end: until every command has ended and every result is confirmed, but no longer than is allowed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

#: Seconds before the end of a drain at which what still runs is cancelled, so that its results can be delivered; at
#: most a quarter of the drain.
DRAIN_GRACE: Final = 5.0


class _Drain:
    """One wait: two alarms, and a Deferred that always fires."""

    def __init__(self, clock: IReactorTime, timeout: float, cancel_all: Callable[[], None]) -> None:
        self._alarms = [
            clock.callLater(timeout - min(DRAIN_GRACE, timeout / 4), cancel_all),
            clock.callLater(timeout, self.end),
        ]
        self.done: Deferred[None] = Deferred(lambda _: self._stop())

    def end(self) -> None:
        self._stop()
        self.done.callback(None)

    def _stop(self) -> None:
        for alarm in self._alarms:
            if alarm.active():
                alarm.cancel()


class Drains:
    """
    Every wait for the end of all commands.

    :param is_drained: whether there is nothing to wait for.
    :param cancel_all: called shortly before the time of a wait is over.
    """

    def __init__(self, clock: IReactorTime, is_drained: Callable[[], bool], cancel_all: Callable[[], None]) -> None:
        self._clock = clock
        self._is_drained = is_drained
        self._cancel_all = cancel_all
        self._drains: list[_Drain] = []

    def begin(self, timeout: float) -> Deferred[None]:
        """
        Wait for at most *timeout* seconds.

        :return: fires at the end of the wait. Cancelling it ends the wait.
        """
        drain = _Drain(self._clock, timeout, self._cancel_all)
        drain.done.addBoth(self._ended, drain)
        self._drains.append(drain)
        self.check()
        return drain.done

    def check(self) -> None:
        """End the waits if there is nothing to wait for: to be called whenever that may have become so."""
        if self._drains and self._is_drained():
            for drain in list(self._drains):
                drain.end()

    def _ended(self, outcome: object, drain: _Drain) -> object:
        self._drains.remove(drain)
        return outcome
