"""
Tests of `relayd.commands.dispatcher` and `relayd.commands.scheduler`: what becomes of each order of the main server.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import Clock
from twisted.logger import LogLevel, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from relayd.commands.dispatcher import Dispatcher, Limits
from relayd.commands.outbox import MAX_RECENT, MAX_RECENT_SIZE
from relayd.errors import CredentialMissing, HostFailure, InvalidMessage, ProtocolError, RelayError
from relayd.interfaces import ICommandReceiver, ICommandRunner, IOutputSink, Starting
from relayd.journal.memory import MemoryJournal
from relayd.language.texts import printable
from relayd.wire.messages import CommandResult, CommandState, ExecuteCommand, JumpHost, Receipt, Secret
from relayd.wire.parsing import parse_execute_command
from tests.support.dispatching import (
    PASSWORD,
    Desk,
    HeldRunner,
    RecordingLink,
    SlowJournal,
    command,
    result,
    watch_log,
)

RECEIVED = Receipt(success=True)


class WayOfACommandTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.desk = Desk()
        self.runner, self.link = self.desk.runner, self.desk.link

    def test_interface(self) -> None:
        self.assertTrue(verifyObject(ICommandReceiver, self.desk.dispatcher))

    def test_command_is_acknowledged_run_and_answered(self) -> None:
        order = command("c1")
        self.desk.order(order)
        self.assertEqual(self.desk.acks, [("c1", "ok")])
        self.assertIs(self.runner.runs[0].command, order)
        self.assertEqual(self.link.sent, [])
        self.runner.runs[0].finish("it is fine")
        self.assertEqual(self.link.sent, [result("c1", "it is fine")])
        self.assertEqual((self.desk.dispatcher.running, self.desk.dispatcher.queued), (0, 0))
        stats = self.desk.dispatcher.stats
        self.assertEqual((stats.accepted, dict(stats.finished)), (1, {"ok": 1}))

    def test_exit_code_counts_as_an_outcome_of_its_own(self) -> None:
        self.desk.order(command("c1"))
        self.runner.runs[0].finish(exit_code=3)
        self.assertEqual(dict(self.desk.dispatcher.stats.finished), {"nonzero": 1})

    def test_deadline_counts_from_receipt(self) -> None:
        self.desk.clock.advance(1000)
        for command_id, timeout in (("default", None), ("own", 5.0), ("too long", 1e6)):
            self.desk.order(command(command_id, host=command_id, timeout=timeout))
        self.assertEqual([run.deadline for run in self.runner.runs], [1060.0, 1005.0, 1600.0])

    def test_deadline_includes_the_queue(self) -> None:
        desk = Desk(max_commands=1)
        desk.order(command("c1"))
        desk.order(command("c2", timeout=30.0))
        desk.clock.advance(10)
        desk.runner.runs[0].finish()
        self.assertEqual(desk.runner.runs[1].deadline, 30.0)
        self.assertEqual(desk.clock.getDelayedCalls(), [])

    def test_the_runner_learns_what_was_ordered(self) -> None:
        """However long a command waited: messages name the time from receipt."""
        desk = Desk(max_commands=1)
        desk.order(command("c1", timeout=40.0))
        desk.order(command("c2", timeout=40.0))
        desk.clock.advance(30)
        desk.runner.runs[0].finish()
        self.assertEqual([(run.deadline - 40.0, run.timeout) for run in desk.runner.runs], [(0.0, 40.0)] * 2)

    def test_ended_early_to_be_answered_in_time(self) -> None:
        """By half a second, and a tenth of the timeout at most; messages name what was ordered."""
        desk = Desk(max_commands=3, timeout_margin=0.5)
        for command_id, timeout in (("long", 40.0), ("default", None), ("short", 2.0), ("queued", 10.0)):
            desk.order(command(command_id, host=command_id, timeout=timeout))
        self.assertEqual([run.deadline for run in desk.runner.runs], [39.5, 59.5, 1.8])
        self.assertEqual([run.timeout for run in desk.runner.runs], [40.0, 60.0, 2.0])
        self.assertEqual([run.grace for run in desk.runner.runs], [0.25, 0.25, 0.1])
        desk.clock.advance(9.5)
        self.assertEqual(desk.link.ids(), ["queued"])
        self.assertIn("timed out after 10 s in the queue", desk.link.sent[0].stderr)

    def test_not_ended_early(self) -> None:
        """Where the site does not want it, a result takes the time that it takes."""
        self.desk.order(command("c1", timeout=40.0))
        [run] = self.runner.runs
        self.assertEqual((run.deadline, run.timeout, run.grace), (40.0, 40.0, None))

    def test_deadline_in_the_queue(self) -> None:
        desk = Desk(max_commands=1)
        desk.order(command("c1"))
        desk.order(command("late", timeout=30.0, extended=True))
        desk.order(command("later", timeout=40.0))
        desk.clock.advance(29.9)
        self.assertEqual(desk.link.sent, [])
        desk.clock.advance(0.2)
        self.assertEqual(desk.link.ids(), ["late"])
        [late] = desk.link.sent
        self.assertEqual((late.exit_code, late.extended), (1, True))
        self.assertIn("timed out after 30 s in the queue", late.stderr)
        self.assertEqual(late.details.error, {"code": "timeout", "phase": "queue", "executed": "no", "retriable": True})
        desk.clock.advance(10)
        self.assertEqual(desk.link.ids(), ["late", "later"])
        self.assertEqual(desk.runner.ids(), ["c1"])
        self.assertEqual(desk.clock.getDelayedCalls(), [])

    def test_earlier_deadline_behind_a_later_one(self) -> None:
        desk = Desk(max_commands=1)
        desk.order(command("c1"))
        desk.order(command("patient", timeout=50.0))
        desk.order(command("hasty", timeout=5.0))
        desk.clock.advance(5)
        self.assertEqual(desk.link.ids(), ["hasty"])

    def test_turn_that_comes_too_late(self) -> None:
        """The slot is free only when the deadline has passed, and before the alarm of the queue goes off."""
        desk = Desk(max_commands=1)
        desk.order(command("c1"))
        desk.clock.callLater(5.0, desk.runner.runs[0].finish)
        desk.order(command("c2", timeout=5.0))
        desk.clock.advance(5)
        self.assertEqual(desk.runner.ids(), ["c1"])
        self.assertEqual(desk.link.codes(), [0, "timeout"])

    def test_slow_host_does_not_hold_up_another(self) -> None:
        for number in range(8):
            self.desk.order(command(f"slow{number}", host="slow"))
        self.desk.order(command("quick", host="quick"))
        self.assertIn("quick", self.runner.ids())

    def test_commands_that_end_at_once_do_not_nest(self) -> None:
        """A long queue of commands that each end in the call that starts them, one after the other."""

        @implementer(ICommandRunner)
        class FirstIsHeld:
            def __init__(self) -> None:
                self.held: Deferred[CommandResult] = Deferred()
                self.count = 0

            def refuses(self, command: ExecuteCommand) -> RelayError | None:
                return None

            def run_command(
                self,
                command: ExecuteCommand,
                deadline: float,
                starting: Starting,
                output: IOutputSink | None = None,
                **_: Any,
            ) -> Deferred[CommandResult]:
                self.count += 1
                return self.held if self.count == 1 else succeed(result(command.command_id))

            def close(self) -> Deferred[None]:
                return succeed(None)

        runner, link = FirstIsHeld(), RecordingLink()
        limits = Limits(max_commands=1, max_queue=5000, default_timeout=60.0, max_timeout=60.0)
        dispatcher = Dispatcher(Clock(), runner, MemoryJournal(), limits)
        dispatcher.link_ready(link)
        for number in range(3000):
            dispatcher.command_received(command(f"c{number}"), lambda _: None)
        runner.held.callback(result("c0"))
        self.assertEqual(sorted(link.ids()), sorted(f"c{number}" for number in range(3000)))


class FailureTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.desk = Desk()
        self.logged = watch_log(self)

    def lines(self, level: LogLevel | None = None) -> list[str]:
        return [formatEvent(event) for event in self.logged if level in (None, event["log_level"])]

    def test_relay_error_becomes_a_result(self) -> None:
        self.desk.order(command("c1", extended=True))
        self.desk.runner.runs[0].done.errback(
            HostFailure(message="no route", code="unreachable", phase="connect", executed="no", retriable=True)
        )
        [sent] = self.desk.link.sent
        self.assertEqual((sent.stdout, sent.stderr, sent.exit_code, sent.extended), ("", "no route", 1, True))
        self.assertEqual(self.desk.link.codes(), ["unreachable"])
        self.assertEqual(self.desk.dispatcher.running, 0)
        self.assertEqual(self.lines(LogLevel.error), [])

    def test_unexpected_error_is_answered_and_its_text_stays_here(self) -> None:
        self.desk.order(command("c1"))
        try:
            raise ValueError(f"could not read {PASSWORD}")
        except ValueError:
            self.desk.runner.runs[0].done.errback(Failure())
        [sent] = self.desk.link.sent
        self.assertEqual(
            sent.details.error, {"code": "internal", "phase": "", "executed": "unknown", "retriable": False}
        )
        self.assertNotIn(PASSWORD, sent.stderr)
        [line] = self.lines(LogLevel.error)
        self.assertRegex(line, r"^Could not run command c1: builtins\.ValueError at test_dispatcher\.py:\d+ in ")
        self.assertNotIn(PASSWORD, repr(self.logged))
        self.assertEqual(self.desk.dispatcher.running, 0)

    def test_runner_that_raises(self) -> None:
        @implementer(ICommandRunner)
        class Broken:
            def refuses(self, command: ExecuteCommand) -> RelayError | None:
                return None

            def run_command(
                self,
                command: ExecuteCommand,
                deadline: float,
                starting: Starting,
                output: IOutputSink | None = None,
                **_: Any,
            ) -> Deferred[CommandResult]:
                raise LookupError(PASSWORD)

            def close(self) -> Deferred[None]:
                return succeed(None)

        link = RecordingLink()
        limits = Limits(max_commands=1, max_queue=1, default_timeout=60.0, max_timeout=60.0)
        dispatcher = Dispatcher(Clock(), Broken(), MemoryJournal(), limits)
        dispatcher.link_ready(link)
        dispatcher.command_received(command("c1"), lambda _: None)
        self.assertEqual(link.codes(), ["internal"])
        self.assertEqual(dispatcher.running, 0)
        self.assertNotIn(PASSWORD, repr(self.logged))

    def test_place_of_an_error_is_the_innermost_of_our_own(self) -> None:
        """Something raises that our code has called: our line tells more."""

        class Text(str):
            def __getitem__(self, key: object) -> str:
                raise ValueError(PASSWORD)

        self.desk.order(command("c1"))
        try:
            printable(Text(), 1)
        except ValueError:
            self.desk.runner.runs[0].done.errback(Failure())
        [line] = self.lines(LogLevel.error)
        self.assertRegex(line, r"builtins\.ValueError at relayd/language/texts\.py:\d+ in printable$")
        self.assertNotIn(PASSWORD, repr(self.logged))

    def test_runner_that_gives_up_by_itself(self) -> None:
        self.desk.order(command("c1"))
        self.desk.runner.runs[0].done.errback(CancelledError())
        [sent] = self.desk.link.sent
        self.assertEqual(
            sent.details.error, {"code": "cancelled", "phase": "run", "executed": "unknown", "retriable": False}
        )

    def test_log_lines_tell_all_but_the_command_and_its_output(self) -> None:
        self.desk.order(command("c1", text="echo canary-text"))
        self.desk.clock.advance(1.5)
        self.desk.runner.runs[0].finish("canary-output")
        self.assertEqual(
            self.lines(LogLevel.info),
            [
                "Accepted command c1 for root@web1:22",
                "Finished command c1 for root@web1:22: ok, exit 0, 1.500 s, 13 bytes of output, 0 of errors",
            ],
        )
        self.assertNotIn("canary", repr(self.logged))


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

    def test_other_request_under_the_id_of_a_running_command_is_refused_without_a_result(self) -> None:
        self.desk.order(command("c1"))
        for other in (command("c1", text="reboot"), command("c1", host="web2")):
            self.desk.order(other)
        self.assertEqual(self.desk.acks[1:], [("c1", "duplicate-mismatch")] * 2)
        self.assertEqual((self.link.sent, self.stats.refused["duplicate-mismatch"]), ([], 2))
        self.runner.runs[0].finish()
        self.desk.order(command("c1", text="reboot"))
        self.assertEqual((self.link.codes(), self.runner.ids()), ([0], ["c1"]))

    def test_other_request_under_the_id_of_a_confirmed_command_gets_a_result(self) -> None:
        self.desk.order(command("c1"))
        self.runner.runs[0].finish()
        self.desk.dispatcher.receipt_received(self.link, RECEIVED)
        self.desk.order(command("c1", text="reboot"))
        self.assertEqual((self.link.codes(), self.runner.ids()), ([0, "duplicate-mismatch"], ["c1"]))


class RefusalTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.desk = Desk(max_commands=1, max_queue=1)
        self.link = self.desk.link

    def test_over_the_limits(self) -> None:
        for number in range(3):
            self.desk.order(command(f"c{number}", host=f"host{number}"))
        self.assertEqual(self.desk.acks[2], ("c2", "overloaded"))
        [refusal] = self.link.sent
        self.assertEqual((refusal.command_id, refusal.stdout, refusal.exit_code), ("c2", "", 1))
        self.assertIn("1 commands are running and 1 are queued", refusal.stderr)
        self.assertEqual(self.desk.dispatcher.stats.refused["overloaded"], 1)

    def test_refused_command_runs_when_it_comes_again(self) -> None:
        for number in range(3):
            self.desk.order(command(f"c{number}", host=f"host{number}"))
        self.desk.runner.runs[0].finish()
        self.desk.order(command("c2", host="host2"))
        self.desk.runner.runs[1].finish()
        self.desk.runner.runs[2].finish()
        self.assertEqual(self.link.ids(), ["c2", "c0", "c1", "c2"])
        self.assertEqual(self.link.codes(), ["overloaded", 0, 0, 0])

    def test_refusal_of_a_command_that_was_accepted_since_is_not_sent_again(self) -> None:
        for number in range(3):
            self.desk.order(command(f"c{number}", host=f"host{number}"))
        self.desk.runner.runs[0].finish()
        self.desk.order(command("c2", host="host2"))
        self.desk.disconnect()
        self.assertEqual(self.desk.connect().ids(), ["c0"])

    def test_unconfirmed_refusal_is_sent_again(self) -> None:
        for number in range(3):
            self.desk.order(command(f"c{number}", host=f"host{number}"))
        self.desk.disconnect()
        self.assertEqual(self.desk.connect().codes(), ["overloaded"])
        self.desk.dispatcher.receipt_received(self.desk.link, RECEIVED)
        self.desk.disconnect()
        self.assertEqual(self.desk.connect().sent, [])

    def invalid(self, command_id: str | None, event: str = "execute_command") -> None:
        error = InvalidMessage(event=event, field="port", reason="is missing", command_id=command_id)
        self.desk.dispatcher.invalid_received(error, self.desk.acknowledge(str(command_id)))

    def test_invalid_command_gets_a_result(self) -> None:
        self.invalid("c1")
        self.assertEqual(self.desk.acks, [("c1", "invalid-message")])
        self.assertEqual(self.link.ids(), ["c1"])
        self.assertEqual(self.link.sent[0].stderr, "execute_command was refused: port is missing.")
        self.assertEqual(self.desk.dispatcher.stats.refused["invalid-message"], 1)

    def test_id_that_is_a_number(self) -> None:
        """Its result has one; and the same digits as a text are the same command, which runs once."""
        self.desk.order(command("7", numeric_id=True))
        self.desk.order(command("7"))
        self.desk.order(command("7", text="something else"))
        self.assertEqual(len(self.desk.runner.runs), 1)
        self.assertEqual(self.desk.acks, [("7", "ok"), ("7", "ok"), ("7", "duplicate-mismatch")])
        self.desk.runner.runs[0].finish()
        self.assertEqual([sent.to_wire()["commandId"] for sent in self.link.sent], [7])

    def test_refusals_under_a_number(self) -> None:
        self.desk.runner.refusal = CredentialMissing(username="root", host="web1")
        self.desk.order(command("7", numeric_id=True))
        error = InvalidMessage(event="execute_command", field="port", reason="?", command_id="8", numeric_id=True)
        self.desk.dispatcher.invalid_received(error, self.desk.acknowledge("8"))
        self.assertEqual([sent.to_wire()["commandId"] for sent in self.link.sent], [7, 8])

    def test_command_of_a_number_that_fails(self) -> None:
        self.desk.order(command("7", numeric_id=True))
        self.desk.runner.runs[0].done.errback(CredentialMissing(username="root", host="web1"))
        self.assertEqual(self.link.sent[0].to_wire()["commandId"], 7)

    def test_id_that_is_not_valid(self) -> None:
        """Its result names it; the log shows nothing of it that could be mistaken for the log's own."""
        logged = watch_log(self)
        self.invalid("a\nb\x1b[2J")
        self.assertEqual(self.link.ids(), ["a\nb\x1b[2J"])
        lines = [formatEvent(event) for event in logged if event["log_level"] is LogLevel.warn]
        self.assertEqual(len(lines), 1)
        self.assertTrue(lines[0].isprintable(), lines)

    def test_invalid_command_without_an_id_is_counted(self) -> None:
        self.invalid(None)
        self.assertEqual((self.desk.acks, self.link.sent), ([("None", "invalid-message")], []))
        self.assertEqual(self.desk.dispatcher.stats.refused["invalid-message"], 1)

    def test_invalid_command_under_a_known_id_gets_no_result_of_its_own(self) -> None:
        self.desk.order(command("c1"))
        self.invalid("c1")
        self.assertEqual(self.link.sent, [])
        self.desk.runner.runs[0].finish()
        self.invalid("c1")
        self.assertEqual(self.link.codes(), [0])

    def test_invalid_receipt_is_no_command(self) -> None:
        self.invalid("c1", event="command_result_received")
        self.assertEqual(self.link.sent, [])

    def test_command_that_the_runner_will_not_have(self) -> None:
        self.desk.runner.refusal = CredentialMissing(username="root", host="web1")
        self.desk.order(command("c1", extended=True))
        self.assertEqual((self.desk.acks, self.desk.runner.runs), ([("c1", "no-credential")], []))
        [refusal] = self.link.sent
        self.assertIn("no credential of its own for root@web1.", refusal.stderr)
        self.assertEqual((refusal.exit_code, (refusal.details.error or {})["executed"]), (1, "no"))
        self.desk.runner.refusal = None
        self.desk.order(command("c1"))
        self.assertEqual(self.desk.acks[1], ("c1", "ok"))

    def test_runner_is_not_asked_about_what_is_known(self) -> None:
        self.desk.order(command("c1"))
        self.desk.runner.refusal = CredentialMissing(username="root", host="web1")
        self.desk.order(command("c1"))
        self.assertEqual(self.desk.acks, [("c1", "ok"), ("c1", "ok")])

    def test_runner_that_cannot_say(self) -> None:
        logged = watch_log(self)

        def broken(command: ExecuteCommand) -> None:
            raise LookupError(PASSWORD)

        self.patch(self.desk.runner, "refuses", broken)
        self.desk.order(command("c1"))
        self.assertEqual((self.desk.acks, self.link.codes()), ([("c1", "internal")], ["internal"]))
        self.assertNotIn(PASSWORD, repr(logged))


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
                "The main server wants command c1 to end, which is finished",
                "The main server wants command c9 to end, which is unknown",
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
