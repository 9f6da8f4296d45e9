"""
How a whole relay fares at its bounds. ``hosts``: 1,000 hosts, a command on each every 10 s.  ``burst``: 10,000 commands
in one go.  ``flood``: a main server that asks for 2,000 commands a second.

The relay runs with the journal at ``full``, a text log at ``info`` in a file, and its metrics are read every second.
Commands are ``true`` on real SSH servers; each needs some 8 MB for each connection.  The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.task import LoopingCall, deferLater, react
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.clients import start_hosts
from benchmarks.run import cpu_seconds
from benchmarks.ssh import ADDRESSES_EACH, raise_limits
from relayd.hub import Hub
from relayd.hub.errors import CommandRefused
from relayd.wire.messages import CommandResult, ExecuteCommand, Secret
from tests.support.loads import stalls_in
from tests.support.relays import Relayd, RelayProcess, relayd_command

#: Hosts of the parts that are not about many, and sessions that they allow on a connection.
FEW_HOSTS, SESSIONS = 8, 100
#: Seconds that a command may take from order to result.
PATIENCE = 600.0
#: Seconds between two commands on each of many hosts.
EVERY = 10.0
#: Orders of a flood come in steps of so many seconds.
STEP = 0.01


class Relay(RelayProcess):
    """
    A relay whose log is a file, and whose metrics are read every second.

    :ivar samples: what was read: megabytes of resident memory, commands that run, and that wait.
    """

    def __init__(self, reactor: Any, url: str, directory: Path, *options: str) -> None:
        self.samples: list[tuple[float, int, int]] = []
        self._state = directory / "state"
        self._socket = str(directory / "status")
        self._state.mkdir(mode=0o700)
        key = directory / "api-key"
        key.touch(mode=0o600)
        key.write_text(Relayd.api_key + "\n")
        more = ("--status", f"unix:{self._socket}", "--drain-timeout", "1s", *options)
        super().__init__(relayd_command(url, Relayd.proxy_id, key, self._state, more))
        self._reading = LoopingCall(self._sample)
        self._reading.clock = reactor

    @property
    def log(self) -> str:
        """The end of its log."""
        path = self._state / "twistd.log"
        return path.read_text()[-4000:] if path.exists() else "\n".join(self.output[-20:])

    def watch(self) -> None:
        """Read the metrics from now on."""
        self._reading.start(1.0)

    async def end(self) -> None:
        """End it in good order, so that it tells how its event loop fared."""
        if self._reading.running:
            self._reading.stop()
        await self.signal(signal.SIGTERM)

    def resident(self) -> float:
        """Megabytes of physical memory (proc(5), VmRSS)."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024 / 1e6

    async def _sample(self) -> None:
        text = await deferToThread(_metrics, self._socket)
        running, queued = (
            re.search(rf"^relayd_commands_{name} (\d+)", text, re.MULTILINE) for name in ("running", "queued")
        )
        if running and queued:
            self.samples.append((self.resident(), int(running[1]), int(queued[1])))


def _metrics(path: str) -> str:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(path)
        connection.sendall(b"GET /metrics HTTP/1.0\r\nHost: relay\r\n\r\n")
        return b"".join(iter(lambda: connection.recv(1 << 16), b"")).decode()


class Load:
    """
    A main server, its relay, and what became of the commands.

    :param setup: of the SSH servers, as `benchmarks.clients.start_hosts` makes it.
    :ivar outcomes: how many commands ended in which way.
    :ivar answered: when each came back, and seconds after its order.
    """

    def __init__(self, reactor: Any, hub: Hub, relay: Relay, setup: dict[str, Any]) -> None:
        self.relay = relay
        self.outcomes: Counter[str] = Counter()
        self.answered: list[tuple[float, float]] = []
        self.asked = 0
        self.targets: list[tuple[str, int]] = setup["targets"]
        self._hub = hub
        self._user = setup["user"]
        self._key = Secret(Path(setup["key"]).read_text())
        self._ids = count(1)
        self._began = time.monotonic()
        self._cpu = cpu_seconds(relay.pid)

    def execute(self, number: int) -> Deferred[None]:
        """Ask for ``true`` on the host with *number*, or one of those that there are; always succeeds."""
        host, port = self.targets[number % len(self.targets)]
        order = ExecuteCommand(
            command_id=f"c{next(self._ids)}",
            server_id=1,
            host=host,
            port=port,
            username=self._user,
            command="true",
            private_key=self._key,
            timeout=PATIENCE,
            extended=True,
        )
        self.asked += 1
        asked = time.monotonic()
        done: Deferred[Any] = self._hub.execute(Relayd.proxy_id, order, timeout=PATIENCE)
        return done.addBoth(self._ended, asked)

    def _ended(self, outcome: CommandResult | Failure, asked: float) -> None:
        now = time.monotonic()
        if isinstance(outcome, Failure):
            error = outcome.value
            how = f"refused: {error.fields['reason']}" if isinstance(error, CommandRefused) else f"lost: {error}"
            self.outcomes[re.sub(r"\d+", "…", how)] += 1
            return
        said = outcome.details.error
        how = "done" if outcome.exit_code == 0 else f"refused: {said['code']}" if said else "failed"
        self.outcomes[how] += 1
        if how == "done":
            self.answered.append((now, now - asked))

    def figures(self) -> dict[str, Any]:
        """What the relay took so far, and what became of the commands."""
        cpu, seconds = cpu_seconds(self.relay.pid) - self._cpu, time.monotonic() - self._began
        resident, running, queued = zip(*self.relay.samples, strict=True)
        latencies = sorted(latency for _, latency in self.answered) or [0.0]
        return {
            "seconds": round(seconds, 2),
            "asked": self.asked,
            "outcomes": dict(self.outcomes),
            "unanswered": self.asked - self.outcomes.total(),
            "done_per_second": round(self.outcomes["done"] / seconds, 1),
            "cpu_percent": round(100 * cpu / seconds, 1),
            "cpu_ms_per_command": round(1000 * cpu / max(1, self.asked), 3),
            "median_ms": round(latencies[len(latencies) // 2] * 1000, 1),
            "p99_ms": round(latencies[len(latencies) * 99 // 100] * 1000, 1),
            "worst_ms": round(latencies[-1] * 1000, 1),
            "resident_mb_first": round(resident[0], 1),
            "resident_mb_most": round(max(resident), 1),
            "resident_mb_last": round(self.relay.resident(), 1),
            "most_running": max(running),
            "most_queued": max(queued),
        }


@asynccontextmanager
async def load(reactor: Any, stack: AsyncExitStack, hosts: int, *options: str, each: int = 1) -> AsyncIterator[Load]:
    """A `Load` that has just begun, and ends."""
    path = await start_hosts(stack, hosts, each=each, sessions=SESSIONS, config_lines=["MaxStartups 10000"])
    directory = Path(tempfile.mkdtemp(prefix="relayd-scale-"))
    hub = Hub(reactor, {Relayd.proxy_id: Secret(Relayd.api_key)})
    try:
        port: Any = await hub.listen(TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"))
        relay = Relay(reactor, f"ws://127.0.0.1:{port.getHost().port}", directory, *options)
        relay.start()
        await hub.when_connected(Relayd.proxy_id).addTimeout(60, reactor)
        relay.watch()
        try:
            yield Load(reactor, hub, relay, json.loads(path.read_text()))
        finally:
            await relay.end()
        stalls = stalls_in(relay.log)
        print(f"event loop: {stalls.longest:.0f} ms at most, own {stalls.own:.0f} ms; {stalls.beats}", flush=True)
    finally:
        await hub.close()
        shutil.rmtree(directory, ignore_errors=True)


async def hosts(reactor: Any, options: argparse.Namespace, stack: AsyncExitStack) -> dict[str, Any]:
    """A command on each of many hosts every 10 s, evenly spread."""
    number = options.hosts
    most = ("--max-total-connections", str(number + 10), "--idle-timeout", "10m")
    async with load(reactor, stack, number, *most, each=ADDRESSES_EACH) as running:
        ended, began = [], time.monotonic()
        for turn in range(int(options.seconds / EVERY * number)):
            late = began + turn * EVERY / number - time.monotonic()
            if late > 0:
                await deferLater(reactor, late)
            ended.append(running.execute(turn))
        await DeferredList(ended)
        figures = running.figures()
        # The first command on a host also opens the connection.
        later = [latency for at, latency in running.answered if at - latency >= began + EVERY]
        figures["worst_ms_on_open_connections"] = round(max(later, default=0.0) * 1000, 1)
    return figures


async def burst(reactor: Any, options: argparse.Namespace, stack: AsyncExitStack) -> dict[str, Any]:
    """Many commands in one go."""
    async with load(reactor, stack, FEW_HOSTS, "--max-queue", str(2 * options.commands)) as running:
        await DeferredList([running.execute(number) for number in range(options.commands)])
        return running.figures()


async def flood(reactor: Any, options: argparse.Namespace, stack: AsyncExitStack) -> dict[str, Any]:
    """More than the relay can do, and then nothing more."""
    async with load(reactor, stack, FEW_HOSTS, "--max-queue", str(options.queue)) as running:
        ended, began = [], time.monotonic()
        while (now := time.monotonic() - began) < options.seconds:
            ended += [running.execute(number) for number in range(running.asked, int(now * options.rate))]
            await deferLater(reactor, STEP)
        over = time.monotonic()
        await DeferredList(ended)
        emptied = time.monotonic()
        await running.execute(0)
        figures = running.figures()
        figures["seconds_until_the_queue_was_empty"] = round(emptied - over, 2)
        figures["ms_of_the_next_command"] = round((time.monotonic() - emptied) * 1000, 1)
    return figures


PARTS = {"hosts": hosts, "burst": burst, "flood": flood}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().partition("\n")[0])
    parser.add_argument("what", nargs="?", default="all", choices=[*PARTS, "all"])
    parser.add_argument("--seconds", type=float, help="of hosts and flood (default 300 and 30)")
    parser.add_argument("--hosts", type=int, default=1000, help="hosts of the first part (default %(default)s)")
    parser.add_argument("--commands", type=int, default=10_000, help="commands in one go (default %(default)s)")
    parser.add_argument("--rate", type=int, default=2000, help="commands a second of a flood (default %(default)s)")
    parser.add_argument(
        "--queue", type=int, default=10_000, help="commands that may wait in a flood (default %(default)s)"
    )
    return parser.parse_args()


async def measure(reactor: Any, options: argparse.Namespace) -> None:
    """Print the figures of each part that is asked for."""
    report, seconds = {}, options.seconds
    for name, part in PARTS.items():
        if options.what in (name, "all"):
            options.seconds = seconds or (300.0 if name == "hosts" else 30.0)
            print(f"\n{name}", flush=True)
            async with AsyncExitStack() as stack:
                report[name] = await part(reactor, options, stack)
            for key, value in report[name].items():
                print(f"  {key:34} {value}", flush=True)
    print(json.dumps(report))


def main(reactor: Any) -> Deferred[None]:
    """Run what the command line names."""
    raise_limits()
    return Deferred.fromCoroutine(measure(reactor, parse()))


if __name__ == "__main__":
    react(main)
