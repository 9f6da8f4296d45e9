"""
Tests of `relayd.journal.memory`.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from relayd.journal.memory import MemoryJournal
from tests.support.journals import LIMITS, ContractTests


class MemoryJournalTests(ContractTests, SynchronousTestCase):
    def setUp(self) -> None:
        self.journal = MemoryJournal(LIMITS)

    def wait(self, deferred: Deferred[Any]) -> Any:
        failures: list[Any] = []
        deferred.addErrback(failures.append)
        outcome = self.successResultOf(deferred)
        if failures:
            failures[0].raiseException()
        return outcome

    def test_oldest_ids_leave_first(self) -> None:
        self.finish("a", "b", "c")
        for command_id in ("b", "a", "c"):
            self.journal.confirm(command_id)
        self.assertEqual([self.journal.lookup(each) is None for each in "bac"], [True, False, False])

    def test_open_and_close(self) -> None:
        self.journal.open()
        self.successResultOf(self.journal.close())
