"""
The demonstration as its users run it.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import TestCase

from relayd.demo.sessions import LAUNCHER
from relayd.demo.ssh_server import ExecutingSSHServer
from tests.support.sshd import make_key
from tests.support.watched import ROUND_TRIP, Watched

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "a password that no log may hold"


class DemoTestCase(TestCase):
    """Runs ``python -m relayd.demo``, with a temporary directory of its own that must be empty afterwards."""

    timeout = 120.0

    def setUp(self) -> None:
        self.temporary = Path(self.mktemp())
        self.temporary.mkdir()
        watched = Watched()
        path = f"{watched.environ['PYTHONPATH']}:{ROOT}"
        #: For ``python -m relayd.demo``, whose events are checked.
        self.environ = {**os.environ, **watched.environ, "TMPDIR": str(self.temporary.resolve()), "PYTHONPATH": path}
        self.addCleanup(self.check_events, watched)
        #: Events that there have to have been.
        self.expected: frozenset[str] = frozenset()

    def check_events(self, watched: Watched) -> None:
        """Each fits its schema."""
        events, faults = watched.finish()
        self.assertEqual((faults, self.expected - events), ([], set()))

    async def demo(self, *arguments: str) -> tuple[str, str, int]:
        out, err, code = await getProcessOutputAndValue(
            sys.executable, ["-m", "relayd.demo", *arguments], env=self.environ, path=str(ROOT)
        )
        self.assertEqual(list(self.temporary.iterdir()), [])
        self.assertNotIn(b"Traceback", err)
        return out.decode(), err.decode(), code

    async def ssh_server(self, launcher: Sequence[str] = LAUNCHER) -> None:
        """Start the demonstration's SSH server in this process: user *tester* with `PASSWORD` and with a key."""
        private, public = make_key()
        self.key = Path(self.mktemp()).resolve()
        self.key.touch(mode=0o600)
        self.key.write_text(private)
        self.server = ExecutingSSHServer(reactor, {"tester": PASSWORD}, {"tester": [public]}, launcher)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.server.close()))
        port: Any = await self.server.listen(TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"))
        self.port: int = port.getHost().port

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await deferLater(reactor, 0.01)


class LoopbackTests(DemoTestCase):
    """Without a host: everything in one process."""

    async def check(self, *arguments: str, dialect: str) -> None:
        self.expected = ROUND_TRIP
        out, err, code = await self.demo(*arguments)
        self.assertEqual((err, code), ("", 0), out)
        self.assertRegex(out, rf"(?m)^relay +demo, connected by {dialect}$")
        rows = [line for line in out.splitlines() if line.startswith(("ok ", "NO "))]
        expected = (
            r"ok  echo \"hello .* demo@127\.0\.0\.1:\d+ +0 +[\d.]+ ms  hello from .+",
            r"ok  echo 'no such .* demo@127\.0\.0\.1:\d+ +3 +[\d.]+ ms +no such thing",
            r"ok  echo to stdout.* demo@127\.0\.0\.1:\d+ +0 +[\d.]+ ms  to stdout +to stderr",
            r"ok  echo started.* demo@127\.0\.0\.1:\d+ +1 +[\d.]+ ms  started +The command timed out.*",
            r"ok  true .* demo@127\.0\.0\.1:\d+ +1 +[\d.]+ ms +127\.0\.0\.1:\d+ refused the login of demo.*",
        )
        self.assertEqual(len(rows), len(expected), out)
        for row, pattern in zip(rows, expected, strict=True):
            self.assertRegex(row, f"^{pattern}$")
        self.assertRegex(out.splitlines()[-1], r"^5 commands in [\d.]+ s, 5 of 5 as expected; fastest .* slowest .*")
        starts = ("main server ", "relay ", "SSH host ", "    COMMAND ", "ok ", "5 commands ")
        self.assertEqual([line for line in out.splitlines() if line and not line.startswith(starts)], [])

    async def test_it_works(self) -> None:
        await self.check(dialect="socketio")

    async def test_native(self) -> None:
        await self.check("--dialect", "native", dialect="native")

    async def test_an_interrupt_leaves_nothing_behind(self) -> None:
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", "relayd.demo", "--verbose"],
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("SSH host"):
                break
        process.send_signal(signal.SIGINT)
        await deferToThread(process.communicate)
        self.assertEqual(process.returncode, 130)
        self.assertEqual(list(self.temporary.iterdir()), [])


class RealHostTests(DemoTestCase):
    """With ``--ssh``: the host is a server in this process."""

    async def test_with_a_key(self) -> None:
        self.expected = ROUND_TRIP
        await self.ssh_server()
        address = f"127.0.0.1:{self.port}"
        out, err, code = await self.demo("--ssh", address, "--user", "tester", "--key", str(self.key))
        self.assertEqual((err, code), ("", 0), out)
        self.assertEqual(len(re.findall(rf"(?m)^ok .* tester@{address} ", out)), 4, out)
        self.assertIn("Skipped: the wrong password", out)

    async def test_with_a_password_which_no_log_holds(self) -> None:
        await self.ssh_server()
        file = Path(self.mktemp()).resolve()
        file.write_text(PASSWORD + "\n")
        arguments = ("--ssh", f"127.0.0.1:{self.port}", "--user", "tester", "--password-file", str(file))
        out, err, code = await self.demo(*arguments, "--verbose")
        self.assertEqual(code, 0, out + err)
        self.assertIn("Relay demo connected", err)
        self.assertNotIn(PASSWORD, out + err)

    async def test_what_goes_wrong_is_said(self) -> None:
        await self.ssh_server()
        file = Path(self.mktemp()).resolve()
        file.write_text("wrong")
        out, err, code = await self.demo(
            "--ssh", f"127.0.0.1:{self.port}", "--user", "tester", "--password-file", str(file)
        )
        self.assertEqual(code, 1)
        self.assertEqual(len(re.findall("(?m)^NO ", out)), 4, out)
        self.assertIn("0 of 4 as expected", out)
        self.assertIn("expected exit code 3, got: 127.0.0.1", err)
        self.assertIn("--verbose", err)

    async def test_mistakes_on_the_command_line(self) -> None:
        for arguments, words in (
            (("--ssh", "h"), "--user: is missing"),
            (("--ssh", "h", "--user", "u", "--key", "/no/such/file"), "/no/such/file cannot be read"),
            (("--dialect", "morse"), "invalid choice"),
        ):
            out, err, code = await self.demo(*arguments)
            self.assertEqual((out, code), ("", 2))
            self.assertIn(words, err)


def alive(group: int) -> bool:
    """Whether a process group has any member that is not just waiting to be reaped."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    listing = subprocess.run(["ps", "-e", "-o", "pgid=,stat="], capture_output=True, text=True, check=True).stdout
    members = [line.split() for line in listing.splitlines()]
    return any(int(pgid) == group and not state.startswith("Z") for pgid, state in members)
