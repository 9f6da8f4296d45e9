"""
Tests of `relayd.commands.origins` behind its dispatcher: results go to the main server that ordered them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from relayd.commands.origins import Origins
from relayd.errors import Overloaded
from relayd.interfaces import Claims, IJournal
from relayd.journal.memory import MemoryJournal
from relayd.wire.messages import CommandState, ExecuteCommand, Receipt
from tests.support.dispatching import Desk, RecordingLink, command

A, B, C = "wss://a.example", "wss://b.example", "wss://c.example"


class OriginsCase(SynchronousTestCase):
    servers: Sequence[str] = (A, B)

    def setUp(self) -> None:
        self.journal: IJournal = MemoryJournal()
        for server in ("", *self.servers):
            self.journal.note(f"receipts {server}".strip(), "yes")
        self.desk = Desk(servers=self.servers, journal=self.journal)
        self.desk.disconnect()
        self.link = self.connect(A)

    def connect(self, server: str) -> RecordingLink:
        self.link = self.desk.connect(RecordingLink(server=server))
        return self.link

    def switch(self, server: str) -> RecordingLink:
        self.desk.disconnect()
        return self.connect(server)

    def order(self, command_id: str, **fields: Any) -> ExecuteCommand:
        """A command of the main server that is connected."""
        order = command(command_id, origin=self.link.server, **fields)
        self.desk.order(order)
        return order

    def finish(self, *ids: str) -> None:
        for command_id in ids:
            if command_id not in self.desk.dispatcher.active:
                self.order(command_id)
            next(run for run in self.desk.runner.runs if run.command.command_id == command_id).finish()

    def confirm(self, command_id: str) -> None:
        self.desk.dispatcher.receipt_received(self.link, Receipt(success=True, command_id=command_id))


class OriginTests(OriginsCase):
    def test_a_result_waits_for_the_main_server_that_ordered_it(self) -> None:
        self.order("a1")
        self.switch(B)
        self.finish("a1", "b1")
        self.assertEqual(self.link.ids(), ["b1"])
        self.assertEqual(self.switch(A).ids(), ["a1"])
        self.assertEqual(self.switch(B).ids(), ["b1"])

    def test_so_does_a_refusal(self) -> None:
        """Which no journal holds."""
        self.desk.runner.refusal = Overloaded(running=1, queued=1)
        self.order("a1")
        self.assertEqual(self.link.ids(), ["a1"])
        self.assertEqual(self.switch(B).ids(), [])
        self.assertEqual(self.switch(A).ids(), ["a1"])

    def test_the_same_id_is_another_command(self) -> None:
        """It is not run, and the other main server does not get the result."""
        self.finish("c1")
        self.switch(B)
        self.order("c1")
        self.assertEqual(len(self.desk.runner.runs), 1)
        self.assertEqual(self.desk.acks, [("c1", "ok"), ("c1", "duplicate-mismatch")])
        self.assertEqual(self.link.ids(), [])
        self.assertEqual(self.switch(A).ids(), ["c1"])
        self.confirm("c1")
        self.switch(B)
        self.order("c1")
        self.assertEqual(dict(self.link.sent[0].details.error or {})["code"], "duplicate-mismatch")
        self.assertEqual(self.link.sent[0].stdout, "")

    def test_the_same_id_while_it_runs(self) -> None:
        self.order("c1")
        self.switch(B)
        self.order("c1")
        self.assertEqual(self.desk.acks, [("c1", "ok"), ("c1", "duplicate-mismatch")])

    def test_another_main_server_cannot_confirm_it(self) -> None:
        self.finish("a1")
        self.switch(B)
        self.confirm("a1")
        self.assertEqual(self.desk.dispatcher.undelivered, 1)

    def test_another_main_server_learns_and_ends_nothing(self) -> None:
        self.finish("a1")
        self.order("a2")
        ask = self.desk.dispatcher.status_asked
        self.assertEqual((ask("a1"), ask("a2")), (CommandState.FINISHED, CommandState.RUNNING))
        self.switch(B)
        self.assertEqual((ask("a1"), ask("a2")), (CommandState.UNKNOWN, CommandState.UNKNOWN))
        self.assertIs(self.desk.dispatcher.cancel_received("a2"), CommandState.UNKNOWN)
        self.assertIn("a2", self.desk.dispatcher.active)
        self.assertFalse(self.desk.dispatcher.active["a2"].cancelled)

    def test_output_goes_to_nobody_else(self) -> None:
        self.order("a1", stream=True)
        self.switch(B)
        output = self.desk.dispatcher.active["a1"].output
        assert output is not None
        output.write("stdout", 0, b"secret")
        self.assertEqual(self.link.events, [])
        self.switch(A)
        output.write("stdout", 6, b"more")
        self.assertEqual(len(self.link.events), 1)

    def test_claims(self) -> None:
        claims = self.desk.dispatcher.claims_of
        self.order("a1")
        self.assertEqual((claims(A), claims(B)), (Claims(commands=True), Claims()))
        self.switch(B)
        self.finish("a1")
        self.finish("b1")
        self.assertEqual((claims(A), claims(B)), (Claims(results=True), Claims(results=True)))
        self.confirm("b1")
        self.assertEqual((claims(A), claims(B)), (Claims(results=True), Claims()))

    def test_which_one_ordered_what_an_earlier_process_began(self) -> None:
        """The audit log tells that, of commands that nobody finished."""
        self.order("a1")
        self.switch(B)
        self.order("b1")
        later = Desk(servers=[A, B], journal=self.journal).dispatcher
        self.assertEqual([later.origin_of(each) for each in ("a1", "b1", "no")], [A, B, A])
        alone = Desk(servers=[], journal=self.journal).dispatcher
        self.assertEqual(alone.origin_of("b1"), "")

    def test_a_dead_letter_is_offered_to_nobody_else(self) -> None:
        self.finish("a1")
        for _ in range(3):
            self.desk.dispatcher.receipt_received(self.link, Receipt(success=False, command_id="a1", error="no"))
            self.desk.clock.advance(5.0)
        self.assertEqual(self.desk.dispatcher.claims_of(A), Claims())
        self.assertEqual(self.switch(B).ids(), [])
        self.assertEqual(self.switch(A).ids(), ["a1"])

    def test_the_end_does_not_wait_for_one_that_is_not_connected(self) -> None:
        self.finish("a1")
        self.switch(B)
        self.successResultOf(self.desk.dispatcher.drain(30.0))


class ConnectedTests(OriginsCase):
    """Results go to whichever is connected."""

    servers = ()

    def test_any_main_server_gets_it(self) -> None:
        self.order("a1")
        self.switch(B)
        self.finish("a1")
        self.assertEqual(self.link.ids(), ["a1"])
        self.order("a1")
        self.assertEqual(self.link.ids(), ["a1", "a1"], "the same command, and the same result")
        self.assertEqual(len(self.desk.runner.runs), 1)
        self.assertEqual(self.desk.dispatcher.claims_of(A), self.desk.dispatcher.claims_of(B))


class NumberTests(SynchronousTestCase):
    """The names of main servers in the journal."""

    def test_they_outlive_the_process_and_the_order(self) -> None:
        journal = MemoryJournal()
        before = Origins(journal, [A, B])
        self.assertEqual((before.number_of(A), before.number_of(B)), (1, 2))
        after = Origins(journal, [C, B])
        self.assertEqual((after.number_of(C), after.number_of(B)), (3, 2))
        self.assertEqual([after.name_of(number) for number in (0, 1, 2, 3, 9)], [C, C, B, C, C])

    def test_one_alone_is_not_recorded(self) -> None:
        journal = MemoryJournal()
        alone = Origins(journal, [A])
        self.assertEqual((alone.number_of(A), alone.name_of(5)), (0, ""))
        self.assertIsNone(journal.noted("server 1"))
