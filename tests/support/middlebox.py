"""
A proxy in front of a main server that passes plain HTTP on and breaks WebSockets, each in a way that such things have.
"""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha1
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure

#: Answers the request for a WebSocket.
ANSWERS: Final = {
    "400": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    "403": b"HTTP/1.1 403 Forbidden\r\nContent-Type: text/html\r\nContent-Length: 9\r\n\r\n<p>No</p>",
    "200": b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 9\r\n\r\n<p>Hi</p>",
    "502": b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",
}


class Middlebox(Factory):
    """
    Listens on a free port of the loopback interface.

    :param mode: one of `ANSWERS`; ``drop``: hangs up on the request; ``silent``: says nothing; ``deaf``: opens the
        WebSocket, and then lets nothing through; ``cut``: opens it and hangs up; ``strip``: takes the headers out that
        ask for it; ``close``: opens any WebSocket by itself and closes it without a code, as gevent's server does where
        nobody wants one; ``probed``: lets the WebSocket through up to the answer to a probe, and then hangs up,
        before anything else comes through; ``open``: breaks nothing.
    :ivar upgrades: requests for a WebSocket that came.
    :ivar polls: other requests that came, by their method.
    :ivar probed: WebSockets that were ended after the answer to a probe.
    :ivar kept: what the main server said elsewhere until the relay has seen that end.
    """

    noisy = False

    def __init__(self, server_port: int, mode: str) -> None:
        from twisted.internet import reactor

        listener: Any = reactor
        self.mode = mode
        self.server_port = server_port
        self.upgrades = 0
        self.polls: list[str] = []
        self.probed = 0
        self.kept: list[tuple[_Near, bytes]] | None = None
        self.connections: list[_Near] = []
        self._listening = listener.listenTCP(0, self, interface="127.0.0.1")
        self.port: int = self._listening.getHost().port

    def buildProtocol(self, addr: object) -> Protocol:
        return _Near(self)

    async def stop(self) -> None:
        """Listen no more, and cut all connections."""
        await self._listening.stopListening()
        for near in list(self.connections):
            near.transport.abortConnection()


class _Near(Protocol):
    """The relay's side of one connection."""

    transport: Any

    def __init__(self, box: Middlebox) -> None:
        self._box = box
        self._far: Any = None
        self._early: list[bytes] = []
        self._dead = False
        self.stopped = False

    def connectionMade(self) -> None:
        self._box.connections.append(self)
        from twisted.internet import reactor

        connected: Deferred[Any] = connectProtocol(
            TCP4ClientEndpoint(reactor, "127.0.0.1", self._box.server_port), _Far(self)
        )
        connected.addCallbacks(self._connected, lambda _: self.transport.abortConnection())

    def _connected(self, far: _Far) -> None:
        self._far = far.transport
        if self._early:
            self._far.write(b"".join(self._early))

    def dataReceived(self, data: bytes) -> None:
        if self._dead:
            return
        if data.startswith((b"GET ", b"POST ")):
            if b"\r\nUpgrade: websocket\r\n" in data:
                data = self._upgrade(data)
            else:
                self._box.polls.append(data.split(b" ", 1)[0].decode())
        if self._far is None:
            self._early.append(data)
        else:
            self._far.write(data)

    def _upgrade(self, data: bytes) -> bytes:
        box = self._box
        box.upgrades += 1
        if box.mode in ANSWERS:
            self._dead = True
            self.transport.write(ANSWERS[box.mode])
        elif box.mode == "close":
            self._dead = True
            self.transport.write(_opened(data) + b"\x88\x00")
        elif box.mode == "drop":
            self.transport.abortConnection()
        elif box.mode == "strip":
            return data.replace(b"Upgrade: websocket\r\nConnection: Upgrade\r\n", b"")
        self.stopped = box.mode == "silent"
        return b"" if self._dead or self.stopped or box.mode == "drop" else data

    def from_server(self, data: bytes) -> None:
        """The main server said *data*."""
        if self.stopped:
            return
        if self._box.kept is not None:
            self._box.kept.append((self, data))
            return
        if data.startswith(b"HTTP/1.1 101 ") and self._box.mode in ("deaf", "cut"):
            self.transport.write(data.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
            self.stopped = self._dead = True
            if self._box.mode == "cut":
                self.transport.loseConnection()
            return
        self.transport.write(data)
        if self._box.mode == "probed" and data.endswith(b"3probe"):
            self._box.probed += 1
            self._box.kept = []
            self.stopped = self._dead = True
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure | None = None) -> None:
        self._box.connections.remove(self)
        if self.stopped and self._box.kept is not None:
            kept, self._box.kept = self._box.kept, None
            for near, data in kept:
                near.transport.write(data)
        if self._far is not None:
            self._far.abortConnection()


def _opened(request: bytes) -> bytes:
    """The answer that opens the WebSocket (RFC 6455, section 4.2.2)."""
    (key,) = re.findall(rb"(?i)sec-websocket-key: (\S+)", request)
    accept = b64encode(sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11", usedforsecurity=False).digest())
    head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
    return head + accept + b"\r\n\r\n"


class _Far(Protocol):
    """The main server's side."""

    def __init__(self, near: _Near) -> None:
        self._near = near

    def dataReceived(self, data: bytes) -> None:
        self._near.from_server(data)

    def connectionLost(self, reason: Failure | None = None) -> None:
        self._near.transport.loseConnection()
