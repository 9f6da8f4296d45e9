"""
How late the event loop comes to what is due: whatever holds it up, holds up every command.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any, Final

from msgspec import Struct
from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from relayd.language.texts import span

#: Seconds between two beats.
INTERVAL: Final = 0.05
#: Upper bounds of the buckets that beats are counted in, by how many seconds they came late.
BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
#: Seconds of delay that are worth a line in the log, and seconds until the next such line.
WARN_AT: Final = 0.25
WARN_EVERY: Final = 60.0


class Lag(Struct, frozen=True):
    """
    What a `LagMonitor` has seen.

    :ivar counts: beats by how late they came: one number for each of `BOUNDS`, and one for those later than all.
    :ivar total: seconds that all beats together came late.
    :ivar longest: seconds that one beat came late, at most.
    :ivar longest_at: when that was, by the monitor's clock.
    """

    counts: tuple[int, ...]
    total: float
    longest: float
    longest_at: float


class LagMonitor(Service):
    """
    Beats twenty times a second, and counts how late each beat came.

    A stall is seen shorter than it was, by up to the time between two beats.

    :param clock: must be monotonic: a jump of it would look like a stall.
    """

    _log = Logger("relayd.process")

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._counts = [0] * (len(BOUNDS) + 1)
        self._total = self._longest = self._longest_at = 0.0
        self._due = self._silent_until = 0.0
        self._call: IDelayedCall | None = None

    def startService(self) -> None:
        """Begin."""
        super().startService()
        self._schedule(self._clock.seconds())

    def stopService(self) -> None:
        """Say how it was, and end."""
        super().stopService()
        if self._call is not None:
            self._call.cancel()
            self._call = None
        self._log.info(
            "The longest stall of the event loop was {span}; beats by how late they came: {beats}",
            span=span(self._longest),
            milliseconds=self._longest * 1000,
            beats=", ".join(self._rows()),
        )

    def snapshot(self) -> Lag:
        """What was seen until now."""
        return Lag(tuple(self._counts), self._total, self._longest, self._longest_at)

    def _rows(self) -> list[str]:
        names = [f"up to {span(bound)}" for bound in BOUNDS] + ["longer"]
        return [f"{count} {name}" for name, count in zip(names, self._counts, strict=True) if count]

    def _schedule(self, now: float) -> None:
        self._due = now + INTERVAL
        delayed: Any = self._clock.callLater(INTERVAL, self._beat)
        self._call = delayed

    def _beat(self) -> None:
        now = self._clock.seconds()
        late = max(0.0, now - self._due)
        self._counts[bisect_left(BOUNDS, late)] += 1
        self._total += late
        if late > self._longest:
            self._longest, self._longest_at = late, now
        if late >= WARN_AT and now >= self._silent_until:
            self._silent_until = now + WARN_EVERY
            self._log.warn(
                "The event loop was held up for {span}: everything had to wait",
                span=span(late),
                milliseconds=late * 1000,
            )
        self._schedule(now)
