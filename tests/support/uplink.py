"""
A main server in memory, for tests of the uplink service: time by a Clock, the network by iosim.
"""

from __future__ import annotations

from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.protocol import Protocol
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogEvent, LogLevel, formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.test.iosim import FakeTransport, IOPump, connect
from twisted.trial.unittest import SynchronousTestCase

from relayd.uplink.service import UplinkService
from relayd.uplink.settings import UplinkSettings
from relayd.wire.dialects import native, socketio
from relayd.wire.messages import Secret
from tests.support.receiver import RecordingReceiver, echo

KEY = "k3y-" + "x" * 40

#: The data of an ``execute_command``.
ORDER: dict[str, Any] = {
    "commandId": "c1",
    "serverId": 1,
    "host": "192.0.2.1",
    "port": 22,
    "username": "root",
    "password": "hunter2",
    "command": "uname",
}


class MainServer(WebSocketServerProtocol):
    """The real server protocol, with a real dialect, and no will of its own."""

    transport: Any

    def __init__(self, dialect: socketio.SocketIOServerDialect | native.NativeServerDialect) -> None:
        super().__init__()
        self.dialect = dialect
        self.target = ""
        self.events: list[Any] = []
        self.pings = 0
        self.closed: int | None = None
        self.answers_pings = True
        self.deaf = False

    def onConnect(self, request: Any) -> None:
        self.target = request.path + " " + ",".join(sorted(request.params))

    def onOpen(self) -> None:
        self.events += self.dialect.opened()
        self.flush()

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        if self.deaf:
            return
        self.events += self.dialect.receive_text(payload.decode())
        self.flush()

    def onPing(self, payload: bytes) -> None:
        self.pings += 1
        if self.answers_pings:
            super().onPing(payload)

    def onCloseFrame(self, code: Any, reasonRaw: Any) -> Any:
        self.closed = code
        if self.deaf:
            return False
        return super().onCloseFrame(code, reasonRaw)

    def flush(self) -> None:
        for frame in self.dialect.frames_to_send():
            self.sendMessage(frame.encode())


class Scripted(Protocol):
    """Takes the request and answers with these bytes, or with nothing."""

    transport: Any

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.received = b""

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        if self.answer:
            self.transport.write(self.answer)


class ServiceCase(SynchronousTestCase):
    """One service, started; in the end it stops, and has left neither timers nor secrets."""

    dialect = "socketio"

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.receiver = RecordingReceiver(echo)
        self.keys: list[str] = []
        self.pumps: list[IOPump] = []
        self.events: list[LogEvent] = []
        observer: Any = self.events.append
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.begin()

    def begin(self, **settings: Any) -> None:
        chosen: dict[str, Any] = {"server": "http://192.0.2.9:3000", "dialect": self.dialect} | settings
        self.service = UplinkService(
            self.reactor, self.receiver, UplinkSettings(proxy_id="p", read_api_key=self.read_key, **chosen)
        )
        self.service.startService()

    def read_key(self) -> Secret:
        self.keys.append(KEY)
        return Secret(KEY)

    def tearDown(self) -> None:
        stopped = self.service.stopService()
        self.advance(6)
        self.successResultOf(stopped)
        self.assertEqual(self.reactor.getDelayedCalls(), [], "a timer is left")
        for event in self.events:
            self.assertNotIn(KEY, repr(event) + formatEvent(event))
            self.assertNotIn("hunter2", repr(event) + formatEvent(event))

    def advance(self, seconds: float) -> None:
        """Let time pass; then the network does what is to be done."""
        self.reactor.advance(seconds)
        for pump in self.pumps:
            pump.flush()

    def lines(self, level: Any) -> list[str]:
        """What the uplink has logged at *level*."""
        return [
            formatEvent(event)
            for event in self.events
            if event["log_level"] is level and event["log_namespace"].startswith("relayd.uplink")
        ]

    def warnings(self) -> list[str]:
        return self.lines(LogLevel.warn)

    def attempts(self) -> int:
        return len(self.reactor.tcpClients)

    def join(self, server: Any) -> IOPump:
        """Complete the latest attempt with *server* at the other end."""
        host, port, factory, *_ = self.reactor.tcpClients[-1]
        self.assertEqual((host, port), ("192.0.2.9", 3000))
        client = factory.buildProtocol(IPv4Address("TCP", host, port))
        ends = FakeTransport(server, isServer=True), FakeTransport(client, isServer=False)
        self.pumps.append(connect(server, ends[0], client, ends[1], clock=self.reactor))
        return self.pumps[-1]

    def main_server(self, dialect: Any = None) -> MainServer:
        server = MainServer(dialect or socketio.SocketIOServerDialect())
        server.factory = WebSocketServerFactory(reactor=self.reactor)
        server.factory.setProtocolOptions(openHandshakeTimeout=0, closeHandshakeTimeout=0)
        return server

    def connected(self, dialect: Any = None) -> tuple[MainServer, IOPump]:
        server = self.main_server(dialect)
        pump = self.join(server)
        pump.flush()
        return server, pump

    def no_polling(self) -> None:
        """The attempt by HTTP long-polling, which follows at once, finds nothing."""
        server = Scripted(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        self.join(server).flush()
        assert b"transport=polling" in server.received

    def refuse(self) -> None:
        factory: Any = self.reactor.tcpClients[-1][2]
        factory.clientConnectionFailed(None, Failure(ConnectionRefusedError()))
