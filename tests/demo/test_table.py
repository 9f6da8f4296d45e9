"""
What the demonstration prints of results.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from relayd.demo.steps import STEPS, DemoTarget, StepResult
from relayd.demo.table import table
from relayd.wire.messages import CommandResult


class TableTests(SynchronousTestCase):
    """Lines of aligned columns."""

    def test_it_is_aligned_and_shows_first_lines_only(self) -> None:
        def row(stdout: str, milliseconds: float) -> StepResult:
            result = CommandResult(command_id="c", stdout=stdout, stderr="e\x1b[31m", exit_code=0)
            return StepResult(step=STEPS[0], milliseconds=milliseconds, result=result)

        lines = table(
            [row("hello from a\nsecond", 1.23), row("other", 1234.5)], DemoTarget(host="::1", port=22, username="u")
        ).splitlines()
        self.assertEqual([line[:2] for line in lines], ["  ", "ok", "NO"])
        self.assertIn("u@[::1]:22", lines[1])
        self.assertEqual(lines[1].index("1.2 ms") + 6, lines[2].index("1234.5 ms") + 9)
        self.assertIn("hello from a …", lines[1])
        self.assertNotIn("second", lines[1])
        self.assertNotIn("\x1b", lines[1])

    def test_a_command_without_a_result(self) -> None:
        row = StepResult(step=STEPS[0], milliseconds=1, result=None, failure="no result came")
        self.assertFalse(row.as_expected)
        self.assertIn("no result came", table([row], DemoTarget(host="h", port=22, username="u")))
