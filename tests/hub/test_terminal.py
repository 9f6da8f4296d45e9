"""
``python -m relayd.hub``: what a line means, and the whole of it with a real relay and a real sshd.
"""

from __future__ import annotations

import io
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase, TestCase

from relayd.errors import ConfigError
from relayd.hub.terminal import Order, read_order, run
from tests.support.process import ChildProcess
from tests.support.relays import ROOT, Relayd
from tests.support.sshd import OpenSSHServer, free_port


class LineTests(SynchronousTestCase):
    """A host and a command."""

    def test_forms(self) -> None:
        for line, order in {
            "db uptime": Order("db", 22, None, "uptime"),
            "  root@db:2222   ls -la /  ": Order("db", 2222, "root", "ls -la /  "),
            "a@b@db true": Order("db", 22, "a@b", "true"),
            "[fd00::1]:2222 true": Order("fd00::1", 2222, None, "true"),
            "[fd00::1] true": Order("fd00::1", 22, None, "true"),
        }.items():
            self.assertEqual(read_order(line), order)

    def test_mistakes(self) -> None:
        for line, words in {
            "db": "db: expected a host and a command",
            "db:x true": "db:x: not of the form [user@]host[:port]",
            "db:70000 true": "db:70000: not of the form",
            "@db true": "@db: not of the form",
            "a/b true": "a/b: not of the form",
        }.items():
            self.assertIn(words, str(self.assertRaises(ConfigError, read_order, line)))


class OptionsTests(SynchronousTestCase):
    """Of the process, which ends before it listens."""

    def test_a_mistake(self) -> None:
        key = Path(self.mktemp())
        key.touch(mode=0o600)
        key.write_text(Relayd.api_key)
        self.patch(sys, "stderr", said := io.StringIO())
        words = ("--proxy-id", Relayd.proxy_id, "--api-key-file", str(key), "--run", "db")
        self.assertEqual(self.assertRaises(SystemExit, run, words).code, 2)
        line = "relayd.hub: db: expected a host and a command: [USER@]HOST[:PORT] COMMAND; see --help\n"
        self.assertEqual(said.getvalue(), line)


class TerminalTests(TestCase):
    """The process."""

    timeout = 90

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="relayd-test-terminal-"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.lines: dict[int, list[str]] = {1: [], 2: []}
        self._waiting: list[tuple[str, Deferred[None]]] = []
        self.terminal = ChildProcess(self._line)
        self.addCleanup(self.check_events)
        self.addCleanup(self.terminal.terminate)
        self.port = free_port()
        self.write("api-key", Relayd.api_key + "\n")

    def check_events(self) -> None:
        """All events of the hub fit their schemas (`tests.support.watched_hub`)."""
        self.assertEqual([line for line in self.lines[2] if line.startswith("Misfit")], [])

    def write(self, name: str, text: str) -> Path:
        path = self.directory / name
        path.touch(mode=0o600)
        path.write_text(text)
        return path

    def _line(self, stream: int, line: str) -> None:
        self.lines[stream].append(line)
        for text, waiting in list(self._waiting):
            if text in line:
                self._waiting.remove((text, waiting))
                waiting.callback(None)

    async def said(self, text: str) -> None:
        """Wait for a line that holds *text*."""
        if not any(text in line for lines in self.lines.values() for line in lines):
            waiting: Deferred[None] = Deferred()
            self._waiting.append((text, waiting))
            await waiting

    def start(self, *options: str) -> None:
        arguments = ("--proxy-id", Relayd.proxy_id, "--api-key-file", str(self.directory / "api-key"), *options)
        python = (sys.executable, "-m", "tests.support.watched_hub")
        self.terminal.start([*python, "--listen", f"tcp:{self.port}:interface=127.0.0.1", *arguments], cwd=str(ROOT))

    async def begin(self, *options: str) -> None:
        """With a relay and a host."""
        self.sshd = OpenSSHServer()
        await self.sshd.start()
        self.addCleanup(self.sshd.stop)
        self.place = f"{self.sshd.user}@{self.sshd.host}:{self.sshd.port}"
        key = self.write("key", self.sshd.key)
        self.start("--key", str(key), *(option.replace("HOST", self.place) for option in options))
        await self.said("waits for the relay proxy-1")
        self.relay = Relayd(f"ws://127.0.0.1:{self.port}")
        self.addCleanup(self.relay.remove)
        self.relay.start()

    async def test_a_conversation(self) -> None:
        """Until the end of its input."""
        await self.begin()
        for line in (f"{self.place} echo one; echo two >&2; exit 3", "", "# nothing", "db", f"{self.place} echo last"):
            self.terminal.write_line(line)
        await self.said("last")
        self.terminal.transport.closeStdin()
        self.assertEqual(await self.terminal.when_ended(), 0)
        self.assertEqual(self.lines[1], ["one", "last"])
        self.assertIn("relayd.hub: proxy-1 is connected", self.lines[2])
        at = self.lines[2].index("two")
        self.assertEqual(self.lines[2][at + 1], "relayd.hub: exit status 3")
        self.assertIn("relayd.hub: db: expected a host and a command", self.lines[2][at + 2])

    async def test_one_shot(self) -> None:
        """Its exit status is that of the last command."""
        await self.begin("--run", "HOST echo one", "--run", "HOST exit 4")
        self.assertEqual(await self.terminal.when_ended(), 4)
        self.assertEqual(self.lines[1], ["one"])

    async def test_a_relay_with_a_wrong_key(self) -> None:
        """It says so, rather than wait in silence."""
        self.write("api-key", "another-key-" * 4)
        await self.begin()
        await self.said("Refused relay proxy-1")
        ended = self.terminal.when_ended()
        self.terminal.transport.signalProcess(signal.SIGINT)
        self.assertEqual(await ended, 130)

    async def test_a_relay_that_is_gone(self) -> None:
        await self.begin()
        await self.said("is connected")
        await self.relay.stop()
        self.terminal.write_line(f"{self.place} true")
        await self.said("The relay proxy-1 is not connected to this main server")
