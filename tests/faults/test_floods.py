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
from typing import Any

from twisted.internet.defer import Deferred

from relayd.ssh.target import Target
from relayd.ssh.transport import transport
from relayd.ssh.transport.pacing import Pacer
from tests.support.floods import KINDS
from tests.support.ssh import ServerTestCase

TOP = Path(__file__).resolve().parents[2]
#: Of those that are alike, one; the others are for benchmarks/hostile.py.
NAMES = (
    "extensions", "late-extensions", "rekeys", "quick-rekeys", "long-kexinits", "bytes", "lines", "plain-ignore",
    "banners", "ignore", "unknown", "output", "window", "never-reads",
)  # fmt: skip
#: Seconds of a flood that are watched, once it has begun.
WATCHED = 1.0
#: Microseconds, at the prices of `relayd.ssh.transport.pacing`, that a hostile host may cost: at first, and in each
#: second. They are written here again, with a margin for what one turn reads, so that a change there is seen.
AT_FIRST, EACH_SECOND = 100_000, 50_000
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


class CountingPacer(Pacer):
    """
    A pacer that also adds up what its connection costs.

    :ivar cost: microseconds, less what commands and their output pay, and not less what time pays.
    """

    def __init__(self, clock: Any, paced: Any) -> None:
        super().__init__(clock, paced)
        self.port = paced.port
        self.began = clock.seconds()
        self._forgiven = 0

    def settle(self, more: bool) -> None:
        before = self.owed
        super().settle(more)
        self._forgiven += before - self.owed

    @property
    def cost(self) -> int:
        return self.owed + self._forgiven


class FloodTests(ServerTestCase):
    """One kind each."""

    async def flood(self, name: str) -> None:
        kind = KINDS[name]
        pacers: list[CountingPacer] = []

        def make_pacer(clock: Any, paced: Any) -> CountingPacer:
            pacers.append(CountingPacer(clock, paced))
            return pacers[-1]

        self.patch(transport, "Pacer", make_pacer)
        good = self.target(await self.start_server())
        client = self.make_client()
        await self.run_command(client, good, "true")
        hostile = Target("127.0.0.1", ports()[name], "somebody", kind.credential())
        client.run(hostile, b"true", self.reactor.seconds() + 60, stdin=kind.stdin).addBoth(lambda _: None)
        await self.sleep(0.3)
        worst, began = 0.0, time.monotonic()
        while time.monotonic() - began < WATCHED:
            asked = time.monotonic()
            done = await self.run_command(client, good, "echo ok")
            self.assertEqual((done.stdout.text(), done.error), ("ok", None))
            worst = max(worst, time.monotonic() - asked)
            await self.sleep(0.1)
        watched = [pacer for pacer in pacers if pacer.port == hostile.port]
        self.assertTrue(watched)
        for pacer in watched:
            allowed = AT_FIRST + EACH_SECOND * (self.reactor.seconds() - pacer.began)
            self.assertLess(pacer.cost, allowed)
        self.assertLess(worst, WORST)


def _test(name: str) -> None:
    def test(self: FloodTests) -> Deferred[None]:
        return Deferred.fromCoroutine(self.flood(name))

    setattr(FloodTests, "test_" + name.replace("-", "_"), test)


for _name in NAMES:
    _test(_name)
