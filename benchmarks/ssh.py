"""
Measures relayd's SSH client beside others, in turn and in several rounds, on real SSH servers on loopback.

``commands``: many short commands on one host.  ``connections``: many connections, opened and held.  ``queued``: 10,000
commands at once on 8 hosts.  ``python benchmarks/ssh.py --help`` tells the options, docs/performance.rst the method.
The last line is JSON.

Driver: each client is a process of its own (benchmarks/peers/ssh_*), given the path of a JSON file with ``user``,
``key``, ``known_hosts``, ``targets``, ``command``, ``keepalive`` and ``sessions`` (that a connection may have).  It
writes ``{"ready": true}``, and then answers each line of its standard input with one line: ``{"do": "work", "count",
"concurrency"}`` by `Tally.report` of benchmarks/peers/tally.py, ``{"do": "settle"}`` (collect garbage) by ``{}``.  Its
first work for a target opens the connection.  Its CPU time and memory are read from outside.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import resource
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.task import deferLater, react

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from benchmarks.report import Round, Section, Shown, print_sections, write_sections  # noqa: E402
from benchmarks.run import awaiting, cpu_seconds, run_to_end  # noqa: E402
from tests.support.process import ChildProcess, PeerFailed  # noqa: E402
from tests.support.sshd import OpenSSHServer  # noqa: E402

COMMAND, KEEPALIVE = "echo hello", 15
PEERS = {
    "relayd": [sys.executable, "ssh_relayd.py"],
    "conch": [sys.executable, "ssh_conch.py"],
    "asyncssh": [sys.executable, "ssh_asyncssh.py"],
    "ssh2": ["node", "--expose-gc", "ssh_ssh2.js"],
    "openssh": [sys.executable, "ssh_openssh.py"],
}
#: Those that hold many connections in one process, with a keepalive of their own.
HOLDERS = ("relayd", "asyncssh", "ssh2")
#: Sessions on one connection that sshd allows by default, and so many that no client is refused one.
DEFAULT_SESSIONS, MANY_SESSIONS = 10, 100
#: Commands at a time, and the sessions that the server allows.
LOADS = ((1, DEFAULT_SESSIONS), (8, DEFAULT_SESSIONS), (64, DEFAULT_SESSIONS), (32, MANY_SESSIONS))
#: Commands to open and warm up a connection with, before anything is measured.
WARM_UP = 50
QUEUE_HOSTS = 8
#: sshd listens on no more addresses than this (MAX_LISTEN_SOCKS).
ADDRESSES_EACH = 16
#: What one connection takes at the server, in MB: two processes of OpenSSH.
SERVER_MB = 8
#: Seconds that a client may take for what it is asked.
PATIENCE = 1800
#: Seconds until one that does not end by itself is ended.
STOP_GRACE = 10

COMMANDS_SHOWN = (
    Shown("rate", "commands/s", "{:,.0f}"),
    Shown("failures", "failed", "{:,.0f}", add=True),
    Shown("cpu", "client's CPU ms/command", "{:.3f}"),
    Shown("median", "median ms", "{:.2f}"),
    Shown("p95", "95th percentile ms", "{:.2f}"),
)
CONNECTIONS_SHOWN = (
    Shown("seconds", "seconds to open all", "{:.2f}"),
    Shown("failures", "failed", "{:,.0f}", add=True),
    Shown("open_cpu", "client's CPU ms/connection opened", "{:.2f}"),
    Shown("memory", "memory KB/connection", "{:.1f}"),
    Shown("idle_cpu", "idle CPU ms/connection and minute", "{:.3f}"),
)
QUEUED_SHOWN = (
    Shown("seconds", "seconds for all", "{:.2f}"),
    Shown("rate", "commands/s", "{:,.0f}"),
    Shown("failures", "failed", "{:,.0f}", add=True),
    Shown("cpu", "client's CPU ms/command", "{:.3f}"),
    Shown("growth", "growth at its largest, MB", "{:.1f}"),
    Shown("stall", "longest stall of the reactor, ms", "{:.1f}"),
)


class Driver:
    """
    One client under measurement.

    :param setup: path of what it reads first.
    """

    def __init__(self, reactor: Any, name: str, setup: Path) -> None:
        program, *arguments, script = PEERS[name]
        self.name = name
        self._reactor = reactor
        self._argv = [shutil.which(program) or program, *arguments, str(HERE / "peers" / script), str(setup)]
        self._process = ChildProcess(self._on_line)
        self._errors: list[str] = []
        self._waiting: Deferred[dict[str, Any]] | None = None

    def start(self) -> Deferred[dict[str, Any]]:
        """Fires when it is ready."""
        ready = self._expect()
        path = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
        self._process.start(self._argv, env=os.environ | {"PYTHONPATH": path})
        self._process.when_ended().addCallback(self._ended)
        return ready

    async def stop(self) -> None:
        """End it: by the end of its requests, or else by force."""
        if self._process.exit_code is None:
            self._process.transport.closeStdin()
            try:
                await self._process.when_ended().addTimeout(STOP_GRACE, self._reactor)
            except TimeoutError:
                await self._process.terminate()

    async def work(self, count: int, concurrency: int, **more: Any) -> dict[str, Any]:
        """
        Have it run *count* commands, *concurrency* at a time.

        :return: its report, with ``cpu``: the seconds of CPU time that it took.
        """
        before = cpu_seconds(self._pid)
        report = await self._ask({"do": "work", "count": count, "concurrency": concurrency, **more})
        return {"cpu": cpu_seconds(self._pid) - before} | report

    async def memory_kilobytes(self) -> int:
        """What it holds for itself alone, without garbage (proc(5), ``/proc/PID/smaps_rollup``)."""
        await self._ask({"do": "settle"})
        text = Path(f"/proc/{self._pid}/smaps_rollup").read_text()
        return sum(int(size) for size in re.findall(r"^Private_(?:Clean|Dirty): +(\d+) kB", text, re.MULTILINE))

    async def idle(self, seconds: float) -> float:
        """Leave it alone for so long; gives its CPU seconds."""
        before = cpu_seconds(self._pid)
        await deferLater(self._reactor, seconds)
        return cpu_seconds(self._pid) - before

    @property
    def _pid(self) -> int:
        return int(self._process.transport.pid)

    def _ask(self, request: dict[str, Any]) -> Deferred[dict[str, Any]]:
        answer = self._expect()
        self._process.write_line(json.dumps(request))
        return answer

    def _expect(self) -> Deferred[dict[str, Any]]:
        waiting: Deferred[dict[str, Any]] = Deferred()
        self._waiting = waiting
        return waiting.addTimeout(PATIENCE, self._reactor)

    def _on_line(self, descriptor: int, line: str) -> None:
        if descriptor == 1:
            waiting, self._waiting = self._waiting, None
            if waiting is not None:
                waiting.callback(json.loads(line))
        else:
            self._errors.append(line)

    def _ended(self, code: int) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.errback(PeerFailed("\n".join([f"{self.name} ended with {code}", *self._errors[-20:]])))


class Hosts(OpenSSHServer):
    """
    A real SSH server that logs no more than it does by default.

    :param addresses: of loopback, on which it listens: to a client each is a host of its own.
    """

    def __init__(self, addresses: Sequence[str], config_lines: Sequence[str] = ()) -> None:
        super().__init__(["LogLevel INFO", *config_lines])
        self.host = addresses[0]
        self.addresses = addresses

    def _configuration(self) -> list[str]:
        more = [f"ListenAddress {address}:{self.port}" for address in self.addresses[1:]]
        return [*super()._configuration(), *more]


async def start_hosts(
    stack: AsyncExitStack,
    count: int,
    *,
    each: int = 1,
    sessions: int = DEFAULT_SESSIONS,
    config_lines: Sequence[str] = (),
) -> Path:
    """
    Start servers that are *count* hosts; *stack* ends them.

    :param each: how many hosts one server is.
    :param sessions: how many they allow on one connection.
    :return: the path of the setup for drivers.
    """
    directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="relayd-bench-")))
    targets: list[tuple[str, int]] = []
    known_hosts: list[str] = []
    key, authorized = "", ""
    addresses = [f"127.0.{1 + number // 250}.{1 + number % 250}" for number in range(count)]
    for start in range(0, count, each):
        server = Hosts(addresses[start : start + each], [f"MaxSessions {sessions}", *config_lines])
        stack.push_async_callback(awaiting(server.stop))
        if not key:
            key, authorized = server.key, (server.directory / "authorized_keys").read_text().strip()
        server.authorize(authorized)  # one key opens them all
        await server.start()
        targets += [(address, server.port) for address in server.addresses]
        known_hosts += [f"[{address}]:{server.port} {server.host_keys[0]}\n" for address in server.addresses]
    (directory / "known_hosts").write_text("".join(known_hosts))
    (directory / "key").touch(mode=0o600)
    (directory / "key").write_text(key)
    setup = {
        "user": server.user,
        "key": str(directory / "key"),
        "known_hosts": str(directory / "known_hosts"),
        "targets": targets,
        "command": COMMAND,
        "keepalive": KEEPALIVE,
        "sessions": sessions,
    }
    (directory / "setup.json").write_text(json.dumps(setup))
    return directory / "setup.json"


class Bench:
    """
    What is asked for on the command line.

    :ivar sections: what was measured, by name.
    :ivar reasons: why commands or connections failed, by title and client.
    """

    def __init__(self, reactor: Any, options: argparse.Namespace) -> None:
        self.sections: dict[str, Section] = {}
        self.reasons: dict[tuple[str, str], Counter[str]] = {}
        self._reactor = reactor
        self._options = options

    async def run(self) -> None:
        """Measure and report."""
        options = self._options
        for what, measure in (
            ("commands", self._commands),
            ("connections", self._connections),
            ("queued", self._queued),
        ):
            if options.what in (what, "all"):
                async with AsyncExitStack() as stack:
                    await measure(stack)
        print_sections(list(self.sections.values()))
        print(
            "Medians over the rounds; failures in all of them. CPU time is divided by all commands, also by those that"
        )
        print("failed, which are cheap: compare it where none failed.")
        for (title, name), reasons in self.reasons.items():
            for reason, times in reasons.most_common(3):
                print(f"{title}: {name}: {times} × {' '.join(reason.split())[:200]}")
        print(f"\nAll figures: {write_sections(HERE / 'results', vars(options), self.sections)}")
        print(json.dumps({name: section.summary() for name, section in self.sections.items()}))

    async def _commands(self, stack: AsyncExitStack) -> None:
        """Short commands on one host."""
        setups = {
            sessions: await start_hosts(stack, 1, sessions=sessions) for sessions in (DEFAULT_SESSIONS, MANY_SESSIONS)
        }
        clients = self._clients(PEERS)
        sections = {}
        for concurrency, sessions in LOADS:
            note = "" if sessions == DEFAULT_SESSIONS else f", MaxSessions {sessions}"
            sections[concurrency] = self._section(
                f"commands-{concurrency}", f"{concurrency} at a time, one host{note}", COMMANDS_SHOWN, clients
            )
        for number in range(self._options.rounds):
            for concurrency, sessions in LOADS:
                for name in clients:
                    section = sections[concurrency]
                    async with self._driver(number, section, name, setups[sessions]) as driver:
                        await driver.work(1, 1)
                        await driver.work(max(WARM_UP, 2 * concurrency), concurrency)
                        count = max(self._options.commands // (4 if concurrency == 1 else 1), concurrency)
                        report = await driver.work(count, concurrency)
                    self._note(section, name, report, self._rates(report))

    async def _connections(self, stack: AsyncExitStack) -> None:
        """Many hosts, a connection to each."""
        options = self._options
        count = options.connections
        available = _available_megabytes()
        if count * SERVER_MB > available:
            raise PeerFailed(
                f"{count} connections need some {count * SERVER_MB:,} MB for the SSH servers, and {available:,} MB are "
                f"free: try --connections {available // SERVER_MB}"
            )
        clients = self._clients(HOLDERS)
        setup = await start_hosts(stack, count, each=ADDRESSES_EACH, config_lines=["MaxStartups 10000"])
        title = f"{count:,} connections, {options.opening} being opened at a time, then {options.hold:g} s idle"
        section = self._section("connections", title, CONNECTIONS_SHOWN, clients)
        for number in range(options.rounds):
            for name in clients:
                async with self._driver(number, section, name, setup) as driver:
                    before = await driver.memory_kilobytes()
                    report = await driver.work(count, options.opening)
                    grown = await driver.memory_kilobytes() - before
                    # The end of the opening is not idleness.
                    await driver.idle(1.0)
                    idle = await driver.idle(options.hold)
                opened = max(1, count - report["failures"])
                figures = {
                    "seconds": report["seconds"],
                    "failures": report["failures"],
                    "open_cpu": report["cpu"] * 1000 / opened,
                    "memory": grown / opened,
                    "idle_cpu": idle * 1000 / opened / (options.hold / 60),
                }
                self._note(section, name, report, figures)

    async def _queued(self, stack: AsyncExitStack) -> None:
        """All commands at once, with a few hosts."""
        setup = await start_hosts(stack, QUEUE_HOSTS)
        count = self._options.queued
        title = f"{count:,} commands at once, {QUEUE_HOSTS} hosts"
        section = self._section("queued", title, QUEUED_SHOWN, ["relayd"])
        for number in range(self._options.rounds):
            async with self._driver(number, section, "relayd", setup) as driver:
                await driver.work(QUEUE_HOSTS, QUEUE_HOSTS)
                report = await driver.work(count, count, watch=True)
            more = {"seconds": report["seconds"], "growth": report["growth_mb"], "stall": report["stall"] * 1000}
            self._note(section, "relayd", report, self._rates(report) | more)

    def _clients(self, known: Iterable[str]) -> list[str]:
        return [name for name in known if name in self._options.peers]

    def _section(self, key: str, title: str, rows: Sequence[Shown], clients: Sequence[str]) -> Section:
        section = self.sections[key] = Section(title, rows, {name: [] for name in clients})
        return section

    @asynccontextmanager
    async def _driver(self, number: int, section: Section, name: str, setup: Path) -> AsyncIterator[Driver]:
        """A client that is started afresh."""
        print(f"round {number + 1} of {self._options.rounds}: {section.title}: {name}", file=sys.stderr)
        driver = Driver(self._reactor, name, setup)
        try:
            await driver.start()
            yield driver
        finally:
            await driver.stop()

    def _note(self, section: Section, name: str, report: dict[str, Any], figures: Round) -> None:
        section.rounds[name].append(figures)
        if report["reasons"]:
            self.reasons.setdefault((section.title, name), Counter()).update(report["reasons"])

    @staticmethod
    def _rates(report: dict[str, Any]) -> dict[str, float | None]:
        latencies = [seconds * 1000 for seconds in report["latencies"]]
        return {
            "rate": len(latencies) / report["seconds"],
            "failures": report["failures"],
            "cpu": report["cpu"] * 1000 / len(latencies) if latencies else None,
            "median": median(latencies) if latencies else None,
            "p95": quantiles(latencies, n=20)[-1] if len(latencies) > 1 else None,
        }


def _available_megabytes() -> int:
    """Memory that processes can still have (proc(5), ``/proc/meminfo``)."""
    found = re.search(r"^MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    if found is None:
        raise PeerFailed("this system does not tell how much memory is free")
    return int(found[1]) // 1024


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().partition("\n")[0])
    parser.add_argument("what", nargs="?", default="all", choices=["commands", "connections", "queued", "all"])
    parser.add_argument("--rounds", type=int, default=3, help="how often each client has its turn (default 3)")
    parser.add_argument(
        "--commands", type=int, default=2000, help="commands a measurement; 1 at a time: a quarter of it (default 2000)"
    )
    parser.add_argument("--connections", type=int, default=1000, help="connections to open and hold (default 1000)")
    parser.add_argument("--opening", type=int, default=32, help="connections being opened at a time (default 32)")
    parser.add_argument("--hold", type=float, default=30.0, help="seconds for which they are idle (default 30)")
    parser.add_argument("--queued", type=int, default=10_000, help="commands queued at once (default 10000)")
    parser.add_argument(
        "--peers", nargs="+", metavar="CLIENT", choices=list(PEERS), default=list(PEERS), help="some of: %(choices)s"
    )
    options = parser.parse_args(arguments)
    if min(options.rounds, options.commands, options.connections, options.opening, options.queued, options.hold) < 1:
        parser.error("all numbers are at least 1")
    if "asyncssh" in options.peers and importlib.util.find_spec("asyncssh") is None:
        parser.error("asyncssh is not installed: pip install '.[bench]'")
    return options


def raise_limits() -> None:
    """A connection takes a descriptor; children inherit what is allowed here."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main(reactor: Any, options: argparse.Namespace) -> Deferred[None]:
    """Measure, and report."""
    raise_limits()
    return run_to_end(reactor, Bench(reactor, options).run())


if __name__ == "__main__":
    react(main, (parse(),))
