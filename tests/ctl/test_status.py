"""
relayctl status: what stands in the terminal.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from relayd.ctl.status import lines
from relayd.ssh.pool.pool_report import HostCounts
from relayd.status.summary import summarize
from relayd.uplink.service import UplinkStatus
from tests.support.status import FakeRelay


class LinesTests(SynchronousTestCase):
    """The document as lines."""

    def setUp(self) -> None:
        self.relay = FakeRelay()

    def lines(self, width: int = 100) -> list[str]:
        return lines(summarize(self.relay.sources), width)

    def test_a_relay_at_work(self) -> None:
        self.relay.host_counts = [HostCounts("web-1:22", 1, 0, 2, 0, 3)]
        self.relay.begin("c-2", host="web-1", running=True)
        self.relay.clock.advance(3)
        self.relay.end("c-1", "timeout", exit_code=1, duration=90.0)
        shown = self.lines()
        self.assertEqual(shown[0], "site-1  ready  relayd 0.1.0, up for 15 min 3 s")
        self.assertEqual(shown[2], "commands  0 of 64 run, 0 wait, 0 refused; ended: 1 timeout")
        self.assertIn("web-1:22  1            2         0        3 (learned)", shown)
        self.assertIn("c-2     root@web-1:22  running  3 s", shown)
        self.assertIn("c-1    deploy@web-1:22  timeout  1     90 s  0 s", shown)

    def test_one_that_is_not_ready_says_why(self) -> None:
        self.relay.status = UplinkStatus(last_error="the door is shut")
        self.assertIn("NOT READY", self.lines()[0])
        self.assertEqual(self.lines()[1], "  the main server has not accepted it: the door is shut")

    def test_it_fits_the_terminal_whatever_others_chose(self) -> None:
        self.relay.status = UplinkStatus(last_error="x" * 500)
        evil = "\x1b[2J\n" + "y" * 300
        for number in range(30):
            self.relay.begin(f"{evil}{number}", host=evil)
            self.relay.end(f"{evil}{number}", host=evil, user=evil)
        for width in (40, 80, 200):
            shown = self.lines(width)
            self.assertEqual([line for line in shown if len(line) > width or not line.isprintable()], [])
            self.assertEqual(shown.count("… and 10 more"), 2)
