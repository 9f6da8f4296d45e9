"""
Tests of `relayd.commands.outbox` behind its dispatcher: links, receipts, what is sent again, what is given up.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.internet.defer import fail
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from relayd.commands.outbox import MAX_RETRIES, RETRY_DELAY
from relayd.commands.suspects import ALONE_FOR, CONVICT_AFTER, LONGEST_PAUSE, SUSPECT_AFTER, TURNED_AWAY_FOR
from relayd.commands.undelivered import MAX_UNRECORDED, MAX_UNRECORDED_BYTES
from relayd.errors import ProtocolError
from relayd.interfaces import Blame, EntryState
from relayd.wire.messages import CommandResult, Receipt
from tests.support.dispatching import Desk, RecordingLink, Run, SlowJournal, command
from tests.support.outbox import OutboxTestCase

RECEIVED = Receipt(success=True)


class LinkTests(OutboxTestCase):
    def test_unconfirmed_results_are_sent_on_the_next_link_oldest_first(self) -> None:
        self.finish("c1", "c2", "c3")
        self.receipt(command_id="c2")
        self.desk.disconnect()
        self.finish("c4")
        first = self.desk.link
        self.assertEqual(self.desk.connect().ids(), ["c1", "c3", "c4"])
        self.assertEqual(first.ids(), ["c1", "c2", "c3"])
        self.assertEqual(self.desk.link.sent[0], first.sent[0])

    def test_log_names_what_is_sent_again(self) -> None:
        """So that an operator who sees a result twice finds out why."""
        self.finish("refused", "c1")
        for _ in range(MAX_RETRIES + 1):
            self.receipt(success=False, command_id="refused")
            self.desk.clock.advance(RETRY_DELAY)
        self.finish(*(f"c{number}" for number in range(2, 13)))
        self.desk.disconnect()
        self.desk.connect()
        self.assertEqual(
            self.lines(LogLevel.info)[-2:],
            [
                "Sending 12 unconfirmed results again: c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, …",
                "Offering 1 results once more that were rejected before: refused",
            ],
        )

    def test_new_link_takes_over_from_one_that_is_not_lost_yet(self) -> None:
        self.finish("c1")
        old, new = self.desk.link, self.desk.connect()
        self.finish("c2")
        self.assertEqual((old.ids(), new.ids()), (["c1"], ["c1", "c2"]))
        self.desk.dispatcher.link_lost(old, Blame.POSSIBLE)
        self.finish("c3")
        self.assertEqual(new.ids(), ["c1", "c2", "c3"])

    def test_results_wait_in_the_journal_while_the_link_is_full(self) -> None:
        link = self.desk.link
        link.flow.pauseProducing()
        self.finish("c1", "c2")
        self.assertEqual(link.sent, [])
        link.on_send = link.flow.pauseProducing
        link.flow.resumeProducing()
        self.assertEqual(link.ids(), ["c1"])
        self.finish("c3")
        link.flow.resumeProducing()
        link.flow.resumeProducing()
        self.assertEqual(link.ids(), ["c1", "c2", "c3"])

    def test_much_that_is_unconfirmed_goes_out_as_the_link_takes_it(self) -> None:
        self.desk.disconnect()
        self.finish("c1", "c2", "c3")
        slow = RecordingLink()
        slow.on_send = slow.flow.pauseProducing
        link = self.desk.connect(slow)
        self.assertEqual(link.ids(), ["c1"])
        link.flow.resumeProducing()
        self.assertEqual(link.ids(), ["c1", "c2"])
        self.desk.disconnect()
        self.assertEqual(link.ids(), ["c1", "c2"])
        self.assertEqual(self.desk.clock.getDelayedCalls(), [])
        self.assertEqual(self.desk.connect().ids(), ["c1", "c2", "c3"])

    def test_result_that_was_confirmed_while_it_waited_is_not_sent(self) -> None:
        link = self.desk.link
        link.flow.pauseProducing()
        self.finish("c1", "c2")
        self.receipt(command_id="c1")
        link.flow.resumeProducing()
        self.assertEqual(link.ids(), ["c2"])

    def test_refusal_overtaken_by_acceptance_while_it_waited(self) -> None:
        desk = Desk(max_commands=1, max_queue=0)
        desk.link.flow.pauseProducing()
        desk.order(command("c1"))
        desk.order(command("c2"))
        desk.runner.runs[0].finish()
        desk.order(command("c2"))
        desk.link.flow.resumeProducing()
        self.assertEqual(desk.link.ids(), ["c1"])

    def test_result_that_cannot_be_read_waits_for_the_next_link(self) -> None:
        journal = SlowJournal()
        desk = Desk(journal=journal)
        desk.order(command("c1"))
        desk.link.flow.pauseProducing()
        desk.runner.runs[0].finish()
        while journal.pending:
            journal.record()
        self.patch(journal, "load", lambda _: fail(ProtocolError(reason="the disk is broken")))
        desk.link.flow.resumeProducing()
        self.assertEqual((desk.link.sent, journal.unconfirmed()), ([], ["c1"]))
        [line] = self.lines(LogLevel.error)
        self.assertIn("The result of c1 cannot be read", line)

    def test_refusals_held_are_bounded(self) -> None:
        desk = Desk(max_commands=1, max_queue=0)
        desk.order(command("c"))
        for number in range(MAX_UNRECORDED + 10):
            desk.order(command(f"c{number}"))
        desk.disconnect()
        self.assertEqual(desk.connect().ids()[:1], ["c10"])
        self.assertEqual(len(desk.link.sent), MAX_UNRECORDED)


class ReceiptTests(OutboxTestCase):
    def test_receipts_without_id_count_for_the_oldest_of_their_link(self) -> None:
        self.finish("c1", "c2", "c3")
        self.receipt()
        self.receipt()
        self.assertEqual(self.unconfirmed(), ["c3"])
        self.assertEqual(self.desk.dispatcher.stats.confirmed, 2)

    def test_receipt_with_id(self) -> None:
        self.finish("c1", "c2", "c3")
        self.receipt(command_id="c2")
        self.receipt()
        self.assertEqual(self.unconfirmed(), ["c3"])

    def test_receipts_do_not_count_for_another_link(self) -> None:
        self.finish("c1")
        old = self.desk.link
        self.desk.disconnect()
        self.finish("c2")
        self.desk.connect()
        self.receipt(link=old)
        self.assertEqual(self.unconfirmed(), ["c1", "c2"])
        self.assertEqual(self.desk.dispatcher.stats.stray, 1)

    def test_receipt_with_id_counts_wherever_the_result_was_sent(self) -> None:
        self.finish("c1")
        self.desk.disconnect()
        self.receipt(command_id="c1")
        self.assertEqual(self.unconfirmed(), [])

    def test_each_sending_has_a_receipt_of_its_own(self) -> None:
        """A result sent twice, then another: the second receipt is not for the other, which may not have arrived."""
        self.finish("c1")
        self.desk.order(command("c1", host="c1"))
        self.finish("c2")
        self.assertEqual(self.desk.link.ids(), ["c1", "c1", "c2"])
        self.receipt()
        self.receipt()
        self.assertEqual(self.unconfirmed(), ["c2"])
        self.receipt()
        self.assertEqual(self.unconfirmed(), [])

    def test_receipt_for_a_refusal_does_not_confirm_a_result(self) -> None:
        desk = Desk(max_commands=1, max_queue=0)
        desk.order(command("running"))
        desk.order(command("c1"))
        desk.runner.runs[0].finish()
        desk.order(command("c1"))
        desk.runner.runs[1].finish()
        self.assertEqual(desk.link.ids(), ["c1", "running", "c1"])
        for receipt, left in (
            (Receipt(success=True, command_id="c1"), ["running", "c1"]),
            (RECEIVED, ["c1"]),
            (RECEIVED, []),
        ):
            desk.dispatcher.receipt_received(desk.link, receipt)
            self.assertEqual(desk.journal.unconfirmed(), left)

    def test_receipts_that_fit_nothing(self) -> None:
        self.receipt()
        self.receipt(command_id="unknown")
        self.desk.order(command("running"))
        self.receipt(command_id="running")
        self.desk.runner.runs[0].finish()
        self.assertEqual((self.unconfirmed(), self.desk.dispatcher.stats.stray), (["running"], 3))


class RejectionTests(OutboxTestCase):
    def test_refused_result_is_sent_twice_more_and_then_given_up(self) -> None:
        self.finish("c1")
        for times in (1, 2):
            self.receipt(success=False)
            self.assertEqual(len(self.desk.link.sent), times)
            self.desk.clock.advance(RETRY_DELAY)
            self.assertEqual(len(self.desk.link.sent), times + 1)
        self.assertEqual(self.lines(LogLevel.warn), ["The main server rejected the result of c1: no such row"] * 2)
        self.receipt(success=False)
        self.assertEqual(self.unconfirmed(), [])
        [line] = self.lines(LogLevel.error)
        self.assertIn("The main server rejected the result of c1 3 times: no such row. It is offered once more", line)
        self.assertIs(self.desk.journal.lookup("c1").state, EntryState.DEAD)  # type: ignore[union-attr]
        self.assertEqual(self.desk.clock.getDelayedCalls(), [])
        stats = self.desk.dispatcher.stats
        self.assertEqual((stats.rejected, stats.given_up, stats.confirmed), (3, 1, 0))

    def test_refused_result_is_sent_on_the_next_link_at_once(self) -> None:
        self.finish("c1")
        self.receipt(success=False, command_id="c1")
        self.desk.disconnect()
        self.assertEqual(self.desk.clock.getDelayedCalls(), [])
        self.assertEqual(self.desk.connect().ids(), ["c1"])
        self.receipt()
        self.assertEqual(self.unconfirmed(), [])

    def test_refusals_on_several_links_do_not_add_up(self) -> None:
        """Another main server may be behind each."""
        self.finish("c1")
        for _ in range(5):
            self.receipt(success=False)
            self.desk.clock.advance(RETRY_DELAY)
            self.receipt(success=False)
            self.desk.disconnect(Blame.NONE)
            self.desk.connect()
        self.assertEqual((self.unconfirmed(), self.desk.link.ids()), (["c1"], ["c1"]))

    def refuse(self) -> None:
        """As often as it takes."""
        for _ in range(3):
            self.receipt(success=False)
            self.desk.clock.advance(RETRY_DELAY)

    def test_dead_letter_is_offered_once_on_each_new_link(self) -> None:
        """The right main server takes it, though the wrong one, behind the same address, refused it."""
        self.finish("c1")
        self.refuse()
        self.desk.disconnect(Blame.NONE)
        self.finish("c2")
        for _ in range(3):
            self.assertEqual(self.desk.connect().ids(), ["c2", "c1"], "what is waited for goes first")
            self.receipt(success=False, command_id="c1")
            self.desk.clock.advance(RETRY_DELAY)
            self.assertEqual(self.desk.link.ids(), ["c2", "c1"])
            self.desk.disconnect(Blame.NONE)
        self.assertEqual((len(self.lines(LogLevel.error)), self.unconfirmed()), (1, ["c2"]))
        self.desk.connect()
        self.receipt(command_id="c1")
        self.receipt(command_id="c2")
        self.assertIs(self.desk.journal.lookup("c1").state, EntryState.CONFIRMED)  # type: ignore[union-attr]
        self.desk.disconnect(Blame.NONE)
        self.assertEqual(self.desk.connect().ids(), [])

    def test_answer_that_no_journal_holds_is_refused_like_others(self) -> None:
        desk = self.desk = Desk(max_commands=1, max_queue=0)
        desk.order(command("running"))
        desk.order(command("c1"))
        self.refuse()
        self.assertEqual((desk.link.ids(), desk.clock.getDelayedCalls()), (["c1"] * 3, []))
        desk.runner.runs[0].finish()
        self.receipt()
        self.successResultOf(desk.dispatcher.drain(30.0))  # nobody waits for it
        desk = self.desk = Desk(max_commands=1, max_queue=0)
        desk.order(command("running"))
        desk.order(command("c1"))
        self.refuse()
        desk.disconnect(Blame.NONE)
        self.assertEqual(desk.connect().ids(), ["c1"])
        self.receipt(success=False)
        self.assertEqual(desk.clock.getDelayedCalls(), [])
        desk.disconnect(Blame.NONE)
        self.assertEqual(desk.connect().ids(), ["c1"])
        self.receipt()
        desk.disconnect(Blame.NONE)
        self.assertEqual(desk.connect().ids(), [])

    def test_refusal_of_a_result_that_travels_alone_acquits_it(self) -> None:
        self.finish("c1")
        for _ in range(SUSPECT_AFTER):
            self.desk.disconnect()
            self.desk.connect()
        self.desk.link.answer()
        self.finish("c2")
        self.receipt(success=False)
        self.assertEqual(self.desk.link.ids(), ["c1", "c2"])

    def test_confirmation_ends_the_wait_for_a_retry(self) -> None:
        self.finish("c1")
        self.desk.order(command("c1", host="c1"))
        self.receipt(success=False)
        self.receipt()
        self.assertEqual((self.unconfirmed(), self.desk.clock.getDelayedCalls()), ([], []))
        self.assertEqual(self.desk.dispatcher._outbox._current._refusals, {})  # type: ignore[union-attr]

    def test_two_copies_refused_are_sent_again_as_one(self) -> None:
        self.finish("c1")
        self.desk.order(command("c1", host="c1"))
        self.receipt(success=False)
        self.receipt(success=False)
        self.desk.clock.advance(RETRY_DELAY)
        self.assertEqual(self.desk.link.ids(), ["c1", "c1", "c1"])

    def test_late_refusal_of_what_was_confirmed(self) -> None:
        self.finish("c1")
        self.desk.order(command("c1", host="c1"))
        self.receipt()
        self.receipt(success=False)
        self.assertEqual((self.lines(LogLevel.error), self.desk.clock.getDelayedCalls()), ([], []))

    def test_no_retry_after_the_drain(self) -> None:
        self.finish("c1")
        self.receipt(success=False)
        self.desk.dispatcher.drain(1.0)
        self.desk.clock.advance(1)
        self.assertEqual(self.desk.clock.getDelayedCalls(), [])
        self.receipt(success=False, command_id="c1")
        self.assertEqual(self.desk.clock.getDelayedCalls(), [])

    def test_dead_letter_is_sent_again_when_its_command_comes_again(self) -> None:
        self.finish("c1")
        for _ in range(3):
            self.receipt(success=False)
            self.desk.clock.advance(RETRY_DELAY)
        self.desk.order(command("c1", host="c1"))
        self.assertEqual(self.desk.link.ids(), ["c1"] * 4)
        self.receipt()
        self.assertIs(self.desk.journal.lookup("c1").state, EntryState.CONFIRMED)  # type: ignore[union-attr]


class UnrecordedTests(OutboxTestCase):
    """Results that no journal holds."""

    def test_they_are_bounded_in_size(self) -> None:
        journal = SlowJournal()
        desk = Desk(max_commands=4, journal=journal)
        desk.disconnect()
        for name in ("c1", "c2", "c3"):
            desk.order(command(name, host=name))
            journal.record()
            journal.record()
            desk.runner.runs[-1].finish("x" * (MAX_UNRECORDED_BYTES * 2 // 5))
            journal.fail(OSError("disk"))
        self.assertEqual(desk.connect().ids(), ["c2", "c3"])
        self.assertEqual(desk.dispatcher.stats.dropped, 1)

    def test_those_with_which_links_are_lost_are_suspected_like_others(self) -> None:
        desk = Desk(max_commands=1, max_queue=0)
        desk.order(command("c1"))
        desk.order(command("c2"))
        for kind in ("overloaded", "overloaded"):  # the second time, it says no more than that it cannot be delivered
            for _ in range(SUSPECT_AFTER):
                self.assertEqual(desk.link.codes(), [kind])
                desk.disconnect()
                desk.connect()
            for _ in range(CONVICT_AFTER):
                self.assertEqual(desk.link.ids(), [])
                desk.link.answer()
                self.assertEqual(desk.link.codes(), [kind])
                desk.disconnect()
                desk.connect()
        self.assertEqual((desk.link.ids(), desk.link.probes), ([], []))


IDS = st.integers(0, 7)
NOT_RUN = {"overloaded", "protocol", "already-confirmed", "duplicate-mismatch", "undeliverable"}


def code(sent: CommandResult) -> object:
    return None if sent.details.error is None else sent.details.error["code"]


class Wire(RecordingLink):
    """A link that loses what has not arrived when it breaks."""

    def __init__(self, machine: PromisesMachine) -> None:
        super().__init__()
        self.machine = machine
        self.under_way: list[CommandResult] = []
        self.unanswered: list[str] = []

    def send_result(self, result: CommandResult) -> None:
        self.machine.check_sent(result)
        self.under_way.append(result)


class PromisesMachine(RuleBasedStateMachine):
    """Whatever happens in whatever order: each command runs at most once, and its one result arrives."""

    @initialize(receipts=st.booleans())
    def begin(self, receipts: bool) -> None:
        self.journal = SlowJournal()
        self.desk = Desk(max_commands=2, max_queue=3, journal=self.journal, receipts=receipts)
        self.dispatcher = self.desk.dispatcher
        self.desk.disconnect()
        self.wire: Wire | None = None
        self.arrived: dict[str, list[CommandResult]] = {}
        self.finished = 0

    def check_sent(self, sent: CommandResult) -> None:
        entry = self.journal.records.lookup(sent.command_id)
        if code(sent) in NOT_RUN:
            if code(sent) != "undeliverable":
                assert entry is None or entry.state is EntryState.CONFIRMED, "a refusal while a result is due"
        else:
            assert entry is not None, "sent before it was recorded"
            assert entry.holds_result or entry.state is EntryState.CONFIRMED, "sent before it was recorded"

    @rule(number=IDS)
    def order(self, number: int) -> None:
        """New, or a duplicate."""
        self.desk.order(command(f"c{number}", host=f"host{number % 3}", timeout=20.0))

    @rule(number=IDS)
    def order_something_else(self, number: int) -> None:
        if self.journal.lookup(f"c{number}") is not None:
            self.desk.order(command(f"c{number}", text="reboot"))

    @precondition(lambda self: self.journal.pending)
    @rule()
    def record(self) -> None:
        self.journal.record()

    @precondition(lambda self: self.journal.steps()[:1] == ["accept"])
    @rule()
    def fail_to_accept(self) -> None:
        self.journal.fail(ProtocolError(reason="the disk is full"))

    @precondition(lambda self: self.unfinished())
    @rule(data=st.data(), fails=st.booleans())
    def finish(self, data: st.DataObject, fails: bool) -> None:
        """Only what could be told to run can end well."""
        run = data.draw(st.sampled_from(self.unfinished()))
        self.finished += 1
        if fails or not run.started:
            run.done.errback(OSError("broken"))
        else:
            run.finish(f"output {self.finished}")

    @rule(number=IDS)
    def cancel(self, number: int) -> None:
        self.dispatcher.cancel_received(f"c{number}")

    @rule(blame=st.sampled_from(Blame))
    def break_or_make_link(self, blame: Blame = Blame.POSSIBLE) -> None:
        if self.wire is not None:
            self.dispatcher.link_lost(self.wire, blame)
            self.wire = None
        else:
            self.wire = Wire(self)
            self.dispatcher.link_ready(self.wire)

    @precondition(lambda self: self.wire is not None and self.wire.under_way)
    @rule()
    def arrive(self) -> None:
        assert self.wire is not None
        sent = self.wire.under_way.pop(0)
        self.arrived.setdefault(sent.command_id, []).append(sent)
        self.wire.unanswered.append(sent.command_id)

    @precondition(lambda self: self.wire is not None and self.wire.unanswered)
    @rule(data=st.data(), named=st.booleans(), kind=st.sampled_from(["success", "success", "failure", "lost"]))
    def answer(self, data: st.DataObject, named: bool, kind: str) -> None:
        """Out of order, with or without the id, or not at all."""
        assert self.wire is not None
        position = data.draw(st.integers(0, len(self.wire.unanswered) - 1))
        command_id = self.wire.unanswered.pop(position)
        if kind != "lost":
            receipt = Receipt(success=kind == "success", command_id=command_id if named else None)
            self.dispatcher.receipt_received(self.wire, receipt)

    @precondition(lambda self: self.wire is not None and self.wire.probes and not self.wire.under_way)
    @rule()
    def answer_probe(self) -> None:
        assert self.wire is not None
        self.wire.answer()

    @rule(seconds=st.sampled_from([1.0, 6.0, 20.0]))
    def advance(self, seconds: float) -> None:
        self.desk.clock.advance(seconds)

    @property
    def given_up(self) -> int:
        return self.dispatcher.stats.given_up

    def unfinished(self) -> list[Run]:
        return [run for run in self.desk.runner.runs if not run.done.called]

    @invariant()
    def runs_at_most_once(self) -> None:
        ids = self.desk.runner.started()
        assert len(ids) == len(set(ids))
        assert len(self.unfinished()) <= 2

    def teardown(self) -> None:
        if not hasattr(self, "journal"):
            return
        while self.journal.pending or self.unfinished():
            if self.journal.pending:
                self.journal.record()
            else:
                self.unfinished()[0].finish("the rest")
        if self.wire is not None:
            self.break_or_make_link()
        self.break_or_make_link()
        assert self.wire is not None
        for seconds in (TURNED_AWAY_FOR, LONGEST_PAUSE):  # what waits for that
            self.desk.clock.advance(seconds)
            while self.wire.under_way or self.wire.probes:
                while self.wire.under_way:
                    self.arrive()
                while self.wire.probes:
                    self.wire.answer()
                self.desk.clock.advance(ALONE_FOR)
        accepted = {command_id for command_id, outcome in self.desk.acks if outcome == "ok"}
        for command_id in accepted:
            arrived = self.arrived.get(command_id, [])
            results = [sent for sent in arrived if code(sent) not in NOT_RUN]
            known = results or "undeliverable" in map(code, arrived) or self.given_up
            assert known, f"{command_id} was accepted and got no result"
            assert all(sent == results[0] for sent in results), f"{command_id} got different results"
        for command_id, _ in self.desk.acks:
            if self.given_up:  # a connection was lost each time that it alone was on its way
                continue
            assert command_id in self.arrived, f"{command_id} was refused, and no result said so"
        assert set(self.desk.runner.started()) <= accepted


class PromisesTests(SynchronousTestCase):
    def test_any_order_of_events(self) -> None:
        run_state_machine_as_test(PromisesMachine, settings=settings(max_examples=80, stateful_step_count=80))
