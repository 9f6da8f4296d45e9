"""
What is counted of commands.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from relayd.commands import stats
from relayd.commands.stats import EndedCommand, Stats
from relayd.wire.messages import Details


class RecentTests(SynchronousTestCase):
    """The commands that ended last."""

    def test_it_is_a_ring(self) -> None:
        counted = Stats()
        for number in range(stats.RECENT + 5):
            counted.count_ended(EndedCommand(f"c{number}", "h", 22, "u", "ok", 0, 1.0, number), 0.0, Details())
        self.assertEqual(len(counted.recent), stats.RECENT)
        self.assertEqual((counted.recent[0].command_id, counted.recent[-1].at), ("c5", stats.RECENT + 4))
        self.assertEqual(counted.finished["ok"], stats.RECENT + 5)
