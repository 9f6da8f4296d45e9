"""
When to look at a target or a host again, though nothing happens: times in one heap.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush
from math import inf
from typing import Generic

from relayd.ssh.pool.members import Lane, PooledHost, Work

Sleeper = Lane[Work] | PooledHost[Work]


class Alarms(Generic[Work]):
    """
    The times of all. `alarm` of each is its next time: an entry of the heap that does not agree with it is void.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Sleeper[Work]]] = []
        self._count = 0

    def set(self, sleeper: Sleeper[Work], at: float) -> None:
        """Wake *sleeper* at this time, or earlier if that was arranged already."""
        if at < sleeper.alarm:
            sleeper.alarm = at
            self._count += 1  # so that two of the same time are never compared
            heappush(self._heap, (at, self._count, sleeper))

    def cancel(self, sleeper: Sleeper[Work]) -> None:
        """Do not wake *sleeper* any more."""
        sleeper.alarm = inf

    def due(self, now: float) -> Iterator[Sleeper[Work]]:
        """Those whose time has come."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            at, _, sleeper = heappop(heap)
            if sleeper.alarm == at:
                sleeper.alarm = inf
                yield sleeper

    def is_due(self, now: float) -> bool:
        """Whether the time of one may have come."""
        return bool(self._heap) and self._heap[0][0] <= now

    def next(self) -> float | None:
        """The earliest time at which one is to be woken."""
        heap = self._heap
        while heap and heap[0][2].alarm != heap[0][0]:
            heappop(heap)
        return heap[0][0] if heap else None
