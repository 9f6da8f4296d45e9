"""
What the bytes of a server may cost: a connection that only makes work gets a few percent of the processor.

Each connection has a debt, in microseconds of processor time at the prices below. Commands and their output lower it,
and so does time. What remains is the cost of bytes that nobody asked for: packets to be ignored, requests, packets of
one byte, keys that are renewed again and again. A connection that owes too much is read less often, so its server has
to wait, as it would behind a slow network. Nothing is lost, and an honest server notices nothing.
"""

from __future__ import annotations

from typing import Final, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

#: Prices in microseconds, on a slow machine: of one read from the network, and of one packet.
READ: Final = 20
PACKET: Final = 10
#: Each 256 bytes of a packet cost one more, and each 64 bytes of a command's output pay for one. So packets with a KiB
#: of output or more pay for themselves, and a server that has to wait makes its packets longer.
COST_SHIFT: Final = 8
WORTH_SHIFT: Final = 6
#: What a command pays for, in answers to it.
COMMAND: Final = 1000
#: The part of the processor that pays debts back.
SHARE: Final = 0.05
#: The most that a connection may owe, and may have saved for later.
MAX_OWED: Final = 50_000
MAX_SAVED: Final = 50_000
#: What one connection may cost in one turn of the event loop.
SLICE: Final = 5_000


class Paced(Protocol):
    """A connection that can be kept waiting."""

    def hold(self, on: bool) -> None:
        """Read no more from the network, or read again."""

    def read_on(self) -> None:
        """Read what has arrived already."""


class Pacer:
    """
    The debt of one connection.

    :ivar owed: microseconds. The connection adds what it costs and subtracts what it pays.
    :ivar holding: whether the connection has to wait.
    :ivar way: the debt of the connection to the jump host that this one goes through.
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
        """A command is sent. The jump hosts on its way carry its output, too."""
        pacer: Pacer | None = self
        while pacer is not None:
            pacer.owed -= COMMAND
            pacer = pacer.way

    def settle(self, more: bool) -> None:
        """
        Decide at the end of a turn whether the connection has to wait.

        :param more: whether there is more to read: the turn ended for the sake of other connections.
        """
        delay = 0.0
        if self.owed > MAX_OWED:
            now = self._clock.seconds()
            self.owed = max(0, self.owed - int(max(0.0, now - self._settled) * SHARE * 1e6))
            self._settled = now
            if self.owed > MAX_OWED:
                delay = (self.owed - MAX_OWED + SLICE) / (SHARE * 1e6)
        if (delay or more) and self._paced is not None:
            self._call = self._clock.callLater(delay, self._resume)
            if not self.holding:
                self.holding = True
                self._paced.hold(True)

    def stop(self) -> None:
        """The connection has ended, or was never made: forget it."""
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
