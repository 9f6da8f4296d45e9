"""
Somebody between a client and a real SSH server, who passes on what both send and may change what comes from the server.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure

from relayd.ssh.transport.numbers import MSG_NEWKEYS


class Middle(Protocol):
    """
    One connection of a client; this class itself changes nothing.

    :ivar sealed: whether the server's packets are encrypted now.
    """

    factory: Any
    transport: Any
    sealed = False

    # To be replaced

    def version(self, line: bytes) -> bytes:
        """What becomes of the server's version."""
        return line

    def plain(self, packet: bytes) -> bytes:
        """What becomes of one of its packets before there are keys; its number is at index 5."""
        return packet

    def after_keys(self, data: bytes) -> bytes:
        """What becomes of what it sends after them, as it arrives."""
        return data

    # How it works

    def connectionMade(self) -> None:
        self.factory.connections.append(self)
        self._rest = b""
        self._spoke = False
        self._client_said: list[bytes] = []
        self._server: Any = None
        connected: Deferred[Any] = connectProtocol(
            TCP4ClientEndpoint(self.factory.reactor, "127.0.0.1", self.factory.server_port), _Upstream(self)
        )
        connected.addCallback(self._connected)

    def _connected(self, upstream: _Upstream) -> None:
        self._server = upstream.transport
        self._server.write(b"".join(self._client_said))

    def dataReceived(self, data: bytes) -> None:
        if self._server is None:
            self._client_said.append(data)
        else:
            self._server.write(data)

    def server_said(self, data: bytes) -> None:
        if self.sealed:
            self.transport.write(self.after_keys(data))
            return
        data = self._rest + data
        if not self._spoke:
            line, end, data = data.partition(b"\n")
            if not end:
                self._rest = line
                return
            self._spoke = True
            self.transport.write(self.version(line + end))
        while len(data) >= 4 and len(data) >= (size := 4 + int.from_bytes(data[:4], "big")):
            packet, data = data[:size], data[size:]
            self.transport.write(self.plain(packet))
            if packet[5] == MSG_NEWKEYS:
                self.sealed = True
                self._rest = b""
                if data:
                    self.transport.write(self.after_keys(data))
                return
        self._rest = data

    def connectionLost(self, reason: Failure | None = None) -> None:
        self.factory.connections.remove(self)
        if self._server is not None:
            self._server.abortConnection()


class _Upstream(Protocol):
    def __init__(self, middle: Middle) -> None:
        self._middle = middle

    def dataReceived(self, data: bytes) -> None:
        self._middle.server_said(data)

    def connectionLost(self, reason: Failure | None = None) -> None:
        self._middle.transport.loseConnection()


class MiddleServer(Factory):
    """
    Listens on a free port of the loopback interface.

    :param server_port: of the real server.
    :ivar connections: those that are open.
    """

    def __init__(self, reactor: Any, kind: type[Middle], server_port: int) -> None:
        self.reactor = reactor
        self.protocol = kind
        self.server_port = server_port
        self.connections: list[Middle] = []
        self._listening = reactor.listenTCP(0, self, interface="127.0.0.1")
        self.port: int = self._listening.getHost().port

    def stop(self) -> Deferred[None] | None:
        """Stop listening; the connections go with the client's."""
        stopped: Deferred[None] | None = self._listening.stopListening()
        return stopped
