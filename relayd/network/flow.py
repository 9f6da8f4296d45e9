"""
Flow control of one connection: what is sent waits here until the transport takes it, and its size is known.
For both ends of the uplink. It knows nothing of what is sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

#: Bytes that a transport gets at a time. When it asks for more, the peer has read some.
PIECE: Final = 64 * 1024
#: Bytes of answers that may wait once a connection is full. Beyond that, nothing more is read from a peer that does not
#: read its answers. What filled the connection, such as a result, is not counted, nor is what nobody asked for: a peer
#: may send before it reads, and two that both do so must not wait for each other.
MAX_BEHIND: Final = 256 * 1024


class Source(Protocol):
    """Something long to send, whose bytes are made when the transport takes them."""

    def __len__(self) -> int:
        """The bytes that are left."""

    def take(self, most: int) -> bytes:
        """The next bytes of it, *most* of them or, at its end, fewer."""


class FlowOwner(Protocol):
    """The connection that a `Flow` is part of."""

    def on_full(self) -> None:
        """Something waits: the peer should read it in time."""

    def on_taken(self) -> None:
        """The peer has read some of it, or the connection has ended."""

    def on_behind(self, on: bool) -> None:
        """Whether so many answers wait that nothing should be read from the peer now."""


@implementer(IPushProducer)
class Flow:
    """
    What waits to be sent on one connection.

    It is to be registered with the transport as a producer: the transport then says when too much waits in it, and when
    all of that has left.

    :param write: gives bytes to the transport.
    :ivar writable: whether more should be sent now. What is sent nevertheless waits here, in order.
    """

    def __init__(self, write: Callable[[bytes], None], owner: FlowOwner) -> None:
        self.writable = True
        self._write = write
        self._owner = owner
        self._ended = False
        #: Whether the transport takes more.
        self._taking = True
        self._queue: deque[bytes | memoryview | Source] = deque()
        #: Bytes of answers that were sent since the connection is full.
        self._behind = 0
        self._waiting: deque[Deferred[None]] = deque()

    def send(self, data: bytes | Source, *, answer: bool = True) -> None:
        """
        Send *data* after all before it.

        :param answer: whether the peer may have caused it: then it is counted for `MAX_BEHIND`.
        """
        if self.writable and isinstance(data, bytes) and len(data) <= PIECE:
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
        """A Deferred that fires when more may be sent, or the connection has ended. It may be cancelled."""
        if self.writable:
            return succeed(None)
        waiting: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(waiting)
        return waiting

    def end(self) -> None:
        """The connection is about to end: give the rest to the transport, and let nobody wait any more."""
        self._ended = True
        self.resumeProducing()

    # IPushProducer

    def pauseProducing(self) -> None:
        """Too much waits in the transport."""
        if not self._ended:
            self._taking = False
            self._fill()

    def resumeProducing(self) -> None:
        """All of it has left. Those who wait go on, one after another, until the connection is full again."""
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
            if not isinstance(data, bytes | memoryview):
                piece = data.take(PIECE)
                if len(data):
                    self._queue.appendleft(data)
                self._write(piece)
                continue
            if len(data) > PIECE:
                whole = memoryview(data)
                self._queue.appendleft(whole[PIECE:])
                data = whole[:PIECE]
            self._write(bytes(data))
