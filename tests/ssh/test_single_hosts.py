"""
What is said of single hosts (`relayd.network.host_rules`) reaches each connection, and nothing of others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.internet.task import deferLater

from relayd.network.host_rules import HostRule, HostSettings, HostTable
from relayd.ssh import SSHError, SSHSettings
from relayd.ssh.pool.checked_names import allow_all
from relayd.ssh.settings import settings_for
from relayd.ssh.testing import MemoryHost, Misbehaviour
from tests.ssh.testing.test_host import STEP, HostCase, answer


def table(**said: Any) -> HostTable:
    """Something that is said of the host ``odd.example`` alone."""
    return HostTable((HostRule(hosts=("odd.example",), settings=HostSettings(**said)),))


class SingleHostCase(HostCase):
    """Two hosts, of which something is said of one, and a jump host."""

    def setUp(self) -> None:
        super().setUp()
        self.odd = self.network.add(MemoryHost("odd.example", run=answer))
        self.dialled: Counter[str] = Counter()
        self.patch(self.network, "connectTCP", partial(self.connect, self.network.connectTCP))

    def connect(self, connect: Callable[..., Any], address: str, *args: Any, **more: Any) -> Any:
        self.dialled[address] += 1
        return connect(address, *args, **more)

    @property
    def counts(self) -> tuple[int, int]:
        """How many connections there were to each of the two."""
        return self.dialled[self.host.address], self.dialled[self.odd.address]

    def use(self, **said: Any) -> None:
        self.client = self.make_client(hosts=table(**said))

    def say(self, **said: Any) -> None:
        """Say something else of it, while the client runs."""
        settings = SSHSettings(known_hosts=str(self.known_hosts), connect_timeout=STEP, hosts=table(**said))
        self.client.configure(settings, allow_all)

    async def both(self) -> list[str]:
        """What becomes of a command on each: the code of its error, or nothing."""
        codes = []
        for host in (self.host, self.odd):
            try:
                done = await self.run_command(b"true", host.target())
                codes.append("" if done.error is None else done.error.code)
            except SSHError as error:
                codes.append(error.code)
        return codes


class ConnectionTests(SingleHostCase):
    """What a connection is opened with."""

    async def test_algorithms(self) -> None:
        self.host.misbehaviour = self.odd.misbehaviour = Misbehaviour.HAS_OLD_CIPHERS
        self.use(ssh_algorithms="legacy")
        self.assertEqual(await self.both(), ["no-common-algorithm", ""])

    async def test_host_keys(self) -> None:
        self.use(host_keys="strict")
        self.assertEqual(await self.both(), ["", "host-key-unknown"])
        self.assertIn("db1.example", self.known_hosts.read_text())
        self.use(host_keys="ignore")
        self.assertEqual(await self.both(), ["", ""])
        self.assertNotIn("odd.example", self.known_hosts.read_text())

    async def test_time_limit(self) -> None:
        for trouble in (Misbehaviour.DOES_NOT_ANSWER, Misbehaviour.IS_SILENT, Misbehaviour.STALLS_LOGINS):
            self.odd.misbehaviour = trouble
            self.use(connect_timeout=STEP * 3)
            begun = self.clock.seconds()
            self.assertEqual((await self.error_of(target=self.odd.target())).code, trouble.value)
            self.assertGreater(self.clock.seconds() - begun, STEP * 3)

    async def test_a_jump_host(self) -> None:
        """It is a host like any other."""
        behind = self.network.add(MemoryHost("far.example", run=answer))
        self.use(host_keys="strict")
        via = self.odd.target()
        target = behind.target(via=via)
        self.assertEqual((await self.error_of(target=target)).code, "host-key-unknown")
        self.assertEqual((behind.connections, self.host.connections), (0, 0))

    async def test_by_user_and_port(self) -> None:
        rules = HostTable(
            (
                HostRule(hosts=("*",), users=("admin",), settings=HostSettings(connect_timeout=7.0)),
                HostRule(hosts=("[*]:2222",), settings=HostSettings(keepalive_interval=3.0)),
            )
        )
        settings = SSHSettings(known_hosts="x", hosts=rules)
        for user, port, expected in (("admin", 22, (7.0, 15.0)), ("x", 2222, (15.0, 3.0)), ("admin", 2222, (7.0, 3.0))):
            found = settings_for(settings, "db1.example", port, user)
            self.assertEqual((found.connect_timeout, found.keepalive_interval), expected)
        plain = SSHSettings(known_hosts="x")
        self.assertIs(settings_for(plain, "db1.example", 22, "root"), plain)


class PoolTests(SingleHostCase):
    """How connections are shared."""

    async def run_many(self, host: MemoryHost, count: int) -> None:
        target = host.target()
        deadline = self.clock.seconds() + 300
        running = [self.client.run(target, b"slow", deadline) for _ in range(count)]
        await self.passing(gatherResults(running))

    async def test_one_at_a_time_on_one_connection(self) -> None:
        self.use(max_sessions=1, max_connections=1)
        begun = self.clock.seconds()
        await self.run_many(self.odd, 3)
        self.assertEqual(self.odd.connections, 1)
        self.assertGreaterEqual(self.clock.seconds() - begun, 3.0)
        await self.run_many(self.host, 3)
        self.assertEqual(self.host.connections, 1)

    async def test_commands_per_connection(self) -> None:
        self.use(commands_per_connection=2)
        for _ in range(5):
            await self.run_command(b"true", self.odd.target())
            await self.run_command(b"true", self.host.target())
        self.assertEqual(self.counts, (1, 3))
        self.assertEqual(len(self.odd.received), 5)

    async def test_sessions_that_are_refused_are_no_commands(self) -> None:
        """Or each attempt would open one more connection, until the time is up."""
        self.use(commands_per_connection=1)
        self.odd.misbehaviour = Misbehaviour.REFUSES_SESSIONS
        self.host.misbehaviour = self.odd.misbehaviour
        self.assertEqual(await self.both(), ["session-refused"] * 2)
        self.assertEqual(*self.counts)

    async def test_a_reload_ends_what_was_opened_in_another_way(self) -> None:
        self.use(max_sessions=5)
        await self.both()
        self.say(max_sessions=1)
        await self.both()
        self.assertEqual(self.counts, (1, 1))
        self.say(max_sessions=1, host_keys="ignore")
        await self.both()
        self.assertEqual(self.counts, (1, 2))
        begun = self.clock.seconds()
        await self.run_many(self.odd, 2)
        self.assertEqual(self.counts, (1, 3), "max_sessions is in force: two at a time take two connections")
        self.assertLess(self.clock.seconds() - begun, 2.0)


class CommandTests(SingleHostCase):
    """What becomes of a command."""

    async def test_no_exit_status(self) -> None:
        self.host.misbehaviour = self.odd.misbehaviour = Misbehaviour.GIVES_NO_STATUS
        for status in (0, 7):
            self.use(no_exit_status=status)
            self.assertEqual(await self.both(), ["no-exit-status", ""])
            done = await self.run_command(b"true", self.odd.target())
            self.assertEqual(done.exit.exit_code, status)

    async def test_no_exit_status_of_one_port(self) -> None:
        """What is said of a port is for that alone, and an exception in it counts."""
        self.odd = self.network.add(MemoryHost("odd.example", port=2222, run=answer))
        self.odd.misbehaviour = Misbehaviour.GIVES_NO_STATUS
        for pattern, codes in (
            (f"[odd.example]:{self.odd.port}", ["", ""]),
            (f"[odd.example]:{self.odd.port + 1}", ["", "no-exit-status"]),
        ):
            rule = HostRule(hosts=(pattern,), settings=HostSettings(no_exit_status=7))
            self.client = self.make_client(hosts=HostTable((rule,)))
            self.assertEqual(await self.both(), codes, pattern)

    async def test_silence(self) -> None:
        """A host that says nothing is probed as often as is said."""
        self.odd.misbehaviour = Misbehaviour.NEVER_ENDS
        for interval, lasts in ((1.0, False), (100.0, True)):
            self.use(keepalive_interval=interval)
            begun = self.clock.seconds()
            running = self.client.run(self.odd.target(), b"x", begun + 8)
            # Only a host that has answered once is taken for gone.
            while not self.odd.received or self.clock.seconds() < begun + 2.5:
                await deferLater(reactor, 0.002)
                self.clock.advance(0.02)
            for connection in self.odd.factory.connections:
                self.patch(connection, "dataReceived", lambda data: None)
            done = await self.passing(running)
            self.assertEqual(self.clock.seconds() - begun >= 8, lasts, done.error)
            self.odd.received.clear()
