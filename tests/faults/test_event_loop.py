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
COMMANDS = 4000


class EventLoopTests(TestCase):
    """Each load has a relay of its own, which tells its longest stall in the end."""

    timeout = 120

    async def fare(self, name: str) -> None:
        act, dialect, options = LOADS[name]
        stalls = await Load(dialect, *options, commands=COMMANDS).run(act)
        self.assertLess(stalls.own, LONGEST, f"{name}: {stalls}")


def _test(name: str) -> None:
    def test(self: EventLoopTests) -> Deferred[None]:
        return Deferred.fromCoroutine(self.fare(name))

    setattr(EventLoopTests, "test_" + name.replace(",", "").replace(" ", "_"), test)


for _name in LOADS:
    _test(_name)
