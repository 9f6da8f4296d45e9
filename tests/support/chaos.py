"""
A TCP proxy in the test's own process, whose faults are switched on and off while connections run through it.

Both directions of a connection are `Pipe`\\ s with faults of their own; the proxy's ``up`` and ``down`` are what new
connections begin with.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Any, Literal

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.interfaces import IDelayedCall, IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from zope.interface import implementer

End = Literal["rst", "fin"]
#: asm-generic/socket.h; Python's `socket` does not have it.
_SO_ATTACH_FILTER = 26

#: Bytes that wait in a pipe before it reads no more from its source.
HIGH_WATER = 1 << 18


class Faults:
    """
    What a direction does to the bytes that pass.

    :ivar stopped: it reads nothing, passes nothing, and notices nothing: a black hole, as a cable that was pulled.
    :ivar delay: seconds by which each byte comes later.
    :ivar tap: is shown all that passes.
    :ivar piece: bytes that pass at a time (0: as they come), and ``pause``: seconds between two of them.
    """

    def __init__(self) -> None:
        self.stopped = False
        self.tap: Callable[[bytes], object] = len
        self.delay = 0.0
        self.piece = 0
        self.pause = 0.0
        self._left: int | None = None
        self._then: Callable[[Pipe], object] = Pipe.stop

    def stop(self) -> None:
        """Be a black hole."""
        self.stopped = True

    def drip(self, pause: float = 0.0) -> None:
        """One byte at a time, each in a segment of its own."""
        self.piece, self.pause = 1, pause

    def throttle(self, rate: int) -> None:
        """*rate* bytes a second."""
        self.piece = max(1, rate // 20)
        self.pause = self.piece / rate

    def after(self, count: int, then: Callable[[Pipe], object]) -> None:
        """Let *count* more bytes pass, and call *then* before the next."""
        self._left, self._then = count, then

    def cut_after(self, count: int, end: End = "rst") -> None:
        """Let *count* more bytes pass, and then cut the connection."""
        self.after(count, lambda pipe: pipe.cut(end))

    def heal(self) -> None:
        """Pass everything as it comes, first what has been waiting."""
        Faults.__init__(self)

    def copy_to(self, other: Faults) -> None:
        """Give *other* the same faults."""
        vars(other).update(vars(self))


class Pipe(Faults):
    """
    One direction of a connection.

    :ivar passed: bytes that went through.
    """

    def __init__(self, link: Link) -> None:
        self.passed = 0
        self._link = link
        self._source: Any = None
        self._target: Any = None
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._size = 0
        self._ended = False
        self._call: IDelayedCall | None = None
        super().__init__()

    def stop(self) -> None:
        """Be a black hole."""
        super().stop()
        self._flow()

    def heal(self) -> None:
        """Pass everything as it comes, first what has been waiting."""
        Faults.heal(self)
        self._pump()

    def inject(self, data: bytes) -> None:
        """Send the target what the source never said."""
        self._target.write(data)

    def cut(self, end: End = "rst") -> None:
        """As `Link.cut`."""
        self._link.cut(end)

    def half_close(self) -> None:
        """Tell the target that nothing more comes; the other direction goes on."""
        self._target.loseWriteConnection()

    # How it works

    def attach(self, source: Any, target: Any) -> None:
        """Both ends are connected."""
        self._source, self._target = source, target
        self._pump()

    def received(self, data: bytes) -> None:
        """The source said *data*."""
        self._waiting.append((_now() + self.delay, data))
        self._size += len(data)
        self._pump()

    def ended(self) -> None:
        """The source says nothing more."""
        self._ended = True
        self._pump()

    def halt(self) -> None:
        """The connection is gone."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _flow(self) -> None:
        if self._source is None or self._ended:
            return
        if self.stopped or self._size > HIGH_WATER:
            self._source.pauseProducing()
        else:
            self._source.resumeProducing()

    def _pump(self) -> None:
        self._flow()
        if self._target is None or self._call is not None or self._link.over:
            return
        while self._waiting and not self.stopped:
            due, data = self._waiting[0]
            if due > _now():
                self._later(due - _now())
                return
            self._waiting.popleft()
            limits = [limit for limit in (self.piece, self._left) if limit]
            data, rest = data[: min(limits, default=len(data))], data[min(limits, default=len(data)) :]
            if rest:
                self._waiting.appendleft((due, rest))
            self._pass(data)
            if self._link.over:
                return
            if self.piece:
                self._later(self.pause)
                return
        if self._ended and not self.stopped:
            self._link.side_ended(self)

    def _later(self, seconds: float) -> None:
        from twisted.internet import reactor

        def again() -> None:
            self._call = None
            self._pump()

        self._call = reactor.callLater(seconds, again)

    def _pass(self, data: bytes) -> None:
        self._size -= len(data)
        self.passed += len(data)
        self.tap(data)
        self._target.write(data)
        if self._left is not None:
            self._left -= len(data)
            if self._left == 0:
                self._left = None
                self._then(self)


class Link:
    """
    One connection through the proxy.

    :ivar up: from the client to the server; ``down`` from the server to the client.
    :ivar over: whether it has ended, for at least one of the two.
    """

    def __init__(self, proxy: ChaosProxy) -> None:
        self.over = False
        self.up, self.down = Pipe(self), Pipe(self)
        proxy.up.copy_to(self.up)
        proxy.down.copy_to(self.down)
        self.client, self.server = _Side(self, self.up), _Side(self, self.down)
        self._proxy = proxy
        self._ended: set[Pipe] = set()
        self._lost = False

    def stop(self) -> None:
        """Be a black hole in both directions: for either end the other one seems to be there."""
        self.up.stop()
        self.down.stop()

    def drop_packets(self) -> None:
        """
        Be gone for the client, as a machine without power: its packets are not acknowledged, and nothing comes back.

        Source: socket(7), SO_ATTACH_FILTER, with the filter "take nothing of any packet".
        """
        self.stop()
        take_nothing = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # struct sock_filter
        program = struct.pack("HP", 1, ctypes.addressof(take_nothing))  # struct sock_fprog
        self.client.transport.getHandle().setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)

    def heal(self) -> None:
        """Pass everything as it comes, both ways."""
        self.up.heal()
        self.down.heal()
        if self._lost:
            self.cut()

    def cut(self, end: End = "rst") -> None:
        """End it for both, with a reset or in good order."""
        if self.over:
            return
        self.over = True
        for side in (self.client, self.server):
            if side.transport is not None:
                (side.transport.abortConnection if end == "rst" else side.transport.loseConnection)()
        self._close()

    # How it works

    def connect(self) -> None:
        """Find the server; the client has connected."""
        connected: Deferred[Any] = connectProtocol(self._proxy.endpoint(), self.server)
        connected.addCallbacks(lambda _: self._connected(), lambda _: self.cut())

    def _connected(self) -> None:
        if self.over:
            self.server.transport.abortConnection()
            return
        self.up.attach(self.client.transport, self.server.transport)
        self.down.attach(self.server.transport, self.client.transport)

    def side_ended(self, pipe: Pipe) -> None:
        """All that one side had to say has arrived."""
        self._ended.add(pipe)
        pipe.half_close()
        if len(self._ended) == 2:
            self.cut("fin")

    def side_lost(self, side: _Side) -> None:
        """One side is gone, and can be told nothing."""
        self._lost = True
        if not (self.up if side is self.client else self.down).stopped:
            self.cut()

    def _close(self) -> None:
        self.up.halt()
        self.down.halt()
        if self in self._proxy.links:
            self._proxy.links.remove(self)


@implementer(IHalfCloseableProtocol)
class _Side(Protocol):
    """The connection to one of the two."""

    transport: Any = None

    def __init__(self, link: Link, pipe: Pipe) -> None:
        self._link = link
        self._pipe = pipe

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)
        if self._pipe.stopped:
            self.transport.pauseProducing()

    def dataReceived(self, data: bytes) -> None:
        self._pipe.received(data)

    def readConnectionLost(self) -> None:
        self._pipe.ended()

    def writeConnectionLost(self) -> None:
        """We ended it ourselves."""

    def connectionLost(self, reason: Failure | None = None) -> None:
        self._link.side_lost(self)


class ChaosProxy(Factory):
    """
    Listens on a free port of the loopback interface.

    :param port: of the server, on the loopback interface; may be changed for the connections to come.
    :ivar links: the connections that are open, oldest first.
    :ivar accepted: how many there ever were.
    :ivar up: faults that new connections begin with, on the way to the server; ``down`` on the way back.
    :ivar holding: whether new connections are accepted and then left alone, see `release`.
    """

    noisy = False

    def __init__(self, port: int) -> None:
        self.server_port = port
        self.port = 0
        self.links: list[Link] = []
        self.accepted = 0
        self.up, self.down = Faults(), Faults()
        self.holding = False
        self._held: list[Link] = []
        self._listening: Any = None

    def start(self) -> int:
        """
        Listen, on the same port as before where there was one.

        :return: the port.
        """
        from twisted.internet import reactor  # trial's, which is chosen before any test runs

        listener: Any = reactor
        self._listening = listener.listenTCP(self.port, self, interface="127.0.0.1")
        self.port = self._listening.getHost().port
        return self.port

    async def stop(self) -> None:
        """Reset all connections, and listen no more."""
        if self._listening is not None:
            listening, self._listening = self._listening, None
            await listening.stopListening()
        for link in list(self.links):
            link.cut()
        from twisted.internet import reactor

        await deferLater(reactor, 0)  # resets are sent in the next turn

    @property
    def newest(self) -> Link:
        """The connection made last of those that are open."""
        return self.links[-1]

    def release(self) -> None:
        """Pass on what was held, and hold no more."""
        self.holding = False
        held, self._held = self._held, []
        for link in held:
            link.connect()

    # How it works

    def buildProtocol(self, addr: object) -> Protocol:
        self.accepted += 1
        link = Link(self)
        self.links.append(link)
        if self.holding:
            self._held.append(link)
        else:
            link.connect()
        return link.client

    def endpoint(self) -> TCP4ClientEndpoint:
        """The server's."""
        from twisted.internet import reactor

        return TCP4ClientEndpoint(reactor, "127.0.0.1", self.server_port)


def _now() -> float:
    from twisted.internet import reactor

    return reactor.seconds()
