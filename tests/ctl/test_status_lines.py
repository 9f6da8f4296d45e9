"""
relayctl status: what stands in the terminal.
"""

from __future__ import annotations

import re

from twisted.trial.unittest import SynchronousTestCase

from relayd.ctl.status_lines import lines
from relayd.ctl.terminal import columns, render, wrap
from relayd.ssh.pool.pool_report import HostCounts
from relayd.status.summary import summarize
from relayd.uplink.service import UplinkStatus
from tests.support.status import FakeRelay

EVIL = "\x1b[2J\n" + "y" * 300


class LinesTests(SynchronousTestCase):
    """The document as lines."""

    def setUp(self) -> None:
        self.relay = FakeRelay()

    def lines(self, width: int = 100, height: int | None = None, *, coloured: bool = False) -> list[str]:
        shown = lines(summarize(self.relay.sources), width, height)
        return [render(line, width, coloured=coloured) for line in shown]

    def fill(self, count: int, name: str = "c") -> None:
        """As many commands that run, and that have ended."""
        for number in range(count):
            self.relay.begin(f"{name}{number}", host=name)
            self.relay.end(f"{name}{number}", host=name, user=name)

    def test_a_relay_at_work(self) -> None:
        self.relay.host_counts = [HostCounts("web-1:22", 1, 0, 2, 0, 3)]
        self.relay.begin("c-2", host="web-1", running=True)
        self.relay.clock.advance(3)
        self.relay.end("c-1", "timeout", exit_code=1, duration=90.0)
        shown = self.lines()
        self.assertEqual(shown[0], "site-1  ready  relayd 0.1.0, up for 15 min 3 s")
        self.assertEqual(shown[2], "commands  0 of 64 run, 0 wait, 0 refused; ended: 1 timeout")
        self.assertIn("web-1:22  1            2         0        3 (learned)", shown)
        self.relay.host_counts = [HostCounts("web-1:22", 1, 0, 1, 0, 1, single=True)]
        self.assertIn("web-1:22  1            1         0        1 in all (learned)", self.lines())
        self.assertIn("c-2     root@web-1:22  running  3 s", shown)
        self.assertIn("c-1    deploy@web-1:22  timeout  1     90 s  0 s", shown)

    def test_one_that_is_not_ready_says_why(self) -> None:
        """All of it: what to do stands at the end."""
        self.relay.status = UplinkStatus(last_error="the door is shut " * 12 + "ring the bell")
        shown = self.lines(60)
        self.assertIn("NOT READY", shown[0])
        self.assertEqual(shown[1], "  the main server has not accepted it: the door is shut the")
        self.assertTrue(shown[5].endswith("ring the bell"), shown)

    def test_one_loss(self) -> None:
        for losses, said in ((0, ", 0 losses"), (1, ", 1 loss"), (2, ", 2 losses")):
            self.relay.status = UplinkStatus(losses=losses)
            self.assertTrue(any(line.endswith(said) for line in self.lines()), self.lines())

    def test_what_was_refused(self) -> None:
        """With its codes, the most frequent first."""
        self.relay.stats.refused.update({"overloaded": 2, "forbidden-host": 1200})
        shown = self.lines()
        self.assertIn("1,202 refused", shown[2])
        self.assertEqual(shown[3], "refused   1,200 forbidden-host, 2 overloaded")

    def test_it_fits_the_terminal_whatever_others_chose(self) -> None:
        self.relay.status = UplinkStatus(last_error="x" * 500)
        self.fill(30, EVIL)
        for width in (40, 80, 200):
            shown = self.lines(width)
            self.assertEqual([line for line in shown if len(line) > width or not line.isprintable()], [])
            self.assertEqual(shown.count("… and 10 more"), 2)

    def test_numbers_as_ids(self) -> None:
        """They are cut where they are too long, too, so that the rest of the row is there."""
        self.relay.end("7" * 90)
        self.assertRegex(self.lines(60)[-1], r"^7+…  deploy@web-…  ok       0     0.25 s  0 s$")

    def test_ideographs_are_not_cut_in_two(self) -> None:
        """All of a long text is there, in as many columns as there are."""
        for width in range(12, 40):
            for text in ("主服务器" * 20, "为 abc 主服务器没有 accepted" * 5):
                broken = wrap(text, width)
                self.assertLessEqual(max(map(columns, broken)), width, broken)
                self.assertEqual("".join(broken).replace(" ", ""), text.replace(" ", ""))

    def test_ideographs_take_two_columns(self) -> None:
        self.relay.end("备份数据库")
        self.relay.end("c-1")
        rows = self.lines()[-2:]
        self.assertEqual(rows[0].index("deploy"), rows[1].index("deploy") + 5)
        self.relay.status = UplinkStatus(last_error="密码错误 " * 40)
        self.fill(3, "数" * 60)
        for width in (40, 41, 80):
            shown = self.lines(width)
            self.assertEqual([line for line in shown if columns(line) > width], [])
            self.assertEqual(" ".join(shown).count("密码错误"), 40)

    def test_it_fits_the_height(self) -> None:
        """The tables share what there is, and say what they leave out."""
        self.relay.host_counts = [HostCounts(f"web-{number}:22", 1, 0, 2, 0, 3) for number in range(3)]
        self.fill(30)
        for height in (1, 5, 8, 12, 24, 50):
            self.assertLessEqual(len(self.lines(height=height)), height)
        shown = self.lines(height=24)
        self.assertEqual(len(shown), 24)
        self.assertEqual(len([line for line in shown if line.startswith("web-")]), 3, "a small table has all its rows")
        left_out = [int(found[1]) for found in map(re.compile("… and (.*) more").fullmatch, shown) if found]
        self.assertEqual([30 - each for each in left_out], [4, 4])

    def test_what_the_document_leaves_out_is_counted(self) -> None:
        self.relay.host_counts = [HostCounts(f"web-{number}:22", 1, 0, 2, 0, 3) for number in range(150)]
        self.assertIn("… and 130 more", self.lines())

    def test_colours(self) -> None:
        """They come in pairs, take no room, and are nowhere else."""
        self.relay.status = UplinkStatus(last_error="the door is shut")
        self.relay.end("c-1", "ok")
        self.relay.end("c-2", "nonzero")
        self.relay.end("c-3", "timeout")
        plain, coloured = self.lines(), self.lines(coloured=True)
        self.assertIn("\x1b[31mNOT READY\x1b[m", coloured[0])
        for mood, outcome in (("32", "ok"), ("33", "nonzero"), ("31", "timeout")):
            self.assertTrue(any(f"\x1b[{mood}m{outcome} " in line for line in coloured), outcome)
        self.assertEqual([re.sub(r"\x1b\[\d+m([^\x1b]*)\x1b\[m", r"\1", line).rstrip() for line in coloured], plain)
        self.assertNotIn("\x1b", "".join(plain))
