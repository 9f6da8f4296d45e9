"""
What a main server can make the command logic keep: results under way, what waits, what commands bring.
"""

from __future__ import annotations

from twisted.logger import LogLevel, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from relayd.commands import in_flight, undelivered
from relayd.commands.duplicates import MAX_WAITING
from relayd.commands.input_budget import LARGE_INPUT, MAX_INPUT
from relayd.commands.link_sender import RECEIPT_PATIENCE
from relayd.wire.messages import JumpHost, Receipt, Secret
from tests.support.dispatching import Desk, SlowJournal, command, watch_log

RECEIVED = Receipt(success=True)
#: Smaller than the real ones: what is beyond them takes a second for each thousand.
MAX_IN_FLIGHT = 300
MAX_UNRECORDED = 50


class UnderWayTests(SynchronousTestCase):
    """A main server that reads results, sends receipts in general, and then no more."""

    def setUp(self) -> None:
        self.patch(in_flight, "MAX_IN_FLIGHT", MAX_IN_FLIGHT)
        self.patch(undelivered, "MAX_UNRECORDED", MAX_UNRECORDED)
        self.desk = Desk()
        self.logged = watch_log(self)
        self.outbox = self.desk.dispatcher._outbox

    def refuse(self, count: int) -> None:
        """Make so many refusals: the relay takes no new command."""
        self.desk.dispatcher._accepting = False
        for number in range(count):
            self.desk.order(command(f"c{number}"))

    @property
    def under_way(self) -> int:
        sender = self.outbox._current
        assert sender is not None
        return len(sender.in_flight)

    def test_the_rest_waits_for_receipts(self) -> None:
        self.refuse(MAX_IN_FLIGHT + 200)
        self.assertEqual((self.under_way, len(self.desk.link.sent)), (MAX_IN_FLIGHT, MAX_IN_FLIGHT))
        sender = self.outbox._current
        assert sender is not None
        self.assertLessEqual(len(sender._backlog), MAX_UNRECORDED)
        for _ in range(10):
            self.desk.dispatcher.receipt_received(self.desk.link, RECEIVED)
        self.assertEqual((self.under_way, len(self.desk.link.sent)), (MAX_IN_FLIGHT, MAX_IN_FLIGHT + 10))

    def test_results_wait_like_refusals(self) -> None:
        self.refuse(MAX_IN_FLIGHT)
        self.desk.dispatcher._accepting = True
        self.desk.order(command("ran"))
        self.desk.runner.runs[-1].finish()
        self.assertNotIn("ran", self.desk.link.ids())
        self.desk.dispatcher.receipt_received(self.desk.link, RECEIVED)
        self.assertEqual(self.desk.link.ids()[-1], "ran")

    def test_not_for_ever_and_nothing_is_confirmed_that_was_not(self) -> None:
        """Counting on would confirm the wrong ones, as those left out would be counted for those that came."""
        self.refuse(MAX_IN_FLIGHT)
        self.desk.dispatcher._accepting = True
        for name in ("ran", "ran too"):
            self.desk.order(command(name, host=name))
            self.desk.runner.runs[-1].finish()
        self.desk.clock.advance(RECEIPT_PATIENCE)
        self.assertEqual(self.desk.link.ids()[-2:], ["ran", "ran too"])
        warnings = [formatEvent(event) for event in self.logged if event["log_level"] is LogLevel.warn]
        self.assertEqual(len(warnings), 1)
        self.assertIn(f"{MAX_IN_FLIGHT} results want one", warnings[0])
        for _ in range(MAX_IN_FLIGHT + 10):
            self.desk.dispatcher.receipt_received(self.desk.link, RECEIVED)
        self.assertEqual(list(self.desk.journal.unconfirmed()), ["ran", "ran too"])
        self.desk.dispatcher.receipt_received(self.desk.link, Receipt(success=True, command_id="ran"))
        self.assertEqual(list(self.desk.journal.unconfirmed()), ["ran too"])
        self.desk.disconnect()
        self.desk.connect()
        self.assertIn("ran too", self.desk.link.ids())

    def test_duplicates_wait_once(self) -> None:
        self.desk.order(command("ran"))
        self.desk.runner.runs[-1].finish()
        self.desk.link.flow.pauseProducing()
        for _ in range(100):
            self.desk.order(command("ran"))
        sender = self.outbox._current
        assert sender is not None
        self.assertEqual(len(sender._backlog), 1)

    def test_losses_of_what_is_held_no_more_are_forgotten(self) -> None:
        for _ in range(3):
            self.refuse(MAX_UNRECORDED + 100)
            self.desk.disconnect()
            self.desk.connect()
        self.assertLessEqual(len(self.outbox._suspects._losses), MAX_UNRECORDED)


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


class DuplicateTests(SynchronousTestCase):
    """The same command again and again, while a slow disk has not taken it yet."""

    def test_those_that_wait_are_bounded(self) -> None:
        desk = Desk(journal=(journal := SlowJournal()))
        for _ in range(MAX_WAITING + 50):
            desk.order(command("c1"))
        self.assertEqual(desk.acks, [("c1", "overloaded")] * 50)
        journal.record()
        self.assertEqual(desk.acks[50:], [("c1", "ok")] * MAX_WAITING)
        self.assertEqual(desk.link.sent, [])
