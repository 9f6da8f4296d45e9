"""
The main servers of docs/howto/main-server.rst, as they are printed there, with a real relay and a real SSH server.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import sqlite3
import sys
import tempfile
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase

from tests.support.chaos import ChaosProxy
from tests.support.node import DIRECTORY as NODE
from tests.support.pages import ROOT, programs_of
from tests.support.process import ChildProcess
from tests.support.relays import Relayd
from tests.support.scratch import PATIENCE, ScratchCase
from tests.support.sshd import free_port

PAGE = ROOT / "docs" / "howto" / "main-server.rst"


class Site(Relayd):
    """The relay of the page. It checks all events (`tests.support.watched_relay`): the programs are as printed."""

    proxy_id = "site-1"

    def __init__(self, server: str, *options: str) -> None:
        super().__init__(server, *options)
        self._argv = [sys.executable, "-m", "tests.support.watched_relay", *self._argv[1:]]


class Program:
    """
    A main server of the page as a process, in a directory of its own.

    :ivar lines: what it printed so far.
    """

    def __init__(self, name: str, api_key: str, login_key: str) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="relayd-main-server-"))
        (self.directory / name).write_text(programs_of(PAGE)[name])
        for file, text in (("api-key", api_key + "\n"), ("login", login_key)):
            (self.directory / file).touch(mode=0o600)
            (self.directory / file).write_text(text)
        self.port = free_port()
        self.lines: list[str] = []
        self._argv = [name, "api-key", "login", str(self.port)]

    def start(self) -> None:
        """Again, too: it goes on where it was."""
        self.process = ChildProcess(lambda _, line: self.lines.append(line))
        if self._argv[0].endswith(".js"):
            (self.directory / "node_modules").unlink(missing_ok=True)
            (self.directory / "node_modules").symlink_to(NODE / "node_modules")
            argv = [shutil.which("node") or "node", *self._argv]
        else:
            argv = [sys.executable, *self._argv]
        self.process.start(argv, cwd=str(self.directory))

    async def kill(self) -> None:
        """As a crash would."""
        self.process.transport.signalProcess("KILL")
        await self.process.when_ended()

    async def says(self, pattern: str, times: int = 1) -> None:
        """Wait for lines."""
        until = reactor.seconds() + PATIENCE
        while sum(bool(re.fullmatch(pattern, line)) for line in self.lines) < times:
            if reactor.seconds() > until or self.process.exit_code is not None:
                raise AssertionError(f"not said: {pattern}; but:\n" + "\n".join(self.lines))
            await deferLater(reactor, 0.02)

    def results(self) -> list[tuple[str, int]]:
        """What it has on disk."""
        if self._argv[0].endswith(".py"):
            with sqlite3.connect(self.directory / "main-server.db") as db:
                return db.execute("SELECT command_id, exit_code FROM orders WHERE exit_code IS NOT NULL").fetchall()
        lines = (self.directory / "main-server.jsonl").read_text().splitlines()
        entries = [json.loads(line) for line in lines if line]
        return [(entry["commandId"], entry["result"]["exitCode"]) for entry in entries if "result" in entry]


class SizeTests(SynchronousTestCase):
    def test_node_in_sixty_lines(self) -> None:
        lines = [line for line in programs_of(PAGE)["main-server.js"].splitlines() if line]
        self.assertLessEqual(len(lines), 60)

    def test_printed_in_the_width_of_the_page(self) -> None:
        self.assertLessEqual(max(map(len, PAGE.read_text("utf-8").splitlines())), 120)


class Case(ScratchCase):
    """What holds of both."""

    name: str

    async def start(self) -> None:
        await super().start()
        self.program = Program(self.name, Site.api_key, self.sshd.key)
        self.addCleanup(shutil.rmtree, self.program.directory)
        self.program.start()
        self.addCleanup(self.stop_program)
        await self.program.says("listens at port .*")
        self.between = ChaosProxy(self.program.port)
        self.between.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.between.stop()))

    def stop_program(self) -> Deferred[int]:
        """The one that runs now."""
        return self.program.process.terminate()

    def start_relay(self, api_key: str = "") -> Site:
        relay = Site(f"http://127.0.0.1:{self.between.port}", "--reconnect-delay", "300ms")
        if api_key:
            (relay.directory / "api-key").write_text(api_key)
        relay.start()
        self.addCleanup(relay.remove)
        self.addCleanup(lambda: self.assertNotIn("Misfit", relay.log))
        return relay

    def order(self, command_id: str, command: str) -> None:
        self.program.process.write_line(f"{command_id} {self.sshd.user}@{self.sshd.host}:{self.sshd.port} {command}")

    def count(self, name: str) -> str:
        """A command that leaves a sign of each time that it runs."""
        return f"echo ran >> {self.scratch / name}; echo hello"

    def runs(self, name: str) -> int:
        return len((self.scratch / name).read_text().splitlines())

    async def test_orders(self) -> None:
        await self.check_orders()
        await self.check_a_receipt_that_is_lost()
        await self.check_the_end_of_the_main_server()

    async def check_orders(self) -> None:
        """While the relay is away, twice, refused, and one that is no order."""
        self.order("a1", "echo hello; exit 3")
        self.order("a1", "echo another")
        self.program.process.write_line("what?")
        await self.program.says("a1: there is an order with this id")
        await self.program.says("expected: .*")
        self.start_relay()
        await self.program.says("a1: accepted")
        await self.program.says("a1: .*hello.*")
        self.program.process.write_line("a2 root@169.254.169.254 true")
        await self.program.says("a2: .*This relay's site forbids 169.254.169.254:22: .*")
        await self.until_recorded([("a1", 3), ("a2", 1)])

    async def check_a_receipt_that_is_lost(self) -> None:
        """The result comes again: it is recorded once, and confirmed."""
        self.order("b1", f"sleep 1; {self.count('b1')}")
        await self.program.says("b1: accepted")
        link = self.between.links[-1]
        link.down.stop()  # what the main server says now, the relay never hears
        await self.program.says("b1: .*hello.*")
        link.cut()
        await self.program.says("b1: came again")
        self.assertEqual((self.recorded("b"), self.runs("b1")), ([("b1", 0)], 1))

    async def check_the_end_of_the_main_server(self) -> None:
        """While a command runs, and before the relay has heard of another: both are sent again, and each runs once."""
        self.order("c1", f"sleep 1; {self.count('c1')}")
        await self.program.says("c1: accepted")
        self.between.links[-1].down.stop()
        self.order("c2", self.count("c2"))
        await deferLater(reactor, 0.3)
        await self.program.kill()
        self.between.links[-1].cut()
        self.program.start()
        await self.program.says("listens at port .*", 2)
        for name in ("c1", "c2"):
            await self.program.says(f"{name}: .*hello.*")
            self.assertEqual(self.runs(name), 1)
        await self.until_recorded([("c1", 0), ("c2", 0)])

    def recorded(self, letter: str) -> list[tuple[str, int]]:
        """Results of the commands whose names begin with it."""
        return sorted(result for result in self.program.results() if result[0].startswith(letter))

    async def until_recorded(self, wanted: list[tuple[str, int]]) -> None:
        until = reactor.seconds() + PATIENCE
        while self.recorded(wanted[0][0][0]) != wanted:
            self.assertLess(reactor.seconds(), until, self.program.results())
            await deferLater(reactor, 0.05)


class PythonTests(Case):
    """On relayd.hub."""

    name = "main_server.py"


class NodeTests(Case):
    """On npm socket.io."""

    name = "main-server.js"

    async def test_a_wrong_key(self) -> None:
        relay = self.start_relay(api_key=secrets.token_urlsafe(40))
        until = reactor.seconds() + PATIENCE
        while not re.search("proxyId or (the )?apiKey", relay.log):  # that of the other one: tests.hub.test_server
            self.assertLess(reactor.seconds(), until, relay.log)
            await deferLater(reactor, 0.05)
        self.order("c1", "true")
        await deferLater(reactor, 0.3)
        self.assertEqual([line for line in self.program.lines if "c1" in line], [])


del Case
