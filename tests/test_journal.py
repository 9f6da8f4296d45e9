"""
Tests of `relayd.journal`.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from relayd.interfaces import IJournal, JournalEntry
from relayd.journal import MemoryJournal
from tests.support.dispatching import command, result


class MemoryJournalTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.journal = MemoryJournal(max_tombstones=2)

    def finished(self, *ids: str) -> None:
        for command_id in ids:
            self.successResultOf(self.journal.accept(command(command_id), b"print of " + command_id.encode()))
            self.successResultOf(self.journal.start(command_id))
            self.successResultOf(self.journal.finish(result(command_id)))

    def test_interface(self) -> None:
        self.assertTrue(verifyObject(IJournal, self.journal))

    def test_unknown_command(self) -> None:
        self.assertIsNone(self.journal.lookup("c1"))

    def test_command_from_acceptance_to_confirmation(self) -> None:
        accepted = JournalEntry(fingerprint=b"print", finished=False, result=None)
        self.successResultOf(self.journal.accept(command("c1"), b"print"))
        self.assertEqual(self.journal.lookup("c1"), accepted)
        self.successResultOf(self.journal.start("c1"))
        self.assertEqual(self.journal.lookup("c1"), accepted)
        self.assertEqual(self.journal.unconfirmed(), [])
        self.successResultOf(self.journal.finish(result("c1")))
        self.assertEqual(
            self.journal.lookup("c1"), JournalEntry(fingerprint=b"print", finished=True, result=result("c1"))
        )
        self.assertEqual(self.journal.unconfirmed(), [result("c1")])
        self.journal.confirm("c1")
        self.assertEqual(self.journal.lookup("c1"), JournalEntry(fingerprint=b"print", finished=True, result=None))
        self.assertEqual(self.journal.unconfirmed(), [])

    def test_unconfirmed_results_are_in_the_order_of_their_end(self) -> None:
        self.successResultOf(self.journal.accept(command("slow"), b"print"))
        self.finished("b", "a")
        self.successResultOf(self.journal.finish(result("slow")))
        self.journal.confirm("a")
        self.assertEqual([held.command_id for held in self.journal.unconfirmed()], ["b", "slow"])

    def test_oldest_tombstones_leave_first(self) -> None:
        self.finished("a", "b", "c")
        for command_id in ("b", "a", "c"):
            self.journal.confirm(command_id)
        self.assertEqual([self.journal.lookup(command_id) is None for command_id in "bac"], [True, False, False])

    def test_confirming_twice_or_too_early_changes_nothing(self) -> None:
        self.finished("a", "b")
        self.journal.confirm("a")
        self.journal.confirm("b")
        self.journal.confirm("a")
        self.journal.confirm("unknown")
        self.successResultOf(self.journal.accept(command("c1"), b"print"))
        self.journal.confirm("c1")
        self.assertFalse(self.journal.lookup("c1").finished)  # type: ignore[union-attr]
        self.assertIsNotNone(self.journal.lookup("a"))
        self.assertIsNotNone(self.journal.lookup("b"))

    def test_close(self) -> None:
        self.successResultOf(self.journal.close())
