"""
Measures relayd beside three other relays, in turn and in several rounds: the same main server, the same SSH servers.

``python benchmarks/run.py --help`` tells the options; benchmarks/report.py what comes out.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.task import LoopingCall, react
from twisted.web.client import Agent, readBody
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from benchmarks.report import Measurement, Metric, print_report, write_results  # noqa: E402
from tests.support.main_server import MainServer  # noqa: E402
from tests.support.process import PeerFailed  # noqa: E402
from tests.support.relays import RelayProcess, example_command, relayd_command  # noqa: E402
from tests.support.sshd import OpenSSHServer  # noqa: E402

#: relayd with other options than by default.
VARIANTS = {
    "relayd": (),
    "relayd-normal": ("--journal", "normal"),
    "relayd-memory": ("--journal", "memory"),
    "relayd-audit": ("--audit-log", "audit.log"),
    "relayd-quiet": ("--log-level", "error"),
    "relayd-json": ("--log-format", "json"),
    "relayd-status": ("--status", "unix:status.sock"),
    "relayd-status-memory": ("--status", "unix:status.sock", "--journal", "memory"),
}
RELAYS = (*VARIANTS, "example", "asyncio", "go")
#: Where the relay in Go is built, and where Debian has the libraries that it needs.
GO_RELAY = HERE.parent / "build" / "go_relay"
GO_PATH = "/usr/share/gocode"
#: relayd of another checkout, as ``--before`` names it.
BEFORE = "before"
HOSTS = 8
#: The main server takes messages of this size, and relayd keeps that much output: both in bytes.
LARGEST = 64 * 1024 * 1024


class Scenario(Struct, frozen=True, kw_only=True):
    """
    One way to load a relay.

    :ivar hosts: how many SSH servers the commands go to, in turn.
    :ivar max_sessions: what those servers allow on one connection.
    :ivar share: how many commands, as a part of ``--count``; or `commands`, a number of its own.
    :ivar shown: what the table tells of it.
    """

    name: str
    title: str
    concurrency: int
    shown: tuple[Metric, ...]
    hosts: int = 1
    max_sessions: int = 10
    share: float = 1.0
    commands: int | None = None
    command: str = "echo hello"
    output: str = "hello"

    def count(self, full: int) -> int:
        """How many commands to measure."""
        return self.commands or max(int(full * self.share), self.concurrency)

    def expect(self) -> dict[str, Any]:
        """What each of its commands must give."""
        return {
            "exitCode": 0,
            "length": len(self.output),
            "sha256": hashlib.sha256(self.output.encode()).hexdigest(),
        }


_LOAD: tuple[Metric, ...] = ("rate", "failures", "median", "p95", "cpu")
_LINE = "a line of output as commands write them, again and again"
_BULK = 30_000_000

SCENARIOS = (
    Scenario(
        name="serial",
        title="1 at a time, one host",
        concurrency=1,
        share=0.1,
        shown=("median", "p95", "failures", "cpu"),
    ),
    Scenario(name="one-host", title="16 at a time, one host", concurrency=16, shown=_LOAD),
    Scenario(name="eight-hosts", title="32 at a time, 8 hosts", concurrency=32, hosts=HOSTS, shown=_LOAD),
    Scenario(name="burst", title="64 at a time, one host", concurrency=64, shown=_LOAD),
    Scenario(
        name="burst-2", title="64 at a time, one host, MaxSessions 2", concurrency=64, max_sessions=2, shown=_LOAD
    ),
    Scenario(
        name="bulk",
        title="30 MB of output",
        concurrency=1,
        commands=3,
        command=f"yes '{_LINE}' | head -c {_BULK}",
        output=(f"{_LINE}\n" * (_BULK // len(_LINE)))[:_BULK].strip(),
        shown=("throughput", "failures", "peak", "cpu"),
    ),
)


class LocalServer(OpenSSHServer):
    """A real SSH server on a loopback address of its own, which logs no more than it does by default."""

    def __init__(self, address: str, max_sessions: int) -> None:
        super().__init__(["LogLevel INFO", f"MaxSessions {max_sessions}"])
        self.host = address

    def target(self, server_id: int) -> dict[str, Any]:
        """What ``execute_command`` says of it."""
        return {
            "serverId": server_id,
            "host": self.host,
            "port": self.port,
            "username": self.user,
            "privateKey": self.key,
        }


class Bench:
    """What is measured against: the main server and the SSH servers, which run all the time."""

    def __init__(self, directory: Path, before: Path | None = None) -> None:
        self._directory = directory
        self._before = before
        self._key_file = directory / "api-key"
        self._key_file.touch(mode=0o600)
        self._key_file.write_text(secrets.token_urlsafe(48))
        self._main_server = MainServer(self._key_file, LARGEST)
        self._targets: dict[int, list[dict[str, Any]]] = {}
        self._started = 0

    async def start(self, stack: AsyncExitStack, scenarios: Sequence[Scenario]) -> None:
        """Start what *scenarios* need; *stack* ends it."""
        stack.push_async_callback(awaiting(self._main_server.stop))
        await self._main_server.start()
        for max_sessions in sorted({scenario.max_sessions for scenario in scenarios}):
            needed = max(scenario.hosts for scenario in scenarios if scenario.max_sessions == max_sessions)
            targets = self._targets[max_sessions] = []
            for number in range(needed):
                server = LocalServer(f"127.0.0.{number + 1}", max_sessions)
                stack.push_async_callback(awaiting(server.stop))
                await server.start()
                targets.append(server.target(max_sessions * 1000 + number))

    async def measure(self, relay: str, scenario: Scenario, full: int) -> Measurement:
        """Start *relay* afresh, let it get warm, and load it as *scenario* says."""
        self._started += 1
        proxy_id = f"{relay}-{self._started}"
        state = self._directory / proxy_id
        state.mkdir(mode=0o700)
        process = RelayProcess(self._command(relay, proxy_id, state))
        async with AsyncExitStack() as stack:
            stack.push_async_callback(awaiting(process.stop))
            process.start()
            try:
                await self._main_server.connected(proxy_id)
                if "--status" in VARIANTS.get(relay, ()):
                    scraping = LoopingCall(scrape, str(state / "status.sock"))
                    scraping.start(1.0)
                    stack.callback(scraping.stop)  # fails where a scrape did, and so the measurement
                return await self._load(process, proxy_id, scenario, scenario.count(full))
            except PeerFailed as error:
                log = state / "twistd.log"
                said = process.output + (log.read_text(errors="replace").splitlines() if log.exists() else [])
                raise PeerFailed("\n".join([f"{relay}, {scenario.title}: {error}", *said[-20:]])) from None

    async def _load(self, process: RelayProcess, proxy_id: str, scenario: Scenario, count: int) -> Measurement:
        targets = self._targets[scenario.max_sessions][: scenario.hosts]
        work: dict[str, Any] = {"command": scenario.command, "expect": scenario.expect()}
        first = await self._main_server.load(proxy_id, targets, count=len(targets), concurrency=1, **work)
        if first["failures"]:
            raise PeerFailed(f"even one command at a time fails: {first['reasons']}")
        if scenario.commands is None:
            await self._main_server.load(
                proxy_id, targets, count=max(count // 5, 20), concurrency=scenario.concurrency, **work
            )
        before = cpu_seconds(process.pid)
        done = await self._main_server.load(proxy_id, targets, count=count, concurrency=scenario.concurrency, **work)
        cpu = cpu_seconds(process.pid) - before
        return Measurement(
            count=count,
            rate=done["rate"],
            median=done["median"],
            p95=done["p95"],
            cpu=cpu * 1000 / count,
            peak=_peak_megabytes(process.pid),
            throughput=len(scenario.output) / 1000 / done["median"] if done["median"] else None,
            failures=done["failures"],
            reasons=done["reasons"],
        )

    def _command(self, relay: str, proxy_id: str, state: Path) -> list[str]:
        url = self._main_server.url
        if relay in VARIANTS:
            # relative paths are below the working directory
            options = [str(state / each) if each.endswith(".log") else each for each in VARIANTS[relay]]
            options = [each.replace("unix:", f"unix:{state}/") for each in options]
            return relayd_command(url, proxy_id, self._key_file, state, ["--max-output", str(LARGEST), *options])
        if relay == BEFORE:
            _, *arguments = self._command("relayd", proxy_id, state)
            return [f"{self._before}/.venv/bin/twistd", *arguments]
        if relay == "example":
            return example_command(url, proxy_id, self._key_file)
        if relay == "go":
            return [str(GO_RELAY), url, proxy_id, str(self._key_file)]
        return [sys.executable, str(HERE / "peers" / "asyncio_relay.py"), url, proxy_id, str(self._key_file)]


def build_go_relay() -> str | None:
    """Build the relay in Go; why it cannot be built, if so."""
    go = shutil.which("go")
    if go is None or not Path(GO_PATH).exists():
        return "the relay in Go needs its compiler and libraries: run 'sh tests/bootstrap.sh bench'"
    environ = {**os.environ, "GO111MODULE": "off", "GOPATH": GO_PATH, "GOFLAGS": "", "CGO_ENABLED": "0"}
    source = HERE / "peers" / "go_relay"
    done = subprocess.run(
        [go, "build", "-o", str(GO_RELAY), "."], cwd=source, env=environ, capture_output=True, text=True, check=False
    )
    return f"the relay in Go cannot be built: {done.stderr.strip()}" if done.returncode else None


async def run(options: argparse.Namespace) -> None:
    """Measure and report."""
    scenarios = [scenario for scenario in SCENARIOS if not options.only or scenario.name in options.only]
    if options.max_sessions:
        scenarios = [replace(scenario, max_sessions=options.max_sessions) for scenario in scenarios]
    measured: dict[str, dict[str, list[Measurement]]] = {
        scenario.name: {relay: [] for relay in options.relays} for scenario in scenarios
    }
    async with AsyncExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="relayd-bench-"))
        bench = Bench(Path(directory), options.before)
        await bench.start(stack, scenarios)
        for number in range(1, options.rounds + 1):
            for scenario in scenarios:
                for relay in options.relays:
                    print(f"round {number} of {options.rounds}: {scenario.title}: {relay}", file=sys.stderr)
                    measured[scenario.name][relay].append(await bench.measure(relay, scenario, options.count))
    print_report([(scenario.name, scenario.title, scenario.shown) for scenario in scenarios], measured)
    path = write_results(HERE / "results", {**vars(options), "before": str(options.before or "")}, measured)
    print(f"\nAll figures: {path}")


def run_to_end(reactor: Any, work: Coroutine[Any, Any, None]) -> Deferred[None]:
    """Do *work*, and when the reactor stops before its time (Ctrl-C, SIGTERM) let it end what it started."""
    running = Deferred.fromCoroutine(work)
    settled: Deferred[None] = Deferred()
    ended = False

    def on_end(outcome: Any) -> Any:
        nonlocal ended
        ended = True
        settled.callback(None)
        if isinstance(getattr(outcome, "value", None), PeerFailed):
            print(outcome.value, file=sys.stderr)
            raise SystemExit(1)
        if isinstance(getattr(outcome, "value", None), CancelledError):
            raise SystemExit(128 + signal.SIGINT)
        return outcome

    def on_shutdown() -> Deferred[None] | None:
        if ended:
            return None
        running.cancel()
        return settled

    reactor.addSystemEventTrigger("before", "shutdown", on_shutdown)
    return running.addBoth(on_end)


def scrape(path: str) -> Deferred[None]:
    """Read the metrics of a relay, as Prometheus would."""
    from twisted.internet import reactor

    agent = Agent.usingEndpointFactory(reactor, _Socket(path))
    reading: Deferred[Any] = agent.request(b"GET", b"http://127.0.0.1/metrics").addCallback(readBody)
    return reading.addCallback(_check_metrics)


def _check_metrics(body: bytes) -> None:
    if b"relayd_ready" not in body:
        raise PeerFailed("these are no metrics of a relay")


@implementer(IAgentEndpointFactory)
class _Socket:
    """Leads an Agent to a UNIX socket, whatever the URL."""

    def __init__(self, path: str) -> None:
        self._path = path

    def endpointForURI(self, uri: Any) -> UNIXClientEndpoint:
        from twisted.internet import reactor

        return UNIXClientEndpoint(reactor, self._path)


def awaiting(stop: Any) -> Any:
    """A function that gives a Deferred, as the coroutine function that an AsyncExitStack wants."""

    async def stopping() -> None:
        await stop()

    return stopping


def cpu_seconds(pid: int) -> float:
    """
    CPU time of a process so far, user and system, all its threads.

    This reads the clock that clock_getcpuclockid(3) names, by Linux's formula for it: it counts nanoseconds, where
    /proc/PID/stat has the same in ticks of 10 ms.
    """
    return time.clock_gettime(~pid << 3 | 2)


def _peak_megabytes(pid: int) -> float:
    """The most memory that a process has held so far (proc(5), /proc/PID/status, VmHWM)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise PeerFailed("this system does not tell how much memory a process uses")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="how often each relay has its turn (default 3)")
    parser.add_argument("--count", type=int, default=1000, help="commands a measurement (default 1000)")
    parser.add_argument(
        "--only", nargs="+", metavar="SCENARIO", choices=[scenario.name for scenario in SCENARIOS], default=[],
        help="some of: %(choices)s",
    )  # fmt: skip
    parser.add_argument(
        "--relays",
        nargs="+",
        metavar="RELAY",
        choices=RELAYS,
        default=["relayd", "example", "asyncio", "go"],
        help="some of: %(choices)s",
    )
    parser.add_argument(
        "--max-sessions",
        type=int,
        metavar="N",
        help="MaxSessions of the SSH servers, such as 100: peers that fail commands where it is 10 then fail none",
    )
    parser.add_argument(
        "--before",
        type=Path,
        metavar="DIR",
        help="another checkout of relayd, with its .venv, to measure as well: what a change costs",
    )
    options = parser.parse_args(arguments)
    if options.before is not None:
        options.before = options.before.resolve()
        if not (options.before / ".venv" / "bin" / "twistd").exists():
            parser.error(f"{options.before} has no .venv/bin/twistd: run 'make .venv/installed' there")
        options.relays = [*options.relays, BEFORE]
    if options.rounds < 1 or options.count < 1:
        parser.error("--rounds and --count are at least 1")
    missing = [name for name in ("socketio", "asyncssh", "aiohttp") if importlib.util.find_spec(name) is None]
    if "asyncio" in options.relays and missing:
        parser.error(f"the asyncio relay needs {', '.join(missing)}: pip install '.[bench]'")
    if "go" in options.relays and (reason := build_go_relay()) is not None:
        parser.error(reason)
    return options


if __name__ == "__main__":
    react(run_to_end, (run(parse()),))
