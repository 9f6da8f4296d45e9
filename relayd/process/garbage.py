"""
When Python collects garbage: its long collections run only while there are few objects to look through.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall, IReactorTime

#: Seconds between two checks whether now is a good time, and how many checks may say no in a row.
INTERVAL: Final = 10.0
MOST_PASSED: Final = 60
#: Collections of the youngest objects for one of those that are older: with Python's 10, that one looks through some
#: 7,000 objects, and takes up to 15 ms.
FEW_YOUNG: Final = 4
#: Active commands with which a collection takes a few milliseconds.
FEW: Final = 200


@contextmanager
def no_collections() -> Iterator[None]:
    """
    A context for imports: nothing is collected, and later collections skip what was imported.

    Imports leave almost no garbage, and looking for it again and again takes a tenth of the time of a start.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


def spare_present_objects() -> None:
    """Collect garbage now, and let later collections skip the objects that are left: they stay for good."""
    gc.collect()
    gc.freeze()


class GarbageCollection(Service):
    """
    Collects the oldest generation of objects when few commands are active, or after ten minutes at most.

    Python itself would collect it in the middle of a burst of commands, when it takes longest: with 10,000 active
    commands, a fifth of a second in which nothing else happens. The younger generations, which hold most of the
    garbage, are collected as usual.

    :param active: returns the number of commands that are held in memory.
    """

    def __init__(self, clock: IReactorTime, active: Callable[[], int]) -> None:
        self._clock = clock
        self._active = active
        self._passed = 0
        self._call: IDelayedCall | None = None
        self._thresholds = gc.get_threshold()

    def startService(self) -> None:
        """Keep Python from collecting the oldest generation by itself, and the one before from becoming large."""
        super().startService()
        self._thresholds = gc.get_threshold()
        gc.set_threshold(self._thresholds[0], min(self._thresholds[1], FEW_YOUNG), 1_000_000)
        self._call = self._clock.callLater(INTERVAL, self._look)

    def stopService(self) -> None:
        """Leave all collections to Python again."""
        super().stopService()
        gc.set_threshold(*self._thresholds)
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _look(self) -> None:
        if self._active() <= FEW or self._passed >= MOST_PASSED:
            self._passed = 0
            gc.collect()
        else:
            self._passed += 1
        self._call = self._clock.callLater(INTERVAL, self._look)
