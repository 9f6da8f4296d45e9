"""
Hosts that keep a relay busy, in a process of their own: the client gives none of them more than a part of a processor,
and commands on a good host are answered meanwhile.
"""

from __future__ import annotations

import atexit
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

from twisted.internet.defer import Deferred

from relayd.ssh.target import Target
from tests.support.floods import KINDS
from tests.support.ssh import ServerTestCase

TOP = Path(__file__).resolve().parents[2]
#: Of those that are alike, one; the others are for benchmarks/hostile.py.
NAMES = (
    "extensions", "late-extensions", "rekeys", "quick-rekeys", "long-kexinits", "bytes", "lines", "plain-ignore",
    "banners", "ignore", "unknown", "output", "window", "never-reads",
)  # fmt: skip
#: Seconds of a flood that are watched, once it has begun, and of the processor's time that it may take of them.
#: By its prices it gets 0.05 of them; without, it took what there was.
WATCHED, MOST = 1.5, 0.4
#: Seconds that `work` took where that was measured. A processor that two share, or a slow one, takes longer for all.
QUIET = 0.00065
#: Seconds for an answer of the good host: on a machine that has others to run too.
WORST = 3.0


@cache
def ports() -> dict[str, int]:
    """Where the hosts are, which all tests of this process share: their process takes a second to start."""
    argv = ["nice", sys.executable, "-m", "tests.support.floods", *NAMES]
    process = subprocess.Popen(argv, cwd=TOP, stdout=subprocess.PIPE)
    atexit.register(process.wait)
    atexit.register(process.kill)  # before that: the last one first
    assert process.stdout is not None
    return {name: int(process.stdout.readline()) for name in NAMES}


class FloodTests(ServerTestCase):
    """One kind each."""

    async def flood(self, name: str) -> None:
        kind = KINDS[name]
        good = self.target(await self.start_server())
        client = self.make_client()
        await self.run_command(client, good, "true")
        hostile = Target("127.0.0.1", ports()[name], "somebody", kind.credential())
        ended: list[object] = []
        client.run(hostile, b"true", self.reactor.seconds() + 60, stdin=kind.stdin).addBoth(ended.append)
        await self.sleep(0.5)
        worst, own, rounds, began, cpu = 0.0, 0.0, 0, time.monotonic(), time.process_time()
        while time.monotonic() - began < WATCHED:
            asked = time.monotonic()
            done = await self.run_command(client, good, "echo ok")
            self.assertEqual((done.stdout.text(), done.error), ("ok", None))
            worst = max(worst, time.monotonic() - asked)
            own, rounds = own + work(), rounds + 1
            await self.sleep(0.1)
        slower = max(1.0, own / rounds / QUIET)
        self.assertLess((time.process_time() - cpu - own) / slower, MOST, f"this machine is slower by {slower:.2f}")
        self.assertLess(worst, WORST)


def work() -> float:
    """Do something that is always the same: seconds of the processor's time that it took."""
    began = time.process_time()
    sum(len(str(number).encode()) for number in range(5000))
    return time.process_time() - began


def _test(name: str) -> None:
    def test(self: FloodTests) -> Deferred[None]:
        return Deferred.fromCoroutine(self.flood(name))

    setattr(FloodTests, "test_" + name.replace("-", "_"), test)


for _name in NAMES:
    _test(_name)
