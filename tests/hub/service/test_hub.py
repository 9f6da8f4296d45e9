"""
relayd.hub.service: a whole hub with its store on disk and real sockets.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from relayd.config.option import Effect
from relayd.errors import ConfigError
from relayd.hub.access.access import time_of_day
from relayd.hub.config.reading import load
from relayd.hub.relays.administration import RelayAdministration
from relayd.hub.relays.enrolment import Enrolment
from relayd.hub.service.hub import HubService
from tests.support.certificates import Authority

HANDSHAKE = (
    "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class Client(Protocol):
    """Keeps what it gets."""

    def __init__(self) -> None:
        self.received = b""
        self.ended: Deferred[bytes] = Deferred()
        self._awaited: list[tuple[bytes, Deferred[None]]] = []

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        for each in [each for each in self._awaited if each[0] in self.received]:
            self._awaited.remove(each)
            each[1].callback(None)

    def connectionLost(self, reason: Any = None) -> None:
        self.ended.callback(self.received)

    def until(self, data: bytes) -> Deferred[None]:
        """Fires once *data* has come."""
        done: Deferred[None] = Deferred()
        if data in self.received:
            done.callback(None)
        else:
            self._awaited.append((data, done))
        return done


def free_port() -> int:
    """A port that nobody uses."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


class HubTests(TestCase):
    """`HubService`."""

    timeout = 60

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="relayd-hub-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.addCleanup(os.umask, os.umask(0o022))
        self.addCleanup(lambda: Deferred.fromCoroutine(self.undone()))
        self.port = free_port()

    async def undone(self) -> None:
        """A start that failed closes what it had opened, and nobody waits for that but the next test."""
        clock: Any = reactor
        while any("timeItOut" in str(call) for call in clock.getDelayedCalls()):
            await deferLater(reactor, 0.01)

    def config(self, **options: str) -> Any:
        given = {"listen": f"tcp:127.0.0.1:{self.port}", "state-dir": str(self.folder / "state")}
        return load(given | {name.replace("_", "-"): value for name, value in options.items()}, {})

    def start(self, **options: str) -> HubService:
        hub = HubService(reactor, self.config(**options))
        hub.startService()
        self.addCleanup(lambda: hub.stopService() if hub.running else None)
        return hub

    async def connect(self, text: str, port: int = 0) -> Client:
        client: Client = await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port or self.port), Client())
        transport: Any = client.transport
        transport.write(text.encode())
        return client

    async def ask(self, path: str, port: int = 0) -> str:
        """The answer to a request."""
        client = await self.connect(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", port)
        return (await client.ended).decode()

    async def key(self, hub: HubService) -> str:
        """That of a new relay."""
        parts: Any = hub._parts
        await RelayAdministration(parts.store, parts.links, time_of_day).add("site-1")
        return (await Enrolment(parts.store, time_of_day).rotate("site-1")).key.reveal()

    async def test_one_port_for_relays_in_both_dialects_and_for_people(self) -> None:
        hub = self.start()
        key = await self.key(hub)
        for path in (
            f"/proxy?proxyId=site-1&apiKey={key}",
            f"/socket.io/?EIO=4&transport=websocket&proxyId=site-1&apiKey={key}",
        ):
            relay = await self.connect(HANDSHAKE.format(path=path))
            await relay.until(b"101 Switching Protocols")
        refused = await self.connect(HANDSHAKE.format(path="/proxy?proxyId=site-1&apiKey=wrong"))
        self.assertIn(b"401", (await refused.ended).split(b"\r\n")[0])
        self.assertTrue((await self.ask("/healthz")).startswith("HTTP/1.1 200 "))
        answer = await self.ask("/api/v1/me")
        self.assertTrue(answer.startswith("HTTP/1.1 401 "))
        self.assertEqual(json.loads(answer.partition("\r\n\r\n")[2])["status"], 401)
        self.assertEqual(hub.condition(False).ready, True)

    async def test_a_relay_is_told_that_the_hub_restarts(self) -> None:
        hub = self.start()
        relay = await self.connect(HANDSHAKE.format(path=f"/proxy?proxyId=site-1&apiKey={await self.key(hub)}"))
        await relay.until(b"relay_info")
        self.assertEqual(hub.condition(False).status, "running: 1 relay is connected")
        transport: Any = relay.transport
        stopped = hub.stopService()
        await relay.until(b"\x03\xf4")  # 1012, RFC 6455, section 7.4.2
        transport.write(b"\x88\x82\0\0\0\0\x03\xf4")
        await stopped
        again = self.start()  # the folder and the port are free
        self.assertTrue(again.running)

    async def test_two_ports(self) -> None:
        other = free_port()
        self.start(api_listen=f"tcp:127.0.0.1:{other}")
        self.assertIn(" 200 ", (await self.ask("/healthz", other)).split("\r\n")[0])
        self.assertNotIn(" 200 ", (await self.ask("/healthz")).split("\r\n")[0])

    async def test_tls(self) -> None:
        """Both kinds of connections are found behind TLS, too."""
        issued = (authority := Authority(self.folder / "ca")).issue("localhost")
        hub = self.start(tls_cert=issued.cert, tls_key=issued.key)
        key = await self.key(hub)
        context = ssl.create_default_context(cafile=authority.path)

        def ask(text: str) -> bytes:
            plain = socket.create_connection(("127.0.0.1", self.port), timeout=30)
            with context.wrap_socket(plain, server_hostname="localhost") as wrapped:
                wrapped.sendall(text.encode())
                return wrapped.recv(1000)

        answer = await deferToThread(ask, HANDSHAKE.format(path=f"/proxy?proxyId=site-1&apiKey={key}"))
        self.assertIn(b"101 Switching Protocols", answer)
        answer = await deferToThread(ask, "GET /api/v1/me HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.assertTrue(answer.startswith(b"HTTP/1.1 401 "), answer)
        self.assertIn(b"Strict-Transport-Security", answer)
        answer = b"" if not await self.ask("/healthz") else b"x"  # without TLS
        self.assertEqual(answer, b"")

    def test_what_it_makes_is_for_its_user_alone(self) -> None:
        self.start()
        for path in [self.folder / "state", *(self.folder / "state").iterdir()]:
            self.assertEqual(path.stat().st_mode & 0o077, 0, path)

    def test_a_second_one_is_refused(self) -> None:
        self.start()
        self.port = free_port()
        error = self.assertRaises(ConfigError, self.start)
        self.assertIn(f"is in use by another relayd-hub (process {os.getpid()}); give each hub", str(error))

    async def test_a_start_that_fails_leaves_nothing_open(self) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", self.port))
            taken.listen()
            error = self.assertRaises(ConfigError, self.start)
        self.assertIn("cannot listen at tcp:127.0.0.1", str(error))
        closed: Deferred[None] = Deferred()
        reactor.callLater(0.5, closed.callback, None)  # type: ignore[attr-defined]
        await closed
        self.start()

    def test_a_database_that_is_none(self) -> None:
        (self.folder / "state").mkdir(mode=0o700)
        (self.folder / "state" / "hub.sqlite3").write_text("x" * 5000)
        self.assertIn("is no SQLite database", str(self.assertRaises(ConfigError, self.start)))

    async def test_settings_change(self) -> None:
        hub = self.start()
        parts: Any = hub._parts
        changes = hub.apply(self.config(keep_output="2d", log_level="debug", drain_timeout="3s"))
        self.assertEqual(list(changes.of(Effect.NOW)), ["keep-output", "drain-timeout"])
        self.assertEqual(list(changes.of(Effect.RESTART)), ["log-level"])
        self.assertEqual((parts.retention.settings.output_age, hub.drain_timeout), (2.0, 3.0))
