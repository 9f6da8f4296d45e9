"""
Commands that run out of time on servers that others wrote: what is found and ended there, and what the result says.

`docs/ssh.rst` has the table; it is read here.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from relayd.ssh.errors import RunTimeout
from tests.support.ending import EndingTestCase
from tests.support.ssh import marked_sleep, processes
from tests.support.ssh_peers import BROUGHT, KINDS, started

PAGE = Path(__file__).resolve().parents[2] / "docs" / "ssh.rst"
#: The names of the servers in the table.
TITLES = {
    "tinysshd": "tinysshd",
    "lsh": "lsh",
    "erlang": "Erlang/OTP",
    "go": "Go's library",
    "gliderlabs": "gliderlabs (Go)",
    "libssh": "libssh",
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
        process = subprocess.Popen(["sh", "-c", f'sh -c "$0" & {stranger}', strange], start_new_session=True)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        beside = client.run(peer.target(), f"{other}; true".encode(), self.reactor.seconds() + 100)
        running = client.run(peer.target(), text.encode(), self.reactor.seconds() + 4, grace=5.0)
        await self.until(lambda: len(processes(mark)) == 2 and processes(other_mark), "they run")
        done = await running
        self.assertIsInstance(done.error, RunTimeout)
        self.assertEqual(done.killed, table()[TITLES[name]])
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
        others = [client.run(peer.target(), text, self.reactor.seconds() + 100) for _ in range(2)]
        running = client.run(peer.target(), text, self.reactor.seconds() + 4, grace=5.0)
        await self.until(lambda: len(processes(mark)) == 3, "they run")
        done = await running
        self.assertEqual((done.killed, len(processes(mark))), (killed, 2 if killed == "confirmed" else 3))
        self.assertFalse([each for each in others if each.called])
        for each in others:
            each.cancel()
            await each

    def test_every_server_is_in_the_table(self) -> None:
        self.assertEqual(set(TITLES), set(KINDS))
        self.assertLessEqual(set(TITLES.values()) | {"OpenSSH", "dropbear"}, set(table()))


def _each(name: str) -> Callable[[Any], Any]:
    return lambda self: self.check(name)


def _twins(name: str, killed: str) -> Callable[[Any], Any]:
    return lambda self: self.check_twins(name, killed)


for _name in sorted(BROUGHT):
    setattr(KillTests, f"test_{_name}", _each(_name))
# Told apart by their connection, or not at all
for _name, _killed in (
    ("lsh", "confirmed"),
    ("conch", "confirmed"),
    ("go", "unsupported"),
    ("tinysshd", "unsupported"),
):
    if _name in BROUGHT:
        setattr(KillTests, f"test_equal_commands_on_{_name}", _twins(_name, _killed))
