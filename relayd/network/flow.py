"""
What waits to be sent on one connection: it goes to the transport as that takes it, and its sizes are known.
For both ends of the uplink, without a word about what is sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

#: Bytes that a transport is given at a time: each time that it asks for more shows that the peer takes something.
PIECE: Final = 64 * 1024
#: Bytes that may come after a connection is full.  Most of it answers what the peer sends: beyond this, nothing more is
#: read from a peer that does not take its answers.  What fills the connection, such as a result, does not count, nor
#: what is sent unasked: a peer may well send before it reads, and two that both do must not wait for each other.
MAX_BEHIND: Final = 256 * 1024


class FlowOwner(Protocol):
    """Whose connection it is."""

    def on_full(self) -> None:
        """Something waits: the peer should take it in time."""

    def on_taken(self) -> None:
        """The peer has taken some of it, or the connection is over."""

    def on_behind(self, on: bool) -> None:
        """Whether the peer leaves so many answers that it should not be read now."""


@implementer(IPushProducer)
class Flow:
    """
    To be registered with a transport, which then tells when too much waits in it, and when all of that has left.

    :param write: gives the transport bytes.
    :ivar writable: whether more should be sent now.  What is sent nevertheless waits here, in its order.
    """

    def __init__(self, write: Callable[[bytes], None], owner: FlowOwner) -> None:
        self.writable = True
        self._write = write
        self._owner = owner
        self._ended = False
        #: Whether the transport takes anything.
        self._taking = True
        self._queue: deque[bytes | memoryview] = deque()
        #: Bytes that came since it is full.
        self._behind = 0
        self._waiting: deque[Deferred[None]] = deque()

    def send(self, data: bytes, *, answer: bool = True) -> None:
        """
        Send *data* after all before it.

        :param answer: whether the peer may have brought it about: then it counts towards `MAX_BEHIND`.
        """
        if self.writable and len(data) <= PIECE:
            self._write(data)
            return
        self._queue.append(data)
        if self.writable:
            self._push()
            if self._queue:
                self._fill()
            return
        before = self._behind
        self._behind += len(data) if answer else 0
        if before <= MAX_BEHIND < self._behind:
            self._owner.on_behind(True)

    def when_writable(self) -> Deferred[None]:
        """A Deferred that fires when more may be sent, or the connection is over. It may be cancelled."""
        if self.writable:
            return succeed(None)
        waiting: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(waiting)
        return waiting

    def end(self) -> None:
        """The connection is about to end: the transport gets what is left, and nobody need wait for it."""
        self._ended = True
        self.resumeProducing()

    # IPushProducer

    def pauseProducing(self) -> None:
        """Too much waits in the transport."""
        if not self._ended:
            self._taking = False
            self._fill()

    def resumeProducing(self) -> None:
        """All of it has left. Those who wait go on, one after the other, until one of them has filled it again."""
        self._taking = True
        self._push()
        if self._taking:
            self.writable = True
            behind, self._behind = self._behind, 0
            if behind > MAX_BEHIND:
                self._owner.on_behind(False)
        self._owner.on_taken()
        while self._waiting and self.writable:
            self._waiting.popleft().callback(None)

    def stopProducing(self) -> None:
        """The transport is gone."""
        self._queue.clear()
        self.end()

    def _fill(self) -> None:
        if self.writable:
            self.writable = False
            self._owner.on_full()

    def _push(self) -> None:
        while self._taking and self._queue:
            data = self._queue.popleft()
            if len(data) > PIECE:
                whole = memoryview(data)
                self._queue.appendleft(whole[PIECE:])
                data = whole[:PIECE]
            self._write(bytes(data))
