"""
The event loop of a real relay under loads that could hold it up; see tests/support/loads.py.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from tests.support.loads import LOADS, Load

#: Milliseconds of a stall that may be the relay's own: other tests run beside this one.  No step takes more than some
#: 50; the rest is for threads that work beside it.  What these loads are against took seconds, but for the outputs,
#: which took 0.36.
LONGEST = 300
#: Commands in one go; benchmarks/loop.py has 10,000.
COMMANDS = 1500


class EventLoopTests(TestCase):
    """Each dialect has one relay for all its loads, which tells its longest stall in the end."""

    timeout = 240

    async def fare(self, dialect: str) -> None:
        loads = {name: load for name, load in LOADS.items() if load[1] == dialect}
        stalled: dict[str, list[str]] = {}

        async def one_after_the_other(load: Load) -> None:
            for name, (act, _, _) in loads.items():
                before = len(load.relay.output)
                await act(load)
                stalled[name] = [line for line in load.relay.output[before:] if "event loop" in line]

        options = [option for _, _, options in loads.values() for option in options]
        stalls = await Load(dialect, *options, commands=COMMANDS).run(one_after_the_other)
        self.assertEqual(stalled.keys(), loads.keys())
        self.assertLess(stalls.own, LONGEST, f"{stalls}; warnings: {stalled}")

    def test_native(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self.fare("native"))

    def test_socketio(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self.fare("socketio"))
