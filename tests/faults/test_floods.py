"""
Hosts that keep a relay busy, in a process of their own: the client makes each wait, or leaves it, and commands on a
good host are answered meanwhile. Processor time depends on the machine: benchmarks/hostile.py measures that.
"""

from __future__ import annotations

import atexit
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from relayd.ssh.target import Target
from relayd.ssh.transport import transport
from relayd.ssh.transport.pacing import MAX_OWED, Pacer
from tests.support.floods import KINDS
from tests.support.ssh import ServerTestCase

TOP = Path(__file__).resolve().parents[2]
#: Of those that are alike, one; the others are for benchmarks/hostile.py.
NAMES = (
    "extensions", "late-extensions", "rekeys", "quick-rekeys", "long-kexinits", "bytes", "lines", "plain-ignore",
    "banners", "ignore", "unknown", "output", "window", "never-reads",
)  # fmt: skip
#: Those that relayd leaves, by what it says of them. The others stay connected, and have to wait.
LEFT = {
    "lines": "8192 bytes without a version",
    "quick-rekeys": "too many requests for new keys",
    "unknown": "more requests than any server needs",
}
#: Seconds until a host has to wait, or is left: on a machine that has others to run too.
PATIENCE = 60.0
#: Seconds of a flood that are watched, once its host has had to wait.
WATCHED = 1.0
#: Microseconds, at the prices of `relayd.ssh.transport.pacing`, that a hostile host may cost: at first, and in each
#: second. They are written here again, with a margin for what one turn reads, so that a change there is seen.
AT_FIRST, EACH_SECOND = 60_000, 50_000
#: How much more one key exchange by the dearest method costs.
DEAR = {"rekeys": 50_000}
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
    :ivar held: whether the connection has had to wait because it owed too much.
    """

    def __init__(self, clock: Any, paced: Any) -> None:
        super().__init__(clock, paced)
        self.port = paced.port
        self.began = clock.seconds()
        self.held = False
        self._forgiven = 0

    def settle(self, more: bool) -> None:
        before = self.owed
        super().settle(more)
        self.held = self.held or self.owed > MAX_OWED
        self._forgiven += before - self.owed

    @property
    def cost(self) -> int:
        return self.owed + self._forgiven


class FloodTests(ServerTestCase):
    """One kind each."""

    async def flood(self, name: str) -> None:
        kind = KINDS[name]
        self.pacers: list[CountingPacer] = []
        self.patch(transport, "Pacer", self.make_pacer)
        self.good = self.target(await self.start_server())
        self.client = self.make_client()
        await self.run_command(self.client, self.good, "true")
        self.hostile = Target("127.0.0.1", ports()[name], "somebody", kind.credential())
        ended: list[Any] = []
        running = self.client.run(self.hostile, b"true", self.reactor.seconds() + 2 * PATIENCE, stdin=kind.stdin)
        running.addBoth(ended.append)
        if name in LEFT:
            await self.answers_until(lambda: bool(ended), DEAR.get(name, 0))
            error = ended[0].value if isinstance(ended[0], Failure) else ended[0].error
            self.assertIn(LEFT[name], str(error))
            return
        await self.answers_until(lambda: any(pacer.held for pacer in self.watched()), DEAR.get(name, 0))
        began = time.monotonic()
        await self.answers_until(lambda: time.monotonic() - began >= WATCHED, DEAR.get(name, 0))

    def make_pacer(self, clock: Any, paced: Any) -> CountingPacer:
        self.pacers.append(CountingPacer(clock, paced))
        return self.pacers[-1]

    def watched(self) -> list[CountingPacer]:
        """Those of the connections to the hostile host."""
        return [pacer for pacer in self.pacers if pacer.port == self.hostile.port]

    async def answers_until(self, done: Callable[[], bool], dear: int) -> None:
        """The good host's commands are answered, and the hostile host costs no more than it may, until *done*."""
        deadline = self.reactor.seconds() + PATIENCE
        while not done():
            self.assertLess(self.reactor.seconds(), deadline, "it has not had to wait, and was not left")
            asked = time.monotonic()
            answer = await self.run_command(self.client, self.good, "echo ok")
            self.assertEqual((answer.stdout.text(), answer.error), ("ok", None))
            self.assertLess(time.monotonic() - asked, WORST)
            for pacer in self.watched():
                allowed = AT_FIRST + dear + EACH_SECOND * (self.reactor.seconds() - pacer.began)
                self.assertLess(pacer.cost, allowed)
            await self.sleep(0.1)


def _test(name: str) -> None:
    def test(self: FloodTests) -> Deferred[None]:
        return Deferred.fromCoroutine(self.flood(name))

    setattr(FloodTests, "test_" + name.replace("-", "_"), test)


for _name in NAMES:
    _test(_name)
