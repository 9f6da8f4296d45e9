"""
SSH servers of every make, each as it is: ten commands at a time, silences, standard input, commands that a signal ends.

The servers that could be brought; `tests.support.ssh_matrix` says what is asserted of each, and makes the table in
``docs/ssh.rst`` of it.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Coroutine
from contextlib import closing
from typing import Any

from twisted.internet.defer import Deferred, gatherResults

from relayd.network.host_rules import HostRule, HostSettings, HostTable
from relayd.ssh.client import Completed, SSHClient
from relayd.ssh.errors import OutcomeUnknown, OutdatedInCommon, RunTimeout
from relayd.ssh.target import Target
from relayd.ssh.testing import Habit, MemoryHost, Misbehaviour, Reply
from tests.support.chaos import ChaosProxy
from tests.support.ssh import DEADLINE, ServerTestCase, marked_sleep, processes
from tests.support.ssh_matrix import ROWS, Row
from tests.support.ssh_peers import BROUGHT, SSHPeer, started

#: Seconds between two probes of a server that has no good answer to them: a longer silence must do no harm.
PROBES = 1.0


class FieldTests(ServerTestCase):
    """A test for each server that was brought."""

    async def check(self, peer: SSHPeer, row: Row) -> None:
        self.assertTrue(_version(peer).startswith(row.version), _version(peer))
        client = self.make_client(**peer.settings)
        target = peer.target()
        self.assertEqual("algorithms" in peer.settings, row.legacy)
        if row.legacy:
            await self.error_of(self.run_command(self.make_client(), target, "true"), OutdatedInCommon)
        done = await self.run_command(client, target, "echo out; exit 3")
        self.assertEqual((done.stdout.text(), done.exit.status), ("out", 3 if row.status else 0))
        await self.check_many(client, target, row)
        done = await self.run_command(client, target, "kill -TERM $$")
        self.assertEqual(done.exit.signal or done.exit.status, row.killed)
        await self.check_stdin(client, target, row.stdin)
        if row.quiet:
            client = self.make_client(keepalive_interval=PROBES, **peer.settings)
            done = await self.run_command(client, target, f"sleep {PROBES * 4:g}; echo done")
            self.assertEqual((done.stdout.text(), done.error), ("done", None))

    async def check_stdin(self, client: SSHClient, target: Target, stdin: bool | None) -> None:
        """A command gets its standard input and the end of that, or only the former, or nothing."""
        given = b"line\n" * 20_000
        # Where no end comes, the number of bytes ends it.
        text = f"head -c {len(given)} | wc -c" if stdin is False else "wc -c"
        done = await client.run(target, text.encode(), self.reactor.seconds() + DEADLINE, stdin=given)
        self.assertEqual(done.stdout.text().strip(), "0" if stdin is None else str(len(given)))
        if stdin is False:
            done = await client.run(target, b"cat", self.reactor.seconds() + 1.0, stdin=b"line")
            self.assertIsInstance(done.error, RunTimeout)

    async def check_many(self, client: SSHClient, target: Target, row: Row) -> None:
        """All at once: each runs once, and what the host bears is learned."""
        ran = self.directory / "ran"
        ran.touch()
        ran.chmod(0o666)
        self.directory.chmod(0o755)
        running = [
            self.run_command(client, target, f"echo {number} >>{ran}; sleep 0.1; echo {number}") for number in range(10)
        ]
        each: list[Completed] = await gatherResults(running)
        self.assertEqual([done.error for done in each], [None] * 10)
        self.assertEqual([done.stdout.text() for done in each], [str(number) for number in range(10)])
        self.assertEqual(sorted(ran.read_text().split()), [str(number) for number in range(10)])
        last = self.run_command(client, target, "sleep 0.2")
        (known,) = client.hosts()
        self.assertEqual((known.limit, known.single), (row.limit, row.single))
        await last

    async def test_the_kernel_is_asked_about_the_machine(self) -> None:
        """A machine that acknowledges nothing for three intervals ends a connection, whatever its server does."""
        server = await self.start_server()
        client = self.make_client(keepalive_interval=20.0)
        await self.run_command(client, self.target(server), "true")
        (connection,) = client._pool._connections.members  # users of the package do not see sockets
        below: Any = connection.transport.transport
        found = below.getHandle().getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        self.assertEqual((found, below.getTcpKeepAlive()), (60_000, True))
        await self.until(lambda: connection.answers_probes, "the server has answered a probe")


class GoneTests(ServerTestCase):
    """Machines whose packets come no more, not even a reset: the kernel drops all that is sent to them."""

    #: Seconds between two probes: a busy machine of the tests must not look like one that is gone.
    interval = 2.0

    async def begin(self, port: int) -> ChaosProxy:
        """What is between the relay and a host at *port*."""
        proxy = ChaosProxy(port)
        proxy.start()
        self.addCleanup(proxy.stop)
        return proxy

    async def silent_host(self) -> MemoryHost:
        """A host on a socket that never answers probes: no server that could be brought is like that."""
        host = MemoryHost("127.0.0.1", run=lambda command: Reply(stdout=command))
        host.habit, host.misbehaviour = Habit.IGNORES_PROBES, Misbehaviour.NEVER_ENDS
        host.join(self.reactor, host.name)
        listening = self.reactor.listenTCP(0, host.factory, interface=host.name)
        self.addCleanup(listening.stopListening)
        host.port = listening.getHost().port
        return host

    async def test_a_machine_that_is_gone(self) -> None:
        """Commands there end with an unknown outcome, others go on, and the next one dials anew."""
        answering, silent, other = await self.start_server(), await self.silent_host(), await self.start_server()
        proxies = [await self.begin(host.port) for host in (answering, silent)]
        targets = [self.target(answering, port=proxies[0].port), silent.target(port=proxies[1].port)]
        hosts = tuple(f"[127.0.0.1]:{proxy.port}" for proxy in proxies)
        said = HostRule(hosts=hosts, settings=HostSettings(keepalive_interval=self.interval))
        client = self.make_client(hosts=HostTable((said,)))
        going_on = self.run_command(client, self.target(other), f"sleep {self.interval * 5:g}; echo done")
        marker, sleep = marked_sleep()
        # Long enough for the probes, and for the kernel's; without them these commands would time out.
        running = [
            self.run_command(client, target, command, timeout=DEADLINE / 2)
            for target, command in zip(targets, (sleep, "first"), strict=True)
        ]
        await self.until(lambda: processes(marker) and silent.received, "both run")
        await self.sleep(self.interval)
        for proxy in proxies:
            proxy.newest.drop_packets()
        errors = [(await each).error for each in running]
        self.assertEqual([type(error) for error in errors], [OutcomeUnknown] * 2)
        # The server said nothing that it would be missed for: it is the kernel that finds out.
        self.assertIn("the connection was closed", str(errors[1]))
        self.assertEqual((await going_on).stdout.text(), "done")
        silent.misbehaviour = None
        self.assertEqual((await self.run_command(client, targets[0], "echo again")).stdout.text(), "again")
        self.assertEqual((await self.run_command(client, targets[1], "again")).stdout.text(), "again")
        self.assertEqual([proxy.accepted for proxy in proxies], [2, 2])


def _version(peer: SSHPeer) -> str:
    with closing(socket.create_connection(("127.0.0.1", peer.port), DEADLINE)) as connection:
        return connection.recv(255).decode("ascii", "replace")


def _test_of(name: str) -> Callable[[FieldTests], Coroutine[Deferred[Any], Any, None]]:
    async def test(self: FieldTests) -> None:
        await self.check(started(name), ROWS[name])

    return test


for _name in sorted(BROUGHT & set(ROWS)):
    setattr(FieldTests, f"test_{_name}", _test_of(_name))
