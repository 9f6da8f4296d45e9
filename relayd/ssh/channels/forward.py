"""
A connection to another host through an SSH server: a ``direct-tcpip`` channel, as the transport of a protocol.

Source: RFC 4254, section 7.2; what ``ssh -J`` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import cast

from twisted.conch.ssh.common import NS
from twisted.internet.address import HostnameAddress
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IConsumer, IDelayedCall, IProducer, IProtocol, IPushProducer, ITransport
from twisted.python.failure import Failure
from zope.interface import implementer

from relayd.ssh.channels.channel import State, UsedConnection
from relayd.ssh.transport.pacing import Pacer

#: Seconds that a jump host may take to reach the other host.
OPEN_TIMEOUT = 15.0
#: Bytes that may wait for the jump host before the producer is paused.
MOST_UNSENT = 64 * 1024
#: Packets that may wait for their reader, as all others that come through the same jump host wait behind them. Packets
#: of an SSH server have more than 32 bytes each, and seldom so many fit into a window (`SMALL_WINDOW` of
#: `relayd.ssh.channels.channel`).
MOST_UNREAD = 8192
MOST_TINY_UNREAD = 2048
_TINY = 32


@implementer(ITransport, IConsumer, IPushProducer)
class Forward:
    """
    One channel through which a jump host passes bytes to and from another host.

    More than 25 methods, as it is a `ChannelUser` on one side and a transport, consumer and producer on the other: all
    but a few are prescribed by these interfaces.

    :param host: the other host, as the jump host knows it.
    :param on_open: called when bytes can flow; then is the time to call `connect`.
    :param on_end: called once when they flow no more; without `on_open` before it, the jump host did not answer in
        time.
    """

    kind = b"direct-tcpip"
    stdin = b""
    stdin_open = True

    def __init__(self, host: str, port: int, on_open: Callable[[], None], on_end: Callable[[], None]) -> None:
        self.host = host
        self.port = port
        self.state = State.WAITING
        # The origin of the connection, which a server may log: there is nothing true to say about it.
        self.open_data = NS(host.encode()) + port.to_bytes(4, "big") + NS(b"127.0.0.1") + bytes(4)
        self.disconnecting = False
        self._on_open = on_open
        self._on_end = on_end
        self._connection: UsedConnection | None = None
        self._protocol: IProtocol | None = None
        self._call: IDelayedCall | None = None
        # What arrives while it is not read
        self._paused = False
        self._unread = bytearray()
        self._packets_unread = 0
        self._reading: Deferred[None] | None = None
        self._ended_by: Failure | None = None
        # The writer, while there is one
        self._producer: IPushProducer | None = None
        self._full = False

    def __repr__(self) -> str:
        return f"<Forward to {self.host}:{self.port}>"

    @property
    def pace(self) -> Pacer | None:
        """The pacer of the connection to the jump host, as long as that is open."""
        return None if self._connection is None else self._connection.pace

    def connect(self, protocol: IProtocol) -> None:
        """Make this the transport of *protocol*, now that it is open."""
        self._protocol = protocol
        protocol.makeConnection(self)

    # What the connection reports

    def opening(self, connection: UsedConnection) -> None:
        """See `relayd.ssh.channels.channel.ChannelUser`, for this and the following methods."""
        self.state = State.OPENING
        self._connection = connection
        self._call = connection.clock.callLater(OPEN_TIMEOUT, self._not_opened)

    def when_permitted(self, go: Callable[[], None]) -> None:
        go()

    def opened(self) -> list[bytes]:
        self._cancel_call()
        self.state = State.RUNNING
        self._on_open()
        return []

    def exec_answered(self, accepted: bool) -> bool:
        return True  # nothing was asked

    def received(self, data: bytes, is_stderr: bool) -> Deferred[None] | None:
        if self._protocol is None or is_stderr or self.disconnecting:
            return None
        if not self._paused:
            self._protocol.dataReceived(data)
            return None
        self._packets_unread += 1
        self._unread += data
        if self._packets_unread > MOST_TINY_UNREAD and (
            self._packets_unread > MOST_UNREAD or len(self._unread) < _TINY * self._packets_unread
        ):
            self.abortConnection()
            return None
        self._reading = self._reading or Deferred()
        return self._reading

    def request_received(self, name: bytes, rest: bytes) -> None:
        pass

    def survives(self, eof: bool) -> bool:
        return self.state is State.RUNNING

    def drained(self) -> None:
        full, self._full = self._full, False
        if full and self._producer is not None:
            self._producer.resumeProducing()

    def ended(self) -> None:
        reason = Failure(ConnectionDone() if self.disconnecting else ConnectionLost())
        if self._unread and not self.disconnecting:
            self._ended_by = reason  # what came before the end is read first
        else:
            self._end(reason)

    def _end(self, reason: Failure) -> None:
        if self.state is State.ENDED:
            return
        self.state = State.ENDED
        self._cancel_call()
        self._producer = None
        self._unread.clear()
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            protocol.connectionLost(reason)
        self._on_end()

    def _not_opened(self) -> None:
        self.loseConnection()
        self._end(Failure(ConnectionLost()))

    def _cancel_call(self) -> None:
        call, self._call = self._call, None
        if call is not None and call.active():
            call.cancel()

    # ITransport

    def write(self, data: bytes) -> None:
        """Send *data* on; what the jump host does not take yet waits."""
        if self._connection is not None and not self.disconnecting:
            unsent = self._connection.write(self, data)
            if self._producer is not None and not self._full and unsent > MOST_UNSENT:
                self._full = True
                self._producer.pauseProducing()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """Send all of *data* on; see `write`."""
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """Close. What still waits because the jump host takes no more is not sent."""
        if self._connection is not None and not self.disconnecting:
            self.disconnecting = True
            self._connection.close(self)

    def abortConnection(self) -> None:
        """Close, and report the end to the protocol soon, whatever the jump host does."""
        if self._connection is not None and self._call is None and self.state is State.RUNNING:
            self._call = self._connection.clock.callLater(0, self._end, Failure(ConnectionAborted()))
        self.loseConnection()

    def getPeer(self) -> HostnameAddress:
        """The other host, by the name that the jump host got."""
        return HostnameAddress(self.host.encode(), self.port)

    def getHost(self) -> HostnameAddress:
        """Empty: the relay has no address on that network."""
        return HostnameAddress(b"", 0)

    # IPushProducer: reading

    def pauseProducing(self) -> None:
        """Hold back what arrives; the jump host can send no more than its window."""
        self._paused = True

    def resumeProducing(self) -> None:
        """Give the protocol what has arrived meanwhile, and go on."""
        self._paused = False
        unread, self._unread = bytes(self._unread), bytearray()
        self._packets_unread = 0
        if unread and self._protocol is not None and not self.disconnecting:
            self._protocol.dataReceived(unread)
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.callback(None)
        if self._ended_by is not None and not self._paused:
            self._end(self._ended_by)

    def stopProducing(self) -> None:
        """The protocol reads no more: close."""
        self.loseConnection()

    # IConsumer: writing

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        """Pause *producer* while the jump host does not take what is written."""
        self._producer = cast(IPushProducer, producer)

    def unregisterProducer(self) -> None:
        """There is no producer any more."""
        self._producer = None
