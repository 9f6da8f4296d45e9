"""
relayd.status.server: real HTTP over loopback and UNIX sockets, and what its clients cannot do to it.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
import tempfile
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, UNIXClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransportWithDisconnection
from twisted.logger import LogLevel, capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from relayd.config.listen_address import listen_address
from relayd.errors import ConfigError
from relayd.status.responses import Response
from relayd.status.server import MAX_CONNECTIONS, MAX_SECONDS, StatusFactory, StatusServer
from tests.support.status import FakeRelay


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Client(Protocol):
    """Sends what it is told and reads to the end."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.received = b""
        self.done: Deferred[bytes] = Deferred()

    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.write(self.data)

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = Failure(Exception())) -> None:  # noqa: B008
        self.done.callback(self.received)


class ServerTests(TestCase):
    """Over real sockets."""

    timeout = 30

    def setUp(self) -> None:
        self.directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.directory)

    def serve(self, endpoint: str) -> StatusServer:
        server = StatusServer(reactor, listen_address(endpoint), FakeRelay().sources)
        server.startService()
        self.addCleanup(lambda: server.stopService() if server.running else None)
        return server

    async def ask(self, endpoint: Any, data: bytes) -> bytes:
        client = Client(data)
        await connectProtocol(endpoint, client)
        return await client.done

    async def over_tcp(self, data: bytes) -> bytes:
        port = free_port()
        server = self.serve(f"tcp:127.0.0.1:{port}")
        answer = await self.ask(TCP4ClientEndpoint(reactor, "127.0.0.1", port), data)
        await server.stopService()
        return answer

    async def test_get(self) -> None:
        answer = await self.over_tcp(b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        head, _, body = answer.partition(b"\r\n\r\n")
        self.assertEqual(head.split(b"\r\n")[0], b"HTTP/1.1 200 OK")
        self.assertIn(b"cache-control: no-store", head.lower())
        self.assertNotIn(b"twisted", head.lower())
        self.assertEqual(body, b"ready\n")

    async def test_head(self) -> None:
        answer = await self.over_tcp(b"HEAD /status.html HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        head, _, body = answer.partition(b"\r\n\r\n")
        self.assertEqual((head.split(b"\r\n")[0], body), (b"HTTP/1.1 200 OK", b""))
        self.assertRegex(head.lower(), rb"content-length: [0-9]{4,}")

    async def test_one_request_a_connection(self) -> None:
        request = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        self.assertEqual((await self.over_tcp(request * 3)).count(b"HTTP/1.1 200"), 1)

    async def test_bodies_are_refused_unread(self) -> None:
        for header in (b"Content-Length: 1000000000", b"Transfer-Encoding: chunked"):
            request = b"GET /status HTTP/1.1\r\nHost: 127.0.0.1\r\n" + header + b"\r\n\r\n"
            answer = await self.over_tcp(request)
            self.assertTrue(answer.startswith(b"HTTP/1.1 413 "), answer)
            self.assertEqual(answer.count(b"HTTP/1.1"), 1)

    async def test_what_is_no_http(self) -> None:
        for data in (b"\x00\xff\r\n\r\n", b"GET " + b"a" * 20000 + b" HTTP/1.1\r\n\r\n", b"X: " + b"y" * 40000):
            answer = await self.over_tcp(data)
            self.assertNotIn(b" 200 ", answer)

    async def test_unix(self) -> None:
        path = os.path.join(self.directory, "status")
        server = self.serve(f"unix:{path}")
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o660)
        answer = await self.ask(UNIXClientEndpoint(reactor, path), b"GET /healthz HTTP/1.1\r\nHost: whoever\r\n\r\n")
        self.assertIn(b"ok", answer)
        await server.stopService()
        self.assertFalse(os.path.exists(path))

    def test_a_socket_that_was_left_behind(self) -> None:
        path = os.path.join(self.directory, "status")
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(path)
        self.serve(f"unix:{path}")

    def test_a_socket_that_is_in_use(self) -> None:
        path = os.path.join(self.directory, "status")
        self.serve(f"unix:{path}")
        error = self.assertRaises(ConfigError, self.serve, f"unix:{path}")
        self.assertIn(f"--status: cannot listen at unix:{path}: ", str(error))

    def test_a_file_of_somebody_else(self) -> None:
        path = os.path.join(self.directory, "status")
        with open(path, "w") as file:
            file.write("precious")
        self.assertRaises(ConfigError, self.serve, f"unix:{path}")
        self.assertEqual(os.path.getsize(path), 8)

    def test_a_port_that_is_in_use(self) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            error = self.assertRaises(ConfigError, self.serve, f"tcp:127.0.0.1:{port}")
        said = f"--status: cannot listen at tcp:127.0.0.1:{port}: Address already in use; give another address, or stop"
        self.assertIn(said, str(error))

    def test_where_nothing_can_be_made(self) -> None:
        error = self.assertRaises(ConfigError, self.serve, f"unix:{self.directory}/none/status")
        self.assertIn("; give a path in a directory that relayd's user can write to", str(error))

    def test_a_warning_where_others_can_reach_it(self) -> None:
        for host, count in (("127.0.0.1", 0), ("0.0.0.0", 1)):
            with capturedLogs() as events:
                self.serve(f"tcp:{host}:{free_port()}")
            self.assertEqual(sum(event["log_level"] is LogLevel.warn for event in events), count)


class BoundsTests(SynchronousTestCase):
    """In memory, with a Clock."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.factory = StatusFactory(lambda *_: Response(200, "text/plain", b"x"), self.clock)

    def connect(self) -> StringTransportWithDisconnection | None:
        channel = self.factory.buildProtocol(None)
        if channel is None:
            return None
        transport = _Transport()
        transport.protocol = channel
        channel.makeConnection(transport)
        return transport

    def test_a_slow_client_is_cut_off(self) -> None:
        transport = self.connect()
        assert transport is not None
        for _ in range(int(MAX_SECONDS) - 1):
            transport.protocol.dataReceived(b"G")
            self.clock.advance(1)
        self.assertTrue(transport.connected)
        self.clock.advance(1)
        self.assertFalse(transport.connected)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_connections_have_a_bound(self) -> None:
        transports = [self.connect() for _ in range(MAX_CONNECTIONS)]
        self.assertIsNone(self.connect())
        assert transports[0] is not None
        transports[0].loseConnection()
        self.assertIsNotNone(self.connect())


class _Transport(StringTransportWithDisconnection):
    """With the end that the channel gives connections."""

    def abortConnection(self) -> None:
        self.loseConnection()
