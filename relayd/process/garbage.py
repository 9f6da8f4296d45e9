"""
When garbage is collected: the long collections only while there is little to look through.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Final

from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall, IReactorTime

#: Seconds between two looks whether now is a good time, and looks that may be passed over.
INTERVAL: Final = 10.0
MOST_PASSED: Final = 60
#: Commands at hand with which a collection takes few milliseconds.
FEW: Final = 200


def spare_present_objects() -> None:
    """Collect garbage, and have no later collection look through the objects that there are now: they stay."""
    gc.collect()
    gc.freeze()


class GarbageCollection(Service):
    """
    Python collects the oldest generation by itself in the middle of a burst of commands, when it takes longest: with
    10,000 of them at hand, a fifth of a second in which nothing else happens.  Here it waits until few are left, or for
    ten minutes at most; the younger generations, which have most of the garbage, are collected as ever.

    :param at_hand: how many commands there are.
    """

    def __init__(self, clock: IReactorTime, at_hand: Callable[[], int]) -> None:
        self._clock = clock
        self._at_hand = at_hand
        self._passed = 0
        self._call: IDelayedCall | None = None
        self._thresholds = gc.get_threshold()

    def startService(self) -> None:
        """Take over."""
        super().startService()
        self._thresholds = gc.get_threshold()
        gc.set_threshold(*self._thresholds[:2], 1_000_000)
        self._call = self._clock.callLater(INTERVAL, self._look)

    def stopService(self) -> None:
        """Leave it to Python again."""
        super().stopService()
        gc.set_threshold(*self._thresholds)
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _look(self) -> None:
        if self._at_hand() <= FEW or self._passed >= MOST_PASSED:
            self._passed = 0
            gc.collect()
        else:
            self._passed += 1
        self._call = self._clock.callLater(INTERVAL, self._look)
