"""
Tests of `relayd.journal.known_ids`: an id that is known never seems new, and few that are new seem known.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from relayd.journal.known_ids import KnownIds


class KnownIdsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.known = KnownIds(20_000)
        self.known.complete = True

    def test_what_was_added_is_known(self) -> None:
        ids = [f"c{number}" for number in range(20_000)]
        self.known.add(ids)
        self.assertTrue(all(map(self.known.may_have, ids)))

    def test_few_others_seem_known(self) -> None:
        self.known.add(f"c{number}" for number in range(20_000))
        wrong = sum(self.known.may_have(f"other {number}") for number in range(10_000))
        self.assertLess(wrong, 400)

    def test_only_ids_before_the_latest_are_forgotten(self) -> None:
        ids = [f"c{number}" for number in range(200_000)]
        for begin in range(0, len(ids), 10_000):
            self.known.add(ids[begin : begin + 10_000])
            latest = ids[max(0, begin - 10_000) : begin + 10_000]
            self.assertTrue(all(map(self.known.may_have, latest)))
        self.assertLess(sum(map(self.known.may_have, ids[:10_000])), 1000)

    def test_before_all_were_added_each_may_be_known(self) -> None:
        self.known.complete = False
        self.assertTrue(self.known.may_have("c1"))
