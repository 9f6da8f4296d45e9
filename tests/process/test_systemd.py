"""
relayd.process.systemd: what a service manager is told, over a real datagram socket, by the parts and by a relay under
twistd.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.task import Clock, deferLater
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase, TestCase

from relayd.hub import Hub
from relayd.process.systemd import CLOSING, INTERVAL, Notifier, RelayCondition, Standing, make_notifier, sender
from relayd.wire.messages import Secret
from tests.support.relays import Relayd

NEVER = Standing(server="main:443", accepted=False, since=0.0, last_error=None, running=0)
ACCEPTED = Standing(server="main:443", accepted=True, since=100.0, last_error=None, running=1)
LOST = Standing(server="main:443", accepted=False, since=200.0, last_error="It hung up.", running=2)


class NotifierTests(SynchronousTestCase):
    """The decisions, by a clock."""

    def setUp(self) -> None:
        self.patch(os, "environ", os.environ | {"TZ": "UTC"})
        time.tzset()
        self.clock = Clock()
        self.clock.advance(100)
        self.standing = NEVER
        self.sent: list[str] = []
        self.broken = False

    def make(self, watchdog: float | None = None) -> Notifier:
        notifier = Notifier(
            self.clock,
            self.send,
            RelayCondition(self.clock, lambda: self.standing, lambda: 1_000_000_000 + self.clock.seconds()),
            lambda: 20.0,
            watchdog,
        )
        notifier.startService()
        self.addCleanup(notifier.stopService)
        return notifier

    def send(self, message: str) -> None:
        if self.broken:
            raise OSError(11, "Resource temporarily unavailable")
        self.sent.append(message)

    def then(self, standing: Standing) -> list[str]:
        """What is told when things come to stand so."""
        self.sent.clear()
        self.standing = standing
        self.clock.advance(INTERVAL)
        return list(self.sent)

    def test_from_the_start_to_a_loss_and_back(self) -> None:
        self.make()
        self.assertEqual(self.sent, ["STATUS=connecting to main:443; 0 commands run"])
        self.assertEqual(self.then(NEVER), [])
        since = "accepted by main:443 since 2001-09-09 01:48:20"
        self.assertEqual(self.then(ACCEPTED), ["READY=1", f"STATUS={since}; 1 command runs"])
        self.assertEqual(
            self.then(LOST), ["STATUS=not connected to main:443, will try again; 2 commands run; It hung up."]
        )
        self.clock.advance(7200)
        back = Standing(server="main:443", accepted=True, since=7300.0, last_error=None, running=0)
        since = "accepted by main:443 since 2001-09-09 03:48:20"
        self.assertEqual(self.then(back), [f"STATUS={since}; 0 commands run"])  # ready once and for all

    def test_stopping_asks_for_the_time_of_the_drain(self) -> None:
        notifier = self.make()
        self.then(ACCEPTED)
        self.sent.clear()
        notifier.stopping()
        extended = f"STOPPING=1\nEXTEND_TIMEOUT_USEC={round((20 + CLOSING) * 1e6)}"
        self.assertEqual(self.sent, [extended, "STATUS=stopping: 1 command runs"])
        self.assertEqual(self.then(ACCEPTED), [])

    def test_not_ready_once_it_stops(self) -> None:
        self.make().stopping()
        self.assertEqual(self.then(ACCEPTED), ["STATUS=stopping: 1 command runs"])
        away = Standing(server="main:443", accepted=False, since=0.0, last_error=None, running=0, undelivered=3)
        said = "STATUS=stopping: 0 commands run, 3 results are not confirmed; not connected to main:443"
        self.assertEqual(self.then(away), [said])
        one = Standing(server="main:443", accepted=True, since=0.0, last_error=None, running=0, undelivered=1)
        self.assertEqual(self.then(one), ["STATUS=stopping: 0 commands run, 1 result is not confirmed"])

    def test_the_watchdog_is_fed_at_half_its_time(self) -> None:
        notifier = self.make(watchdog=3.0)
        self.assertEqual(self.sent.count("WATCHDOG=1"), 1)
        self.clock.pump([0.1] * 61)  # to 6.1 s
        self.assertEqual(self.sent.count("WATCHDOG=1"), 5)
        notifier.stopping()  # a drain is alive
        self.clock.pump([0.1] * 15)
        self.assertEqual(self.sent.count("WATCHDOG=1"), 6)
        notifier.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_reloading(self) -> None:
        notifier = self.make()
        with notifier.reloading():
            pass
        self.assertNotIn("READY=1", self.sent)
        self.then(ACCEPTED)
        self.sent.clear()
        with self.assertRaises(ZeroDivisionError), notifier.reloading():
            self.assertRegex(self.sent[-1], r"^RELOADING=1\nMONOTONIC_USEC=\d+$")
            raise ZeroDivisionError
        self.assertEqual(self.sent[1:], ["READY=1"])

    def test_what_cannot_be_sent_is_sent_later_and_warned_of_once(self) -> None:
        self.make()
        self.broken = True
        with capturedLogs() as events:
            self.assertEqual(self.then(ACCEPTED), [])
            self.assertEqual(self.then(ACCEPTED), [])
        warnings = [formatEvent(event) for event in events if event["log_level"] is LogLevel.warn]
        expected = "Cannot notify the service manager: Resource temporarily unavailable"
        self.assertEqual(warnings, [expected])
        self.broken = False
        self.assertEqual([text.partition("=")[0] for text in self.then(ACCEPTED)], ["READY", "STATUS"])

    def test_a_main_server_can_bring_no_line_of_its_own(self) -> None:
        self.make()
        error = "It said \nMAINPID=1\r\x1b[0m\N{LINE SEPARATOR}" + "x" * 10_000
        [status] = self.then(Standing(server="main", accepted=False, since=0.0, last_error=error, running=0))
        self.assertIn("It said  MAINPID=1  [0m xx", status)
        self.assertLess(len(status), 500)


class EnvironmentTests(SynchronousTestCase):
    """What the service manager asks for."""

    def setUp(self) -> None:
        self.directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.directory)
        self.path = os.path.join(self.directory, "notify")
        self.manager = listening(self.path)
        self.addCleanup(self.manager.close)
        self.clock = Clock()

    def told(self, **environ: str) -> list[str]:
        """What is told within 10 s."""
        environ = {"NOTIFY_SOCKET": self.path} | environ
        notifier = make_notifier(environ, self.clock, RelayCondition(self.clock, lambda: ACCEPTED), float)
        assert notifier is not None
        notifier.startService()
        self.clock.pump([0.5] * 20)
        notifier.stopService()
        return received(self.manager)

    def test_no_service_manager(self) -> None:
        for environ in ({}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1234"}):
            self.assertIsNone(make_notifier(environ, self.clock, RelayCondition(self.clock, lambda: NEVER), float))

    def test_without_watchdog(self) -> None:
        for environ in ({}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "\N{SUPERSCRIPT TWO}"}):
            told = self.told(**environ)
            self.assertIn("READY=1", told)
            self.assertNotIn("WATCHDOG=1", told)

    def test_watchdog(self) -> None:
        self.assertEqual(self.told(WATCHDOG_USEC="4000000").count("WATCHDOG=1"), 6)
        self.assertIn("WATCHDOG=1", self.told(WATCHDOG_USEC="4000000", WATCHDOG_PID=str(os.getpid())))
        self.assertNotIn("WATCHDOG=1", self.told(WATCHDOG_USEC="4000000", WATCHDOG_PID=str(os.getppid())))

    def test_abstract_socket(self) -> None:
        name = f"relayd-test-{os.getpid()}"
        with listening(f"\0{name}") as manager:
            sender(f"@{name}")("READY=1")
            self.assertEqual(received(manager), ["READY=1"])

    def test_it_never_waits(self) -> None:
        send = sender(self.path)
        with self.assertRaises(BlockingIOError):
            for _ in range(100_000):
                send("STATUS=x")

    def test_nobody_listens(self) -> None:
        self.manager.close()
        with self.assertRaises(OSError):
            sender(self.path)("READY=1")


class ProcessTests(TestCase):
    """A relay under twistd, whose main server comes, goes and comes back."""

    timeout = 60

    async def listen(self, port: int = 0) -> tuple[Hub, int]:
        hub = Hub(reactor, {Relayd.proxy_id: Secret(Relayd.api_key)})
        listening: Any = await hub.listen(TCP4ServerEndpoint(reactor, port, interface="127.0.0.1"))
        return hub, listening.getHost().port

    async def heard(self, right: Callable[[str], bool]) -> None:
        """Wait until a message that is *right* comes."""
        while not any(map(right, self.messages)):
            await deferLater(reactor, 0.05)
            self.messages += received(self.manager)

    async def test_a_main_server_goes_and_comes(self) -> None:
        hub, port = await self.listen()
        await hub.close()
        self.relay = Relayd(f"ws://127.0.0.1:{port}", "--reconnect-delay", "200ms", "--drain-timeout", "2s")
        self.addCleanup(self.relay.remove)
        path = str(self.relay.directory / "notify")
        self.manager = listening(path)
        self.addCleanup(self.manager.close)
        self.messages: list[str] = []
        self.relay.start(NOTIFY_SOCKET=path, WATCHDOG_USEC="400000")
        await self.heard(lambda text: text.startswith(f"STATUS=not connected to 127.0.0.1:{port}"))
        await self.heard(lambda text: text == "WATCHDOG=1")
        self.assertNotIn("READY=1", self.messages)
        hub, _ = await self.listen(port)
        await self.heard(lambda text: text.startswith(f"STATUS=accepted by 127.0.0.1:{port} since 20"))
        self.assertIn("READY=1", self.messages)
        self.messages.clear()
        await hub.close()
        await self.heard(lambda text: text.startswith("STATUS=not connected"))
        self.messages.clear()
        hub, _ = await self.listen(port)
        self.addCleanup(lambda: Deferred.fromCoroutine(hub.close()))
        await self.heard(lambda text: text.startswith("STATUS=accepted"))
        self.assertNotIn("READY=1", self.messages)
        self.messages.clear()
        os.kill(self.relay.pid, signal.SIGHUP)
        await self.heard(lambda text: text.startswith("RELOADING=1\nMONOTONIC_USEC="))
        await self.heard(lambda text: text == "READY=1")
        self.assertEqual(await self.relay.signal(signal.SIGTERM), 0)
        self.messages += received(self.manager)
        self.assertIn("STOPPING=1\nEXTEND_TIMEOUT_USEC=32000000", self.messages)
        self.assertIn("STATUS=stopping: 0 commands run", self.messages)
        self.assertNotIn("Traceback", self.relay.log)


def listening(address: str) -> socket.socket:
    """What a service manager listens on."""
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(address)
    manager.setblocking(False)
    return manager


def received(manager: socket.socket) -> list[str]:
    """All messages until now."""
    messages: list[str] = []
    while True:
        try:
            messages.append(manager.recv(4096).decode())
        except BlockingIOError:
            return messages
