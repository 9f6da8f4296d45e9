"""
Tests of `relayd.commands.drains`: waits that end when nothing is left, or when their time is over.
"""

from __future__ import annotations

from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from relayd.commands.drains import DRAIN_GRACE, Drains
from relayd.wire.messages import Receipt
from tests.support.dispatching import Desk, HeldRunner, SlowJournal, command, result


class DrainsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.drained = False
        self.cancelled_at: list[float] = []
        self.drains = Drains(self.clock, lambda: self.drained, lambda: self.cancelled_at.append(self.clock.seconds()))

    def test_nothing_to_wait_for(self) -> None:
        self.drained = True
        self.assertIsNone(self.successResultOf(self.drains.begin(60.0)))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_all_waits_end_together(self) -> None:
        first, second = self.drains.begin(60.0), self.drains.begin(30.0)
        self.drains.check()
        self.assertNoResult(first)
        self.drained = True
        self.drains.check()
        self.assertIsNone(self.successResultOf(first))
        self.assertIsNone(self.successResultOf(second))
        self.assertEqual((self.cancelled_at, self.clock.getDelayedCalls()), ([], []))

    def test_time_that_is_over(self) -> None:
        done = self.drains.begin(60.0)
        self.clock.advance(60.0 - DRAIN_GRACE)
        self.assertEqual(self.cancelled_at, [60.0 - DRAIN_GRACE])
        self.assertNoResult(done)
        self.clock.advance(DRAIN_GRACE)
        self.assertIsNone(self.successResultOf(done))

    def test_grace_is_a_quarter_at_most(self) -> None:
        self.drains.begin(8.0)
        self.clock.advance(6.0)
        self.assertEqual(self.cancelled_at, [6.0])
        self.clock.advance(2.0)

    def test_wait_that_is_given_up(self) -> None:
        done = self.drains.begin(60.0)
        done.cancel()
        self.failureResultOf(done, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.drained = True
        self.drains.check()


RECEIVED = Receipt(success=True)


class DrainTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.desk = Desk(max_commands=1)
        self.runner, self.link, self.dispatcher = self.desk.runner, self.desk.link, self.desk.dispatcher

    def receive(self, count: int) -> None:
        for _ in range(count):
            self.dispatcher.receipt_received(self.link, RECEIVED)

    def test_idle(self) -> None:
        self.successResultOf(self.dispatcher.drain(30.0))
        self.assertEqual(self.desk.clock.getDelayedCalls(), [])

    def test_waits_for_what_runs_and_waits_and_for_receipts(self) -> None:
        self.desk.order(command("c1"))
        self.desk.order(command("c2"))
        done = self.dispatcher.drain(30.0)
        self.desk.clock.advance(1)
        self.runner.runs[0].finish()
        self.runner.runs[1].finish()
        self.assertEqual(self.link.codes(), [0, 0])
        self.receive(1)
        self.assertNoResult(done)
        self.receive(1)
        self.successResultOf(done)
        self.assertEqual(self.desk.clock.getDelayedCalls(), [])

    def test_takes_nothing_new_but_knows_what_it_has(self) -> None:
        self.desk.order(command("c1"))
        self.dispatcher.drain(30.0)
        self.desk.order(command("c2"))
        self.desk.order(command("c1"))
        self.assertEqual(self.desk.acks, [("c1", "ok"), ("c2", "shutting-down"), ("c1", "ok")])
        self.assertEqual(self.link.codes(), ["shutting-down"])

    def test_cancels_shortly_before_the_end(self) -> None:
        self.desk.order(command("running"))
        self.desk.order(command("waiting"))
        done = self.dispatcher.drain(40.0)
        self.desk.clock.advance(34.9)
        self.assertEqual(self.link.sent, [])
        self.desk.clock.advance(0.2)
        self.assertEqual((self.runner.ids(), self.runner.cancelled), (["running"], ["running"]))
        self.assertEqual(self.link.ids(), ["waiting", "running"])
        self.assertEqual(self.link.codes(), ["cancelled", "cancelled"])
        self.assertEqual([(sent.details.error or {})["executed"] for sent in self.link.sent], ["no", "unknown"])
        self.assertNoResult(done)
        self.receive(2)
        self.successResultOf(done)
        self.assertEqual(self.desk.clock.getDelayedCalls(), [])

    def test_ends_without_receipts(self) -> None:
        self.desk.order(command("c1"))
        done = self.dispatcher.drain(30.0)
        self.runner.runs[0].finish()
        self.desk.clock.advance(29.9)
        self.assertNoResult(done)
        self.desk.clock.advance(0.2)
        self.successResultOf(done)
        self.assertEqual(self.desk.clock.getDelayedCalls(), [])

    def test_ends_although_a_command_does_not(self) -> None:
        desk = Desk(runner=HeldRunner(lingers=True))
        desk.order(command("c1"))
        done = desk.dispatcher.drain(30.0)
        desk.clock.advance(29)
        self.assertEqual(desk.runner.cancelled, ["c1"])
        self.assertNoResult(done)
        desk.clock.advance(1)
        self.successResultOf(done)
        self.assertEqual(desk.clock.getDelayedCalls(), [])

    def test_cancelled_command_may_still_say_how_it_ended(self) -> None:
        desk = Desk(runner=HeldRunner(lingers=True))
        desk.order(command("c1"))
        desk.dispatcher.drain(30.0)
        desk.clock.advance(29)
        desk.runner.runs[0].finish("what it wrote", exit_code=143)
        self.assertEqual(desk.link.sent, [result("c1", "what it wrote", 143)])

    def test_the_log_says_what_is_waited_for(self) -> None:
        """Also while the main server is away; and in the end, what did not come."""
        self.desk.order(command("c1"))
        self.desk.order(command("c2"))
        self.runner.runs[0].finish()
        with capturedLogs() as events:
            self.dispatcher.drain(30.0)
            self.desk.disconnect()
            self.dispatcher.drain(20.0)
            self.desk.clock.advance(30)
        awaited = "1 commands to end and 1 results to be confirmed by the main server"
        left = "0 commands to end and 2 results to be confirmed by the main server; there is no connection to it"
        self.assertEqual(
            [formatEvent(event) for event in events if event["log_format"].endswith("{what}")],
            [
                f"Waiting 30 s at most for {awaited}",
                f"Waiting 20 s at most for {awaited}; there is no connection to it",
                f"Gave up waiting for {left}",
                f"Gave up waiting for {left}",
            ],
        )

    def test_nothing_is_said_of_nothing(self) -> None:
        with capturedLogs() as events:
            self.dispatcher.drain(30.0)
        self.assertEqual(events, [])

    def test_no_time_at_all(self) -> None:
        self.desk.order(command("c1"))
        done = self.dispatcher.drain(0.0)
        self.desk.clock.advance(0)
        self.successResultOf(done)
        self.assertEqual(self.link.codes(), ["cancelled"])

    def test_second_drain_may_be_shorter(self) -> None:
        self.desk.order(command("c1"))
        patient, hasty = self.dispatcher.drain(30.0), self.dispatcher.drain(2.0)
        self.desk.clock.advance(2)
        self.successResultOf(hasty)
        self.assertNoResult(patient)
        self.receive(1)
        self.successResultOf(patient)
        self.assertEqual(self.desk.clock.getDelayedCalls(), [])

    def test_cancelled_drain_leaves_nothing_behind(self) -> None:
        self.desk.order(command("c1"))
        done = self.dispatcher.drain(30.0)
        done.cancel()
        self.failureResultOf(done, CancelledError)
        self.assertEqual(self.desk.clock.getDelayedCalls(), [])
        self.runner.runs[0].finish()
        self.receive(1)

    def test_commands_between_two_steps_are_cancelled_too(self) -> None:
        journal = SlowJournal()
        desk = Desk(max_commands=2, journal=journal)
        desk.order(command("starting", host="a"))
        journal.record()
        desk.order(command("accepting", host="b"))
        desk.order(command("waiting", host="c"))
        done = desk.dispatcher.drain(4.0)
        desk.clock.advance(3)
        self.assertEqual(journal.steps(), ["start", "accept", "start", "accept", "finish"])
        while journal.pending:
            journal.record()
        self.assertEqual(sorted(desk.link.ids()), ["accepting", "starting", "waiting"])
        self.assertEqual(desk.link.codes(), ["cancelled"] * 3)
        self.assertEqual(desk.runner.cancelled, ["starting", "accepting"])
        for _ in range(3):
            desk.dispatcher.receipt_received(desk.link, RECEIVED)
        self.successResultOf(done)

    def test_refused_acceptance_ends_the_wait(self) -> None:
        journal = SlowJournal()
        desk = Desk(journal=journal)
        desk.order(command("c1"))
        done = desk.dispatcher.drain(30.0)
        journal.fail(OSError("disk"))
        self.assertNoResult(done)
        desk.dispatcher.receipt_received(desk.link, RECEIVED)
        self.successResultOf(done)
