"""
How late the event loop is: whatever blocks it delays every command.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable
from typing import Any, Final

from msgspec import Struct
from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from relayd.language.texts import span

_log = Logger("relayd.process")

#: Seconds between two beats.
INTERVAL: Final = 0.05
#: Upper bounds, in seconds, of the buckets in which delays of beats are counted.
BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
#: Seconds of delay at which the log has a warning, and seconds until the next such warning.
WARN_AT: Final = 0.25
WARN_EVERY: Final = 60.0


class Lag(Struct, frozen=True):
    """
    The measurements of a `LagMonitor`.

    :ivar counts: numbers of beats by delay: one for each of `BOUNDS`, and one for longer delays.
    :ivar total: the sum of all delays, in seconds.
    :ivar longest: the longest delay, in seconds.
    :ivar longest_at: when the longest delay was, by the monitor's clock.
    :ivar own: the longest part of a delay that this process can have caused, in seconds: it used the processor for as
        long. The rest of a delay is the machine's: it ran something else, or slept.
    """

    counts: tuple[int, ...]
    total: float
    longest: float
    longest_at: float
    own: float


class LagMonitor(Service):
    """
    Beats twenty times a second and counts how late each beat came.

    A stall looks shorter than it was, by up to the time between two beats.

    :param clock: a monotonic clock: a jump would look like a stall.
    :param processor: seconds of processor time that this process has used, with all its threads.
    """

    def __init__(self, clock: IReactorTime, processor: Callable[[], float] = time.process_time) -> None:
        self._clock = clock
        self._processor = processor
        self._used = self._longest_own = 0.0
        self._counts = [0] * (len(BOUNDS) + 1)
        self._total = self._longest = self._longest_at = 0.0
        self._due = self._silent_until = 0.0
        self._call: IDelayedCall | None = None

    def startService(self) -> None:
        """Schedule the first beat."""
        super().startService()
        self._schedule(self._clock.seconds())

    def stopService(self) -> None:
        """Stop beating, and log the measurements."""
        super().stopService()
        if self._call is not None:
            self._call.cancel()
            self._call = None
        _log.info(
            "Longest stall of the event loop: {span}, by relayd itself: {own}; beats by delay: {beats}",
            span=span(self._longest),
            own=span(self._longest_own),
            milliseconds=self._longest * 1000,
            own_milliseconds=self._longest_own * 1000,
            beats=", ".join(self._rows()),
        )

    def snapshot(self) -> Lag:
        """The measurements until now."""
        return Lag(tuple(self._counts), self._total, self._longest, self._longest_at, self._longest_own)

    def _rows(self) -> list[str]:
        names = [f"up to {span(bound)}" for bound in BOUNDS] + ["longer"]
        return [f"{count} {name}" for name, count in zip(names, self._counts, strict=True) if count]

    def _schedule(self, now: float) -> None:
        self._due = now + INTERVAL
        self._used = self._processor()
        delayed: Any = self._clock.callLater(INTERVAL, self._beat)
        self._call = delayed

    def _beat(self) -> None:
        now = self._clock.seconds()
        late = max(0.0, now - self._due)
        own = min(late, self._processor() - self._used)
        self._counts[bisect_left(BOUNDS, late)] += 1
        self._total += late
        if late > self._longest:
            self._longest, self._longest_at = late, now
        self._longest_own = max(self._longest_own, own)
        if late >= WARN_AT and now >= self._silent_until:
            self._silent_until = now + WARN_EVERY
            _log.warn(
                "The event loop was blocked for {span}; everything had to wait. relayd itself used the processor for "
                "{own} of it",
                span=span(late),
                own=span(own),
                milliseconds=late * 1000,
                own_milliseconds=own * 1000,
            )
        self._schedule(now)
