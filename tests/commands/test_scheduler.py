"""
Tests of `relayd.commands.scheduler`: commands that wait, run, are cancelled, and the order of their steps.
"""

from __future__ import annotations

from twisted.logger import formatEvent
from twisted.trial.unittest import SynchronousTestCase

from relayd.errors import CredentialMissing, ProtocolError
from relayd.wire.messages import CommandState, Receipt
from tests.support.dispatching import Desk, HeldRunner, SlowJournal, command, result, watch_log

RECEIVED = Receipt(success=True)


class CancelTests(SynchronousTestCase):
    """``cancel_command`` and ``command_status``"""

    def setUp(self) -> None:
        self.desk = Desk(max_commands=1)
        self.runner, self.link, self.dispatcher = self.desk.runner, self.desk.link, self.desk.dispatcher

    def states(self, *ids: str) -> list[str]:
        return [self.dispatcher.status_asked(each).value for each in ids]

    def test_states(self) -> None:
        for command_id in ("c1", "c2", "c3"):
            self.desk.order(command(command_id))
        self.assertEqual(self.states("c1", "c2", "c4"), ["running", "queued", "unknown"])
        self.runner.runs[0].finish()
        self.assertEqual(self.states("c1", "c2", "c3"), ["finished", "running", "queued"])
        self.dispatcher.receipt_received(self.link, RECEIVED)
        self.assertEqual(self.states("c1"), ["finished"], "also when its result is no longer held")

    def test_states_between_steps(self) -> None:
        journal = SlowJournal()
        desk = Desk(journal=journal)
        states = []
        desk.order(command("c1"))
        for _ in range(2):
            states.append(desk.dispatcher.status_asked("c1"))
            journal.record()
        states.append(desk.dispatcher.status_asked("c1"))
        desk.runner.runs[0].finish()
        states.append(desk.dispatcher.status_asked("c1"))
        self.assertEqual([state.value for state in states], ["running", "running", "running", "finished"])

    def test_refused_command_is_unknown(self) -> None:
        self.runner.refusal = CredentialMissing(username="root", host="web1")
        self.desk.order(command("c1"))
        self.assertEqual(self.states("c1"), ["unknown"])

    def test_waiting_command(self) -> None:
        for command_id in ("c1", "c2", "c3"):
            self.desk.order(command(command_id))
        self.assertIs(self.dispatcher.cancel_received("c2"), CommandState.QUEUED)
        [sent] = self.link.sent
        self.assertEqual((sent.command_id, sent.exit_code), ("c2", 1))
        self.assertEqual(sent.stderr, "The command was cancelled before it ran.")
        self.assertEqual((sent.details.error or {})["executed"], "no")
        self.assertEqual((self.dispatcher.running, self.dispatcher.queued), (1, 1))
        self.runner.runs[0].finish()
        self.runner.runs[1].finish()
        self.assertEqual((self.runner.ids(), self.link.ids()), (["c1", "c3"], ["c2", "c1", "c3"]))
        self.assertEqual(self.desk.clock.getDelayedCalls(), [])

    def test_last_that_waits(self) -> None:
        """Nothing is left to wake up for."""
        for command_id in ("c1", "c2"):
            self.desk.order(command(command_id))
        self.dispatcher.cancel_received("c2")
        self.assertEqual(self.desk.clock.getDelayedCalls(), [])

    def test_running_command(self) -> None:
        self.desk.order(command("c1"))
        self.desk.order(command("c2"))
        self.assertIs(self.dispatcher.cancel_received("c1"), CommandState.RUNNING)
        self.assertEqual((self.runner.cancelled, self.link.codes()), (["c1"], ["cancelled"]))
        self.assertEqual(self.runner.ids(), ["c1", "c2"], "its slot is free")

    def test_running_command_is_cancelled_once(self) -> None:
        desk = Desk(runner=HeldRunner(lingers=True))
        desk.order(command("c1"))
        for _ in range(3):
            self.assertIs(desk.dispatcher.cancel_received("c1"), CommandState.RUNNING)
        self.assertFalse(desk.runner.runs[0].done.called, "it may still tell how it ended")
        desk.runner.runs[0].finish("what it wrote", exit_code=143)
        self.assertEqual(desk.link.sent, [result("c1", "what it wrote", 143)])

    def test_between_two_steps(self) -> None:
        journal = SlowJournal()
        desk = Desk(max_commands=1, journal=journal)
        desk.order(command("accepting"))
        desk.dispatcher.cancel_received("accepting")
        self.assertEqual(desk.link.sent, [])
        journal.record()
        self.assertEqual(journal.steps(), ["start", "finish"])
        journal.record()
        journal.record()
        desk.order(command("starting"))
        journal.record()
        desk.dispatcher.cancel_received("starting")
        while journal.pending:
            journal.record()
        self.assertEqual((desk.link.codes(), desk.runner.cancelled), (["cancelled"] * 2, ["accepting", "starting"]))
        self.assertEqual((desk.dispatcher.running, desk.dispatcher.queued), (0, 0))

    def test_finished_and_unknown_commands(self) -> None:
        logged = watch_log(self)
        self.desk.order(command("c1"))
        self.runner.runs[0].finish()
        self.assertIs(self.dispatcher.cancel_received("c1"), CommandState.FINISHED)
        self.assertIs(self.dispatcher.cancel_received("c9"), CommandState.UNKNOWN)
        self.assertEqual((self.link.codes(), self.runner.cancelled), ([0], []))
        self.assertEqual(
            [formatEvent(event) for event in logged[-2:]],
            [
                "The main server cancels command c1, which is finished",
                "The main server cancels command c9, which is unknown",
            ],
        )

    def test_cancelled_command_comes_again(self) -> None:
        """It is a duplicate like any other: it has its result, and does not run."""
        self.desk.order(command("c1"))
        self.dispatcher.cancel_received("c1")
        self.desk.order(command("c1"))
        self.assertEqual((self.runner.ids(), self.link.codes()), (["c1"], ["cancelled", "cancelled"]))


class JournalOrderTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.journal = SlowJournal()
        self.desk = Desk(max_commands=1, journal=self.journal)
        self.runner, self.link = self.desk.runner, self.desk.link

    def test_each_step_waits_for_the_record_of_the_one_before(self) -> None:
        self.desk.order(command("c1"))
        self.assertEqual((self.desk.acks, self.journal.steps()), ([], ["accept", "start"]))
        self.journal.record()
        self.assertEqual((self.desk.acks, self.journal.steps(), self.runner.started()), ([("c1", "ok")], ["start"], []))
        self.journal.record()
        self.assertEqual(self.runner.started(), ["c1"])
        self.runner.runs[0].finish()
        self.assertEqual((self.link.sent, self.journal.steps()), ([], ["finish"]))
        self.journal.record()
        self.assertEqual(self.link.sent, [result("c1")])

    def test_the_log_has_the_steps_in_order(self) -> None:
        logged = watch_log(self)
        self.desk.order(command("c1"))
        self.assertEqual([event.get("event") for event in logged], [])
        self.journal.record()
        self.journal.record()
        self.assertEqual([event.get("event") for event in logged], ["accepted", "started"])

    def test_duplicate_waits_for_the_record_too(self) -> None:
        self.desk.order(command("c1"))
        self.desk.order(command("c1"))
        self.assertEqual(self.desk.acks, [])
        self.journal.record()
        self.assertEqual(self.desk.acks, [("c1", "ok"), ("c1", "ok")])
        self.assertEqual(self.journal.steps(), ["start"])

    def test_duplicate_while_the_result_is_being_recorded(self) -> None:
        self.desk.order(command("c1"))
        self.journal.record()
        self.journal.record()
        self.runner.runs[0].finish()
        self.desk.order(command("c1"))
        self.assertEqual((self.link.sent, self.desk.dispatcher.stats.joined), ([], 1))
        self.journal.record()
        self.assertEqual(self.link.sent, [result("c1")])

    def test_result_that_is_not_recorded_is_not_sent_on_a_new_link(self) -> None:
        self.desk.order(command("c1"))
        self.journal.record()
        self.journal.record()
        self.runner.runs[0].finish()
        self.journal.records.finish(result("c1"))  # known to the journal, and not yet on disk
        self.desk.disconnect()
        self.assertEqual(self.desk.connect().sent, [])

    def test_next_command_has_the_slot_while_a_result_is_recorded(self) -> None:
        self.desk.order(command("c1"))
        self.desk.order(command("c2"))
        for _ in range(3):
            self.journal.record()
        self.runner.runs[0].finish()
        self.assertEqual(self.journal.steps(), ["finish", "start"])

    def test_turn_comes_before_the_acceptance_is_recorded(self) -> None:
        self.desk.order(command("c1"))
        self.journal.record()
        self.journal.record()
        self.desk.order(command("c2"))
        self.runner.runs[0].finish()
        self.assertEqual((self.journal.steps(), self.runner.started()), (["accept", "finish", "start"], ["c1"]))

    def test_deadline_passes_before_the_acceptance_is_recorded(self) -> None:
        self.desk.order(command("c1"))
        self.journal.record()
        self.desk.order(command("c2", timeout=5.0))
        self.desk.clock.advance(5)
        self.assertEqual((self.journal.steps(), self.link.sent), (["start", "accept"], []))
        for _ in range(3):
            self.journal.record()
        self.assertEqual((self.desk.acks, self.link.codes()), ([("c1", "ok"), ("c2", "ok")], ["timeout"]))

    def test_acceptance_that_cannot_be_recorded(self) -> None:
        self.desk.order(command("c1"))
        self.desk.order(command("c2"))
        self.desk.order(command("c1"))
        self.assertEqual(self.journal.steps(), ["accept", "start", "accept"])
        self.journal.fail(ProtocolError(reason="the disk is full"))
        self.assertEqual(self.desk.acks, [("c1", "protocol"), ("c1", "protocol")])
        self.assertEqual(self.link.codes(), ["protocol"])
        self.journal.record()
        self.journal.record()
        self.journal.record()
        self.assertEqual((self.runner.started(), self.desk.dispatcher.running), (["c2"], 1))
        self.desk.order(command("c1"))
        self.assertEqual(self.journal.steps(), ["accept"], "it never ran, so it may come again")

    def test_known_command_that_only_the_journal_knows(self) -> None:
        """Its result was confirmed so long ago that it is not in memory: it is found when it is to be recorded."""
        desk = Desk(runner=HeldRunner(dials=True), journal=self.journal)
        self.journal.records.accept(command("c1"), desk.dispatcher._fingerprints.fingerprint_of(command("c1")))
        self.journal.records.finish(result("c1"))
        self.journal.records.confirm("c1")
        self.patch(self.journal, "lookup", lambda command_id: None)
        desk.order(command("c1"))
        desk.order(command("c1"))
        self.assertEqual(desk.runner.ids(), ["c1"])
        self.journal.record()
        self.assertEqual((desk.runner.cancelled, desk.dispatcher.running), (["c1"], 0))
        self.assertEqual(desk.acks, [("c1", "already-confirmed")] * 2)
        self.assertEqual((desk.link.codes(), desk.runner.started()), (["already-confirmed"] * 2, []))

    def test_waiting_command_whose_acceptance_cannot_be_recorded(self) -> None:
        self.desk.order(command("c1"))
        self.journal.record()
        self.desk.order(command("c2"))
        self.journal.record()
        self.journal.fail(OSError("disk"))
        self.assertEqual((self.desk.acks[1], self.desk.dispatcher.queued), (("c2", "internal"), 0))
        self.assertEqual(self.desk.clock.getDelayedCalls(), [])
        self.runner.runs[0].finish()
        self.assertEqual((self.runner.ids(), self.desk.dispatcher.running), (["c1"], 0))

    def test_start_that_cannot_be_recorded(self) -> None:
        self.desk.order(command("c1"))
        self.journal.record()
        self.journal.fail(OSError("disk"))
        self.journal.record()
        self.assertEqual((self.runner.started(), self.link.codes()), ([], ["internal"]))
        self.assertEqual((self.link.sent[0].details.error or {})["executed"], "no")
        self.assertEqual(self.desk.dispatcher.running, 0)

    def test_result_that_cannot_be_recorded_is_sent_all_the_same(self) -> None:
        self.desk.order(command("c1"))
        self.journal.record()
        self.journal.record()
        self.runner.runs[0].finish()
        self.journal.fail(OSError("disk"))
        self.assertEqual(self.link.sent, [result("c1")])
        self.desk.order(command("c1"))
        self.assertEqual((self.link.sent, self.runner.ids()), ([result("c1")] * 2, ["c1"]))
        self.desk.disconnect()
        again = self.desk.connect()
        self.assertEqual(again.sent, [result("c1")])
        self.desk.dispatcher.receipt_received(again, RECEIVED)
        self.desk.order(command("c1"))
        self.assertEqual((again.codes(), self.runner.ids()), ([0, "outcome-unknown"], ["c1"]))
