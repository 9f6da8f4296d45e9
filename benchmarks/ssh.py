"""
Measures relayd's SSH client beside others, in turn and in several rounds, on real SSH servers on loopback.

``commands``: many short commands on one host.  ``connections``: many connections, opened and held.  ``queued``: 10,000
commands at once on 8 hosts.  ``python benchmarks/ssh.py --help`` tells the options, docs/performance.rst the method.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import resource
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from benchmarks.clients import DEFAULT_SESSIONS, PEERS, Driver, start_hosts  # noqa: E402
from benchmarks.report import Round, Section, Shown, print_sections, write_sections  # noqa: E402
from benchmarks.run import run_to_end  # noqa: E402
from tests.support.process import PeerFailed  # noqa: E402

#: Those that hold many connections in one process, with a keepalive of their own.
HOLDERS = ("relayd", "asyncssh", "ssh2")
#: So many sessions on one connection that no client is refused one.
MANY_SESSIONS = 100
#: Commands at a time, and the sessions that the server allows.
LOADS = ((1, DEFAULT_SESSIONS), (8, DEFAULT_SESSIONS), (64, DEFAULT_SESSIONS), (32, MANY_SESSIONS))
#: Commands to open and warm up a connection with, before anything is measured.
WARM_UP = 200
QUEUE_HOSTS = 8
#: sshd listens on no more addresses than this (MAX_LISTEN_SOCKS).
ADDRESSES_EACH = 16
#: What one connection takes at the server, in MB: two processes of OpenSSH.
SERVER_MB = 8

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
    Shown("handing", "ms to queue them all", "{:.1f}"),
    Shown("stall", "longest stall of the reactor, ms", "{:.1f}"),
)


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
            more = {
                "seconds": report["seconds"],
                "growth": report["growth_mb"],
                "handing": report["handing"] * 1000,
                "stall": report["stall"] * 1000,
            }
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
