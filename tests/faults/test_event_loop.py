"""
The event loop of a real relay under loads that could hold it up; see tests/support/loads.py.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from tests.support.loads import LOADS, Load

#: Milliseconds that no stall may take.  By itself no step takes more than some 50; the rest is for machines that have
#: others to run as well.  What these loads are against took seconds, but for the outputs, which took 0.36.
LONGEST = 300


class EventLoopTests(TestCase):
    """Each load has a relay of its own, which tells its longest stall in the end."""

    timeout = 120

    async def fare(self, name: str) -> None:
        act, dialect, options = LOADS[name]
        longest, beats = await Load(dialect, *options).run(act)
        self.assertLess(longest, LONGEST, f"{name}: {beats}")


def _test(name: str) -> None:
    def test(self: EventLoopTests) -> Deferred[None]:
        return Deferred.fromCoroutine(self.fare(name))

    setattr(EventLoopTests, "test_" + name.replace(",", "").replace(" ", "_"), test)


for _name in LOADS:
    _test(_name)
