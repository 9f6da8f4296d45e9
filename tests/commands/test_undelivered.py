"""
Tests of `relayd.commands.undelivered`: results in the journal and in memory, and who waits for them.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from relayd.commands.undelivered import MAX_UNRECORDED, ResultKey, UndeliveredResults
from relayd.journal.memory import MemoryJournal
from relayd.wire.messages import CommandResult
from tests.support.dispatching import command, result

RECORDED, UNRECORDED = ResultKey("c1", True), ResultKey("c1", False)


class UndeliveredTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.journal = MemoryJournal()
        self.results = UndeliveredResults(self.journal)

    def record(self, command_id: str = "c1") -> None:
        self.journal.accept(command(command_id), b"fingerprint")
        self.journal.finish(result(command_id))

    def load(self, key: ResultKey) -> CommandResult | None:
        return self.successResultOf(Deferred.fromCoroutine(self.results.load(key)))

    def test_result_in_the_journal(self) -> None:
        self.assertEqual(self.results.count, 0)
        self.record()
        self.assertEqual(self.results.due(()), [RECORDED])
        self.assertEqual(self.results.due({"c1"}), [])
        self.assertEqual(self.load(RECORDED), result("c1"))
        self.assertEqual(self.results.find("c1"), RECORDED)
        self.assertEqual((self.results.count, self.results.is_due(RECORDED)), (1, True))
        self.results.confirm(RECORDED)
        self.assertEqual((self.results.count, self.results.is_held(RECORDED)), (0, False))
        self.assertIsNone(self.load(RECORDED))

    def test_result_in_memory(self) -> None:
        self.assertEqual(self.results.hold_unrecorded(result("c1")), [])
        self.assertEqual(self.load(UNRECORDED), result("c1"))
        self.assertEqual(self.results.due(()), [UNRECORDED])
        self.assertEqual((self.results.count, self.results.is_due(UNRECORDED)), (1, True))
        self.results.confirm(UNRECORDED)
        self.assertEqual((self.results.count, self.results.find("c1")), (0, None))

    def test_both_under_one_id(self) -> None:
        """A refusal, and then the result of the same command."""
        self.record()
        self.results.hold_unrecorded(result("c1", "refused"))
        self.assertEqual(self.results.due(()), [UNRECORDED, RECORDED])
        self.assertEqual(self.results.find("c1"), UNRECORDED)
        self.results.confirm(UNRECORDED)
        self.assertTrue(self.results.is_due(RECORDED), "the confirmation of a refusal confirms nothing else")

    def test_dead_letters(self) -> None:
        self.record()
        self.results.hold_unrecorded(result("c2"))
        for key in (RECORDED, ResultKey("c2", False)):
            self.results.bury(key)
            self.assertEqual((self.results.is_due(key), self.results.is_held(key)), (False, True))
        self.assertEqual(self.results.count, 0, "nobody waits for them")
        self.assertEqual(self.results.offered(), [RECORDED])
        self.results.hold_unrecorded(result("c2"))
        self.assertEqual(self.results.count, 1, "it came again, and somebody waits for it")

    def test_withdrawn(self) -> None:
        self.record()
        self.results.hold_unrecorded(result("c1"))
        self.assertTrue(self.results.withdraw(RECORDED))
        self.assertEqual((self.results.is_held(RECORDED), self.results.offered()), (True, []))
        self.assertTrue(self.results.withdraw(UNRECORDED))
        self.assertFalse(self.results.is_held(UNRECORDED))
        self.results.confirm(RECORDED)
        self.assertFalse(self.results.withdraw(RECORDED), "it was confirmed meanwhile")

    def test_memory_is_bounded(self) -> None:
        removed = [self.results.hold_unrecorded(result(f"c{number}")) for number in range(MAX_UNRECORDED + 2)]
        self.assertEqual(removed[-3:], [[], ["c0"], ["c1"]])
