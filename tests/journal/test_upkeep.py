"""
Tests of `relayd.journal.upkeep`: what is removed when it was kept for long enough.
"""

from __future__ import annotations

from twisted.logger import LogLevel

from relayd.interfaces import EntryState
from relayd.journal import store as journal_store
from relayd.journal.upkeep import PRUNE_AGAIN, PRUNE_INTERVAL
from tests.support.journals import LIMITS, DurableCase


class PruneTests(DurableCase):
    """Ids and results that are old."""

    def test_ids_are_pruned_by_age(self) -> None:
        self.finish("old")
        self.journal.confirm("old")
        self.settle()
        self.later(LIMITS.retention - 10)
        self.finish("young")
        self.journal.confirm("young")
        self.settle()
        self.later(20)
        self.clock.advance(PRUNE_INTERVAL)
        self.settle()
        self.assertEqual(self.rows("SELECT id FROM command"), [("young",)])

    def test_ids_are_pruned_by_number(self) -> None:
        for command_id in ("a", "b", "c"):
            self.finish(command_id)
            self.journal.confirm(command_id)
            self.settle()
            self.later(1)
        self.clock.advance(PRUNE_AGAIN)
        self.settle()
        self.assertEqual(self.rows("SELECT id FROM command ORDER BY id"), [("b",), ("c",)])

    def test_results_that_nobody_confirms_expire(self) -> None:
        self.finish("a", "b")
        self.journal.bury("b")
        self.settle()
        self.later(LIMITS.retention + 1)
        self.clock.advance(PRUNE_INTERVAL)
        self.settle()
        self.assertEqual((self.journal.unconfirmed(), self.state("a")), ([], EntryState.CONFIRMED))
        self.assertEqual(self.rows("SELECT count(*) FROM result"), [(0,)])
        self.assertIn("2 results were not confirmed for", self.lines(LogLevel.warn)[0])

    def test_systems_clock_does_not_make_ids_old(self) -> None:
        """A day forward and back again, while it runs and between two starts."""
        self.finish("a")
        self.journal.confirm("a")
        self.settle()
        now = journal_store.time.time()
        self.patch(journal_store.time, "time", lambda: now + 86400)
        self.clock.advance(PRUNE_INTERVAL)
        self.settle()
        self.assertEqual(self.rows("SELECT id FROM command"), [("a",)])
        self.patch(journal_store.time, "time", lambda: now - 86400)
        before = self.journal._store.now()
        self.restart()
        self.assertGreaterEqual(self.journal._store.now(), before - 1)
        self.clock.advance(PRUNE_INTERVAL)
        self.settle()
        self.assertEqual(self.rows("SELECT id FROM command"), [("a",)])

    def later(self, seconds: float) -> None:
        """Time passes, on the journal's own clock; the log does not wait that long."""
        self.archive()
        self.journal._store._time_offset += seconds

    def test_it_closes_while_it_prunes(self) -> None:
        self.finish("c1")
        self.clock.advance(PRUNE_AGAIN)
        self.journal.confirm("c1")
        self.wait(self.journal.close())
        self.journal = None
        self.assertEqual(self.rows("SELECT state FROM command"), [(4,)])
        self.assertEqual(self.clock.getDelayedCalls(), [])
