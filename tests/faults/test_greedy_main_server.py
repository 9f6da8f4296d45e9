"""
Main servers that send as fast as the relay takes it, and read nothing, or want all of it written down: what the relay
keeps has a bound, and so has its log.
"""

from __future__ import annotations

import os
import socket
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
#: Bytes by which memory may grow, and the log.
MOST_MEMORY = 64 * MIB
MOST_LOG = 1 * MIB
#: Seconds in which a relay that is not read from reads no more itself, and for how long it is seen to do nothing.
SOON, STILL = 30.0, 0.5
#: What the WebSocket calls its kinds of messages (RFC 6455, 5.2).
TEXT, PING = 1, 9

#: The bytes that go out for a number.
Frames = Callable[[int], bytes]


@implementer(IPushProducer)
class GreedyServer(WebSocketServerProtocol):
    """
    Speaks a dialect until the relay has joined, and then sends without an end.

    :ivar sent: bytes that went out in that way.
    :ivar heard: messages that came.
    :ivar pongs: answers to pings of the WebSocket that came.
    """

    transport: Any

    def __init__(self, dialect: Any) -> None:
        super().__init__()
        self.dialect = dialect
        self.joined = self.flooding = self.full = False
        self.sent = self.heard = self.pongs = 0
        self._numbers = count()
        self._frames: Frames = lambda _: b""

    def onOpen(self) -> None:
        self._take(self.dialect.opened())

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.heard += 1
        if not self.joined:
            self._take(self.dialect.receive_text(payload.decode()))

    def onPong(self, payload: bytes) -> None:
        self.pongs += 1

    def _take(self, events: Any) -> None:
        for frame in self.dialect.frames_to_send():
            self.sendMessage(frame.encode())
        self.joined = self.joined or any(isinstance(event, Connected) for event in events)

    def begin(self, frames: Frames, *, reads: bool) -> None:
        """Send what *frames* makes of each number."""
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
            data = self._frames(next(self._numbers))
            self.sent += len(data)
            self.transport.write(data)
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
        self.addCleanup(lambda: server.transport and server.transport.abortConnection())
        # Little waits in the kernel: what a relay is not rid of shows soon.
        port.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
        port.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.relay: Relayd = self.make_relay(
            f"http://127.0.0.1:{port.getHost().port}", "--dialect", dialect.NAME, *options
        )
        await self.until(lambda: server.joined and "Connected to" in self.relay.log, "it has joined")
        return server

    def memory(self) -> int:
        """Bytes of physical memory that the relay takes (proc(5), VmRSS)."""
        status = Path(f"/proc/{self.relay.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024

    def cpu(self) -> float:
        """Seconds of processor time that the relay has taken (proc(5), /proc/PID/stat)."""
        fields = Path(f"/proc/{self.relay.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def endures(self, server: GreedyServer, frames: Frames, *, most: int = 0) -> None:
        """
        It grows by no more than it may, in memory and log, and the connection is as it was.

        :param most: bytes to send to a relay that is read from; 0: it is not, and has to read no more itself.
        """
        await self.sleep(0.5)
        before, logged = self.memory(), len(self.relay.log)
        server.begin(frames, reads=most > 0)
        first, end = server.sent, self.reactor.seconds() + SOON
        idle = False
        while server.sent - first < most if most else not idle:
            used = self.cpu()
            await self.sleep(0.05 if most else STILL)
            idle = server.full and self.cpu() - used < STILL / 10
            self.assertLess(self.memory() - before, MOST_MEMORY, f"{server.sent / MIB:.0f} MiB were sent")
            self.assertTrue(most or self.reactor.seconds() < end, f"it still reads, after {server.sent / MIB:.0f} MiB")
        server.end()
        if most:
            server.sendPing(b"all of it?")
            await self.until(lambda: server.pongs, "it has read all of it")
            self.assertLess(self.memory() - before, MOST_MEMORY, f"{server.sent / MIB:.0f} MiB were sent")
            server.pongs = 0
        self.assertLess(len(self.relay.log) - logged, MOST_LOG)
        self.assertEqual(server.state, server.STATE_OPEN, self.relay.log[-2000:])
        self.assertNotIn("Traceback", self.relay.log)
        heard = server.heard
        server.transport.resumeProducing()
        await self.until(lambda: server.heard > heard or most, "what waited comes")


def frame(payload: bytes, opcode: int = TEXT) -> bytes:
    """A message of the WebSocket as a server sends it (RFC 6455, 5.2)."""
    size = len(payload)
    length = (
        bytes([size]) if size < 126 else b"\x7e" + size.to_bytes(2) if size < 1 << 16 else b"\x7f" + size.to_bytes(8)
    )
    return bytes([0x80 | opcode]) + length + payload


#: Stands for the number in what is sent.
NUMBER = "@" * 10


@unchecked()
def event(dialect: Any, name: str, data: object) -> Frames:
    """Frames of an event; in Socket.IO, one that asks for an acknowledgement."""
    codec: Any = native.NativeServerDialect() if dialect is native else socketio.SocketIOServerDialect()
    codec._ack_ids = count(1) if dialect is socketio else None
    codec.request(name, data)
    (made,) = codec.frames_to_send()
    whole = frame(bytes(made.encode()))
    return lambda number: whole.replace(NUMBER.encode(), b"%010d" % number)


def order(command_id: str = NUMBER, **fields: object) -> dict[str, object]:
    """An order that the site forbids."""
    where = {"commandId": command_id, "serverId": 1, "host": "127.0.0.1", "port": 1, "username": "u"}
    return {**where, "password": "p", "command": "id", **fields}


class UnreadTests(GreedyCase):
    """It reads nothing of what it has asked for: soon the relay reads no more, either."""

    async def test_pings_of_the_websocket(self) -> None:
        server = await self.join(native)
        question = event(native, "command_status", {"commandId": "x"})(0)
        await self.endures(server, lambda _: frame(b"are you there?", PING) + question)

    async def test_pings_of_engine_io(self) -> None:
        server = await self.join(socketio)
        await self.endures(server, lambda _: frame(b"2") * 20)

    async def test_questions(self) -> None:
        for dialect in (socketio, native):
            server = await self.join(dialect)
            await self.endures(server, event(dialect, "command_status", {"commandId": "x" * 256}))

    async def test_orders_that_are_refused(self) -> None:
        """In the other dialect nothing is an answer to them but results, of which it holds a few and sends none."""
        server = await self.join(socketio, "--deny-hosts", "127.0.0.1")
        await self.endures(server, event(socketio, "execute_command", order()))

    async def test_orders_that_make_no_sense(self) -> None:
        server = await self.join(socketio)
        await self.endures(server, event(socketio, "execute_command", malformed({"commandId": NUMBER})))


class LongTests(GreedyCase):
    """It reads, and what it sends is large."""

    async def test_a_name_of_6_mb(self) -> None:
        server = await self.join(native)
        for name in ("username", "privateKey", "commandId"):
            huge = event(native, "execute_command", malformed(order("1", **{name: "x" * (6 * MIB)})))(0)
            await self.endures(server, lambda _, huge=huge: huge, most=80 * MIB)  # type: ignore[misc]
            self.assertNotIn("x" * 1000, self.relay.log)

    async def test_what_is_refused_is_written_a_few_times(self) -> None:
        """Each line as long as it can be; and no receipt ever comes for a refusal."""
        server = await self.join(socketio, "--deny-hosts", "*")
        receipt = event(socketio, "command_result_received", {"success": True})(0)
        long = order(NUMBER.rjust(256, "0"), username="u" * 255, host="h" * 255)
        refused = event(socketio, "execute_command", long)
        await self.endures(server, lambda number: refused(number) if number else receipt, most=3 * MIB)
        self.assertIn("Refused command", self.relay.log)

    async def test_orders_with_much_to_read(self) -> None:
        """They are valid; the host takes the connection and does not go on, so that they wait: 24 MiB of them."""
        silent = self.reactor.listenTCP(0, _silence(), interface="127.0.0.1")
        self.addCleanup(silent.stopListening)
        server = await self.join(native)
        data = order(port=silent.getHost().port, stdin="x" * (6 * MIB))
        await self.endures(server, event(native, "execute_command", data), most=80 * MIB)


def _silence() -> Any:
    from twisted.internet.protocol import Factory, Protocol

    factory = Factory.forProtocol(Protocol)
    factory.noisy = False
    return factory
