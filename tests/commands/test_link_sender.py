"""
Tests of `relayd.commands.link_sender`: what a main server can make the relay keep, and send, without a receipt.
"""

from __future__ import annotations

from twisted.logger import LogLevel, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from relayd.commands import in_flight, undelivered
from relayd.commands.link_sender import RECEIPT_PATIENCE
from relayd.wire.messages import Receipt
from tests.support.dispatching import Desk, command, watch_log

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
        self.assertIn(f"{MAX_IN_FLIGHT} results wait for one", warnings[0])
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
