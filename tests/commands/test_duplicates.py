"""
Tests of `relayd.commands.duplicates`: commands that come again.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relayd.commands.dispatcher import Dispatcher, Limits
from relayd.commands.duplicates import MAX_LATE, MAX_WAITING
from relayd.commands.outbox import MAX_RECENT, MAX_RECENT_SIZE
from relayd.errors import InvalidMessage
from relayd.wire.messages import JumpHost, Receipt, Secret
from relayd.wire.parsing import parse_execute_command
from tests.support.dispatching import Desk, HeldRunner, SlowJournal, command

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

    def test_other_request_under_the_id_of_a_running_command_fails_after_its_result(self) -> None:
        """And no sooner: the main server would take the failure for that result."""
        self.desk.order(command("c1"))
        for other in (command("c1", text="reboot"), command("c1", host="web2")):
            self.desk.order(other)
        self.assertEqual(self.desk.acks[1:], [("c1", "duplicate-mismatch")] * 2)
        self.assertEqual((self.link.sent, self.stats.refused["duplicate-mismatch"]), ([], 2))
        self.runner.runs[0].finish()
        self.desk.order(command("c1", text="reboot"))
        self.assertEqual((self.link.codes(), self.runner.ids()), ([0], ["c1"]))
        self.desk.dispatcher.receipt_received(self.link, RECEIVED)
        self.assertEqual(self.link.codes(), [0, "duplicate-mismatch"])
        self.desk.dispatcher.receipt_received(self.link, RECEIVED)
        self.assertEqual(self.link.codes(), [0, "duplicate-mismatch"])

    def test_a_message_under_that_id_that_is_not_valid_fails_after_its_result(self) -> None:
        self.desk.order(command("c1"))
        error = InvalidMessage(event="execute_command", field="port", reason="is missing", command_id="c1")
        self.desk.dispatcher.invalid_received(error, self.desk.acknowledge("c1"))
        self.runner.runs[0].finish()
        self.assertEqual(self.link.codes(), [0])
        self.desk.dispatcher.receipt_received(self.link, RECEIVED)
        self.assertEqual(self.link.codes(), [0, "invalid-message"])

    def test_the_failure_after_a_dead_letter(self) -> None:
        """The main server had that result and does not want it: it is not waited for."""
        self.desk.order(command("c1"))
        self.desk.order(command("c1", text="reboot"))
        self.runner.runs[0].finish()
        for _ in range(3):
            self.desk.dispatcher.receipt_received(self.link, Receipt(success=False, error="no"))
            self.desk.clock.advance(5)
        self.assertEqual(self.link.codes(), [0, 0, 0, "duplicate-mismatch"])

    def test_failures_that_wait_are_bounded(self) -> None:
        desk = Desk(max_commands=2 * MAX_LATE)
        for number in range(MAX_LATE + 20):
            desk.order(command(f"c{number}"))
            desk.order(command(f"c{number}", text="reboot"))
        for run in list(desk.runner.runs):
            run.finish()
        for _ in range(MAX_LATE + 20):
            desk.dispatcher.receipt_received(desk.link, RECEIVED)
        self.assertEqual(desk.link.codes().count("duplicate-mismatch"), MAX_LATE)

    def test_other_request_under_the_id_of_a_confirmed_command_gets_a_result(self) -> None:
        self.desk.order(command("c1"))
        self.runner.runs[0].finish()
        self.desk.dispatcher.receipt_received(self.link, RECEIVED)
        self.desk.order(command("c1", text="reboot"))
        self.assertEqual((self.link.codes(), self.runner.ids()), ([0, "duplicate-mismatch"], ["c1"]))


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
