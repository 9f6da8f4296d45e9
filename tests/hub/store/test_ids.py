"""
Ids that sort by time.
"""

from __future__ import annotations

import uuid

from twisted.trial.unittest import SynchronousTestCase

from relayd.hub.store import ids as module
from relayd.hub.store.ids import new_id

NOW = 4_000_000_000_000_000


class IdTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.patch(module, "_last", 0)

    def test_uuid_of_version_7(self) -> None:
        made = uuid.UUID(new_id(NOW))
        self.assertEqual((made.version, made.variant), (7, uuid.RFC_4122))
        self.assertEqual(made.int >> 80, NOW // 1000)
        self.assertEqual(str(made), str(made).lower())

    def test_each_is_greater(self) -> None:
        """Whatever the clock does."""
        times = [NOW + 1000, NOW + 1000, NOW + 1001, NOW - 10**12, NOW, *[NOW + 5000] * 5000, NOW + 6000]
        ids = [new_id(now) for now in times]
        self.assertEqual(ids, sorted(set(ids)))

    def test_nobody_guesses_them(self) -> None:
        tails = {new_id(NOW)[19:] for _ in range(1000)}
        self.assertEqual(len(tails), 1000)
