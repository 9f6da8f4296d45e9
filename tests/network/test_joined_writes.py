"""Joined writes, over real TCP and TLS on loopback."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, connectProtocol, wrapClientTLS
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IPushProducer, IReadDescriptor
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import Certificate, PrivateCertificate, optionsForClientTLS, trustRootFromCertificates
from twisted.internet.task import deferLater
from twisted.internet.testing import StringTransport
from twisted.logger import LogEvent, globalLogPublisher
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer

from relayd.network.joined_writes import join_writes
from relayd.network.loop_turns import MOST_EVENTS, turns_of
from tests.support.certificates import Authority

BIG = 64 * 1024


class End(Protocol):
    """One end of a connection, which keeps what comes."""

    def __init__(self, made: Deferred[End] | None = None) -> None:
        self.received = b""
        self.lost: Deferred[BaseException | None] = Deferred()
        self._made = made

    def connectionMade(self) -> None:
        if self._made is not None:
            self._made.callback(self)

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.callback(reason.value)


@implementer(IPushProducer)
class Recorder:
    """A producer that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def pauseProducing(self) -> None:
        self.told.append("pause")

    def resumeProducing(self) -> None:
        self.told.append("resume")

    def stopProducing(self) -> None:
        self.told.append("stop")


class Counted:
    """A socket that keeps the size of what it sends."""

    def __init__(self, whole: socket.socket, sent: list[int]) -> None:
        self._whole = whole
        self._sent = sent

    def send(self, data: bytes) -> int:
        self._sent.append(len(data))
        return self._whole.send(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)


async def _turn() -> None:
    """A whole turn of the loop, with its end."""
    for _ in range(2):
        await deferLater(reactor, 0)


async def _until(condition: Any) -> None:
    while not condition():
        await deferLater(reactor, 0.01)


class TCPTests(TestCase):
    """Over TCP; `TLSTests` takes the same over TLS."""

    async def setUp(self) -> None:  # type: ignore[override]
        self.served = Deferred[End]()
        factory = Factory.forProtocol(lambda: End(self.served))
        port: Any = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(self.server_side(factory))
        self.addCleanup(port.stopListening)
        address = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
        self.client: Any = await connectProtocol(self.client_side(address), End())
        self.server: Any = await self.served
        self.addCleanup(self._end)
        await self._shaken()
        self.assertTrue(join_writes(self.client.transport))
        self.sent: list[int] = []
        self.tcp = self.lowest(self.client.transport)
        self.tcp.socket = Counted(self.tcp.socket, self.sent)

    def server_side(self, factory: Any) -> Any:
        return factory

    def client_side(self, endpoint: Any) -> Any:
        return endpoint

    def lowest(self, transport: Any) -> Any:
        return transport

    async def _shaken(self) -> None:
        """The handshake of TLS, at both ends."""
        self.client.transport.write(b"hello")
        self.server.transport.write(b"hello")
        await _until(lambda: self.client.received and self.server.received)
        await _turn()
        self.client.received = self.server.received = b""

    async def _end(self) -> None:
        for end in (self.client, self.server):
            if not end.lost.called:
                end.transport.abortConnection()
                await end.lost

    async def test_one_write_for_a_turn(self) -> None:
        for piece in (b"a", b"b", b"c"):
            self.client.transport.write(piece)
        self.client.transport.writeSequence([b"d", b"e"])
        self.assertEqual(self.sent, [])
        await _turn()
        self.assertEqual(len(self.sent), 1)
        await _until(lambda: self.server.received == b"abcde")

    async def test_the_socket_is_not_asked_first(self) -> None:
        self.client.transport.write(b"a")
        asked = []
        self.patch(self.tcp, "startWriting", lambda: asked.append(True))
        await _turn()
        self.assertEqual(asked, [])

    async def test_what_the_socket_does_not_take_waits(self) -> None:
        """The producer is paused while the peer does not read, and all arrives in its order."""
        producer = Recorder()
        self.client.transport.registerProducer(producer, True)
        self.server.transport.pauseProducing()
        whole = b""
        for number in range(1000):
            piece = bytes([number % 251]) * BIG
            whole += piece
            self.client.transport.write(piece)
            if number % 10 == 0:
                await _turn()
            if "pause" in producer.told:
                break
        self.assertEqual(producer.told[-1], "pause")
        self.client.transport.write(b"last")
        self.server.transport.resumeProducing()
        await _until(lambda: len(self.server.received) == len(whole) + 4)
        self.assertEqual(self.server.received, whole + b"last")
        await _until(lambda: producer.told[-1] == "resume")
        self.client.transport.unregisterProducer()

    async def test_close_comes_after_what_was_written(self) -> None:
        self.client.transport.write(b"farewell")
        self.client.transport.loseConnection()
        self.assertIsInstance(await self.server.lost, ConnectionDone)
        self.assertEqual(self.server.received, b"farewell")
        self.assertIsInstance(await self.client.lost, ConnectionDone)

    async def test_close_waits_for_a_producer(self) -> None:
        """What it writes after the close is sent."""
        self.client.transport.registerProducer(Recorder(), True)
        self.client.transport.loseConnection()
        self.client.transport.write(b"more")
        await _turn()
        self.client.transport.unregisterProducer()
        await self.server.lost
        self.assertEqual(self.server.received, b"more")

    async def test_unregistering_comes_after_what_was_written(self) -> None:
        self.client.transport.registerProducer(Recorder(), True)
        self.client.transport.write(b"a")
        self.client.transport.unregisterProducer()
        self.client.transport.write(b"b")
        await _until(lambda: self.server.received == b"ab")

    async def test_abort_drops_what_was_written(self) -> None:
        self.client.transport.write(b"never")
        self.client.transport.abortConnection()
        self.assertIsInstance(await self.server.lost, ConnectionLost)
        await self.client.lost
        self.assertEqual(self.server.received, b"")

    async def test_a_producer_that_ends_the_connection(self) -> None:
        """In the middle of a close."""
        producer, transport = Recorder(), self.client.transport
        producer.pauseProducing = transport.abortConnection  # type: ignore[method-assign]
        self.server.transport.pauseProducing()
        while len(self.tcp.dataBuffer) + self.tcp._tempDataLen <= BIG:
            transport.write(bytes(BIG))
        transport.registerProducer(producer, True)
        transport.write(b"a")
        transport.loseConnection()
        await self.client.lost
        self.assertNotIn("loseConnection", vars(transport))

    async def test_a_lost_connection(self) -> None:
        """The error is that of the kernel, and what is written afterwards is dropped."""
        self.server.transport.abortConnection()
        self.client.transport.write(b"into the void")
        self.assertIsInstance(await self.client.lost, ConnectionLost)
        self.client.transport.write(b"more")
        await _turn()
        self.assertEqual(self.server.received, b"")

    async def test_nothing_holds_a_connection_that_has_ended(self) -> None:
        self.server.transport.abortConnection()
        await self.client.lost
        self.assertNotIn("writeSequence", vars(self.client.transport))
        self.assertNotIn("write", vars(self.tcp))


class TLSTests(TCPTests):
    """Over TLS."""

    def setUp(self) -> Any:
        authority = Authority(Path(mkdtemp(dir=".")))
        made = authority.issue("main.example")
        with open(made.cert, "rb") as cert, open(made.key, "rb") as key, open(authority.path, "rb") as root:
            self.own = PrivateCertificate.loadPEM(cert.read() + key.read())
            self.root = Certificate.loadPEM(root.read())
        return super().setUp()

    def server_side(self, factory: Any) -> Any:
        return TLSMemoryBIOFactory(self.own.options(), False, factory, clock=reactor)

    def client_side(self, endpoint: Any) -> Any:
        options = optionsForClientTLS("main.example", trustRootFromCertificates([self.root]))
        return wrapClientTLS(options, endpoint)

    def lowest(self, transport: Any) -> Any:
        return transport.transport


class OtherTransportTests(SynchronousTestCase):
    """What is not a connection of the event loop."""

    def test_other_transports_stay_as_they_are(self) -> None:
        transport = StringTransport()
        self.assertFalse(join_writes(transport))
        transport.write(b"a")
        self.assertEqual(transport.value(), b"a")

    def test_other_reactors(self) -> None:
        self.assertIsNone(turns_of(object()))


class FailingReads(Protocol):
    """Fails at the first bytes."""

    lost: Deferred[BaseException | None]

    def connectionMade(self) -> None:
        self.lost = Deferred()

    def dataReceived(self, data: bytes) -> None:
        raise ValueError("a fault in a protocol")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.callback(reason.value)


@implementer(IReadDescriptor)
class Ready:
    """Something that can always be read, and counts how often the loop asks it to."""

    def __init__(self) -> None:
        self.reads = 0
        self.end, other = socket.socketpair()
        other.close()

    def fileno(self) -> int:
        return self.end.fileno()

    def doRead(self) -> None:
        self.reads += 1

    def connectionLost(self, reason: Any) -> None:
        """Nothing to do."""

    def logPrefix(self) -> str:
        return "ready"


class LoopTurnsTests(TestCase):
    """The event loop, whose turns are told."""

    async def _fail(self) -> tuple[BaseException | None, Any]:
        ours, theirs = socket.socketpair()
        self.addCleanup(theirs.close)
        protocol = FailingReads()
        reactor.adoptStreamConnection(ours.fileno(), socket.AF_UNIX, Factory.forProtocol(lambda: protocol))  # type: ignore[attr-defined]
        ours.close()
        events: list[LogEvent] = []
        keep: Any = events.append
        globalLogPublisher.addObserver(keep)
        self.addCleanup(globalLogPublisher.removeObserver, keep)
        theirs.send(b"a")
        await _until(lambda: hasattr(protocol, "lost"))
        value = await protocol.lost
        self.flushLoggedErrors(ValueError)
        return value, next(event for event in events if event.get("isError"))

    async def test_a_failing_protocol_is_logged_and_loses_its_connection(self) -> None:
        """As with Twisted's own loop."""
        loop: Any = reactor
        turns_of(loop)
        ours = loop.doIteration
        del loop.doIteration
        try:
            expected, expected_event = await self._fail()
        finally:
            loop.doIteration = ours
        value, event = await self._fail()
        self.assertEqual((type(value), str(value)), (type(expected), str(expected)))
        for name in ("log_system", "log_namespace", "log_level", "log_format", "isError", "why"):
            self.assertEqual(event.get(name), expected_event.get(name), name)

    async def test_a_call_that_is_made_last_comes_in_time(self) -> None:
        """The loop does not wait as long as it would have without it."""
        turns, loop = turns_of(reactor), reactor
        assert turns is not None
        called: Deferred[None] = Deferred()
        turns.call_at_end(lambda: loop.callLater(0, called.callback, None))  # type: ignore[attr-defined,arg-type,return-value]
        began = time.monotonic()
        await called.addTimeout(30, loop)  # type: ignore[arg-type]
        self.assertLess(time.monotonic() - began, 25, "until the next event")

    async def test_a_turn_handles_a_few_and_all_get_theirs(self) -> None:
        """Also where each stays ready: none is handled again before all others."""
        turns, loop = turns_of(reactor), reactor
        assert turns is not None
        ready = [Ready() for _ in range(5 * MOST_EVENTS)]
        for each in ready:
            loop.addReader(each)  # type: ignore[attr-defined]
        try:
            for _ in range(7):
                before = sum(each.reads for each in ready)
                await _turn()
                self.assertLessEqual(sum(each.reads for each in ready) - before, 2 * MOST_EVENTS)
            counts = [each.reads for each in ready]
        finally:
            for each in ready:
                loop.removeReader(each)  # type: ignore[attr-defined]
                each.end.close()
        self.assertGreater(min(counts), 0)
        self.assertLessEqual(max(counts) - min(counts), 1)

    async def test_a_failing_step_is_logged_and_the_others_are_taken(self) -> None:
        turns = turns_of(reactor)
        assert turns is not None
        done = []
        turns.call_at_end(lambda: 1 // 0)  # type: ignore[arg-type]
        turns.call_at_end(lambda: done.append(True))
        await _turn()
        self.assertEqual(done, [True])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
