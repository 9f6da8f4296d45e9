"""
Tests of what `relayd.journal.durable` leaves on the disk of a result that was confirmed: after a bounded time, nothing.
"""

from __future__ import annotations

import os
import random
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from relayd.journal.index import JournalLimits
from relayd.journal.upkeep import CLEAN_BUSY, CLEAN_IDLE
from relayd.journal.writer import LINGER
from tests.support.dispatching import command, result
from tests.support.journals import DurableCase

#: In every result, wherever it is cut into pages.
CANARY = "canary "
#: Bytes: in a cell of a page, about as much as a page, in pages of its own.
SIZES = (10, 200, 1500, 4090, 5000, 70_000)


class TraceTests(DurableCase):
    """Looks for results in all files of the state directory."""

    def setUp(self) -> None:
        super().setUp()
        self.restart(JournalLimits())
        self.random = random.Random(1)

    def holding(self, what: str = CANARY) -> dict[str, int]:
        """The files that hold something of results, and how often."""
        found = {}
        for folder, _, names in os.walk(self.directory):
            for name in names:
                if count := (Path(folder) / name).read_bytes().count(what.encode()):
                    found[name] = count
        return found

    def end(self, ids: list[str]) -> None:
        """The commands *ids* have results."""
        for begin in range(0, len(ids), 60):
            for command_id in ids[begin : begin + 60]:
                self.journal.accept(command(command_id), b"print")
                self.journal.start(command_id)
                size = self.random.choice(SIZES) if self.random.random() < 0.1 else self.random.randrange(10, 300)
                last = self.journal.finish(result(command_id, (CANARY * size)[:size]))
            self.wait(last)

    def confirm(self, ids: list[str]) -> None:
        """Their results are confirmed, in no order, and that is on the disk."""
        for command_id in self.random.sample(ids, len(ids)):
            self.journal.confirm(command_id)
        self.clock.advance(LINGER)
        self.settle()

    def rest(self) -> None:
        """Long enough for the journal to see that there is nothing to write."""
        for _ in range(2):
            self.clock.advance(CLEAN_IDLE)
            self.settle()

    def test_thousands_of_commands(self) -> None:
        kept: list[str] = []
        for number in range(10):
            ids = [f"{number} {each}" for each in range(400)]
            self.end(ids)
            kept += self.random.sample(ids, 5)
            self.confirm([command_id for command_id in ids if command_id not in kept])
        self.archive()
        self.confirm(kept)
        self.assertNotEqual(self.holding(), {})
        self.rest()
        self.assertEqual(self.holding(), {})

    def test_one_command(self) -> None:
        self.end(["c1"])
        self.confirm(["c1"])
        self.rest()
        self.assertEqual(self.holding(), {})

    def test_a_journal_that_is_never_idle(self) -> None:
        self.end(["c1"])
        self.confirm(["c1"])
        for number in range(round(CLEAN_BUSY)):
            self.accept(f"other {number}")
            self.clock.advance(1.0)
        self.settle()
        self.assertEqual(self.holding(), {})

    def test_while_somebody_reads_it(self) -> None:
        """Commands do not wait for a reader, and it is done when that is gone."""
        self.end(["c1"])
        self.archive()
        with closing(sqlite3.connect(self.path)) as reader:
            reader.execute("BEGIN").execute("SELECT * FROM result").fetchall()
            self.confirm(["c1"])
            began = time.monotonic()
            self.rest()
            self.accept("c2")
            self.assertLess(time.monotonic() - began, 4.0)  # SQLite waits for five seconds
            self.assertNotEqual(self.holding(), {})
        self.rest()
        self.assertEqual(self.holding(), {})

    def test_what_an_earlier_process_left(self) -> None:
        """One that was killed: its log is there, with what was confirmed."""
        self.end(["c1"])
        self.archive()
        self.confirm(["c1"])
        left = {path.name: path.read_bytes() for path in self.path.parent.iterdir()}
        self.close()
        for name, content in left.items():
            (self.path.parent / name).write_bytes(content)
        self.journal = self.open(JournalLimits())
        self.assertNotEqual(self.holding(), {})
        self.rest()
        self.assertEqual(self.holding(), {})

    def test_what_was_saved_of_a_damaged_file_and_is_not_used(self) -> None:
        """A result without its command goes at once; the damaged file is kept, for people to look at."""
        for command_id in ("c1", "c2"):
            self.accept(command_id)
            self.wait(self.journal.finish(result(command_id, f"output of {command_id}")))
        self.close()
        with closing(sqlite3.connect(self.path)) as db:
            db.execute("DELETE FROM command WHERE id = 'c1'")
            db.commit()
            page = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_command_1'").fetchone()
        with open(self.path, "r+b") as file:
            file.seek((page[0] - 1) * 4096)
            file.write(b"\xff" * 4096)
        self.journal = self.open(JournalLimits())
        self.rest()
        self.assertEqual(self.journal.unconfirmed(), ["c2"])
        kept = {name for name in self.holding("output of c2") if ".damaged-" in name}
        self.assertEqual(set(self.holding("output of c1")), kept)
        self.assertEqual(len(kept), 1)
