"""
How many calls of Python functions a command costs the relay, by the part that they are in: one command after another.

    python benchmarks/calls.py [--count N] [--top N] [relayd's options...]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import sysconfig
from collections import Counter
from pathlib import Path
from typing import Any

from msgspec import Struct
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.task import deferLater, react

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

from relayd.hub import Hub  # noqa: E402
from relayd.wire.messages import ExecuteCommand, Secret  # noqa: E402
from tests.support.relays import Relayd  # noqa: E402
from tests.support.sshd import OpenSSHServer  # noqa: E402


class Calls(Struct, frozen=True):
    """
    Calls of Python functions, for each command.

    :ivar parts: by part: a wing of relayd, or a library.
    :ivar functions: by function, ``part: name``.
    """

    parts: dict[str, float]
    functions: dict[str, float]

    @property
    def total(self) -> float:
        """All of them."""
        return sum(self.parts.values())


class CountedRelay(Relayd):
    """A relay that counts its calls."""

    def __init__(self, server: str, *options: str) -> None:
        super().__init__(server, "--log-level", "info", *options)
        self._argv = [sys.executable, str(HERE / "counted.py"), *self._argv[1:]]
        self.file = self.directory / "calls"

    async def counted(self, reactor: Any) -> list[tuple[str, str, int]]:
        """What it has counted since it was told to."""
        os.kill(self.pid, signal.SIGUSR2)
        while not self.file.exists():
            await deferLater(reactor, 0.02)
        return [tuple(row) for row in json.loads(self.file.read_text())]


async def count_calls(
    reactor: Any, count: int, *options: str, concurrency: int = 1, dialect: str = "socketio"
) -> Calls:
    """Run *count* commands, *concurrency* at a time, on a real SSH server."""
    sshd = OpenSSHServer(["MaxSessions 100"])
    hub = Hub(reactor, {Relayd.proxy_id: Secret(Relayd.api_key)})
    await sshd.start()
    port: Any = await hub.listen(TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"))
    relay = CountedRelay(f"http://127.0.0.1:{port.getHost().port}", "--dialect", dialect, *options)
    relay.start(CALLS_FILE=str(relay.file))

    async def one(number: int) -> None:
        order = ExecuteCommand(
            command_id=f"c{number}", server_id=1, host=sshd.host, port=sshd.port, username=sshd.user, command="true",
            private_key=Secret(sshd.key), timeout=60,
        )  # fmt: skip
        result = await hub.execute(Relayd.proxy_id, order)
        assert result.exit_code == 0, result.stderr

    async def some(numbers: range) -> None:
        for number in numbers:
            await one(number)

    async def all_of(first: int, last: int) -> None:
        lanes = [some(range(first + lane, last, concurrency)) for lane in range(concurrency)]
        await gatherResults([Deferred.fromCoroutine(lane) for lane in lanes])

    try:
        await hub.when_connected(Relayd.proxy_id)
        await all_of(0, 10 * concurrency)
        os.kill(relay.pid, signal.SIGUSR1)
        await all_of(10 * concurrency, 10 * concurrency + count)
        rows = await relay.counted(reactor)
    finally:
        await relay.remove()
        await hub.close()
        await sshd.stop()
    return summed(rows, count)


def summed(rows: list[tuple[str, str, int]], count: int) -> Calls:
    """Rows of counted.py, for each of *count* commands."""
    parts: Counter[str] = Counter()
    functions: Counter[str] = Counter()
    for file, name, number in rows:
        part = part_of(file)
        parts[part] += number
        functions[f"{part}: {Path(file).stem}.{name}"] += number
    return Calls(*({key: value / count for key, value in each.most_common()} for each in (parts, functions)))


def part_of(file: str) -> str:
    """The wing of relayd, or the library, that a file belongs to."""
    for root in (ROOT, *(Path(sysconfig.get_path(name)) for name in ("purelib", "platlib", "stdlib"))):
        if Path(file).is_relative_to(root):
            words = Path(file).relative_to(root).with_suffix("").parts
            if root == ROOT and words[0] != ".venv":
                return ".".join(words[:2])
            if root == ROOT:
                continue
            return "Python" if root == Path(sysconfig.get_path("stdlib")) else words[0]
    return "Python"


async def measure(reactor: Any, arguments: argparse.Namespace, options: list[str]) -> None:
    """Print two tables."""
    calls = await count_calls(reactor, arguments.count, *options, concurrency=arguments.concurrency)
    for name, number in calls.parts.items():
        print(f"{number:8.1f}  {name}")
    print(f"{calls.total:8.1f}  in all\n")
    for name, number in list(calls.functions.items())[: arguments.top]:
        print(f"{number:8.2f}  {name}")


def main(reactor: Any) -> Deferred[None]:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().partition("\n")[0])
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--top", type=int, default=60, help="functions to show")
    arguments, options = parser.parse_known_args()
    return Deferred.fromCoroutine(measure(reactor, arguments, options))


if __name__ == "__main__":
    react(main)
