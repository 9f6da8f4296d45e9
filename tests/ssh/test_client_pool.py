"""
The SSH client's connections to a real OpenSSH server: session limits, losses, idleness, the end.
"""

from __future__ import annotations

import signal
from collections import Counter
from typing import Any

from twisted.internet.defer import gatherResults
from twisted.protocols.portforward import ProxyFactory

import relayd.ssh.pool.moved_names
from relayd.ssh.errors import ConnectRefused, LoginRefused, NotRun, OutcomeUnknown, SSHError
from tests.support.names import ScriptedNames
from tests.support.ssh import ServerTestCase, key_pair, marked_sleep, processes


class ManyTests(ServerTestCase):
    """More commands at a time than the server gives sessions."""

    async def check(self, *config_lines: str, count: int = 64, **settings: Any) -> None:
        server = await self.start_server(*config_lines)
        client = self.make_client(**settings)
        target = self.target(server)
        record = self.directory / "record"
        record.touch()
        record.chmod(0o666)
        self.directory.chmod(0o755)
        done = await gatherResults(
            [
                self.run_command(client, target, f"echo {number} >> {record}; echo {number}; exit {number % 3}")
                for number in range(count)
            ],
            consumeErrors=True,
        )
        for number, completed in enumerate(done):
            self.assertIsNone(completed.error)
            self.assertEqual((completed.stdout.text(), completed.exit.status), (str(number), number % 3))
        # Once each: none twice because a refused session was tried again.
        self.assertEqual(Counter(record.read_text().split()), Counter(str(number) for number in range(count)))
        counts = client.counts()
        self.assertEqual((counts.waiting, counts.sessions), (0, 0))
        # A connection that was begun for a command which another one took is opened all the same: to break off a login
        # counts against the relay.
        await self.until(lambda: not client.counts().dialling, "the last connections are open, or given up")
        self.assertLessEqual(client.counts().connections, settings.get("max_connections", 4))

    async def test_64_with_10_sessions_a_connection(self) -> None:
        await self.check("MaxSessions 10")

    async def test_64_with_2_sessions_a_connection(self) -> None:
        await self.check("MaxSessions 2")

    async def test_64_with_1_session_a_connection(self) -> None:
        await self.check("MaxSessions 1")

    async def test_64_on_one_connection_of_one_session(self) -> None:
        await self.check("MaxSessions 1", max_connections=1)

    async def test_64_where_newcomers_are_turned_away(self) -> None:
        await self.check("MaxSessions 1", "MaxStartups 2:100:2", max_connections=8)

    async def test_quick_turnover(self) -> None:
        await self.check(count=300)

    async def test_one_target_each_connection(self) -> None:
        server = await self.start_server("MaxStartups 4:100:4")
        client = self.make_client(max_connections=2)
        targets = []
        for kind in ("ed25519", "ecdsa", "rsa"):
            private, public = key_pair(kind)
            server.authorize(public)
            targets += [self.target(server, private_key=private), self.target(server, private_key=private + "\n")]
        done = await gatherResults(
            [self.run_command(client, target, "echo ok") for target in targets * 4], consumeErrors=True
        )
        self.assertEqual({completed.stdout.text() for completed in done}, {"ok"})


class NoSessionTests(ServerTestCase):
    """Servers that let us in and then run nothing."""

    async def test_no_session_at_all(self) -> None:
        server = await self.start_server("MaxSessions 0")
        client = self.make_client()
        for running in [self.run_command(client, self.target(server), "true") for _ in range(3)]:
            error = await self.error_of(running, SSHError)
            self.assertEqual((error.phase, error.executed), ("session", "no"))
            self.assertIn("MaxSessions", str(error))


class LossTests(ServerTestCase):
    """Connections that end while they are wanted."""

    async def test_server_killed_while_commands_run(self) -> None:
        server = await self.start_server()
        client = self.make_client(max_sessions=2)
        marker, command = marked_sleep()
        running = [self.run_command(client, self.target(server), f"echo on; {command}") for _ in range(3)]
        await self.until(lambda: len(processes(marker)) >= 3, "all run")
        await self.sleep(0.1)
        server.drop_connections()
        for one in running:
            completed = await one
            self.assertIsInstance(completed.error, OutcomeUnknown)
            self.assertEqual(completed.stdout.text(), "on")
            self.assertFalse(completed.exit.known)
        await self.until(lambda: client.counts().connections == 0, "no connection is left")

    async def test_server_gone_while_commands_wait(self) -> None:
        server = await self.start_server()
        client = self.make_client(max_sessions=1, max_connections=1)
        marker, command = marked_sleep()
        first = self.run_command(client, self.target(server), command)
        second = self.run_command(client, self.target(server), "true")
        await self.until(lambda: processes(marker), "the first runs")
        await server.stop()
        self.assertIsInstance((await first).error, OutcomeUnknown)
        await self.error_of(second, ConnectRefused)

    async def test_commands_that_wait_survive_a_lost_connection(self) -> None:
        server = await self.start_server()
        client = self.make_client(max_sessions=1, max_connections=1)
        marker, command = marked_sleep()
        first = self.run_command(client, self.target(server), command)
        others = [self.run_command(client, self.target(server), "echo ok") for _ in range(5)]
        await self.until(lambda: processes(marker), "the first runs")
        server.drop_connections()
        self.assertIsInstance((await first).error, OutcomeUnknown)
        self.assertEqual({(await one).stdout.text() for one in others}, {"ok"})

    async def test_lost_between_commands(self) -> None:
        server = await self.start_server()
        client = self.make_client()
        for _ in range(3):
            completed = await self.run_command(client, self.target(server), "echo ok")
            self.assertEqual(completed.stdout.text(), "ok")
            server.drop_connections()
            await self.until(lambda: client.counts().connections == 0, "the loss is seen")

    async def test_restart(self) -> None:
        server = await self.start_server()
        client = self.make_client()
        await self.run_command(client, self.target(server), "true")
        await server.restart()
        completed = await self.run_command(client, self.target(server), "echo ok")
        self.assertEqual(completed.stdout.text(), "ok")


class MovedTests(ServerTestCase):
    """A host whose name leads to another machine from now on."""

    async def test_fail_over(self) -> None:
        server = await self.start_server()
        arrivals: list[str] = []

        class Way(ProxyFactory):
            name = ""

            def buildProtocol(self, addr: Any) -> Any:
                arrivals.append(self.name)
                return super().buildProtocol(addr)

        port = 0
        for address in ("127.0.0.1", "127.0.0.2"):
            way = Way(server.host, server.port)
            way.name = address
            listening = self.reactor.listenTCP(port, way, interface=address)
            self.addCleanup(listening.stopListening)
            port = listening.getHost().port
        names = ScriptedNames(["127.0.0.1"], ["127.0.0.1"], ["127.0.0.2"])
        before = self.reactor.installNameResolver(names)
        self.addCleanup(self.reactor.installNameResolver, before)
        self.patch(relayd.ssh.pool.moved_names, "FRESH", 0.0)
        self.patch(relayd.ssh.pool.moved_names, "STALE", 0.0)
        client = self.make_client()
        target = self.target(server, host="db.example", port=port)
        marker, command = marked_sleep()
        long = self.run_command(client, target, command)
        await self.until(lambda: processes(marker), "it runs")
        await self.run_command(client, target, "true")
        self.assertEqual(arrivals, ["127.0.0.1"])
        completed = await self.run_command(client, target, "echo ok")
        self.assertEqual(completed.stdout.text(), "ok")
        self.assertEqual((arrivals, names.asked), (["127.0.0.1", "127.0.0.2"], ["db.example"] * 4))
        self.assertTrue(processes(marker), "what runs goes on")
        long.cancel()
        await long
        await self.until(lambda: client.counts().connections == 1, "the old connection is closed")


class SharingTests(ServerTestCase):
    """Who shares a connection with whom, and for how long it is kept."""

    async def test_one_connection_for_one_target(self) -> None:
        server = await self.start_server()
        client = self.make_client()
        for _ in range(5):
            await self.run_command(client, self.target(server), "true")
        self.assertEqual(server.connection_count(), 1)

    async def test_no_credential_uses_the_connection_of_another(self) -> None:
        server = await self.start_server()
        client = self.make_client()
        await self.run_command(client, self.target(server, password=server.password), "true")
        await self.error_of(self.run_command(client, self.target(server, password="wrong"), "true"), LoginRefused)
        await self.run_command(client, self.target(server), "true")
        self.assertEqual(client.counts().connections, 2)

    async def test_idle_connections_are_closed(self) -> None:
        server = await self.start_server()
        client = self.make_client(idle_timeout=0.4)
        await self.run_command(client, self.target(server), "true")
        self.assertEqual(client.counts().connections, 1)
        await self.until(lambda: client.counts().connections == 0, "the idle connection is closed")
        await self.until(lambda: server.connection_count() == 0, "the server saw it")
        completed = await self.run_command(client, self.target(server), "echo ok")
        self.assertEqual(completed.stdout.text(), "ok")

    async def test_busy_connections_are_not_idle(self) -> None:
        server = await self.start_server()
        completed = await self.run_command(
            self.make_client(idle_timeout=0.2), self.target(server), "sleep 1.2; echo ok"
        )
        self.assertIsNone(completed.error)
        self.assertEqual(completed.stdout.text(), "ok")


class CeilingTests(ServerTestCase):
    """Connections in all, and their age."""

    async def test_more_hosts_than_connections(self) -> None:
        servers = [await self.start_server() for _ in range(4)]
        client = self.make_client(max_total_connections=2)
        running = [
            self.run_command(client, self.target(server), f"echo {number}")
            for number in range(10)
            for server in servers
        ]
        most = 0
        while not all(each.called for each in running):
            counts = client.counts()
            most = max(most, counts.connections + counts.dialling)
            await self.sleep(0.005)
        self.assertEqual(
            [(await each).stdout.text() for each in running], [str(number) for number in range(10) for _ in servers]
        )
        self.assertEqual(most, 2)
        await self.until(lambda: sum(server.connection_count() for server in servers) <= 2, "the servers saw it")

    async def test_a_host_behind_another_takes_two(self) -> None:
        jumps = [await self.start_server() for _ in range(2)]
        host = await self.start_server()
        client = self.make_client(max_total_connections=2)
        ways = [self.target(host, via=self.target(jump)) for jump in jumps]
        running = [self.run_command(client, way, "echo ok") for way in [*ways, *map(self.target, jumps), *ways]]
        self.assertEqual([(await each).stdout.text() for each in running], ["ok"] * 6)

    async def test_an_old_connection_is_replaced(self) -> None:
        server = await self.start_server()
        client = self.make_client(max_connection_age=0.5)
        marker, command = marked_sleep()
        long = self.run_command(client, self.target(server), command)
        await self.until(lambda: processes(marker), "it runs")
        await self.sleep(0.6)
        await self.run_command(client, self.target(server), "true")
        self.assertEqual(client.counts().connections, 2)
        long.cancel()
        self.assertEqual((await long).error.code, "cancelled")
        await self.until(lambda: client.counts().connections == 1, "the old one is closed")


class CloseTests(ServerTestCase):
    """The end of a client leaves nothing behind, at whatever point it comes."""

    def delayed_calls(self) -> list[str]:
        return [str(call) for call in self.reactor.getDelayedCalls() if "relayd" in str(call)]

    async def test_close_with_an_idle_connection(self) -> None:
        server = await self.start_server()
        client = self.make_client()
        await self.run_command(client, self.target(server), "true")
        await client.close()
        self.assertEqual(client.counts().connections, 0)
        self.assertEqual(self.delayed_calls(), [])
        await self.until(lambda: server.connection_count() == 0, "the server saw it")
        await client.close()  # once more does no harm

    async def test_close_while_commands_run_and_wait(self) -> None:
        server = await self.start_server()
        client = self.make_client(max_sessions=1, max_connections=1)
        marker, command = marked_sleep()
        first = self.run_command(client, self.target(server), command)
        second = self.run_command(client, self.target(server), "true")
        await self.until(lambda: processes(marker), "the first runs")
        await client.close()
        self.assertIsInstance((await first).error, OutcomeUnknown)
        await self.error_of(second, NotRun)
        self.assertEqual(self.delayed_calls(), [])
        await self.error_of(self.run_command(client, self.target(server), "true"), NotRun)

    async def test_close_while_it_connects(self) -> None:
        server = await self.start_server()
        for steps in range(0, 24, 2):  # after each step of the way from the key to the login
            client = self.make_client()
            running = self.run_command(client, self.target(server), "sleep 100")
            for _ in range(steps):
                await self.sleep(0.002)
            await client.close()
            results: list[object] = []
            running.addBoth(results.append)
            self.assertEqual(len(results), 1, f"after {steps} steps the command has no end")
            self.assertEqual(self.delayed_calls(), [], f"after {steps} steps")
            counts = client.counts()
            self.assertEqual((counts.waiting, counts.connections, counts.sessions), (0, 0, 0))
        await self.until(lambda: server.connection_count() == 0, "the server saw the ends")

    async def test_close_with_a_server_that_does_not_react(self) -> None:
        server = await self.start_server()
        client = self.make_client()
        await self.run_command(client, self.target(server), "true")
        server.drop_connections(signal.SIGSTOP)
        await client.close()
        server.drop_connections(signal.SIGCONT)
        self.assertEqual(self.delayed_calls(), [])
