"""
Tests of `relayd.commands.dispatcher`: what becomes of each order of the main server.
"""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import Clock
from twisted.logger import LogLevel, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from relayd.commands.dispatcher import Dispatcher, Limits
from relayd.errors import CredentialMissing, HostFailure, InvalidMessage
from relayd.interfaces import ICommandReceiver, IOutputSink
from relayd.journal.memory import MemoryJournal
from relayd.language.texts import printable
from relayd.policy.rules import Policy
from relayd.wire.messages import CommandResult, ExecuteCommand, Receipt
from tests.support.dispatching import PASSWORD, Desk, FunctionRunner, RecordingLink, command, result, watch_log

RECEIVED = Receipt(success=True)


class WayOfACommandTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.desk = Desk()
        self.runner, self.link = self.desk.runner, self.desk.link

    def test_interface(self) -> None:
        self.assertTrue(verifyObject(ICommandReceiver, self.desk.dispatcher))

    def test_what_the_rules_say_of_a_command_that_is_not_run(self) -> None:
        """The same as to one that is ordered; it leaves no trace."""
        limits = Limits(max_commands=9, max_queue=9, default_timeout=60.0, max_timeout=60.0)
        self.desk.dispatcher.configure(limits, Policy(allow_hosts=["web1"], deny_commands="reboot"))
        for order in (command("c1"), command("c2", host="web2"), command("c3", text="reboot")):
            said = self.desk.dispatcher.check_asked(order)
            self.assertEqual((self.desk.acks, self.runner.runs, self.link.sent), ([], [], []))
            self.desk.order(order)
            self.assertEqual(self.desk.acks.pop()[1], "ok" if said is None else said.code)
            self.runner.runs.clear()
            self.link.sent.clear()
        self.assertIsNone(self.desk.journal.lookup("c2"))

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

        held: Deferred[CommandResult] = Deferred()
        first = iter([held])

        def run(command: ExecuteCommand, _: IOutputSink | None) -> Deferred[CommandResult]:
            return next(first, None) or succeed(result(command.command_id))

        link = RecordingLink()
        limits = Limits(max_commands=1, max_queue=5000, default_timeout=60.0, max_timeout=60.0)
        dispatcher = Dispatcher(Clock(), FunctionRunner(run), MemoryJournal(), limits)
        dispatcher.link_ready(link)
        for number in range(3000):
            dispatcher.command_received(command(f"c{number}"), lambda _: None)
        held.callback(result("c0"))
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
        def run(command: ExecuteCommand, _: IOutputSink | None) -> Deferred[CommandResult]:
            raise LookupError(PASSWORD)

        link = RecordingLink()
        limits = Limits(max_commands=1, max_queue=1, default_timeout=60.0, max_timeout=60.0)
        dispatcher = Dispatcher(Clock(), FunctionRunner(run), MemoryJournal(), limits)
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
                "Finished command c1 for root@web1:22: ok, exit 0, 1.500 s, 13 bytes of stdout, 0 of stderr",
            ],
        )
        self.assertNotIn("canary", repr(self.logged))


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

    def test_invalid_command_that_asks_for_more(self) -> None:
        error = InvalidMessage(event="execute_command", field="port", reason="?", command_id="c1", extended=True)
        self.desk.dispatcher.invalid_received(error, self.desk.acknowledge("c1"))
        self.assertEqual(self.link.sent[0].to_wire()["result"]["error"]["code"], "invalid-message")

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
