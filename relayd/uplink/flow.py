"""
Whether a connection can take more to send: what its transport tells, for those who would rather wait.
"""

from __future__ import annotations

from collections import deque

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer


@implementer(IPushProducer)
class Flow:
    """
    To be registered with a transport, which then tells when too much waits in it, and when all of that has left.

    :ivar writable: whether more may be sent now.
    """

    def __init__(self) -> None:
        self.writable = True
        self._ended = False
        self._waiting: deque[Deferred[None]] = deque()

    def when_writable(self) -> Deferred[None]:
        """A Deferred that fires when more may be sent, or the connection is over. It may be cancelled."""
        if self.writable:
            return succeed(None)
        waiting: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(waiting)
        return waiting

    def end(self) -> None:
        """The connection is over: nobody need wait for it."""
        self._ended = True
        self.resumeProducing()

    # IPushProducer

    def pauseProducing(self) -> None:
        """Too much waits in the transport."""
        self.writable = self._ended

    def resumeProducing(self) -> None:
        """All of it has left. Those who wait go on, one after the other, until one of them has filled it again."""
        self.writable = True
        while self._waiting and self.writable:
            self._waiting.popleft().callback(None)

    def stopProducing(self) -> None:
        """The transport is gone."""
        self.end()
