"""
Tests of `relayd.journal.store`: the file by itself.
"""

from __future__ import annotations

from relayd.journal import store as journal_store
from tests.support.journals import DurableCase


class StoreTests(DurableCase):
    """How its file is written."""

    def test_mode_of_durability(self) -> None:
        settings = {True: 2, False: 1}  # sqlite.org/pragma.html#pragma_synchronous
        for durable, expected in settings.items():
            store = journal_store.Store(str(self.directory / f"{durable}.sqlite3"), durable=durable)
            store.open()
            self.assertEqual(store.archived._db.execute("PRAGMA synchronous").fetchone(), (expected,))
            store.close()
