"""
Tests of `relayd.commands.without_receipts`: main servers that send no receipts.
"""

from __future__ import annotations

from twisted.logger import LogLevel

from relayd.commands.suspects import SUSPECT_AFTER
from relayd.commands.without_receipts import DRAIN_PATIENCE, IMPATIENCE, PATIENCE
from relayd.wire.messages import Receipt
from tests.support.dispatching import Desk
from tests.support.outbox import OutboxTestCase

RECEIVED = Receipt(success=True)


class SilentServerTests(OutboxTestCase):
    """A main server that does not know receipts."""

    def setUp(self) -> None:
        super().setUp()
        self.desk = Desk(receipts=False)

    def test_what_it_has_read_counts_as_delivered(self) -> None:
        self.finish("c1", "c2")
        self.desk.clock.advance(PATIENCE - 0.1)
        self.assertEqual(self.desk.link.probes, [])
        self.desk.clock.advance(0.1)
        self.finish("c3")  # after the question
        self.assertEqual(self.unconfirmed(), ["c1", "c2", "c3"])
        self.desk.link.answer()
        self.assertEqual(self.unconfirmed(), ["c3"])
        self.assertEqual(self.desk.dispatcher.stats.presumed, 2)
        self.assertEqual(
            self.lines(LogLevel.info)[-1:],
            ["The main server sends no receipts: results that it has read count as delivered"],
        )

    def test_once_it_is_known_this_is_quick(self) -> None:
        self.desk.journal.note("receipts", "never")
        self.finish("c1")
        self.desk.clock.advance(IMPATIENCE)
        self.desk.link.answer()
        self.assertEqual((self.unconfirmed(), self.desk.clock.getDelayedCalls()), ([], []))

    def test_no_answer_proves_nothing(self) -> None:
        self.finish("c1")
        self.desk.clock.advance(PATIENCE)
        self.desk.clock.advance(PATIENCE * 10)
        self.assertEqual(self.unconfirmed(), ["c1"])
        self.desk.disconnect()
        self.assertEqual(self.desk.connect().ids(), ["c1"])
        self.assertIsNone(self.desk.journal.noted("receipts"))

    def test_links_that_are_lost_soon(self) -> None:
        """The time adds up; before that its results come again, the same each time."""
        self.finish("c1")
        for _ in range(int(PATIENCE / 4) + 3):
            for _ in range(4):
                while self.desk.link.probes:
                    self.desk.link.answer()
                self.desk.clock.advance(1)
            self.desk.disconnect()
            self.desk.connect()
        self.assertEqual((self.unconfirmed(), self.desk.journal.noted("receipts")), ([], "never"))
        self.assertEqual(self.desk.link.ids(), [])
        self.finish("c2")
        self.desk.clock.advance(IMPATIENCE)
        self.desk.link.answer()
        self.assertEqual(self.unconfirmed(), [])

    def test_pong_of_a_result_that_travels_alone_is_enough(self) -> None:
        """On links that do not even live as long as `IMPATIENCE`."""
        self.desk.journal.note("receipts", "never")
        self.finish("c1")
        for _ in range(SUSPECT_AFTER):
            self.desk.clock.advance(IMPATIENCE / 2)
            self.desk.disconnect()
            self.desk.connect()
        self.desk.link.answer()
        self.assertEqual((self.desk.link.ids(), self.unconfirmed()), (["c1"], ["c1"]))
        self.desk.link.answer()
        self.assertEqual(self.unconfirmed(), [])
        self.desk.disconnect()
        self.assertEqual(self.desk.clock.getDelayedCalls(), [])

    def test_one_that_sends_them_is_waited_for(self) -> None:
        self.finish("c1", "c2")
        self.receipt()
        self.desk.clock.advance(PATIENCE)
        self.assertEqual((self.desk.link.probes, self.unconfirmed()), ([], ["c2"]))

    def test_receipt_that_comes_after_the_question(self) -> None:
        self.finish("c1", "c2")
        self.desk.clock.advance(PATIENCE)
        self.receipt()
        self.desk.link.answer()
        self.assertEqual(self.unconfirmed(), ["c2"])

    def test_one_that_has_learned_to_send_them(self) -> None:
        self.desk.journal.note("receipts", "never")
        self.finish("c1")
        self.receipt()
        self.finish("c2")
        self.desk.clock.advance(PATIENCE)
        self.assertEqual((self.desk.journal.noted("receipts"), self.unconfirmed()), ("yes", ["c2"]))

    def test_drain_does_not_take_its_whole_time(self) -> None:
        self.finish("c1")
        done = self.desk.dispatcher.drain(30.0)
        self.desk.clock.advance(DRAIN_PATIENCE)
        self.desk.link.answer()
        self.successResultOf(done)
        self.assertEqual(self.desk.clock.getDelayedCalls(), [])
