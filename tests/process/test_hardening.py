"""
relayd.process.hardening: the reactor's clock, and that a process leaves no core dump.
"""

from __future__ import annotations

import subprocess
import sys
import time

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from relayd.process.hardening import use_steady_clock

_SHOW = """
import ctypes, resource
from relayd.process.hardening import forbid_dumps
resource.setrlimit(resource.RLIMIT_CORE, (resource.getrlimit(resource.RLIMIT_CORE)[1],) * 2)
forbid_dumps()
print(resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3))
"""


class ClockTests(SynchronousTestCase):
    """It has to come first."""

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.reactor.running = False

    def test_new_reactor(self) -> None:
        use_steady_clock(self.reactor)
        self.assertIs(self.reactor.seconds, time.monotonic)

    def test_reactor_in_use(self) -> None:
        self.reactor.callLater(1, list)
        use_steady_clock(self.reactor)
        self.assertEqual(self.reactor.seconds(), 0)

    def test_reactor_that_runs(self) -> None:
        self.reactor.running = True
        use_steady_clock(self.reactor)
        self.assertEqual(self.reactor.seconds(), 0)


class DumpTests(SynchronousTestCase):
    """In a process of its own."""

    def test_limit_and_kernel(self) -> None:
        shown = subprocess.run([sys.executable, "-c", _SHOW], capture_output=True, text=True, check=True).stdout
        self.assertEqual(shown.strip(), "(0, 0) 0" if sys.platform == "linux" else "(0, 0) -1")
