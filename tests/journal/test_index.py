"""
Tests of `relayd.journal.index`: what is known of commands without the disk, and when no more are taken.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from relayd.interfaces import EntryState
from relayd.journal.index import JournalIndex, JournalLimits


class IndexTests(SynchronousTestCase):
    def setUp(self) -> None:
        limits = JournalLimits(max_commands=3, max_bytes=100, max_ids=10, retention=60.0)
        self.index = JournalIndex(limits, max_recent=2)

    def finish(self, *ids: str, size: int = 10, now: float = 0.0) -> None:
        for command_id in ids:
            self.index.add_accepted(command_id, b"print", now)
            self.index.finish(command_id, size, now)

    def state(self, command_id: str) -> EntryState | None:
        entry = self.index.lookup(command_id)
        return None if entry is None else entry.state

    def test_way_of_a_command(self) -> None:
        self.assertIsNone(self.state("c1"))
        self.index.add_accepted("c1", b"print", 0.0)
        self.assertEqual((self.state("c1"), self.index.outstanding), (EntryState.ACCEPTED, 0))
        self.index.finish("c1", 10, 1.0)
        self.assertEqual((self.state("c1"), self.index.outstanding, self.index.size), (EntryState.FINISHED, 1, 10))
        self.assertTrue(self.index.settle("c1"))
        self.assertEqual((self.state("c1"), self.index.outstanding, self.index.size), (EntryState.CONFIRMED, 0, 0))
        self.assertFalse(self.index.settle("c1"))

    def test_latest_confirmed_commands_are_remembered(self) -> None:
        for command_id in "abc":
            self.finish(command_id)
            self.index.settle(command_id)
        self.assertEqual([self.state(command_id) is None for command_id in "abc"], [True, False, False])

    def test_dead_letters_are_not_outstanding(self) -> None:
        self.finish("a", "b", "c")
        self.index.bury("b")
        self.assertEqual((self.index.unconfirmed(), self.index.dead_letters()), (["a", "c"], ["b"]))
        self.assertEqual((self.index.outstanding, self.index.size), (2, 30))
        self.index.settle("b")
        self.assertEqual((self.index.dead_letters(), self.index.dead, self.index.outstanding), ([], 0, 2))

    def test_full(self) -> None:
        self.finish("a", "b")
        self.assertIsNone(self.index.refusal())
        self.index.add_accepted("c", b"print", 0.0)
        self.assertIsNotNone(self.index.refusal(), "as many commands as it takes")
        self.index.finish("c", 80, 0.0)
        self.index.settle("a")
        self.assertIsNone(self.index.refusal())
        self.index.settle("b")
        self.finish("d", size=20)
        self.assertIsNotNone(self.index.refusal(), "as many bytes as it takes")
        self.assertEqual(self.index.figures(5.0).trouble, str(self.index.refusal()))

    def test_figures(self) -> None:
        self.assertEqual(self.index.figures(5.0).oldest, 0.0)
        self.finish("a", now=1.0)
        self.finish("b", now=2.0)
        self.index.bury("a")
        figures = self.index.figures(5.0, "the disk is full")
        self.assertEqual((figures.unconfirmed, figures.dead, figures.size, figures.oldest), (1, 1, 20, 3.0))
        self.assertEqual(figures.trouble, "the disk is full")

    def test_expired(self) -> None:
        self.finish("a", now=0.0)
        self.finish("b", now=10.0)
        self.assertEqual(self.index.expired(60.0), [])
        self.assertEqual(self.index.expired(65.0), ["a"])
