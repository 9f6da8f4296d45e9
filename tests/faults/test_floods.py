"""
Hosts that keep a relay busy, each a process of its own: the client gives none of them more than a part of a processor,
and commands on a good host are answered meanwhile.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from twisted.internet.defer import Deferred

from relayd.ssh.target import Target
from tests.support.floods import KINDS
from tests.support.process import ChildProcess
from tests.support.ssh import ServerTestCase

TOP = Path(__file__).resolve().parents[2]
#: Seconds of a flood that are watched, once it has begun, and of the processor's time that it may take of them.
#: By its prices it gets 0.05 of them; without, it took what there was.
WATCHED, MOST = 2.0, 0.5
#: Seconds for an answer of the good host: on a machine that has others to run too.
WORST = 3.0


class FloodTests(ServerTestCase):
    """One kind each."""

    async def flood(self, name: str) -> None:
        kind = KINDS[name]
        port: Deferred[str] = Deferred()
        process = ChildProcess(lambda descriptor, line: port.callback(line) if descriptor == 1 else None)
        process.start(["nice", sys.executable, "-m", "tests.support.floods", name], cwd=str(TOP))
        self.addCleanup(process.terminate)
        good = await self.start_server()
        client = self.make_client()
        await self.run_command(client, self.target(good), "true")
        hostile = Target("127.0.0.1", int(await port), "somebody", kind.credential())
        ended: list[object] = []
        client.run(hostile, b"true", self.reactor.seconds() + 60, stdin=kind.stdin).addBoth(ended.append)
        await self.sleep(1)
        worst, began, cpu = 0.0, time.monotonic(), time.process_time()
        while time.monotonic() - began < WATCHED:
            asked = time.monotonic()
            done = await self.run_command(client, self.target(good), "echo ok")
            self.assertEqual((done.stdout.text(), done.error), ("ok", None))
            worst = max(worst, time.monotonic() - asked)
            await self.sleep(0.1)
        self.assertLess(time.process_time() - cpu, MOST)
        self.assertLess(worst, WORST)


def _test(name: str) -> None:
    def test(self: FloodTests) -> Deferred[None]:
        return Deferred.fromCoroutine(self.flood(name))

    setattr(FloodTests, "test_" + name.replace("-", "_"), test)


#: Of those that are alike, one; the others are for benchmarks/hostile.py.
for _name in (
    "extensions", "late-extensions", "rekeys", "quick-rekeys", "long-kexinits", "bytes", "lines", "plain-ignore",
    "banners", "ignore", "unknown", "output", "window", "never-reads",
):  # fmt: skip
    _test(_name)
