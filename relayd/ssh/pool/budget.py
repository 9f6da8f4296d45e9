"""
How many connections there are in all, and how many there may be.
"""

from __future__ import annotations

from math import inf

#: Seconds for which there are no more connections than there were when no descriptor was left for another one.
CAP_TIME = 30.0


class ConnectionBudget:
    """
    The connections of the whole pool.

    :ivar most: connections that there may be.
    :ivar used: connections that there are, with those for which a place is reserved.
    :ivar closing: how many of them are being closed.
    :ivar capped_until: until when there may be fewer, as the process had no descriptor for another one.
    """

    def __init__(self, most: int) -> None:
        self.used = 0
        self.closing = 0
        self.capped_until = 0.0
        self.most = most
        self._cap: float = inf

    @property
    def _limit(self) -> float:
        return min(self.most, self._cap)

    @property
    def capped(self) -> bool:
        """Whether there may be fewer than usual, as of the last `uncap`."""
        return self._cap < inf

    def has_room(self, cost: int) -> bool:
        """Whether there may be *cost* connections more."""
        return self.used + cost <= self._limit

    def missing(self, places: int) -> int:
        """How many connections have to be closed, beside those that are being closed, for *places* more."""
        return places - (int(self._limit) - self.used) - self.closing

    def cap(self, now: float) -> None:
        """There can be no more connections than there are, for a while."""
        self._cap = max(1, self.used)
        self.capped_until = now + CAP_TIME

    def uncap(self, now: float) -> None:
        """Forget a cap whose time is over."""
        if now >= self.capped_until:
            self._cap = inf
