"""
TCP connections in memory: what is written at one end arrives at the other in a later turn of the reactor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IConsumer, IPushProducer, ITCPTransport
from twisted.python.failure import Failure
from zope.interface import implementer

Place = IPv4Address | IPv6Address


@implementer(ITCPTransport, IConsumer, IPushProducer)
class MemoryTransport:
    """
    One end of a connection.

    :param call_soon: has a function called in a later turn of the reactor.
    :ivar protocol: gets what arrives.
    :ivar peer: the other end.
    """

    protocol: Any
    peer: MemoryTransport

    def __init__(self, call_soon: Callable[[Callable[[], object]], object], here: Place, there: Place) -> None:
        self._call_soon = call_soon
        self._here = here
        self._there = there
        self._arrived = bytearray()
        self._delivering = False
        self._paused = False
        #: Whether nothing more may be written here.
        self.disconnecting = False
        #: Why the connection ends here once what has arrived is delivered.
        self._end: Exception | None = None
        self.connected = True

    # ITCPTransport

    def write(self, data: bytes) -> None:
        """Send *data*."""
        if self.connected and not self.disconnecting:
            self.peer.arrive(data)

    def writeSequence(self, data: Any) -> None:
        """Send all of *data*."""
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """Close both ends once everything is delivered."""
        if self.connected and not self.disconnecting:
            self.disconnecting = True
            self.peer.end(ConnectionDone())
            self.end(ConnectionDone())

    def loseWriteConnection(self) -> None:
        """Half-closed connections do not exist here."""
        self.loseConnection()

    def abortConnection(self) -> None:
        """Close both ends at once."""
        if self.connected:
            self.disconnecting = True
            self._arrived.clear()
            self._paused = False
            self.end(ConnectionAborted())
            self.peer.end(ConnectionLost())

    def getHost(self) -> Place:
        """The address here."""
        return self._here

    def getPeer(self) -> Place:
        """The address of the other end."""
        return self._there

    def setTcpNoDelay(self, enabled: bool) -> None:
        """There is no delay."""

    def getTcpNoDelay(self) -> bool:
        """There is no delay."""
        return True

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """There is nothing to keep alive."""

    def getTcpKeepAlive(self) -> bool:
        """There is nothing to keep alive."""
        return False

    # IConsumer: everything is accepted at once, so producers are never paused

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Accept a push producer; pull producers, which wait to be asked, are not supported."""
        if not streaming:
            raise NotImplementedError

    def unregisterProducer(self) -> None:
        """See `registerProducer`."""

    # IPushProducer

    def pauseProducing(self) -> None:
        """Deliver nothing for now."""
        self._paused = True

    def resumeProducing(self) -> None:
        """Deliver again."""
        self._paused = False
        self._deliver_soon()

    def stopProducing(self) -> None:
        """Close."""
        self.loseConnection()

    # What the other end does

    def arrive(self, data: bytes) -> None:
        """Take *data* in."""
        self._arrived += data
        self._deliver_soon()

    def end(self, reason: Exception) -> None:
        """The connection is closed after what has arrived."""
        if self._end is None:
            self._end = reason
            self._deliver_soon()

    def _deliver_soon(self) -> None:
        if not self._delivering and self.connected:
            self._delivering = True
            self._call_soon(self._deliver)

    def _deliver(self) -> None:
        self._delivering = False
        if not self.connected or self._paused:
            return
        if self._arrived:
            data, self._arrived = bytes(self._arrived), bytearray()
            self.protocol.dataReceived(data)
        if self._end is not None and not self._arrived and not self._paused:
            self.connected = False
            self.protocol.connectionLost(Failure(self._end))


def connect(
    call_soon: Callable[[Callable[[], object]], object], client: Any, server: Any, here: Place, there: Place
) -> tuple[MemoryTransport, MemoryTransport]:
    """
    Connect two protocols.

    :param here: the client's address; *there* is the server's.
    :return: the ends of client and server.
    """
    near, far = MemoryTransport(call_soon, here, there), MemoryTransport(call_soon, there, here)
    near.peer, far.peer = far, near
    near.protocol, far.protocol = client, server
    server.makeConnection(far)
    client.makeConnection(near)
    return near, far
