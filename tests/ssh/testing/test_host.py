"""
relayd.ssh.testing, as a program that uses `relayd.ssh` meets it: with an `SSHClient`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import TestCase

from relayd.ssh import Credential, SSHClient, SSHError, SSHSettings, Target
from relayd.ssh.client import Completed
from relayd.ssh.testing import MemoryHost, MemoryNetwork, Misbehaviour, Reply
from tests.support.ssh import key_pair
from tests.support.sshd import make_key

#: Seconds of the clock for one step of a connection, and for all of a command.
STEP, LIMIT = 2.0, 30.0


def answer(command: bytes) -> Reply:
    """What the host says to a command."""
    if command == b"fail":
        return Reply(stdout=b"half\n", stderr=b"no\n", exit_code=3)
    if command.startswith(b"much"):
        return Reply(stdout=b"x" * 5_000_000, stderr=b"y" * 3_000_000)
    return Reply(stdout=command + b"!\n", after=1.0 if command == b"slow" else 0.0)


class HostCase(TestCase):
    """One host in memory, whose time a test passes; a client with a file of known hosts."""

    timeout = 60

    def setUp(self) -> None:
        self.clock = Clock()
        self.network = MemoryNetwork(reactor, self.clock)
        self.host = self.network.add(MemoryHost("db1.example", run=answer))
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.known_hosts = Path(directory.name) / "known_hosts"
        self.client = self.make_client()

    def make_client(self, **settings: Any) -> SSHClient:
        client = SSHClient(
            self.network, SSHSettings(known_hosts=str(self.known_hosts), connect_timeout=STEP, **settings)
        )
        self.addCleanup(lambda: self.passing(client.close()))
        return client

    async def passing(self, running: Deferred[Any]) -> Any:
        """Pass the time until *running* has fired."""
        while not running.called:
            await deferLater(reactor, 0.002)
            self.clock.advance(0.02)
        return await running

    async def run_command(self, command: bytes, target: Target | None = None, **options: Any) -> Completed:
        target = target or self.host.target()
        done: Completed = await self.passing(self.client.run(target, command, self.clock.seconds() + LIMIT, **options))
        return done

    async def error_of(self, command: bytes = b"true", target: Target | None = None) -> SSHError:
        """The error of a command, which is not run, or does not end well."""
        try:
            done = await self.run_command(command, target)
        except SSHError as error:
            return error
        assert done.error is not None
        return done.error


class GoodHostTests(HostCase):
    """A host that does what it should."""

    async def test_outcomes(self) -> None:
        for command, stdout, stderr, code in ((b"uptime", "uptime!", "", 0), (b"fail", "half", "no", 3)):
            done = await self.run_command(command)
            self.assertEqual(
                (done.stdout.text(), done.stderr.text(), done.exit.exit_code, done.error), (stdout, stderr, code, None)
            )
        self.assertEqual([each.command for each in self.host.received], [b"uptime", b"fail"])
        self.assertEqual(self.host.connections, 1, "shared")
        self.assertTrue(self.known_hosts.read_text().startswith("[db1.example]:22 ssh-ed25519 ")
                        or self.known_hosts.read_text().startswith("db1.example ssh-ed25519 "))  # fmt: skip

    async def test_more_than_a_window(self) -> None:
        done = await self.run_command(b"much")
        self.assertEqual((done.stdout.total, done.stderr.total), (5_000_000, 3_000_000))

    async def test_input_and_variables(self) -> None:
        await self.run_command(b"slow", stdin=b"x" * 100_000, env=[("LANG", b"C")])
        (received,) = self.host.received
        self.assertEqual((received.username, received.stdin, received.env), ("user", b"x" * 100_000, {"LANG": b"C"}))

    async def test_time(self) -> None:
        running = self.client.run(self.host.target(), b"slow", self.clock.seconds() + LIMIT)
        while not self.host.received:
            await deferLater(reactor, 0.002)
        await deferLater(reactor, 0.05)
        self.assertNoResult(running)
        self.clock.advance(1.0)
        await running

    async def test_cancel(self) -> None:
        self.host.misbehaviour = Misbehaviour.NEVER_ENDS
        running = self.client.run(self.host.target(), b"sleep", self.clock.seconds() + LIMIT)
        while not self.host.received:
            await deferLater(reactor, 0.002)
        running.cancel()
        done = await self.passing(running)
        self.assertEqual(done.error.code, "cancelled")
        while not self.host.received[0].signals:
            await deferLater(reactor, 0.002)
        self.assertEqual(self.host.received[0].signals, ["TERM"])

    async def test_keys(self) -> None:
        private, public = key_pair()
        host = self.network.add(MemoryHost("10.0.0.7", 2222, run=answer, username="deploy", public_key=public))
        target = host.target(credential=Credential(private_key=private), host_key=host.host_key)
        self.assertEqual((await self.run_command(b"id", target)).stdout.text(), "id!")
        other = host.target(credential=Credential(private_key=make_key("ed25519")[0]), host_key=host.host_key)
        self.assertEqual((await self.error_of(b"id", other)).code, "login-refused")

    async def test_what_needs_no_misbehaviour(self) -> None:
        wrong = self.host.target(credential=Credential(password="wrong"))
        for target, code in (
            (wrong, "login-refused"),
            (self.host.target(host="db2.example"), "name-not-found"),
            (self.host.target(port=23), "connect-refused"),
            (self.host.target(host="10.9.9.9"), "unreachable"),
        ):
            self.assertEqual((await self.error_of(target=target)).code, code)

    async def test_a_new_host_key(self) -> None:
        await self.run_command(b"uptime")
        before = self.host.host_key
        self.host.renew_key()
        self.assertNotEqual(self.host.host_key, before)
        self.host.drop_connections()
        while self.client.counts().connections:
            await deferLater(reactor, 0.002)
        self.assertEqual((await self.error_of()).code, "host-key-changed")

    async def test_a_connection_that_is_lost(self) -> None:
        await self.run_command(b"uptime")
        self.host.drop_connections()
        while self.client.counts().connections:
            await deferLater(reactor, 0.002)
        self.assertEqual((await self.run_command(b"uptime")).stdout.text(), "uptime!")

    async def test_addresses(self) -> None:
        """Two hosts with one name: the second is tried where the first refuses."""
        other = self.network.add(MemoryHost("db1.example", run=answer))
        self.host.misbehaviour = Misbehaviour.REFUSES_CONNECTIONS
        other.renew_key()
        self.assertEqual((await self.run_command(b"id")).stdout.text(), "id!")
        self.assertEqual(len(other.received), 1)
        for name in ("fd00::7", "10.0.0.9"):
            host = self.network.add(MemoryHost(name, run=answer))
            self.assertEqual((await self.run_command(b"id", host.target())).stdout.text(), "id!")
            self.assertEqual(host.address, name)

    async def test_cancel_while_it_connects(self) -> None:
        self.host.misbehaviour = Misbehaviour.DOES_NOT_ANSWER
        running = self.client.run(self.host.target(), b"true", self.clock.seconds() + LIMIT)
        await deferLater(reactor, 0.02)
        running.cancel()
        error = (await self.assertFailure(running, SSHError)).code
        self.assertEqual((error, self.host.received), ("cancelled", []))

    async def test_the_reactors_own_time(self) -> None:
        network = MemoryNetwork(reactor)
        host = network.add(MemoryHost(run=answer))
        client = SSHClient(network, SSHSettings(known_hosts="", host_keys="ignore"))
        self.addCleanup(client.close)
        done = await client.run(host.target(), b"date", network.seconds() + LIMIT)
        self.assertEqual(done.stdout.text(), "date!")


class MisbehaviourTests(HostCase):
    """Hosts that fail, and then do not."""

    async def test_each_ends_in_the_error_that_it_names(self) -> None:
        for misbehaviour in Misbehaviour:
            name = misbehaviour.name.lower().replace("_", "-")
            host = self.network.add(MemoryHost(f"{name}.example", run=answer))
            host.misbehaviour = misbehaviour
            error = await self.error_of(target=host.target())
            self.assertEqual(error.code, misbehaviour.value, error)
            host.misbehaviour = None
            if not error.code.startswith("login") and error.code != "password-expired":  # which rest
                self.assertEqual((await self.run_command(b"now", host.target())).stdout.text(), "now!", name)
