"""
A relay process from start to end: ``twistd relayd``, a main server of ours, and a real SSH server.
"""

from __future__ import annotations

import signal
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from relayd.hub import Hub
from relayd.wire.messages import CommandResult, ExecuteCommand, Secret
from tests.support.relays import Relayd
from tests.support.sshd import OpenSSHServer


class ProcessTests(TestCase):
    """Every test has its own main server, SSH server and relay."""

    timeout = 60

    async def set_up(self, dialect: str) -> None:
        self.sshd = OpenSSHServer()
        await self.sshd.start()
        self.addCleanup(self.sshd.stop)
        self.hub = Hub(reactor, {Relayd.proxy_id: Secret(Relayd.api_key)})
        self.addCleanup(lambda: Deferred.fromCoroutine(self.hub.close()))
        port: Any = await self.hub.listen(TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"))
        self.relay = Relayd(f"ws://127.0.0.1:{port.getHost().port}", "--dialect", dialect)
        self.addCleanup(self.relay.remove)
        self.relay.start()
        await self.hub.when_connected(Relayd.proxy_id)

    def execute(self, command_id: str, command: str, *, with_key: bool = False) -> Deferred[CommandResult]:
        order = ExecuteCommand(
            command_id=command_id,
            server_id=1,
            host=self.sshd.host,
            port=self.sshd.port,
            username=self.sshd.user,
            command=command,
            password=None if with_key else Secret(self.sshd.password),
            private_key=Secret(self.sshd.key) if with_key else None,
            timeout=30,
        )
        return self.hub.execute(Relayd.proxy_id, order)

    async def run_commands(self, dialect: str) -> None:
        await self.set_up(dialect)
        result = await self.execute("c1", "pwd; id -un; echo oops >&2; exit 3")
        self.assertEqual((result.stdout, result.stderr, result.exit_code), ("/\nrelayd-test", "oops", 3))
        result = await self.execute("c2", "echo by key", with_key=True)
        self.assertEqual((result.stdout, result.stderr, result.exit_code), ("by key", "", 0))
        self.assertNotIn(self.sshd.password, self.relay.log)
        self.assertNotIn(Relayd.api_key, self.relay.log)
        self.assertNotIn("oops", self.relay.log)
        known = (self.relay.directory / "known_hosts").read_text()
        self.assertIn(self.sshd.host_keys[0].split()[1], known)

    async def test_commands_over_socketio(self) -> None:
        await self.run_commands("socketio")

    async def test_commands_over_native(self) -> None:
        await self.run_commands("native")
        await self.check_sigterm_drains()

    async def check_sigterm_drains(self) -> None:
        """A command that runs when the signal comes finishes, its result is delivered, and the relay exits with 0."""
        del self.sshd.log_lines[:]
        running = self.execute("c3", "echo started; sleep 2; echo finished")
        while not any("Starting session" in line for line in self.sshd.log_lines):
            await deferLater(reactor, 0.05)
        ended = self.relay.signal(signal.SIGTERM)
        result = await running
        self.assertEqual((result.stdout, result.exit_code), ("started\nfinished", 0), self.relay.log)
        self.assertEqual(await ended, 0, self.relay.log)
        self.assertIn("relayd has stopped", self.relay.log)
        self.assertNotIn("Traceback", self.relay.log)
