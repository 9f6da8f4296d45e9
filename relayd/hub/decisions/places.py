"""
How many invocations are under way at each relay and on each host, over all runs, and which runs wait for a place there.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final, Generic, TypeVar

RunT = TypeVar("RunT")

#: Where a place is: at a relay, by its name, or on a host, by its id.
Where = tuple[str, str]
RELAY: Final = "relay"
HOST: Final = "host"


class Places(Generic[RunT]):
    """The places that are taken; runs may be named by anything that can be a key."""

    def __init__(self) -> None:
        self._taken: defaultdict[Where, int] = defaultdict(int)
        self._waiting: dict[Where, dict[RunT, None]] = {}
        self._freed: dict[Where, None] = {}

    def has(self, where: Where, limit: int | None) -> bool:
        """Whether fewer than *limit* are under way there."""
        return limit is None or self._taken.get(where, 0) < limit

    def take(self, relay: str, host: str) -> None:
        """One is under way."""
        self._taken[RELAY, relay] += 1
        self._taken[HOST, host] += 1

    def give(self, relay: str, host: str) -> None:
        """One has ended."""
        for where in ((RELAY, relay), (HOST, host)):
            self._taken[where] -= 1
            if not self._taken[where]:
                del self._taken[where]
            if where in self._waiting:
                self._freed[where] = None

    def wait(self, where: Where, run: RunT) -> None:
        """A run has invocations that wait for a place there; it is named once by `take_freed`."""
        self._waiting.setdefault(where, {})[run] = None

    def forget(self, run: RunT) -> None:
        """A run has ended."""
        for where in [where for where, runs in self._waiting.items() if run in runs]:
            del self._waiting[where][run]
            if not self._waiting[where]:
                del self._waiting[where]

    def take_freed(self) -> list[tuple[Where, list[RunT]]]:
        """The places that have become free since the last call, with the runs that wait there, first come first."""
        freed = [(where, list(runs)) for where in self._freed if (runs := self._waiting.pop(where, None))]
        self._freed.clear()
        return freed
