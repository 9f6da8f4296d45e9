"""
Which command may start now, which waits for its turn, which is refused: the decisions alone.
No I/O and no clock, so that every order of events can be tested.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Hashable
from enum import Enum, auto
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Placement(Enum):
    """What becomes of a command that arrives."""

    STARTED = auto()
    QUEUED = auto()
    REFUSED = auto()


class _HostShare(Generic[T]):
    """The commands of one host: how many run, and which ones wait, oldest first."""

    __slots__ = ("running", "waiting")

    def __init__(self) -> None:
        self.running = 0
        self.waiting: OrderedDict[T, None] = OrderedDict()


class Admission(Generic[T]):
    """
    Slots to run in and places to wait in, shared fairly between hosts.

    Hosts that have commands waiting take turns, one command each.  No host may take everything, however early it
    comes: a host gets one more slot only while it holds less than twice as many as are *free*, and the same holds for
    places in the queue (the dynamic threshold of Choudhury and Hahne, "Dynamic queue length thresholds for
    shared-memory packet switches", 1998).  So a lone host gets two thirds, and one third stays for those that come
    after it; n busy hosts settle at ``2 / (2 n + 1)`` each.  The threshold never holds back a host that runs nothing,
    so a free slot is always of use to it, and something always runs while something waits.

    Each call takes constant time except `take_next`, which steps over the hosts that the threshold holds back: they run
    at least two commands each, so there are at most ``max_running / 2`` of them, however long the queue.

    :param max_running: commands that run at a time; at least 1.
    :param max_queue: commands that wait at a time; 0: no command waits.
    """

    def __init__(self, max_running: int, max_queue: int) -> None:
        self.resize(max_running, max_queue)
        self._hosts: dict[Hashable, _HostShare[T]] = {}
        # The hosts that have commands waiting, next turn first.  An OrderedDict and not a dict: taking the first again
        # and again out of a dict is quadratic.
        self._turns: OrderedDict[Hashable, _HostShare[T]] = OrderedDict()
        # Deadlines of what waits, and of what waited: an item that has left the queue stays until it comes up.
        self._deadlines: list[tuple[float, int, Hashable, T]] = []
        self._serial = count()
        #: How many commands run now.
        self.running = 0
        #: How many commands wait now.
        self.queued = 0

    def resize(self, max_running: int, max_queue: int) -> None:
        """
        Set new limits for what comes from now on; what is over them stays. Call `take_next` until it gives ``None``
        after this: there may be more slots than before.
        """
        if max_running < 1 or max_queue < 0:
            raise ValueError("max_running is at least 1 and max_queue at least 0")
        self._max_running = max_running
        self._max_queue = max_queue

    def offer(self, key: Hashable, item: T, deadline: float) -> Placement:
        """
        Find a place for a command that arrives.

        :param key: its host.
        :param item: stands for the command in the other calls; unlike all others that are in here.
        :param deadline: when it is no longer worth starting, in seconds.
        :return: ``STARTED``: it holds a slot; give that back with `release`.  ``QUEUED``: one of `take_next`, `expire`
            and `withdraw` takes it out again.  ``REFUSED``: nothing is held.
        """
        host = self._hosts.get(key)
        if host is None:
            host = _HostShare()
        if not host.waiting and host.running < 2 * (self._max_running - self.running):
            host.running += 1
            self.running += 1
            placement = Placement.STARTED
        elif len(host.waiting) < 2 * (self._max_queue - self.queued):
            host.waiting[item] = None
            self.queued += 1
            self._turns.setdefault(key, host)
            self._remember(deadline, key, item)
            placement = Placement.QUEUED
        else:
            return Placement.REFUSED
        self._hosts[key] = host
        return placement

    def take_next(self) -> T | None:
        """
        Take the command whose turn it is, and a slot for it.

        Call it after each `release` until it gives ``None``: no command waits, or none may start.
        """
        threshold = 2 * (self._max_running - self.running)
        if threshold > 0:
            for key, host in self._turns.items():  # those held back keep their turn
                if host.running < threshold:
                    item, _ = host.waiting.popitem(last=False)
                    self.queued -= 1
                    host.running += 1
                    self.running += 1
                    if host.waiting:
                        self._turns.move_to_end(key)
                    else:
                        del self._turns[key]
                    return item
        return None

    def release(self, key: Hashable) -> None:
        """Take back the slot of a command of host *key* that has ended."""
        host = self._hosts[key]
        host.running -= 1
        self.running -= 1
        if not host.running and not host.waiting:
            del self._hosts[key]

    def withdraw(self, key: Hashable, item: T) -> None:
        """Take out *item*, which waits and shall not start."""
        host = self._hosts[key]
        del host.waiting[item]
        self.queued -= 1
        if not host.waiting:
            del self._turns[key]
            if not host.running:
                del self._hosts[key]

    def expire(self, now: float) -> list[T]:
        """Take out the commands that have waited until their deadlines, earliest first."""
        expired = []
        while self._deadlines and self._deadlines[0][0] <= now:
            _, _, key, item = heapq.heappop(self._deadlines)
            if self._waits(key, item):
                self.withdraw(key, item)
                expired.append(item)
        return expired

    def next_deadline(self) -> float | None:
        """The earliest deadline of the commands that wait; ``None``: no command waits."""
        if not self.queued:
            self._deadlines.clear()
            return None
        while not self._waits(*self._deadlines[0][2:]):
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0]

    def _remember(self, deadline: float, key: Hashable, item: T) -> None:
        if len(self._deadlines) > 2 * self.queued + 64:
            self._deadlines = [entry for entry in self._deadlines if self._waits(*entry[2:])]
            heapq.heapify(self._deadlines)
        heapq.heappush(self._deadlines, (deadline, next(self._serial), key, item))

    def _waits(self, key: Hashable, item: T) -> bool:
        host = self._turns.get(key)
        return host is not None and item in host.waiting
