"""
The part that the drivers on Twisted share: takes requests on standard input, answers on standard output.
"""

from __future__ import annotations

import gc
import json
import os
import re
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.stdio import StandardIO
from twisted.internet.task import react
from twisted.logger import globalLogBeginner, textFileLogObserver
from twisted.protocols.basic import LineOnlyReceiver

from benchmarks.peers.tally import Tally

#: Seconds between two looks at the clock, while the longest stall of the reactor is measured.
LOOK_EVERY = 0.002

#: Runs the command, or the n-th connection and its first command; fails where that fails.
One = Callable[[int], Coroutine[Any, Any, None]]


class _Driver(LineOnlyReceiver):
    delimiter = b"\n"
    MAX_LENGTH = 1 << 20

    def __init__(self, reactor: Any, one: One) -> None:
        self.ended: Deferred[None] = Deferred()
        self._reactor = reactor
        self._one = one

    def lineReceived(self, line: bytes) -> None:
        Deferred.fromCoroutine(self._answer(json.loads(line))).addErrback(self.ended.errback)

    def connectionLost(self, reason: Any = None) -> None:
        if not self.ended.called:
            self.ended.callback(None)

    async def _answer(self, request: dict[str, Any]) -> None:
        answer: dict[str, Any] = {}
        if request["do"] == "settle":
            gc.collect()
        else:
            watch = _StallWatch(self._reactor) if request.get("watch") else None
            tally = await self._work(request["count"], request["concurrency"], watch)
            more = watch.stop() if watch is not None else {}
            answer = tally.report(**more)
        self.sendLine(json.dumps(answer).encode())

    async def _work(self, count: int, concurrency: int, watch: _StallWatch | None) -> Tally:
        tally = Tally()
        numbers = iter(range(count))

        async def worker() -> None:
            for number in numbers:
                began = time.perf_counter()
                try:
                    await self._one(number)
                except Exception as error:
                    tally.failed(error)
                else:
                    tally.done(began)

        working = [Deferred.fromCoroutine(worker()) for _ in range(concurrency)]
        if watch is not None:
            watch.begin()
        await gatherResults(working)
        return tally


class _StallWatch:
    """Measures the longest time, in seconds, for which the reactor did nothing else, and how much the process grows."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._longest = 0.0
        self._made = time.perf_counter()
        Path("/proc/self/clear_refs").write_text("5")  # the peak from now on (proc(5))
        self._before = _peak_kilobytes()

    def begin(self) -> None:
        """All work was handed over, by a loop of this driver's."""
        self._last = self._handed = time.perf_counter()
        self._call = self._reactor.callLater(LOOK_EVERY, self._look)

    def _look(self) -> None:
        now = time.perf_counter()
        self._longest = max(self._longest, now - self._last - LOOK_EVERY)
        self._last = now
        self._call = self._reactor.callLater(LOOK_EVERY, self._look)

    def stop(self) -> dict[str, float]:
        """The stall, seconds until all was handed over, and by how many MB the process grew at its largest."""
        self._call.cancel()
        stall = max(self._longest, time.perf_counter() - self._last - LOOK_EVERY)
        return {
            "stall": stall,
            "handing": self._handed - self._made,
            "growth_mb": (_peak_kilobytes() - self._before) / 1024,
        }


def _peak_kilobytes() -> int:
    """The most memory that this process has held since it was last asked to forget."""
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def serve(make: Callable[[Any], Coroutine[Any, Any, One]]) -> None:
    """
    Serve requests until standard input ends.

    The log is written as twistd writes it, only to nowhere; with ``quiet`` on the command line nobody observes it.

    :param make: given the reactor, prepares what does one piece of work.
    """
    nowhere = open(os.devnull, "w")  # noqa: SIM115  # as long as the process
    log = [] if "quiet" in sys.argv else [textFileLogObserver(nowhere)]

    async def main(reactor: Any) -> None:
        # Left undone, Twisted would keep every event for an observer that comes later.
        globalLogBeginner.beginLoggingTo(log, redirectStandardIO=False)
        driver = _Driver(reactor, await make(reactor))
        StandardIO(driver, reactor=reactor)
        driver.sendLine(b'{"ready": true}')
        await driver.ended

    react(lambda reactor: Deferred.fromCoroutine(main(reactor)))
    sys.exit(0)
