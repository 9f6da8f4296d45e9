"""
Tests of `relayd.journal.salvage`: damaged files are kept, and what can be read of them goes on.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing

from twisted.logger import LogLevel

from relayd.interfaces import EntryState
from relayd.journal.archive import SCHEMA
from relayd.journal.index import JournalLimits
from relayd.journal.salvage import Salvage, salvage
from tests.support.dispatching import command
from tests.support.journals import DurableCase

#: Results that are none: too short, with a text that is no UTF-8, nested deeper than Python follows.
BODIES = ("82aa", "81aa636f6d6d616e645f6964a1ff", "81a178" + "91" * 5000 + "c0")


class DamagedFileTests(DurableCase):
    """Files in which something is not as it was written."""

    def setUp(self) -> None:
        super().setUp()
        self.restart(JournalLimits(max_commands=10_000, max_bytes=1 << 30, max_ids=100, retention=1000.0))

    def test_damaged_file_is_set_aside_and_saved_as_far_as_possible(self) -> None:
        for number in range(2000):
            self.journal.accept(command(f"command number {number} " + "x" * 100), b"print").addErrback(self.fail)
        self.finish("done")
        self.accept("ran")
        self.wait(self.journal.start("ran"))
        self.close()
        content = bytearray(self.path.read_bytes())
        middle = len(content) // 2 // 4096 * 4096
        content[middle : middle + 8 * 4096] = os.urandom(8 * 4096)
        self.path.write_bytes(content)
        self.journal = self.open(JournalLimits())
        [line] = self.lines(LogLevel.critical)
        kept = next(self.path.parent.glob("*.damaged-*[0-9]"))
        self.assertIn(f"It is kept as {kept}", line)
        self.assertEqual(kept.read_bytes()[: len(content)], bytes(content))
        saved = self.rows("SELECT count(*) FROM command")[0][0]
        self.assertGreater(saved, 1500)
        self.assertEqual(self.rows("SELECT count(*) FROM note WHERE name LIKE 'damaged %'"), [(1,)])
        self.assertEqual(self.state("ran"), EntryState.FINISHED)
        # It is a good journal again.
        self.accept("new")
        self.restart(JournalLimits())
        self.assertEqual(len(self.lines(LogLevel.critical)), 1)

    def test_in_a_directory_with_signs_of_a_uri(self) -> None:
        self.finish("done")
        self.close()
        odd = self.directory / "a?b#c%41"
        odd.mkdir()
        kept, path = str(odd / "kept"), str(odd / "new")
        self.path.rename(kept)
        with closing(sqlite3.connect(path)) as db:
            db.executescript(SCHEMA)
        self.assertEqual(salvage(kept, path), Salvage(kept=kept, commands=1, results=1))

    def test_damage_that_sqlite_does_not_see(self) -> None:
        """Bits that fell over in what a row holds; nothing of it keeps relayd from starting."""
        for number, change in enumerate(
            (
                "UPDATE command SET state = 9 WHERE id = 'c1'",
                "UPDATE command SET state = 1 WHERE id = 'c1'",  # which has its result
                "UPDATE command SET id = CAST(x'ff' AS TEXT), state = 1 WHERE id = 'c1'",
                "INSERT OR REPLACE INTO note VALUES ('time', 'soon')",
                *(f"UPDATE result SET body = x'{body}'; UPDATE command SET state = 9" for body in BODIES),
            ),
            1,
        ):
            self.finish("c1")
            self.close()
            with closing(sqlite3.connect(self.path)) as db:
                db.executescript(change)
            self.journal = self.open(JournalLimits())
            self.assertEqual(len(self.lines(LogLevel.critical)), number, change)
            self.close()
            shutil.rmtree(self.path.parent)
            self.journal = self.open(JournalLimits())

    def test_file_that_is_no_journal_at_all(self) -> None:
        self.close()
        self.path.write_bytes(os.urandom(10_000))
        self.journal = self.open()
        [line] = self.lines(LogLevel.critical)
        self.assertIn("0 commands and 0 results could be read", line)
        self.assertIsNone(self.accept("new"))
