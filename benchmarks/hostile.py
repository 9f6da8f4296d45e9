"""
What hosts that mean no good cost commands on a good one: the worst answer, and the rate beside that without them.

    python benchmarks/hostile.py [KIND...]      only those kinds of hosts; --list names them

relayd's SSH client runs commands on a real sshd, and one on the hostile host, which is given again a quarter of a
second after it has ended.  In each round the same is measured without it and with it; rates are medians of the rounds,
the worst answer is that of all.  Hosts are processes of their own.  The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median
from typing import Any

from msgspec import Struct
from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.internet.task import deferLater, react

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from benchmarks.run import awaiting, cpu_seconds, run_to_end  # noqa: E402
from relayd.ssh.client import SSHClient  # noqa: E402
from relayd.ssh.errors import SSHError  # noqa: E402
from relayd.ssh.settings import SSHSettings  # noqa: E402
from relayd.ssh.target import Credential, Target  # noqa: E402
from tests.support.floods import KINDS, Kind  # noqa: E402
from tests.support.process import ChildProcess, PeerFailed  # noqa: E402
from tests.support.sshd import OpenSSHServer  # noqa: E402

#: What the good host's commands may suffer: seconds for the worst of them, and the rate beside that without the other.
WORST, LEAST_RATE = 0.5, 0.8
#: Seconds for a command on the hostile host, and from its end to the next.
PATIENCE, PAUSE = 60.0, 0.25
#: Seconds for the hostile host to get going.
HEAD_START = 1.0


class Measured(Struct, frozen=True):
    """
    :ivar rate: commands a second.
    :ivar worst: seconds that the slowest took.
    :ivar cpu: the client's part of a processor.
    """

    rate: float
    worst: float
    cpu: float


class Bench:
    """One run."""

    def __init__(self, reactor: Any, options: argparse.Namespace) -> None:
        self._reactor = reactor
        self._options = options
        self._beset = False
        #: By kind.
        self.figures: dict[str, dict[str, float]] = {}
        self.failed: list[str] = []

    async def run(self) -> None:
        """Measure and report."""
        async with AsyncExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="relayd-hostile-")))
            sshd = OpenSSHServer(["LogLevel INFO"])
            await sshd.start()
            stack.push_async_callback(awaiting(sshd.stop))
            known_hosts = folder / "known_hosts"
            known_hosts.write_text("".join(kind.known_hosts for kind in KINDS.values()))
            settings = SSHSettings(known_hosts=str(known_hosts), keepalive_interval=5.0)
            self._client = SSHClient(self._reactor, settings)
            stack.push_async_callback(awaiting(self._client.close))
            self._good = Target(sshd.host, sshd.port, sshd.user, Credential(private_key=sshd.key))
            await self._commands()
            print(f"{'kind':18} {'rate':>6} {'ratio':>6} {'worst ms':>9} {'without':>8} {'CPU':>5}   what it does")
            for name in self._options.kinds or KINDS:
                without, beset = [], []
                for _ in range(self._options.rounds):
                    without.append(await self._commands())
                    beset.append(await self._beside(name, KINDS[name]))
                self._report(name, without, beset)
        for line in self.failed:
            print(line)
        print(json.dumps(self.figures))
        if self.failed:
            raise SystemExit(1)

    def _report(self, name: str, without: list[Measured], beset: list[Measured]) -> None:
        rate, cpu = median(each.rate for each in beset), median(each.cpu for each in beset)
        ratio = rate / median(each.rate for each in without)
        worst, usual = max(each.worst for each in beset), max(each.worst for each in without)
        print(
            f"{name:18} {rate:6.0f} {ratio:6.2f} {worst * 1000:9.0f} {usual * 1000:8.0f} {cpu:5.0%}   "
            f"{KINDS[name].what}",
            flush=True,
        )
        self.figures[name] = {"rate": rate, "ratio": ratio, "worst": worst, "without": usual, "cpu": cpu}
        if worst >= WORST:
            self.failed.append(f"{name}: an answer took {worst:.2f} s; it is to be less than {WORST} s")
        if ratio <= LEAST_RATE:
            self.failed.append(f"{name}: the rate is {ratio:.2f} of that without it; it is to be over {LEAST_RATE}")

    async def _commands(self) -> Measured:
        """Commands on the good host, so many at a time."""
        started, cpu = time.perf_counter(), cpu_seconds(0)
        taken: list[float] = []

        async def some() -> None:
            while len(taken) < self._options.commands:
                begun = time.perf_counter()
                done = await self._client.run(self._good, b"echo ok", self._reactor.seconds() + PATIENCE)
                if done.error is not None:
                    raise done.error
                taken.append(time.perf_counter() - begun)

        await gatherResults([Deferred.fromCoroutine(some()) for _ in range(self._options.concurrency)])
        seconds = time.perf_counter() - started
        return Measured(len(taken) / seconds, max(taken), (cpu_seconds(0) - cpu) / seconds)

    async def _beside(self, name: str, kind: Kind) -> Measured:
        """The same while a host of *kind* is connected."""
        port: Deferred[str] = Deferred()
        errors: list[str] = []

        def on_line(descriptor: int, line: str) -> None:
            if descriptor == 1:
                port.callback(line)
            else:
                errors.append(line)

        process = ChildProcess(on_line)
        # Elsewhere it is another machine: its own work must not take the processor from the good host.
        process.start(["nice", "-n", "10", sys.executable, "-m", "tests.support.floods", name], cwd=str(HERE.parent))

        def on_end(_: int) -> None:
            if not port.called:
                port.errback(PeerFailed("\n".join([f"{name} did not start", *errors])))

        process.when_ended().addCallback(on_end)
        besieged: Deferred[None] = succeed(None)
        try:
            target = Target("127.0.0.1", int(await port), "somebody", kind.credential())
            self._beset = True
            besieged = Deferred.fromCoroutine(self._keep_asking(target, kind))
            await deferLater(self._reactor, HEAD_START)
            return await self._commands()
        finally:
            self._beset = False
            await process.terminate()
            await besieged

    async def _keep_asking(self, target: Target, kind: Kind) -> None:
        """A command on the hostile host, again and again."""
        while self._beset:
            try:
                await self._client.run(target, b"true", self._reactor.seconds() + PATIENCE, stdin=kind.stdin)
            except SSHError as error:
                if self._options.verbose:
                    print(f"    {error}")
            await deferLater(self._reactor, PAUSE)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().partition("\n")[0])
    parser.add_argument("kinds", nargs="*", metavar="KIND", help="default: all of them")
    parser.add_argument("--list", action="store_true", help="name the kinds")
    parser.add_argument("--commands", type=int, default=200, help="commands a measurement (default 200)")
    parser.add_argument("--rounds", type=int, default=9, help="measurements of each kind (default 9)")
    parser.add_argument("--concurrency", type=int, default=4, help="commands at a time (default 4)")
    parser.add_argument("--verbose", action="store_true", help="show what the commands on the hostile host end with")
    options = parser.parse_args(arguments)
    if unknown := set(options.kinds) - set(KINDS):
        parser.error(f"no such kind: {', '.join(sorted(unknown))}")
    return options


def main(reactor: Any, options: argparse.Namespace) -> Deferred[None]:
    """Measure, and report."""
    return run_to_end(reactor, Bench(reactor, options).run())


if __name__ == "__main__":
    chosen = parse()
    if chosen.list:
        for name, kind in KINDS.items():
            print(f"{name:18} {kind.what}")
    else:
        react(main, (chosen,))
