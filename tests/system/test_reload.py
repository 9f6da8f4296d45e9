"""
SIGHUP to a relay that is a process of its own, with a main server and an SSH server.
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
from relayd.hub.errors import CommandRefused
from relayd.wire.messages import CommandResult, ExecuteCommand, Secret
from tests.support.relays import Relayd
from tests.support.sshd import OpenSSHServer


class HangUpTests(TestCase):
    """The file is changed, and the relay told."""

    timeout = 60

    async def set_up(self, toml: str) -> None:
        self.sshd = OpenSSHServer()
        await self.sshd.start()
        self.addCleanup(self.sshd.stop)
        self.hub = Hub(reactor, {Relayd.proxy_id: Secret(Relayd.api_key)})
        self.addCleanup(lambda: Deferred.fromCoroutine(self.hub.close()))
        port: Any = await self.hub.listen(TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"))
        self.relay = Relayd(f"ws://127.0.0.1:{port.getHost().port}")
        self.addCleanup(self.relay.remove)
        self.write(toml)
        self.relay.start(RELAYD_CONFIG=str(self.relay.directory / "relayd.toml"))
        await self.hub.when_connected(Relayd.proxy_id)

    def write(self, toml: str) -> None:
        (self.relay.directory / "relayd.toml").write_text(toml)

    async def hang_up(self, sign: str) -> str:
        """Send SIGHUP; the line of the log that has *sign* in it."""
        lines = len(self.relay.output)
        self.relay.signal(signal.SIGHUP)
        return await self.logged(sign, lines)

    async def logged(self, sign: str, first: int = 0) -> str:
        for _ in range(400):
            for line in self.relay.output[first:]:
                if sign in line:
                    return line
            await deferLater(reactor, 0.05)
        raise AssertionError(f"{sign!r} was not logged, but {self.relay.log}")

    async def session_begun(self) -> None:
        while not any("Starting session" in line for line in self.sshd.log_lines):
            await deferLater(reactor, 0.05)

    def execute(self, command_id: str, command: str, host: str = "") -> Deferred[CommandResult]:
        order = ExecuteCommand(
            command_id=command_id,
            server_id=1,
            host=host or self.sshd.host,
            port=self.sshd.port,
            username=self.sshd.user,
            command=command,
            password=Secret(self.sshd.password),
            timeout=30,
        )
        return self.hub.execute(Relayd.proxy_id, order)

    async def test_changes(self) -> None:
        await self.set_up("")
        await self.check_what_runs_goes_on_and_what_comes_is_judged_anew()
        await self.check_a_name_that_was_connected_before_is_looked_up_again()
        await self.check_site_credentials()

    async def test_no_changes(self) -> None:
        await self.set_up("max-commands = 5")
        await self.check_a_mistake_changes_nothing()
        await self.check_while_it_drains()

    async def check_what_runs_goes_on_and_what_comes_is_judged_anew(self) -> None:
        running = self.execute("c1", "echo started; sleep 2; pwd")
        await self.session_begun()
        self.write('deny-hosts = ["127.0.0.0/8"]\nmax-commands = 5\nworking-directory = "/tmp"\nmax-sessions = 2')
        line = await self.hang_up("settings read again")
        self.assertIn(
            "working-directory (/ -> /tmp), deny-hosts (not set -> 127.0.0.0/8), max-commands (64 -> 5)", line
        )
        await self.logged("these take effect after a restart: max-sessions (10 -> 2)")
        refused = await self.assertFailure(self.execute("c2", "true"), CommandRefused)
        self.assertIn("--deny-hosts of the relay forbids it", str(refused))
        self.assertEqual((await running).stdout, "started\n/")
        self.write('working-directory = "/tmp"')
        await self.hang_up("settings read again")
        self.assertEqual((await self.execute("c3", "pwd")).stdout, "/tmp")

    async def check_a_name_that_was_connected_before_is_looked_up_again(self) -> None:
        """Nothing against the name itself: the address that it leads to is forbidden since."""
        self.assertEqual((await self.execute("d1", "echo one", "localhost")).stdout, "one")
        self.write('deny-hosts = ["127.0.0.0/8", "::1"]')
        await self.hang_up("settings read again")
        result = await self.execute("d2", "echo two", "localhost")
        self.assertEqual((result.stdout, result.exit_code), ("", 1))
        self.assertIn("forbid", result.stderr)

    async def check_a_mistake_changes_nothing(self) -> None:
        self.write('max-commands = 0\nworking-directory = "/tmp"')
        line = await self.hang_up("nothing was changed")
        self.assertTrue(line.endswith('expected a whole number from 1 to 1000000, not "0"'), line)
        self.assertEqual((await self.execute("c1", "pwd")).stdout, "/")
        (self.relay.directory / "relayd.toml").unlink()
        await self.hang_up("relayd.toml cannot be read: No such file or directory")
        self.assertEqual((await self.execute("c2", "pwd")).stdout, "/")

    async def check_site_credentials(self) -> None:
        key = self.relay.directory / "ssh-key"
        key.touch(mode=0o600)
        key.write_text(self.sshd.key)
        order = ExecuteCommand(
            command_id="e1",
            server_id=1,
            host=self.sshd.host,
            port=self.sshd.port,
            username=self.sshd.user,
            command="echo by key",
            timeout=30,
        )
        await self.assertFailure(self.hub.execute(Relayd.proxy_id, order), CommandRefused)
        self.write('[[credentials]]\nhosts = ["*"]\nkey-file = "ssh-key"')
        await self.hang_up("[[credentials]] (0 -> 1 tables)")
        result = await self.hub.execute(Relayd.proxy_id, order)
        self.assertEqual(result.stdout, "by key", result.stderr)
        self.assertNotIn("PRIVATE KEY", self.relay.log)

    async def check_while_it_drains(self) -> None:
        del self.sshd.log_lines[:]
        running = self.execute("d1", "sleep 2; echo finished")
        await self.session_begun()
        ended = self.relay.signal(signal.SIGTERM)
        await self.logged("SIGTERM")
        self.relay.signal(signal.SIGHUP)
        self.assertEqual((await running).stdout, "finished")
        self.assertEqual(await ended, 0, self.relay.log)
        self.assertIn("its settings stay as they are", self.relay.log)
