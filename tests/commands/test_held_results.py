"""
Tests of `relayd.commands.held_results`: the latest results, as many as there is room for.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from relayd.commands.held_results import HeldResults, size_of
from tests.support.dispatching import result


class HeldResultsTests(SynchronousTestCase):
    def test_one_for_each_command(self) -> None:
        held = HeldResults(max_results=10, max_bytes=1 << 20)
        held.hold(result("c1", "first"))
        held.hold(result("c2"))
        held.hold(result("c1", "second"))
        self.assertEqual((list(held), len(held)), (["c2", "c1"], 2))
        self.assertEqual(held.find("c1"), result("c1", "second"))
        held.remove("c1")
        held.remove("c1")
        self.assertEqual((held.find("c1"), "c1" in held, "c2" in held), (None, False, True))

    def test_number(self) -> None:
        held = HeldResults(max_results=2, max_bytes=1 << 20)
        self.assertEqual([held.hold(result(command_id)) for command_id in "abcd"], [[], [], ["a"], ["b"]])

    def test_memory(self) -> None:
        large = "x" * 1000
        held = HeldResults(max_results=10, max_bytes=3 * size_of(result("a", large)))
        self.assertEqual([held.hold(result(command_id, large)) for command_id in "abcd"], [[], [], [], ["a"]])
        self.assertEqual(held.hold(result("e", large * 100)), ["b", "c", "d"])
        self.assertEqual(list(held), ["e"], "a single one may take more")
        held.remove("e")
        self.assertEqual([held.hold(result(command_id, large)) for command_id in "abc"], [[], [], []])
