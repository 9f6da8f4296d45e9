"""
Tests of `relayd.commands.duplicates`: commands that come again.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import formatEvent
from twisted.trial.unittest import SynchronousTestCase

from relayd.commands import link_sender
from relayd.commands.dispatcher import Dispatcher, Limits
from relayd.commands.duplicates import MAX_WAITING
from relayd.commands.outbox import MAX_RECENT, MAX_RECENT_SIZE, RETRY_DELAY
from relayd.commands.without_receipts import PATIENCE
from relayd.errors import InvalidMessage, JournalUnavailable
from relayd.interfaces import no_acknowledgement
from relayd.wire.messages import CommandState, JumpHost, Receipt, Secret
from relayd.wire.parsing import parse_execute_command
from tests.support.dispatching import Desk, HeldRunner, SlowJournal, command, watch_log

RECEIVED = Receipt(success=True)


class DuplicateTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.desk = Desk()
        self.runner, self.link, self.stats = self.desk.runner, self.desk.link, self.desk.dispatcher.stats

    def test_duplicate_of_a_running_command_joins_it(self) -> None:
        self.desk.order(command("c1"))
        self.desk.order(command("c1"))
        self.assertEqual(self.desk.acks, [("c1", "ok"), ("c1", "ok")])
        self.runner.runs[0].finish()
        self.assertEqual((self.runner.ids(), self.link.ids(), self.stats.joined), (["c1"], ["c1"], 1))

    def test_duplicate_of_a_waiting_command_joins_it(self) -> None:
        desk = Desk(max_commands=1)
        for command_id in ("c1", "c2", "c2"):
            desk.order(command(command_id))
        desk.runner.runs[0].finish()
        desk.runner.runs[1].finish()
        self.assertEqual((desk.runner.ids(), desk.link.ids()), (["c1", "c2"], ["c1", "c2"]))

    def test_duplicate_of_a_finished_command_gets_the_same_result_on_the_current_link(self) -> None:
        self.desk.order(command("c1"))
        self.runner.runs[0].finish()
        self.desk.disconnect()
        again = self.desk.connect()
        self.desk.order(command("c1"))
        self.assertEqual(again.sent, [self.link.sent[0]] * 2)  # by the new link, and by the duplicate
        self.assertEqual((self.runner.ids(), self.desk.acks[1], self.stats.resent), (["c1"], ("c1", "ok"), 1))

    def test_duplicate_of_a_confirmed_command(self) -> None:
        self.desk.order(command("c1"))
        self.runner.runs[0].finish()
        self.desk.dispatcher.receipt_received(self.link, RECEIVED)
        for _ in range(2):
            self.desk.order(command("c1"))
            self.desk.dispatcher.receipt_received(self.link, RECEIVED)
        self.assertEqual((self.runner.ids(), self.desk.acks), (["c1"], [("c1", "ok")] * 3))
        self.assertEqual(self.link.sent, [self.link.sent[0]] * 3, "a failure in the place of what was delivered")
        self.assertEqual((self.desk.journal.unconfirmed(), self.stats.resent), ([], 2))

    def test_duplicate_of_a_command_whose_result_is_no_longer_held(self) -> None:
        for command_id, output in (("c1", "x" * MAX_RECENT_SIZE), ("c2", "fine")):
            self.desk.order(command(command_id))
            self.runner.runs[-1].finish(output)
            self.desk.dispatcher.receipt_received(self.link, RECEIVED)
        for number in range(MAX_RECENT):
            self.desk.order(command(f"n{number}"))
            self.runner.runs[-1].finish()
        del self.link.sent[:]
        for command_id in ("c1", "c2", "n1"):
            self.desk.order(command(command_id))
        self.assertEqual(self.link.codes(), ["already-confirmed"] * 2 + [0])
        error = self.link.sent[1].details.error or {}
        self.assertEqual((error["executed"], error["retriable"]), ("yes", False))

    def test_changed_secret_is_the_same_request(self) -> None:
        self.desk.order(command("c1"))
        changed = command("c1").to_wire() | {"password": "another"}
        self.desk.order(parse_execute_command(changed))
        self.assertEqual(self.stats.joined, 1)

    def test_what_does_not_change_what_runs_is_the_same_request(self) -> None:
        hop = JumpHost(host="gate", username="u", password=Secret("p1"))
        self.desk.order(command("c1", env=(("A", "1"), ("B", "2")), via=(hop,)))
        self.desk.order(
            command(
                "c1",
                env=(("B", "2"), ("A", "1")),
                via=(JumpHost(host="gate", username="u", password=Secret("p2")),),
                timeout=5.0,
                stream=True,
                extended=True,
            )
        )
        self.assertEqual(self.stats.joined, 1)

    def test_every_field_that_changes_what_runs_makes_another_request(self) -> None:
        gate = JumpHost(host="gate", username="u")
        changes: list[dict[str, Any]] = [
            {"cwd": "/tmp"},
            {"env": (("A", "1"),)},
            {"env": (("A", "2"),)},
            {"stdin": b"yes"},
            {"stdin": b"\xff"},
            {"via": (gate,)},
            {"via": (gate, gate)},
            {"via": (JumpHost(host="gate2", username="u"),)},
            {"via": (JumpHost(host="gate", username="u2"),)},
            {"via": (JumpHost(host="gate", port=23, username="u"),)},
            {"via": (JumpHost(host="gate", written="gate.", username="u"),)},  # which may be another machine
            {"written": "web1."},
        ]
        self.desk = Desk(max_commands=64)
        self.desk.order(command("c1"))
        for change in changes:
            self.desk.order(command("c1", **change))
        self.assertEqual(self.desk.acks[1:], [("c1", "duplicate-mismatch")] * len(changes))
        for number, change in enumerate(changes):  # and each from each other
            self.desk.order(command(f"d{number}", host=f"h{number}", **change))
            self.desk.order(command(f"d{number}", host=f"h{number}", **changes[number - 1]))
        self.assertEqual(self.desk.dispatcher.stats.refused["duplicate-mismatch"], 2 * len(changes))

    def test_fingerprint_is_worth_nothing_without_its_key(self) -> None:
        prints = []
        for key in (b"one", b"one", b"two", None, None):
            journal = SlowJournal()
            limits = Limits(max_commands=1, max_queue=1, default_timeout=60.0, max_timeout=60.0)
            read_key = None if key is None else partial(bytes, key)
            dispatcher = Dispatcher(Clock(), HeldRunner(), journal, limits, read_key)
            dispatcher.command_received(command("c1", stdin=b"guess"), lambda _: None)
            journal.record()
            entry = journal.lookup("c1")
            assert entry is not None
            prints.append(entry.fingerprint)
        self.assertEqual(prints[0], prints[1])
        self.assertEqual(len(set(prints)), 4)

    def test_other_request_under_the_id_of_a_confirmed_command_gets_a_result(self) -> None:
        self.desk.order(command("c1"))
        self.runner.runs[0].finish()
        self.desk.dispatcher.receipt_received(self.link, RECEIVED)
        self.desk.order(command("c1", text="reboot"))
        self.assertEqual((self.link.codes(), self.runner.ids()), ([0, "duplicate-mismatch"], ["c1"]))


class UnacknowledgedTests(SynchronousTestCase):
    """
    Another command under an id for which a result is due, where the main server asked for no acknowledgement: it gets
    a failure result at once, beside the result that is due.
    """

    def setUp(self) -> None:
        self.desk = Desk()
        self.runner, self.link = self.desk.runner, self.desk.link

    def order(self, text: str = "uptime", **fields: Any) -> None:
        self.desk.dispatcher.command_received(command("c1", text=text, **fields), no_acknowledgement)

    def receive(self, command_id: str | None = None) -> None:
        self.desk.dispatcher.receipt_received(self.desk.link, Receipt(success=True, command_id=command_id))

    def due(self) -> list[str]:
        return list(self.desk.journal.unconfirmed())

    def test_while_the_other_runs(self) -> None:
        self.order()
        self.order("reboot", extended=True)
        self.assertEqual(self.link.codes(), ["duplicate-mismatch"])
        failure = self.link.sent[0]
        self.assertEqual((failure.command_id, failure.stdout, failure.exit_code), ("c1", "", 1))
        self.assertIn("Every command needs its own commandId", failure.stderr)
        self.assertIn("error", failure.to_wire()["result"])  # as the refused command asked for it
        self.receive()
        self.assertIs(self.desk.dispatcher.status_asked("c1"), CommandState.RUNNING)
        self.runner.runs[0].finish()
        self.assertEqual((self.link.codes()[1:], self.runner.ids(), self.due()), ([0], ["c1"], ["c1"]))
        self.receive()
        self.assertEqual(self.due(), [])

    def test_when_the_other_has_ended(self) -> None:
        """The receipts may come in any order, and none is taken for another's."""
        for names in (("c1", "c1"), (None, None)):
            self.desk = Desk()
            self.order()
            self.desk.runner.runs[0].finish()
            self.order("reboot")
            self.assertEqual(self.desk.link.codes(), [0, "duplicate-mismatch"])
            for name in names:
                self.assertEqual(self.desk.journal.outstanding, 1 if self.due() else 0)
                self.receive(name)
            self.assertEqual((self.due(), self.desk.dispatcher.stats.stray), ([], 0))

    def test_it_is_sent_once(self) -> None:
        """A link that is lost takes it along, as it would an acknowledgement; the result that is due comes again."""
        self.order()
        self.order("reboot")
        self.desk.disconnect()
        self.order("reboot")
        again = self.desk.connect()
        self.assertEqual(again.sent, [])
        self.runner.runs[0].finish()
        self.assertEqual(again.codes(), [0])
        self.desk.disconnect()
        self.assertEqual(self.desk.connect().codes(), [0])

    def test_refused_by_the_main_server(self) -> None:
        self.order()
        self.order("reboot")
        for _ in range(5):
            self.desk.dispatcher.receipt_received(self.link, Receipt(success=False, error="no such command"))
        self.runner.runs[0].finish()
        self.assertEqual((self.link.codes()[1:], self.desk.dispatcher.stats.given_up), ([0], 0))

    def test_a_main_server_without_receipts(self) -> None:
        desk = self.desk = Desk(receipts=False)
        self.order()
        self.order("reboot")
        desk.clock.advance(PATIENCE)
        desk.link.answer()
        self.assertEqual((desk.journal.noted("receipts"), desk.dispatcher.stats.presumed), ("never", 1))
        self.assertIs(desk.dispatcher.status_asked("c1"), CommandState.RUNNING)
        desk.runner.runs[0].finish()
        self.assertEqual((desk.link.codes(), self.due()), (["duplicate-mismatch", 0], ["c1"]))

    def test_a_result_that_the_journal_did_not_take(self) -> None:
        """It is held in memory, and the answer to the failure under its id, whichever, does not touch it."""
        logged = watch_log(self)
        for answer in (Receipt(success=True), Receipt(success=False, error="no such command")):
            desk = self.desk = Desk(journal=(journal := SlowJournal()))
            self.order()
            while journal.pending:
                journal.record()
            self.order("reboot")
            desk.runner.runs[0].finish()
            self.assertEqual(journal.steps(), ["finish"])
            journal.fail(JournalUnavailable(reason="the disk is full"))
            desk.dispatcher.receipt_received(desk.link, answer)
            desk.clock.advance(2 * RETRY_DELAY)
            self.assertEqual(desk.link.codes(), ["duplicate-mismatch", 0])
            desk.disconnect()
            self.assertEqual(desk.connect().codes(), [0])
        self.assertEqual([formatEvent(event) for event in logged if "Internal error" in formatEvent(event)], [])

    def test_one_waits_while_another_one_is_confirmed(self) -> None:
        self.order()
        self.order("reboot")
        self.link.flow.pauseProducing()
        self.order("halt")
        self.receive()
        self.link.flow.resumeProducing()
        self.assertEqual(self.link.codes(), ["duplicate-mismatch"] * 2)

    def test_those_that_wait_are_bounded(self) -> None:
        """A main server that reads nothing: one waits for each id, and not too many of them."""
        self.patch(link_sender, "MAX_ONCE", 2)
        desk = self.desk = Desk(max_commands=9, max_queue=9)
        for number in range(4):
            desk.order(command(f"c{number}", host=f"h{number}"))
        desk.link.flow.pauseProducing()
        for _ in range(3):
            for number in range(4):
                other = command(f"c{number}", text="reboot")
                desk.dispatcher.command_received(other, no_acknowledgement)
        desk.link.flow.resumeProducing()
        self.assertEqual(desk.link.ids(), ["c0", "c1"])

    def test_invalid_command_under_the_id(self) -> None:
        error = InvalidMessage(event="execute_command", field="port", reason="is missing", command_id="c1")
        self.order()
        self.desk.dispatcher.invalid_received(error, no_acknowledgement)
        self.assertEqual(self.link.codes(), ["invalid-message"])
        self.receive()
        self.runner.runs[0].finish()
        self.assertEqual((self.link.codes()[1:], self.due()), ([0], ["c1"]))

    def test_with_no_result_due(self) -> None:
        """Like any command that is refused: the failure is sent until it is confirmed."""
        self.order()
        self.runner.runs[0].finish()
        self.receive()
        self.order("reboot")
        self.desk.disconnect()
        self.assertEqual(self.desk.connect().codes(), ["duplicate-mismatch"])


class WaitingDuplicateTests(SynchronousTestCase):
    """The same command again and again, while a slow disk has not taken it yet."""

    def test_those_that_wait_are_bounded(self) -> None:
        desk = Desk(journal=(journal := SlowJournal()))
        for _ in range(MAX_WAITING + 50):
            desk.order(command("c1"))
        self.assertEqual(desk.acks, [("c1", "overloaded")] * 50)
        journal.record()
        self.assertEqual(desk.acks[50:], [("c1", "ok")] * MAX_WAITING)
        self.assertEqual(desk.link.sent, [])
