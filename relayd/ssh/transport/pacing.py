"""
What a server's bytes may cost the relay: one connection that only makes work gets a few percent of the processor.

A connection runs up a debt, in microseconds of processor time by the prices below.  Output of commands and commands
themselves pay their own way, and so does time; what remains is the cost of what nobody asked for: packets that are to
be ignored, requests, packets of a byte, keys that are renewed again and again.  Who owes too much is read from less
often, so that it has to wait, as behind a slow network; nothing is lost, and it costs no honest server anything.
"""

from __future__ import annotations

from typing import Final, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

#: Prices in microseconds, on a slow machine: to read from the network once, and to take one packet.
READ: Final = 20
PACKET: Final = 10
#: Each 256 bytes of a packet cost one more, and each 64 bytes of a command's output are worth one: packets of a KiB and
#: more pay for themselves, and a server that is made to wait makes its packets longer.
COST_SHIFT: Final = 8
WORTH_SHIFT: Final = 6
#: What a command that is sent is worth, in answers to it.
COMMAND: Final = 1000
#: The part of the processor that pays debts back.
SHARE: Final = 0.05
#: The debt that one may have, and what one can save up for later.
MOST_OWED: Final = 50_000
MOST_SAVED: Final = 50_000
#: What one connection may cost in one turn of the event loop.
SLICE: Final = 5_000


class Paced(Protocol):
    """A connection that can be made to wait."""

    def hold(self, on: bool) -> None:
        """Read no more from the network, or read again."""

    def read_on(self) -> None:
        """Take what has arrived already."""


class Pacer:
    """
    The debt of one connection.

    :ivar owed: microseconds; the connection adds to it and takes away from it.
    :ivar holding: whether the connection waits.
    :ivar way: of the connection to the jump host that this one comes through.
    """

    __slots__ = ("_call", "_clock", "_paced", "_settled", "holding", "owed", "way")

    def __init__(self, clock: IReactorTime, paced: Paced) -> None:
        self.owed = 0
        self.holding = False
        self.way: Pacer | None = None
        self._clock = clock
        self._paced: Paced | None = paced
        self._settled = clock.seconds()
        self._call: IDelayedCall | None = None

    def asked(self) -> None:
        """A command leaves; what comes of it comes by the jump hosts, too."""
        pacer: Pacer | None = self
        while pacer is not None:
            pacer.owed -= COMMAND
            pacer = pacer.way

    def settle(self, more: bool) -> None:
        """
        A turn is over.

        :param more: whether it ended for the sake of others: there is more to take.
        """
        delay = 0.0
        if self.owed > MOST_OWED:
            now = self._clock.seconds()
            self.owed = max(0, self.owed - int(max(0.0, now - self._settled) * SHARE * 1e6))
            self._settled = now
            if self.owed > MOST_OWED:
                delay = (self.owed - MOST_OWED + SLICE) / (SHARE * 1e6)
        elif self.owed < -MOST_SAVED:
            self.owed = -MOST_SAVED
        if (delay or more) and self._paced is not None:
            self._call = self._clock.callLater(delay, self._resume)
            if not self.holding:
                self.holding = True
                self._paced.hold(True)

    def stop(self) -> None:
        """The connection has ended, or never came about: it is let go."""
        self._paced = None
        call, self._call = self._call, None
        if call is not None:
            call.cancel()

    def _resume(self) -> None:
        self._call = None
        paced = self._paced
        assert paced is not None  # or the call would have been cancelled
        paced.read_on()
        if self._call is None:
            self.holding = False
            paced.hold(False)
