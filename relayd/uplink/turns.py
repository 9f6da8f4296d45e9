"""
Handles what a connection receives, one step after the other, with turns for the rest of the relay in between.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

Step = Callable[[], None]

#: Seconds of work after which the rest waits for the event loop's next turn.
SLICE: Final = 0.01
#: Characters of a message from which on each of its steps has a turn of its own.
LARGE: Final = 1 << 20


class Turns:
    """
    Takes steps in their order: at once for `SLICE` seconds, and the rest in further turns of the event loop.

    One read from the network may bring hundreds of messages, or the last piece of one of 16 MiB.

    :param hold: is called with ``True`` when steps begin to wait: the sender should be held back then. It is called
        with ``False`` when none waits any more.
    """

    def __init__(self, clock: IReactorTime, hold: Callable[[bool], None]) -> None:
        self._clock = clock
        self._hold = hold
        self._until = 0.0
        self._waiting: deque[Step] = deque()
        self._call: IDelayedCall | None = None

    def begin_turn(self) -> None:
        """A turn of the event loop begins: something was read."""
        self._until = self._clock.seconds() + SLICE

    def take_in_turn(self, step: Step, *, large: bool = False) -> None:
        """
        Take *step* after those before it.

        :param large: whether it takes long enough to have a turn of its own.
        """
        if large or self._waiting or self._clock.seconds() > self._until:
            self._waiting.append(step)
            self._continue_later()
        else:
            step()

    def take_next(self, step: Step) -> None:
        """Take *step* in the next turn, before all others."""
        self._until = -inf
        self._waiting.appendleft(step)
        self._continue_later()

    def _continue_later(self) -> None:
        if self._call is None:
            self._hold(True)
            self._call = self._clock.callLater(0, self._continue)

    def _continue(self) -> None:
        self.begin_turn()
        try:
            while self._waiting and self._clock.seconds() <= self._until:
                self._waiting.popleft()()
        finally:
            self._call = None
            if self._waiting:
                self._call = self._clock.callLater(0, self._continue)
            else:
                self._hold(False)
