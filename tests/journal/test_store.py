"""
Tests of `relayd.journal.store`: what is in the log and what in the archive, and what becomes of a damaged log.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from twisted.logger import LogLevel

from relayd.errors import JournalUnavailable
from relayd.interfaces import EntryState
from relayd.journal import archive as journal_archive
from relayd.journal import store as journal_store
from relayd.journal.index import JournalLimits
from relayd.journal.journal_report import read_report
from relayd.journal.upkeep import LEARN_AGAIN, RETRY_INTERVAL
from tests.support.dispatching import command, result
from tests.support.journals import DurableCase


class StoreTests(DurableCase):
    """How its files are written."""

    def setUp(self) -> None:
        super().setUp()
        self.restart(JournalLimits())

    def logs(self) -> list[str]:
        return sorted(path.name for path in self.path.parent.iterdir() if path.name.startswith("log."))

    def crash(self) -> None:
        """As if the process had ended now, without a word."""
        left = self.directory / "left"
        shutil.copytree(self.path.parent, left)
        self.close()
        shutil.rmtree(self.path.parent)
        left.rename(self.path.parent)

    def learn(self) -> None:
        """All ids of the archive are known."""
        self.settle()
        while not self.journal._store._known.complete:
            self.clock.advance(LEARN_AGAIN)
            self.settle()

    def test_mode_of_durability(self) -> None:
        settings = {True: 2, False: 1}  # sqlite.org/pragma.html#pragma_synchronous
        for durable, expected in settings.items():
            store = journal_store.Store(str(self.directory / f"{durable}.sqlite3"), durable=durable)
            store.open()
            self.assertEqual(store.archived._db.execute("PRAGMA synchronous").fetchone(), (expected,))
            self.assertEqual(store.steps.logs[-1]._header.synced, durable)
            store.close()

    def test_after_a_stop_all_is_in_the_archive(self) -> None:
        """A version of relayd without logs can go on with it then, and only then."""
        self.finish("a", "b")
        self.journal.confirm("a")
        self.assertEqual(self.rows("PRAGMA user_version"), [(2,)])
        self.close()
        self.assertEqual(self.rows("PRAGMA user_version"), [(1,)])
        self.assertEqual(self.logs(), [])
        self.assertEqual(self.rows("SELECT id, state FROM command ORDER BY id"), [("a", 4), ("b", 3)])
        self.assertEqual(self.rows("SELECT command FROM result"), [("b",)])

    def test_a_result_that_is_confirmed_soon_never_comes_to_the_archive(self) -> None:
        self.finish("a")
        self.journal.confirm("a")
        self.archive()
        # "seq" counts all results that there ever were.
        self.assertEqual(self.rows("SELECT seq FROM sqlite_sequence WHERE name = 'result'"), [])
        self.assertEqual(self.rows("SELECT id, state FROM command"), [("a", 4)])

    def test_a_full_log_is_moved(self) -> None:
        self.patch(journal_store, "FULL", 2000)
        for number in range(30):
            self.finish(f"c{number}")
            self.settle()
        self.assertEqual(len(self.logs()), 1)
        self.assertGreater(int(self.logs()[0].removeprefix("log.")), 3)
        self.assertEqual(len(self.journal.unconfirmed()), 30)
        for number in range(30):
            self.assertEqual(self.wait(self.journal.load(f"c{number}")), result(f"c{number}"))

    def test_steps_on_either_side_of_the_archive(self) -> None:
        for steps in (1, 2, 3):
            for command_id in (f"{step} {steps}" for step in range(3)):
                self.accept(command_id)
        for step in range(3):
            for command_id in (f"{step} {each}" for each in (1, 2, 3)):
                if step > 0:
                    self.wait(self.journal.start(command_id))
                if step > 1:
                    self.wait(self.journal.finish(result(command_id)))
            self.archive()
        self.journal.bury("2 1")
        self.journal.confirm("2 2")
        self.settle()
        before = {path.name: path.read_bytes() for path in self.path.parent.iterdir()}
        report = read_report(str(self.path))
        self.assertEqual(report.counts, {EntryState.ACCEPTED: 3, EntryState.STARTED: 3, EntryState.FINISHED: 1,
                                         EntryState.DEAD: 1, EntryState.CONFIRMED: 1})  # fmt: skip
        self.assertGreater(report.size, 0)
        after = {path.name: path.read_bytes() for path in self.path.parent.iterdir()}
        self.assertEqual({name: held for name, held in after.items() if not name.endswith("-shm")},
                         {name: held for name, held in before.items() if not name.endswith("-shm")})  # fmt: skip
        self.crash()
        self.assertEqual(read_report(str(self.path)).counts, report.counts, "of a relay that is gone, too")
        self.journal = self.open(JournalLimits())
        self.assertEqual(dict(self.recovered), {f"{step} {each}": ("not-executed", "outcome-unknown")[step]
                                                for step in (0, 1) for each in (1, 2, 3)})  # fmt: skip
        self.assertEqual((self.state("2 1"), self.state("2 3")), (EntryState.DEAD, EntryState.FINISHED))
        self.assertEqual(self.rows("SELECT state FROM command WHERE id = '2 2'"), [(4,)])

    def test_a_command_that_is_known_is_not_started_by_what_comes_with_it(self) -> None:
        """Else it would run twice: acceptance and start are written together."""
        self.finish("a")
        self.journal.confirm("a")
        for learned in (False, True):
            self.restart(JournalLimits())
            if learned:
                self.learn()
            accepting, starting = self.journal.accept(command("a"), b"other"), self.journal.start("a")
            known = self.wait(accepting)
            self.assertEqual((known.state, known.fingerprint), (EntryState.CONFIRMED, b"print of a"))
            self.assertRaises(JournalUnavailable, self.wait, starting)
            self.assertEqual(self.rows("SELECT state FROM command"), [(4,)])

    def test_ids_of_the_archive_are_learned(self) -> None:
        """Those before the start, those moved there since, and neither is looked for on the disk if it is new."""
        self.patch(journal_store, "LEARNED", 7)
        ids = [f"c{number}" for number in range(40)]
        self.finish(*ids)
        for command_id in ids:
            self.journal.confirm(command_id)
        self.restart(JournalLimits())
        self.learn()
        self.finish("later")
        self.journal.confirm("later")
        self.archive()
        self.journal._index._recent.clear()
        for command_id in (*ids, "later"):
            known = self.accept(command_id)
            self.assertIsNotNone(known, command_id)
        found: list[str] = []
        self.patch(self.journal._store.archived, "find", found.append)
        for number in range(200):
            self.accept(f"new {number}")
        self.assertLess(len(found), 10)

    def test_the_archive_cannot_be_written_for_a_while(self) -> None:
        """Commands go on, it is told once, and all is moved later."""
        self.patch(journal_archive, "_BUSY_TIMEOUT", 0.01)
        self.restart(JournalLimits())
        with closing(sqlite3.connect(self.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            self.finish("a")
            self.archive()
            self.finish("b")
            self.archive()
            self.clock.advance(RETRY_INTERVAL)
            self.settle()
            [line] = self.lines(LogLevel.error)
            self.assertIn("cannot be moved to its archive, and grows until it can be: another program uses", line)
            self.assertEqual(self.wait(self.journal.load("a")), result("a"))
            self.assertGreater(len(self.logs()), 1)
        self.clock.advance(RETRY_INTERVAL)
        self.settle()
        self.assertEqual(self.rows("SELECT id, state FROM command ORDER BY id"), [("a", 3), ("b", 3)])
        self.assertEqual(self.lines(LogLevel.info), ["The journal's log can be moved to its archive again"])
        self.assertEqual(len(self.logs()), 1)

    def test_an_archive_that_cannot_be_written_for_long(self) -> None:
        """The logs do not fill the disk."""
        self.patch(journal_store, "MOST_LOGS", 0)
        error = self.assertRaises(JournalUnavailable, self.wait, self.journal.accept(command("a"), b""))
        self.assertIn("its logs cannot be moved to its archive", str(error))

    def test_one_look_at_the_folder_is_enough(self) -> None:
        """Its time changes when a file in it is removed; a time that is not long past proves nothing."""
        looks: list[None] = []
        check_file = self.journal._store.archived.check_file

        def look() -> None:
            looks.append(None)
            check_file()

        self.patch(self.journal._store.archived, "check_file", look)
        for number in range(3):
            self.accept(f"recent {number}")
        self.assertEqual(len(looks), 3)
        os.utime(self.path.parent, (1e9, 1e9))
        for number in range(3):
            self.accept(f"c{number}")
        self.assertEqual(len(looks), 4)
        (self.path.parent / self.logs()[0]).unlink()
        error = self.assertRaises(JournalUnavailable, self.accept, "c3")
        self.assertIn("somebody removed or replaced its file; restart relayd", str(error))

    def test_a_log_that_somebody_removed(self) -> None:
        (self.path.parent / self.logs()[0]).unlink()
        error = self.assertRaises(JournalUnavailable, self.wait, self.journal.accept(command("a"), b""))
        self.assertIn("somebody removed or replaced its file; restart relayd", str(error))

    def damage(self) -> Path:
        """A byte of the second batch falls over, as nobody looks."""
        for command_id in ("a", "b", "c"):
            self.accept(command_id)
        self.wait(self.journal.finish(result("a")))
        self.crash()
        [name] = self.logs()
        path = self.path.parent / name
        data = bytearray(path.read_bytes())
        data[data.index(b"\xa1b")] ^= 4
        path.write_bytes(data)
        return path

    def test_a_damaged_log_is_kept_and_used_as_far_as_possible(self) -> None:
        path = self.damage()
        held = path.read_bytes()
        self.journal = self.open(JournalLimits())
        [line] = self.lines(LogLevel.critical)
        [kept] = self.path.parent.glob("*.damaged-*")
        self.assertEqual(kept.read_bytes(), held)
        self.assertIn(f"A log of the journal was damaged. It is kept as {kept}; 2 commands and 1 results", line)
        self.assertEqual(self.journal.unconfirmed(), ["a", "c"])
        self.assertEqual(read_report(str(self.path)).damages, {str(kept): "2 commands saved"})
        self.restart(JournalLimits())
        self.assertEqual(len(self.lines(LogLevel.critical)), 1, "told once")
        self.assertEqual(self.journal.unconfirmed(), ["a", "c"])

    def test_the_acceptance_of_a_command_is_lost(self) -> None:
        """What came after it shows that there was one: it may not run again."""
        self.accept("a")
        self.wait(self.journal.start("a"))
        self.accept("b")
        self.crash()
        [name] = self.logs()
        path = self.path.parent / name
        data = bytearray(path.read_bytes())
        data[data.index(b"\xa1a")] ^= 4
        path.write_bytes(data)
        self.journal = self.open(JournalLimits())
        self.assertEqual(dict(self.recovered), {"a": "outcome-unknown", "b": "not-executed"})

    def test_archive_and_log_are_damaged(self) -> None:
        """What is in the log is newer than what was saved of the archive."""
        self.finish("old")
        self.archive()
        self.journal.confirm("old")
        self.finish("new")
        self.crash()
        content = bytearray(self.path.read_bytes())
        content[28:32] = os.urandom(4)
        self.path.write_bytes(b"x" + content[1:])
        self.journal = self.open(JournalLimits())
        self.assertEqual(len(self.lines(LogLevel.critical)), 1)
        self.assertEqual(self.journal.unconfirmed(), ["new"])
