"""
What hosts that mean no good cost commands on a good one: the worst answer, and the rate beside that without them.

    python benchmarks/hostile.py [KIND...]      only those kinds of hosts; --list names them

relayd's SSH client runs commands on a real sshd, and one on the hostile host, which is given again a quarter of a
second after it has ended.  Before and after each kind the same is measured without it.  Hosts are processes of their
own.  The last line is JSON.
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
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
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


class Bench:
    """One run."""

    def __init__(self, reactor: Any, options: argparse.Namespace) -> None:
        self._reactor = reactor
        self._options = options
        self._beset = False
        self.figures: dict[str, dict[str, float]] = {}
        self.failed: list[str] = []

    async def run(self) -> None:
        """Measure and report."""
        async with AsyncExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="relayd-hostile-")))
            sshd = OpenSSHServer(["LogLevel INFO"])
            await sshd.start()
            stack.push_async_callback(awaiting(sshd.stop))
            settings = SSHSettings(known_hosts=str(folder / "known_hosts"), keepalive_interval=5.0)
            self._client = SSHClient(self._reactor, settings)
            stack.push_async_callback(awaiting(self._client.close))
            self._good = Target(sshd.host, sshd.port, sshd.user, Credential(private_key=sshd.key))
            await self._commands()
            print(f"{'kind':18} {'rate':>6} {'of it':>6} {'worst ms':>9} {'without':>8} {'CPU':>5}   what it does")
            before = await self._commands()
            for name in self._options.kinds or KINDS:
                beset, share = await self._beside(name, KINDS[name])
                after = await self._commands()
                self._report(name, beset, before, after, share)
                before = after
        for line in self.failed:
            print(line)
        print(json.dumps(self.figures))
        if self.failed:
            raise SystemExit(1)

    def _report(self, name: str, beset: list[float], before: list[float], after: list[float], share: float) -> None:
        rate, without = len(beset) / sum(beset), (len(before) + len(after)) / (sum(before) + sum(after))
        many = self._options.concurrency
        worst, usual = max(beset), max(*before, *after)
        print(
            f"{name:18} {many * rate:6.0f} {rate / without:6.2f} {worst * 1000:9.0f} {usual * 1000:8.0f} "
            f"{share:5.0%}   {KINDS[name].what}",
            flush=True,
        )
        self.figures[name] = {"rate": many * rate, "ratio": rate / without, "worst": worst, "without": usual}
        if worst >= WORST:
            self.failed.append(f"{name}: an answer took {worst:.2f} s, which is {WORST} s or more")
        if rate / without <= LEAST_RATE:
            self.failed.append(f"{name}: the rate is {rate / without:.2f} of that without it")

    async def _commands(self) -> list[float]:
        """Seconds of each command on the good host, so many at a time."""
        taken: list[float] = []

        async def some() -> None:
            while len(taken) < self._options.commands:
                begun = time.perf_counter()
                done = await self._client.run(self._good, b"echo ok", self._reactor.seconds() + PATIENCE)
                if done.error is not None:
                    raise done.error
                taken.append(time.perf_counter() - begun)

        await gatherResults([Deferred.fromCoroutine(some()) for _ in range(self._options.concurrency)])
        return taken

    async def _beside(self, name: str, kind: Kind) -> tuple[list[float], float]:
        """The same while a host of *kind* is connected, and the client's part of a processor meanwhile."""
        port: Deferred[str] = Deferred()
        errors: list[str] = []

        def on_line(descriptor: int, line: str) -> None:
            if descriptor == 1:
                port.callback(line)
            else:
                errors.append(line)

        process = ChildProcess(on_line)
        process.start([sys.executable, "-m", "tests.support.floods", name], cwd=str(HERE.parent))
        process.when_ended().addCallback(
            lambda _: port.called or port.errback(PeerFailed("\n".join([f"{name} did not start", *errors])))
        )
        try:
            target = Target("127.0.0.1", int(await port), "somebody", kind.credential())
            self._beset = True
            besieged = Deferred.fromCoroutine(self._keep_asking(target, kind))
            await deferLater(self._reactor, HEAD_START)
            begun, cpu = time.perf_counter(), cpu_seconds(0)
            taken = await self._commands()
            return taken, (cpu_seconds(0) - cpu) / (time.perf_counter() - begun)
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
