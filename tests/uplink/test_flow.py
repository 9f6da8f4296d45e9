"""
What an uplink carries besides commands and results: output, questions, and how much of it at a time.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory
from twisted.internet import reactor, ssl
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import SSL4ServerEndpoint, TCP4ServerEndpoint
from twisted.internet.interfaces import IListeningPort, IPushProducer
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from relayd.interfaces import ILink
from relayd.network.flow import PIECE
from relayd.uplink.frames import LongText
from relayd.wire.dialects import native, socketio
from relayd.wire.dialects.events import AckReceived, EventReceived
from relayd.wire.messages import CommandOutput
from tests.peers.test_main_servers import PeerCase
from tests.support.certificates import Authority
from tests.support.flows import RecordedFlow
from tests.support.schemas import malformed
from tests.support.uplink import MainServer, ServiceCase

DIALECTS = (socketio, native)


class FlowTests(SynchronousTestCase):
    """`Flow` alone."""

    def setUp(self) -> None:
        self.flow = RecordedFlow()

    def test_interface(self) -> None:
        self.assertTrue(verifyObject(IPushProducer, self.flow))

    def test_writable(self) -> None:
        self.assertTrue(self.flow.writable)
        self.assertIsNone(self.successResultOf(self.flow.when_writable()))

    def test_full(self) -> None:
        self.flow.pauseProducing()
        self.flow.pauseProducing()
        waits = [self.flow.when_writable(), self.flow.when_writable()]
        self.assertFalse(self.flow.writable)
        self.assertNoResult(waits[0])
        self.flow.resumeProducing()
        self.assertEqual([self.successResultOf(waiting) for waiting in waits], [None, None])
        self.assertTrue(self.flow.writable)

    def test_in_turn(self) -> None:
        self.flow.pauseProducing()
        waits = [self.flow.when_writable() for _ in range(3)]
        waits[0].addCallback(lambda _: self.flow.pauseProducing())
        self.flow.resumeProducing()
        self.assertEqual([waiting.called for waiting in waits], [True, False, False])

    def test_bytes_that_are_made_when_the_transport_takes_them(self) -> None:
        """They keep their place among the others."""
        text = LongText(b"x" * (3 * PIECE))
        whole = len(text)
        self.flow.pauseProducing()
        self.flow.send(b"before")
        self.flow.send(text)
        self.flow.send(b"after")
        self.assertEqual((self.flow.sent, len(text)), ([], whole))
        self.flow.resumeProducing()
        self.assertEqual([len(piece) for piece in self.flow.sent], [6, PIECE, PIECE, PIECE, whole - 3 * PIECE, 5])
        # where the transport takes no more, no more is made
        self.flow.sent.clear()
        self.patch(self.flow, "_write", lambda data: [self.flow.sent.append(data), self.flow.pauseProducing()])  # type: ignore[func-returns-value]
        self.flow.send(text := LongText(b"x" * (3 * PIECE)))
        self.assertEqual((len(self.flow.sent), len(text)), (1, whole - PIECE))
        self.assertFalse(self.flow.writable)

    def test_cancelled(self) -> None:
        self.flow.pauseProducing()
        first, second = self.flow.when_writable(), self.flow.when_writable()
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.flow.resumeProducing()
        self.successResultOf(second)

    def test_end(self) -> None:
        """Nobody waits for a connection that is over, whatever its transport says yet."""
        self.flow.pauseProducing()
        waiting = self.flow.when_writable()
        self.flow.stopProducing()
        self.successResultOf(waiting)
        self.flow.pauseProducing()
        self.successResultOf(self.flow.when_writable())


class EventTests(ServiceCase):
    """On the wire, in both dialects."""

    def begin_in(self, dialect: ModuleType) -> tuple[MainServer, Any]:
        stopped = self.service.stopService()
        self.advance(6)
        self.successResultOf(stopped)
        self.receiver.calls.clear()
        self.begin(dialect=dialect.NAME)
        return self.connected(native.NativeServerDialect() if dialect is native else socketio.SocketIOServerDialect())

    def told(self, server: MainServer) -> list[tuple[str, Any]]:
        return [(event.name, event.data) for event in server.events if isinstance(event, EventReceived)]

    def answers(self, server: MainServer) -> list[Any]:
        return [event.data for event in server.events if isinstance(event, AckReceived)]

    def say(self, server: MainServer, pump: Any, name: str, data: object, *, request: bool = False) -> None:
        if request:
            server.dialect.request(name, data)
        else:
            server.dialect.send_event(name, data)
        server.flush()
        pump.flush()

    def test_link(self) -> None:
        self.connected(socketio.SocketIOServerDialect(accepts=5000))
        link = self.receiver.link
        assert link is not None
        self.assertTrue(verifyObject(ILink, link))
        self.assertEqual((link.max_payload, link.writable), (5000, True))

    def test_output(self) -> None:
        for dialect in DIALECTS:
            server, pump = self.begin_in(dialect)
            link = self.receiver.link
            assert link is not None
            for encoding in (None, "base64"):
                link.send_output(
                    CommandOutput(command_id="c1", stream="stderr", offset=9, data="e A==", encoding=encoding)
                )
            pump.flush()
            output = {"commandId": "c1", "stream": "stderr", "offset": 9, "data": "e A=="}
            self.assertEqual(
                self.told(server),
                [("command_output", output), ("command_output", output | {"encoding": "base64"})],
            )

    def test_output_for_a_link_that_is_gone(self) -> None:
        server, pump = self.connected()
        link = self.receiver.link
        assert link is not None
        server.transport.abortConnection()
        pump.flush()
        link.send_output(CommandOutput(command_id="c1", stream="stdout", offset=0, data="x"))
        self.successResultOf(link.when_writable())

    def test_questions_without_an_acknowledgement(self) -> None:
        for dialect in DIALECTS:
            server, pump = self.begin_in(dialect)
            self.say(server, pump, "cancel_command", {"commandId": "c1"})
            self.say(server, pump, "command_status", {"commandId": "c2"})
            self.assertEqual(self.receiver.calls[1:], [("cancel", "c1"), ("status", "c2")])
            self.assertEqual(self.told(server), [("command_status", {"commandId": "c2", "state": "queued"})])
            self.assertEqual(self.answers(server), [])
            self.assertEqual(self.service.ignored, 0)

    def test_questions_with_an_acknowledgement(self) -> None:
        server, pump = self.connected()
        self.say(server, pump, "cancel_command", {"commandId": "c1"}, request=True)
        self.say(server, pump, "command_status", {"commandId": "c2"}, request=True)
        self.assertEqual(
            self.answers(server),
            [{"commandId": "c1", "state": "running"}, {"commandId": "c2", "state": "queued"}],
        )
        self.assertEqual(self.told(server), [])

    def test_questions_that_make_no_sense(self) -> None:
        server, pump = self.connected()
        for name in ("cancel_command", "command_status"):
            for request in (True, False):
                self.say(server, pump, name, malformed({"commandId": ["hunter2"]}, name), request=request)
        self.assertEqual((self.receiver.words(), self.told(server)), (["ready"], []))
        errors = [answer["error"] for answer in self.answers(server)]
        self.assertEqual(len(errors), 2)
        self.assertTrue(
            errors[0].startswith("cancel_command was refused: commandId is neither a string nor a number"), errors
        )
        self.assertEqual(len(self.warnings()), 4)

    def test_receiver_that_raises(self) -> None:
        """It promises not to; but the link does not die of it."""

        def broken(command_id: str) -> None:
            raise ZeroDivisionError

        self.patch(self.receiver, "cancel_received", broken)
        server, pump = self.connected()
        self.say(server, pump, "cancel_command", {"commandId": "c1"}, request=True)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.receiver.words(), ["ready"])

    def full(self, pump: Any) -> Deferred[None]:
        """The transport is full, and somebody waits."""
        pump.client.transport.producer.pauseProducing()
        link = self.receiver.link
        assert link is not None
        self.assertFalse(link.writable)
        waiting = link.when_writable()
        self.assertNoResult(waiting)
        return waiting

    def test_full_transport(self) -> None:
        _, pump = self.connected()
        waiting = self.full(pump)
        pump.client.transport.producer.resumeProducing()
        self.successResultOf(waiting)

    def test_nobody_waits_for_a_connection_that_is_lost(self) -> None:
        server, pump = self.connected()
        waiting = self.full(pump)
        server.transport.abortConnection()
        pump.flush()
        self.successResultOf(waiting)

    def test_nobody_waits_for_a_connection_that_closes(self) -> None:
        """The main server may take its time over the closing handshake, and over what was sent before."""
        server, pump = self.connected()
        server.deaf = True
        waiting = self.full(pump)
        server.sendMessage(b"nonsense")
        pump.flush()
        self.assertEqual(self.receiver.words(), ["ready", "lost"])
        self.successResultOf(waiting)
        self.assertIsNone(pump.client.transport.producer, "TLS would not shut down")
        self.advance(6)


class BackPressureTests(PeerCase):
    """With real transports, and a main server that stops reading."""

    async def serve_here(self, endpoint: Any) -> MainServer:
        """A main server in this process, for one connection."""
        server = MainServer(native.NativeServerDialect())
        factory = WebSocketServerFactory(reactor=reactor)
        factory.protocol = lambda: server  # type: ignore[assignment]
        factory.setProtocolOptions(openHandshakeTimeout=0, closeHandshakeTimeout=0)
        port: IListeningPort = await endpoint.listen(factory)
        self.addCleanup(port.stopListening)
        self.port: int = port.getHost().port  # type: ignore[attr-defined]
        return server

    async def overflow(self, server: MainServer, url: str, **settings: Any) -> None:
        receiver = self.dial(url, dialect="native", **settings)
        link: Any = await receiver.next("ready")
        server.transport.pauseProducing()
        sent = 0
        while link.writable:
            link.send_output(CommandOutput(command_id="c1", stream="stdout", offset=sent, data="x" * 60_000))
            sent += 60_000
            self.assertLess(sent, 2**26, "nobody says that it is full")
            await deferLater(reactor, 0)
        waiting = link.when_writable()
        self.assertFalse(waiting.called)
        server.transport.resumeProducing()
        await waiting.addTimeout(30, reactor)
        self.assertTrue(link.writable)
        while sum(len(event.data["data"]) for event in server.events if isinstance(event, EventReceived)) < sent:
            await deferLater(reactor, 0.005)
        await self.uplink.stopService()

    async def test_tcp(self) -> None:
        server = await self.serve_here(TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"))
        await self.overflow(server, f"http://127.0.0.1:{self.port}")

    async def test_tls(self) -> None:
        authority = Authority(Path(self.mktemp()).resolve())
        certificate = authority.issue("localhost")
        context = ssl.DefaultOpenSSLContextFactory(certificate.key, certificate.cert)
        server = await self.serve_here(SSL4ServerEndpoint(reactor, 0, context, interface="127.0.0.1"))
        await self.overflow(server, f"https://localhost:{self.port}", tls_ca=authority.path)

    async def test_lost_while_full(self) -> None:
        server = await self.serve_here(TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"))
        receiver = self.dial(f"http://127.0.0.1:{self.port}", dialect="native")
        link: Any = await receiver.next("ready")
        server.transport.pauseProducing()
        while link.writable:
            link.send_output(CommandOutput(command_id="c1", stream="stdout", offset=0, data="x" * 60_000))
            await deferLater(reactor, 0)
        waiting = link.when_writable()
        server.transport.abortConnection()
        await waiting.addTimeout(30, reactor)
        await self.uplink.stopService()
