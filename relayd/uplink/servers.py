"""
Decides which of several main servers is dialled, and when the relay leaves one for another. It touches no network.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from relayd.interfaces import Claims
from relayd.uplink.retry import JITTER

#: Seconds for which results that are not confirmed keep the relay at a main server, and for which results wait for a
#: visit at most, where commands keep the relay from leaving in time.
PATIENCE: Final = 600.0
#: Seconds between two looks at whether there is a reason to leave.
LOOK_EVERY: Final = 1.0

#: What the relay owes a main server.
ClaimsOf = Callable[[int], Claims]


class Failover(Struct, frozen=True, kw_only=True):
    """
    How a relay uses several main servers.

    :ivar delay: seconds for which the one in use may be away before the next is tried; and between two attempts to
        return.
    :ivar visits: whether the relay brings each main server the results that are for it alone.
    :ivar claims: gives what the relay owes a main server, by its name.
    """

    delay: float = 30.0
    visits: bool = True
    claims: Callable[[str], Claims] = lambda name: Claims()


class ServerChoice:
    """
    The choice between main servers, which are numbered in the order of preference, from 0.

    All times are in seconds of one clock. Each main server is dialled as rarely as if it were the only one.

    :param count: how many there are.
    :param delay: see `Failover`.
    :param source: of the jitter: the relays of a main server that fails do not all come to the next at once.
    :ivar current: the one in use, or that was last in use.
    """

    def __init__(self, count: int, delay: float, source: random.Random, *, visits: bool = True) -> None:
        self.delay = delay
        self.current = 0
        self._source = source
        self._visits = visits
        #: When each may be dialled again, and visited again.
        self._ready = [0.0] * count
        self._visit_ready = [0.0] * count
        #: The order in which they were dialled last.
        self._dialled = list(range(-count, 0))
        #: Until when the current one is waited for; ``None``: it is in use.
        self._wait_until: float | None = 0.0
        #: When the current one was last seen with a command under way or without a result to confirm; and since when
        #: results wait for each of the others.
        self._busy = 0.0
        self._waiting: dict[int, float] = {}

    def begin(self, now: float) -> None:
        """The relay starts."""
        self._wait_until = self._patience(now)

    def dialled(self, index: int) -> None:
        """One of them is dialled."""
        self._dialled[index] = max(self._dialled) + 1

    def accepted(self, index: int, now: float, claims: ClaimsOf) -> None:
        """A main server has accepted the relay, which uses that from now on, and leaves the one before."""
        if index != self.current and self._confirms_nothing(now, claims):
            self._visit_ready[self.current] = now + PATIENCE
        self.current, self._wait_until, self._busy = index, None, now
        self._waiting.pop(index, None)

    def left(self, index: int, now: float, delay: float) -> None:
        """The relay has closed its connection to a main server, which may be dialled again in *delay* seconds."""
        self._ready[index] = now + delay
        if index == self.current and self._wait_until is None:
            self._wait_until = now

    def failed(self, index: int, now: float, delay: float, *, refused: bool = False) -> None:
        """
        An attempt failed, or a connection was lost.

        :param delay: seconds until that main server may be dialled again.
        :param refused: whether it refuses this relay for a reason that somebody has to remove.
        """
        aside = index != self.current and self._wait_until is None
        if aside:  # while another one is in use: there is no hurry
            delay = max(delay, self.delay * self._source.uniform(1 - JITTER, 1 + JITTER))
        self._ready[index] = now + delay
        if index == self.current:
            if self._wait_until is None:
                self._wait_until = self._patience(now)
            if refused:
                self._wait_until = now

    def next(self, now: float) -> tuple[int, float]:
        """Which main server is dialled next while none is in use, and when."""
        until = self._wait_until or 0.0

        def order(index: int) -> tuple[float, int]:
            at = self._ready[index] if index <= self.current else max(self._ready[index], until)
            return max(at, now), self._dialled[index]

        chosen = min(range(len(self._ready)), key=order)
        return chosen, order(chosen)[0]

    def destination(self, now: float, claims: ClaimsOf) -> int | None:
        """
        The main server for which the relay should leave the one in use, if that accepts it; ``None``: it stays.

        It returns to one that is preferred, or visits one for which results wait, when it owes the one in use nothing.
        """
        worth = [each for each in range(len(self._ready)) if self.is_worth(each, now, claims)]
        return next((index for index in worth if now >= self._ready[index]), None)

    def is_worth(self, index: int, now: float, claims: ClaimsOf) -> bool:
        """Whether there is a reason to leave the main server in use for this one."""
        if index == self.current:
            return False
        here = claims(self.current)
        if here.commands or not here.results:
            self._busy = now
        free = here == Claims() or self._confirms_nothing(now, claims)
        if self._visits and claims(index).results:
            self._waiting.setdefault(index, now)
        else:
            self._waiting.pop(index, None)
        since = self._waiting.get(index)
        visit = since is not None and now >= self._visit_ready[index] and (free or now - since >= PATIENCE)
        return visit or (free and index < self.current)

    def _confirms_nothing(self, now: float, claims: ClaimsOf) -> bool:
        """Whether the main server in use has left results without a receipt for long."""
        here = claims(self.current)
        return here.results and not here.commands and now - self._busy >= PATIENCE

    def _patience(self, now: float) -> float:
        return now + self.delay * self._source.uniform(1 - JITTER, 1)
