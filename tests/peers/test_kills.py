"""
Commands that run out of time on servers that others wrote: what is found and ended there, and what the result says.

`docs/ssh.rst` has the table; it is read here.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

from relayd.ssh.client import SSHClient
from relayd.ssh.errors import RunTimeout
from tests.support.ending import EndingTestCase
from tests.support.ssh import DEADLINE, marked_sleep, processes
from tests.support.ssh_peers import BROUGHT, KINDS, SSHPeer, started

PAGE = Path(__file__).resolve().parents[2] / "docs" / "ssh.rst"
#: The names of the servers in the table.
TITLES = {
    "tinysshd": "tinysshd",
    "lsh": "lsh",
    "erlang": "Erlang/OTP",
    "go": "Go's library",
    "gliderlabs": "gliderlabs (Go)",
    "libssh": "libssh (example)",
    "conch": "Twisted Conch",
    "ssh2": "ssh2 (Node.js)",
    "asyncssh": "asyncssh",
    "paramiko": "paramiko",
}


def table() -> dict[str, str]:
    """What the table says of ``killed``, by the title of a server."""
    text = PAGE.read_text()
    rows = text[text.index("server              its commands are known by") :].splitlines()
    found = (re.fullmatch(r"(\S.{17})  .*``(confirmed|unsupported)``.*", row) for row in rows[:20])
    return {each[1].strip(): each[2] for each in found if each is not None}


class KillTests(EndingTestCase):
    """Each server that is there."""

    def setUp(self) -> None:
        super().setUp()
        self.be_patient()

    async def know(self, client: SSHClient, peer: SSHPeer) -> None:
        """Let the client learn how many commands a connection takes."""
        for _ in range(2):
            await self.run_command(client, peer.target(), "true")

    async def check(self, name: str) -> None:
        """The processes of one command are ended, or none, as the table says, and nothing else."""
        peer = started(name)
        client = self.make_client(**peer.settings)
        mark, sleep = marked_sleep()
        other_mark, other = marked_sleep()
        stranger_mark, stranger = marked_sleep()
        text = f"cd / ; ({sleep}) & {sleep}; true"
        # Not the server's, with the same text and at the same time
        strange = text.replace(sleep, stranger)
        argv = ["sh", "-c", f'sh -c "$0" & {stranger}', strange]
        process = subprocess.Popen(argv, start_new_session=True, stderr=subprocess.DEVNULL)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        expected = table()[TITLES[name]]
        await self.know(client, peer)
        beside = client.run(peer.target(), f"{other}; true".encode(), self.reactor.seconds() + 100)
        grace = DEADLINE if expected == "confirmed" else 2.0
        running = client.run(peer.target(), text.encode(), self.reactor.seconds() + 2, grace=grace)
        await self.until(lambda: len(processes(mark)) == 2 and processes(other_mark), "they run")
        done = await running
        self.assertIsInstance(done.error, RunTimeout)
        self.assertEqual(done.killed, expected)
        self.assertEqual(len(processes(mark)), 0 if done.killed == "confirmed" else 2)
        self.assertEqual((len(processes(other_mark)), len(processes(stranger_mark)), beside.called), (1, 3, False))
        beside.cancel()
        await beside

    async def check_twins(self, name: str, killed: str) -> None:
        """Of two equal commands, one runs out of time."""
        peer = started(name)
        client = self.make_client(**peer.settings)
        mark, sleep = marked_sleep()
        text = f"cd / ; {sleep}; true".encode()
        await self.know(client, peer)
        others = [client.run(peer.target(), text, self.reactor.seconds() + 100) for _ in range(2)]
        grace = DEADLINE if killed == "confirmed" else 5.0
        running = client.run(peer.target(), text, self.reactor.seconds() + 2, grace=grace)
        await self.until(lambda: len(processes(mark)) == 3, "they run")
        done = await running
        self.assertEqual((done.killed, len(processes(mark))), (killed, 2 if killed == "confirmed" else 3))
        self.assertFalse([each for each in others if each.called])
        for each in others:
            each.cancel()
            await each

    async def check_left_process(self, name: str) -> None:
        """
        The process that a command began with has ended, but not what it left, which holds its output.

        Another command with the same text must not be ended in its place.
        """
        peer = started(name)
        client = self.make_client(**peer.settings, max_sessions=1)
        mark, sleep = marked_sleep()
        text = f"mkdir {self.directory}/first && {{ {sleep} & exit; }}; {sleep}; true".encode()
        await self.know(client, peer)
        running = client.run(peer.target(), text, self.reactor.seconds() + 2, grace=5.0)
        await self.until(lambda: processes(mark), "the first runs")
        other = client.run(peer.target(), text, self.reactor.seconds() + 100)
        await self.until(lambda: len(processes(mark)) == 2, "the second runs")
        self.assertEqual((await running).killed, "unsupported")
        self.assertEqual((len(processes(mark)), other.called), (2, False))
        other.cancel()
        await other

    async def check_in_a_row(self, name: str) -> None:
        """What looked for the processes of one command does not stay, where it might be taken for the next one."""
        peer = started(name)
        client = self.make_client(**peer.settings)
        for _ in range(2):
            mark, sleep = marked_sleep()
            running = client.run(peer.target(), f"{sleep}; true".encode(), self.reactor.seconds() + 2, grace=DEADLINE)
            await self.until(lambda: processes(mark), "it runs")  # noqa: B023
            self.assertEqual((await running).killed, "confirmed")

    def test_every_server_is_in_the_table(self) -> None:
        self.assertEqual(set(TITLES), set(KINDS) - {"fakenos"})  # devices, which have no processes
        # tests.ssh.ending.test_ending and tests.peers.test_ssh_servers have these two.
        self.assertEqual(set(TITLES.values()) | {"OpenSSH", "dropbear"}, set(table()))


def _add(name: str, title: str, check: Any, *args: str) -> None:
    def test(self: KillTests) -> Any:
        return check(self, name, *args)

    if name in BROUGHT:
        setattr(KillTests, title, test)


for _name in TITLES:
    _add(_name, f"test_{_name}", KillTests.check)
# Told apart by their connection, or not at all
for _name, _killed in (
    ("lsh", "confirmed"),
    ("conch", "confirmed"),
    ("go", "unsupported"),
    ("tinysshd", "unsupported"),
):
    _add(_name, f"test_equal_commands_on_{_name}", KillTests.check_twins, _killed)
_add("go", "test_what_a_command_left_on_go", KillTests.check_left_process)
_add("tinysshd", "test_one_after_another_on_tinysshd", KillTests.check_in_a_row)
