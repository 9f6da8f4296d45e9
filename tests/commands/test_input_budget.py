"""
Tests of `relayd.commands.input_budget`: what commands bring with them is bounded.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from relayd.commands.input_budget import LARGE_INPUT, MAX_INPUT
from relayd.wire.messages import JumpHost, Secret
from tests.support.dispatching import Desk, SlowJournal, command


class InputTests(SynchronousTestCase):
    """Commands that bring much wait in memory."""

    def setUp(self) -> None:
        self.desk = Desk(max_commands=2, max_queue=1000)

    def test_their_sum_is_bounded(self) -> None:
        size = MAX_INPUT // 4
        for number in range(6):
            self.desk.order(command(f"c{number}", host=f"h{number}", stdin=b"x" * size))
        self.assertEqual(sorted(self.desk.dispatcher.active), ["c0", "c1", "c2"])
        self.assertEqual(self.desk.link.codes(), ["overloaded"] * 3)
        self.assertIn("take 19 MB", self.desk.link.sent[0].stderr)
        self.desk.order(command("small"))
        self.assertIn("small", self.desk.dispatcher.active)
        self.desk.runner.runs[0].finish()
        self.desk.order(command("c5", host="h5", stdin=b"x" * size))
        self.assertIn("c5", self.desk.dispatcher.active)

    def test_a_single_one_may_be_larger(self) -> None:
        self.desk.order(command("c", stdin=b"x" * 2 * MAX_INPUT))
        self.assertIn("c", self.desk.dispatcher.active)

    def test_all_that_can_be_large_counts(self) -> None:
        hop = JumpHost(host="j", username="u", private_key=Secret("k" * LARGE_INPUT))
        large = (
            {"text": "x" * LARGE_INPUT},
            {"stdin": b"x" * LARGE_INPUT},
            {"certificate": "x" * LARGE_INPUT},
            {"private_key": Secret("x" * LARGE_INPUT)},
            {"passphrase": Secret("x" * LARGE_INPUT)},
            {"env": (("A", "x" * LARGE_INPUT),)},
            {"via": (hop,)},
        )
        for number, fields in enumerate(large):
            before = self.desk.dispatcher._inputs.used
            self.desk.order(command(f"c{number}", host=f"h{number}", **fields))  # type: ignore[arg-type]
            self.assertGreaterEqual(self.desk.dispatcher._inputs.used - before, LARGE_INPUT, fields)

    def test_whatever_becomes_of_them_their_room_is_free(self) -> None:
        big = {"stdin": b"x" * LARGE_INPUT}
        self.desk = Desk(max_commands=1, max_queue=1, journal=(journal := SlowJournal()))
        self.desk.order(command("c1", **big))
        self.desk.order(command("c2", **big))
        self.desk.order(command("c3", **big))
        self.desk.order(command("c4", **big))
        journal.fail(RuntimeError())  # the journal does not take the first
        self.flushLoggedErrors()
        while journal.steps():
            journal.record()
            for run in self.desk.runner.runs:
                if not run.done.called:
                    run.finish()
        self.assertEqual(len(self.desk.dispatcher.active), 0)
        inputs = self.desk.dispatcher._inputs
        self.assertEqual((inputs.used, inputs._sizes), (0, {}))
