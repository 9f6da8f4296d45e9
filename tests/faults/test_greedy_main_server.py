"""
Main servers that send as fast as the relay takes it, and read nothing, or want all of it written down: what the relay
keeps has a bound, and so has its log.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from relayd.wire.dialects import native, socketio
from relayd.wire.dialects.events import Connected
from tests.support.faults import FaultCase
from tests.support.relays import Relayd
from tests.support.schemas import malformed, unchecked

MIB = 1 << 20
#: How long it goes on, in seconds: what may be written in a minute may be written in these.
SECONDS = 4.0
#: Bytes by which memory may grow, and the log within a minute.
MOST_MEMORY = 64 * MIB
MOST_LOG = 1 * MIB

Frames = Callable[[int], list[bytes]]


@implementer(IPushProducer)
class GreedyServer(WebSocketServerProtocol):
    """
    Speaks a dialect until the relay has joined, and then sends without an end.

    :ivar sent: bytes that went out in that way.
    :ivar heard: messages that came.
    """

    transport: Any

    def __init__(self, dialect: Any) -> None:
        super().__init__()
        self.dialect = dialect
        self.joined = self.flooding = self.full = False
        self.sent = self.heard = 0
        self._numbers = count()
        self._frames: Frames = lambda _: []

    def onOpen(self) -> None:
        self._take(self.dialect.opened())

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.heard += 1
        if not self.joined:
            self._take(self.dialect.receive_text(payload.decode()))

    def _take(self, events: Any) -> None:
        for frame in self.dialect.frames_to_send():
            self.sendMessage(frame.encode())
        self.joined = self.joined or any(isinstance(event, Connected) for event in events)

    def begin(self, frames: Frames, *, reads: bool) -> None:
        """Send what *frames* makes of each number; each is a message but for an empty one, which is a ping."""
        self._frames = frames
        if not reads:
            self.transport.pauseProducing()
        self.flooding = True
        self.transport.registerProducer(self, True)
        self.resumeProducing()

    def end(self) -> None:
        """No more."""
        self.flooding = False
        self.transport.unregisterProducer()

    # IPushProducer

    def pauseProducing(self) -> None:
        self.full = True

    def resumeProducing(self) -> None:
        self.full = False
        self._more()

    stopProducing = pauseProducing

    def _more(self) -> None:
        # in turns: the test has to look, too
        for _ in range(50):
            if self.full or not self.flooding:
                return
            for frame in self._frames(next(self._numbers)):
                self.sent += len(frame) + 2
                if frame:
                    self.sendMessage(frame)
                else:
                    self.sendPing(b"are you there?")
        from twisted.internet import reactor

        reactor.callLater(0, self._more)


class GreedyCase(FaultCase):
    async def join(self, dialect: Any, *options: str) -> GreedyServer:
        """A relay, and the main server that it has joined."""
        server = GreedyServer(
            socketio.SocketIOServerDialect(ping_interval=60.0) if dialect is socketio else native.NativeServerDialect()
        )
        factory = WebSocketServerFactory(reactor=self.reactor)
        factory.noisy = False
        factory.setProtocolOptions(openHandshakeTimeout=0, closeHandshakeTimeout=0)
        factory.protocol = lambda: server  # type: ignore[assignment]  # each of them has one relay, and it stays
        port = self.reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        self.relay: Relayd = self.make_relay(
            f"http://127.0.0.1:{port.getHost().port}", "--dialect", dialect.NAME, *options
        )
        await self.until(lambda: server.joined and "Connected to" in self.relay.log, "it has joined")
        return server

    def memory(self) -> int:
        """Bytes of physical memory that the relay takes (proc(5), VmRSS)."""
        status = Path(f"/proc/{self.relay.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024

    async def endures(self, server: GreedyServer, frames: Frames, *, reads: bool = False) -> None:
        """It grows by no more than it may, in memory and log, and the connection is as it was."""
        await self.sleep(1)
        before, logged = self.memory(), len(self.relay.log)
        server.begin(frames, reads=reads)
        most, end = before, self.reactor.seconds() + SECONDS
        while self.reactor.seconds() < end:
            await self.sleep(0.1)
            most = max(most, self.memory())
        server.end()
        self.assertLess(most - before, MOST_MEMORY, f"{server.sent / MIB:.0f} MiB were sent")
        self.assertLess(len(self.relay.log) - logged, MOST_LOG)
        self.assertEqual(server.state, server.STATE_OPEN, self.relay.log[-2000:])
        self.assertNotIn("Traceback", self.relay.log)
        heard = server.heard
        server.transport.resumeProducing()
        await self.until(lambda: server.heard > heard or reads, "what waited comes")
        await self.relay.remove()
        await self.until(lambda: server.state == server.STATE_CLOSED, "it is gone")


@unchecked()
def event(dialect: Any, name: str, data: object, number: int) -> bytes:
    """The frame of an event; in Socket.IO, one that asks for an acknowledgement."""
    codec: Any = native.NativeServerDialect() if dialect is native else socketio.SocketIOServerDialect()
    codec._ack_ids = count(number) if dialect is socketio else None
    codec.request(name, data)
    (frame,) = codec.frames_to_send()
    return bytes(frame.encode())


def order(number: int, **fields: object) -> dict[str, object]:
    """An order that the site forbids."""
    where = {"commandId": f"c{number}", "serverId": 1, "host": "127.0.0.1", "port": 1, "username": "u"}
    return {**where, "password": "p", "command": "id", **fields}


class UnreadTests(GreedyCase):
    """It reads nothing of what it has asked for."""

    async def test_pings_of_the_websocket(self) -> None:
        server = await self.join(native)
        await self.endures(server, lambda number: [b"", event(native, "command_status", {"commandId": "x"}, number)])

    async def test_pings_of_engine_io(self) -> None:
        server = await self.join(socketio)
        await self.endures(server, lambda _: [b"2"])

    async def test_questions(self) -> None:
        for dialect in (socketio, native):
            server = await self.join(dialect)
            frames = lambda number, d=dialect: [event(d, "command_status", {"commandId": "x" * 256}, number)]  # noqa: E731
            await self.endures(server, frames)

    async def test_orders_that_are_refused(self) -> None:
        for dialect in (socketio, native):
            server = await self.join(dialect, "--deny-hosts", "127.0.0.1")
            frames = lambda number, d=dialect: [event(d, "execute_command", order(number), number)]  # noqa: E731
            await self.endures(server, frames)

    async def test_orders_that_make_no_sense(self) -> None:
        server = await self.join(socketio)
        await self.endures(
            server, lambda number: [event(socketio, "execute_command", malformed({"commandId": f"c{number}"}), number)]
        )


class LongTests(GreedyCase):
    """It reads, and what it sends is large."""

    async def test_a_name_of_6_mb(self) -> None:
        for name in ("username", "privateKey", "commandId"):
            server = await self.join(native)
            huge = event(native, "execute_command", malformed(order(1, **{name: "x" * (6 * MIB)})), 1)
            await self.endures(server, lambda _, frame=huge: [frame], reads=True)  # type: ignore[misc]
            self.assertNotIn("x" * 1000, self.relay.log)

    async def test_what_is_refused_is_written_a_few_times(self) -> None:
        """Each line as long as it can be; and no receipt ever comes for a refusal."""
        server = await self.join(socketio, "--deny-hosts", "*")
        receipt = event(socketio, "command_result_received", {"success": True}, 0)
        fields = {"username": "u" * 255, "host": "h" * 255}

        def frames(number: int) -> list[bytes]:
            if number == 0:
                return [receipt]
            data = order(number, commandId=f"{number:0256}", **fields)
            return [event(socketio, "execute_command", data, number)]

        await self.endures(server, frames, reads=True)
        self.assertIn("Refused command", self.relay.log)

    async def test_orders_with_much_to_read(self) -> None:
        """They are valid; the host takes the connection and does not go on, so that they wait: 24 MiB of them."""
        silent = self.reactor.listenTCP(0, _silence(), interface="127.0.0.1")
        self.addCleanup(silent.stopListening)
        server = await self.join(native)
        port = silent.getHost().port
        numbers = iter(range(10**9))
        text = "x" * (6 * MIB)

        def frames(_: int) -> list[bytes]:
            return [event(native, "execute_command", order(next(numbers), port=port, stdin=text), 0)]

        await self.endures(server, frames, reads=True)


def _silence() -> Any:
    from twisted.internet.protocol import Factory, Protocol

    factory = Factory.forProtocol(Protocol)
    factory.noisy = False
    return factory
