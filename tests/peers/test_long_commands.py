"""
Commands that are too long for the packet that carries them, or for the system that starts them.
"""

from __future__ import annotations

import re
from pathlib import Path

from msgspec import structs
from twisted.trial.unittest import SynchronousTestCase

from relayd.ssh.client import SSHClient
from relayd.ssh.errors import CommandNotStarted, CommandTooLong
from relayd.ssh.target import Target
from relayd.ssh.transport import server_limits
from relayd.ssh.transport.server_limits import EVERY_SERVER, largest_payload, most_of_command, most_payload, not_started
from tests.peers.test_ssh_servers import DropbearCase
from tests.support.memory_pool import PoolTestCase
from tests.support.ssh import ServerTestCase
from tests.support.ssh_pool import A

OPENSSH = most_of_command(most_payload(b"SSH-2.0-OpenSSH_9.2p1"))
DROPBEAR = most_of_command(most_payload(b"SSH-2.0-dropbear_2022.83"))


def padded(size: int) -> str:
    """A command of so many bytes."""
    return "#" * (size - len("\necho hi")) + "\necho hi"


class LimitsTests(SynchronousTestCase):
    """What is known of servers."""

    def test_versions(self) -> None:
        for version in (b"SSH-2.0-OpenSSH_9.2p1 Debian-2", b"SSH-1.99-OpenSSH_3.9p1", b"SSH-2.0-Go"):
            self.assertEqual(most_payload(version), 262_112, version)
        self.assertEqual(most_payload(b"SSH-2.0-dropbear_2022.83"), 9018)
        for version in (b"SSH-2.0-Cisco-1.25", b"SSH-2.0-", b"", b"SSH-2.0-ROSSSH", b"SSH-2.0-GoAnywhere7.3"):
            self.assertEqual(most_payload(version), EVERY_SERVER, version)

    def test_table_of_the_page(self) -> None:
        """docs/ssh.rst says how long a command may be on each server."""
        text = (Path(__file__).resolve().parents[2] / "docs" / "ssh.rst").read_text("utf-8")
        rows = text[text.index("bytes of a command, and of a variable with its name") :].splitlines()[2:]
        found = [re.fullmatch(r"(\S.{26})  ([\d,]+) .*", row) for row in rows[:3]]
        said = {row[1].strip(): int(row[2].replace(",", "")) for row in found if row is not None}
        self.assertEqual(
            said,
            {
                "OpenSSH, Go's library": OPENSSH,
                "dropbear": DROPBEAR,
                "all others": most_of_command(EVERY_SERVER),
            },
        )
        self.assertEqual(most_of_command(most_payload(b"SSH-2.0-Go")), OPENSSH)

    def test_every_server(self) -> None:
        """tinysshd takes packets of 32,768 bytes, with the padding (at most 4 + 15) and its length."""
        self.assertLessEqual(1 + EVERY_SERVER + 4 + 15, 32_768)

    def test_sizes(self) -> None:
        self.assertEqual(largest_payload(b"true", ()), 22)
        self.assertEqual(largest_payload(b"true", [("A", b"b"), ("NAME", "\N{SNOWMAN}".encode() * 10)]), 21 + 4 + 30)

    def test_words_of_a_system_that_starts_nothing(self) -> None:
        words = b"/bin/bash: Argument list too long\n"
        self.assertEqual(not_started(1, 0, words), "Argument list too long")
        # What a shell says that was started, and what a command may write itself
        for status, stdout, stderr in (
            (126, 0, words),
            (1, 1, words),
            (1, 0, b"bash: line 1: /bin/echo: Argument list too long\n"),
            (1, 0, b"/bin/bash: /bin/echo: Argument list too long\n"),
            (1, 0, b"begun\n" + words),
            (1, 0, words + b"more"),
            (None, 0, words),
        ):
            self.assertIsNone(not_started(status, stdout, stderr))


class PoolTests(PoolTestCase):
    """Connections in memory to a server that takes what every server does."""

    def test_refused_before_anything_is_sent(self) -> None:
        beside = self.submit(command="beside")
        connection = self.dialer.succeed()
        self.packets(connection)
        job = self.job()
        job.payload = EVERY_SERVER + 1
        self.pool.submit(job)
        (error,) = self.errors
        self.assertIsInstance(error, CommandTooLong)
        self.assertEqual((error.executed, error.phase), ("no", "session"))
        self.assertEqual(self.packets(connection), [])
        self.assertEqual((self.pool.report.counts().sessions, beside.connection), (1, connection))

    def test_near_the_limit_on_a_connection_of_its_own(self) -> None:
        self.submit(command="beside")
        connection = self.dialer.succeed()
        jobs = [self.job(command=f"long {number}") for number in range(2)]
        for job in jobs:
            job.payload = EVERY_SERVER
            self.pool.submit(job)
        own = structs.replace(A, alone=True)
        for job in jobs:
            self.assertEqual(self.dialer.targets(), [own])
            another = self.dialer.succeed()
            self.clock.advance(1)
            self.assertIs(job.connection, another)
            self.assertEqual(self.opens(another), 1)
            # Nothing else goes there, be it long or not.
            self.submit(command="short")
            self.assertEqual(self.opens(another), 0)
        self.assertEqual(self.errors, [])
        self.assertIs(self.pool.submit(self.job()), None)
        connections = [job.connection for job in jobs]
        for own_connection in connections:
            assert own_connection is not None
            self.confirm(own_connection)
        for own_connection in connections:
            assert own_connection is not None
            own_connection.packetReceived(97, b"\0\0\0\0")
            self.clock.advance(1)
            self.assertIn("old", self.disconnected(own_connection))
        self.assertEqual(self.disconnected(connection), "")

    def test_no_more_of_them_than_connections_to_one_target(self) -> None:
        self.make(max_connections=2)
        self.submit()
        self.dialer.succeed()
        for number in range(5):
            job = self.job(command=f"long {number}")
            job.payload = EVERY_SERVER
            self.pool.submit(job)
        for _ in range(2):
            self.dialer.succeed()
            self.clock.advance(1)
        self.assertEqual(self.dialer.targets(), [])

    def test_server_that_opens_no_session(self) -> None:
        self.make(max_connections=1)
        job = self.job()
        job.payload = EVERY_SERVER
        self.pool.submit(job)
        self.dialer.succeed()
        connection = self.dialer.succeed()
        for number in range(6):
            self.refuse(connection, number)
            self.clock.advance(10)
        self.assertEqual([error.code for error in self.errors], ["session-refused"])
        self.assertEqual(self.dialer.targets(), [])


class OpenSSHTests(ServerTestCase):
    """A real sshd."""

    async def too_long(self, client: SSHClient, target: Target, size: int) -> CommandTooLong:
        error = await self.error_of(self.run_command(client, target, padded(size)), CommandTooLong)
        self.assertEqual((error.code, error.executed, error.retriable), ("command-too-long", "no", False))
        self.assertIn("stdin", str(error))
        self.assertIn(str(size), str(error))
        return error

    async def test_others_go_on(self) -> None:
        client, target = self.make_client(), self.target(await self.start_server())
        other = self.run_command(client, target, "sleep 3; echo done")
        await self.run_command(client, target, "true")
        self.assertNotIsInstance(await self.too_long(client, target, OPENSSH + 1), CommandNotStarted)
        error = await self.too_long(client, target, 300_000)
        self.assertNotIsInstance(error, CommandNotStarted)
        self.assertEqual(client.counts().connections, 1)
        done = await other
        self.assertEqual((done.stdout.text(), done.error), ("done", None))

    async def test_as_long_as_it_may_be(self) -> None:
        client, target = self.make_client(), self.target(await self.start_server())
        for size in (9_000, 100_000, server_limits.MAX_LINUX_ARGUMENT - 1):
            done = await self.run_command(client, target, padded(size))
            self.assertEqual((done.stdout.text(), done.exit.status), ("hi", 0), size)
        # Longer ones go out, as other systems start them, and are told of truly.
        for size in (server_limits.MAX_LINUX_ARGUMENT, OPENSSH):
            error = await self.too_long(client, target, size)
            self.assertIsInstance(error, CommandNotStarted)
            self.assertIn("Argument list too long", str(error))

    async def test_variable(self) -> None:
        client, target = self.make_client(), self.target(await self.start_server("AcceptEnv *"))
        deadline = self.reactor.seconds() + 60
        running = client.run(target, b"true", deadline, env=[("LONG", b"x" * 300_000)])
        await self.error_of(running, CommandTooLong)
        done = await client.run(target, b'echo "${#LONG}"', deadline, env=[("LONG", b"x" * 120_000)])
        self.assertEqual(done.stdout.text(), "120000")

    async def test_connection_of_its_own_for_what_comes_near_the_limit(self) -> None:
        server = await self.start_server()
        client, target = self.make_client(), self.target(server)
        await self.run_command(client, target, "true")
        await self.too_long(client, target, OPENSSH)
        self.assertEqual(len([line for line in server.log_lines if line.startswith("Accepted publickey")]), 2)
        await self.until(lambda: client.counts().connections == 1, "its connection is closed")
        self.assertEqual((await self.run_command(client, target, "echo ok")).stdout.text(), "ok")
        self.assertEqual(len([line for line in server.log_lines if line.startswith("Accepted publickey")]), 2)


class DropbearTests(DropbearCase):
    """A real dropbear: it ends a connection for a string of 9,001 bytes."""

    async def test_limit(self) -> None:
        account, port = await self.start_dropbear()
        client, target = self.make_client(), self.target(account, port=port, password=account.password)
        done = await self.run_command(client, target, padded(DROPBEAR))
        self.assertEqual((done.stdout.text(), done.exit.status), ("hi", 0))
        other = self.run_command(client, target, "sleep 2; echo done")
        for size in (DROPBEAR + 1, 36_000):
            error = await self.error_of(self.run_command(client, target, padded(size)), CommandTooLong)
            self.assertIn("accepts 9000", str(error))
        done = await other
        self.assertEqual((done.stdout.text(), done.error), ("done", None))
