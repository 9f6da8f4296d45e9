"""
Shares the time of the event loop between relays and all others: a thousand busy relays must not keep persons waiting.

The loop hears each socket in turn. Where a thousand of them have something to say, and each of that takes milliseconds,
a round takes seconds, and so does each step of a request to the API. So in one turn what relays send is looked at for
some milliseconds; what came beyond that waits, and nothing more is read from those relays until then.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Final, Protocol

from twisted.internet.interfaces import IReactorTime

#: Seconds of one turn of the event loop for what relays send.
SHARE: Final = 0.002
_WHY: Final = "others have their turn"


class Sender(Protocol):
    """A connection of a relay."""

    def pause(self, why: str, on: bool) -> None:
        """Read nothing from the peer."""

    def look_at(self, data: bytes) -> None:
        """Do what the peer asks for."""


class Intake:
    """
    What relays have sent and nobody has looked at, in the order in which it came.

    :param now: seconds of a clock that goes on within a turn.
    """

    def __init__(self, clock: IReactorTime, now: Callable[[], float] = perf_counter) -> None:
        self._clock = clock
        self._now = now
        self._waiting: dict[Sender, bytes] = {}
        self._spent = 0.0
        self._turning = False

    def take(self, sender: Sender, data: bytes) -> None:
        """Look at what came, now or in one of the next turns."""
        if sender in self._waiting:  # TLS may have read more than was wanted
            self._waiting[sender] += data
        elif self._waiting or self._spent >= SHARE:
            self._waiting[sender] = data
            sender.pause(_WHY, True)
        else:
            self._look(sender, data)
        if not self._turning:
            self._turning = True
            self._clock.callLater(0, self._turn)

    def finish(self, sender: Sender) -> None:
        """A connection is over: what it had sent before that is looked at now."""
        if (data := self._waiting.pop(sender, None)) is not None:
            self._look(sender, data)

    def _look(self, sender: Sender, data: bytes) -> None:
        begun = self._now()
        try:
            sender.look_at(data)
        finally:
            self._spent += self._now() - begun

    def _turn(self) -> None:
        self._spent = 0.0
        self._turning = bool(self._waiting)
        if self._turning:
            self._clock.callLater(0, self._turn)
        while self._waiting and self._spent < SHARE:
            sender = next(iter(self._waiting))
            data = self._waiting.pop(sender)
            sender.pause(_WHY, False)
            self._look(sender, data)
