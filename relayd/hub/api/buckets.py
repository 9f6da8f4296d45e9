"""
Token buckets: how often somebody may do something. They take bounded memory, however many ask.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

#: Keys remembered; beyond it the one that asked longest ago is forgotten, which gives it a full bucket.
MAX_KEYS: Final = 10_000


class Buckets:
    """
    One bucket for each key.

    :param rate: tokens a second that flow in.
    :param burst: tokens that a bucket holds, and that a new one has.
    """

    def __init__(self, rate: float, burst: float, max_keys: int = MAX_KEYS) -> None:
        self._rate = rate
        self._burst = burst
        self._max_keys = max_keys
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: Hashable, now: float, tokens: float = 1.0) -> float:
        """
        Take *tokens* of the bucket of *key*.

        :param now: seconds of a clock that never goes back.
        :return: 0 when they were there; else the seconds until they will be, and nothing was taken.
        """
        level, at = self._buckets.get(key, (self._burst, now))
        level = min(self._burst, level + max(0.0, now - at) * self._rate)
        lacking = tokens - level
        if lacking <= 0:
            level -= tokens
        self._buckets[key] = (level, now)
        self._buckets.move_to_end(key)
        if len(self._buckets) > self._max_keys:
            self._buckets.popitem(last=False)
        return max(0.0, lacking / self._rate)
