"""
Backups of an SQLite database, made while it changes, and put back.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

from sqlalchemy import Connection, text
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from relayd.hub.store import backup as module
from relayd.hub.store.backup import back_up, restore
from relayd.hub.store.errors import BackupFailed, RestoreFailed, StoreInUse
from relayd.hub.store.migrations import KNOWN, VERSION_TABLE
from relayd.hub.store.store import Store, open_store
from tests.hub.store.test_store import add, count


def add_two(connection: Connection, name: str) -> None:
    add(connection, f"{name} one")
    add(connection, f"{name} two")


class BackupTests(TestCase):
    timeout = 120

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="relayd-backup-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.path = str(self.folder / "hub.sqlite3")
        self.backup = str(self.folder / "backup")

    def open(self, path: str) -> Deferred[Store]:
        from twisted.internet import reactor

        return open_store(reactor, path).addCallback(self.opened)

    def opened(self, store: Store) -> Store:
        self.addCleanup(store.close)
        return store

    def names_in_folder(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}

    async def test_while_the_hub_writes(self) -> None:
        """A backup has whole transactions, all that were committed before it, and does not stop the hub."""
        store = await self.open(self.path)
        await gatherResults([store.run(add_two, f"before {number}") for number in range(500)])
        done = False
        written = 0

        async def write() -> None:
            nonlocal written
            while not done:
                await gatherResults([store.run(add_two, f"meanwhile {written} {number}") for number in range(10)])
                written += 10

        writing = Deferred.fromCoroutine(write())
        counts = []
        for number in range(5):
            least = 1000 + 2 * written
            await deferToThread(back_up, self.path, f"{self.backup}{number}")
            with closing(sqlite3.connect(f"{self.backup}{number}")) as copy:
                self.assertEqual(copy.execute("PRAGMA integrity_check").fetchall(), [("ok",)])
                (found,) = copy.execute("SELECT count(*) FROM credentials").fetchone()
            self.assertGreaterEqual(found, least)
            self.assertEqual(found % 2, 0)
            counts.append(found)
        done = True
        await writing
        self.assertGreater(written, 0)
        self.assertEqual(counts, sorted(counts))
        self.assertEqual(await store.read(count), 1000 + 2 * written)

    async def test_the_file(self) -> None:
        """One file, for this user alone; one that was there is replaced."""
        store = await self.open(self.path)
        await store.run(add, "c")
        Path(self.backup).write_text("an old one")
        os.chmod(self.backup, 0o644)
        back_up(self.path, self.backup)
        self.assertEqual(os.stat(self.backup).st_mode & 0o777, 0o600)
        self.assertEqual({name for name in self.names_in_folder() if name.startswith("backup")}, {"backup"})

    async def test_there_and_back(self) -> None:
        store = await self.open(self.path)
        await store.run(add, "kept")
        back_up(self.path, self.backup)
        await store.run(add, "later")
        self.assertRaises(StoreInUse, restore, self.backup, self.path)
        await store.close()
        aside = restore(self.backup, self.path)
        again = await self.open(self.path)
        self.assertEqual(await again.read(count), 1)
        await again.run(add, "later")
        assert aside is not None
        before = await self.open(aside)
        self.assertEqual(await before.read(count), 2)

    async def test_on_another_machine(self) -> None:
        """Where there was none; the backup stays as it is."""
        store = await self.open(self.path)
        await store.run(add, "c")
        back_up(self.path, self.backup)
        content = Path(self.backup).read_bytes()
        other = str(self.folder / "other.sqlite3")
        self.assertIs(restore(self.backup, other), None)
        again = await self.open(other)
        self.assertEqual(await again.read(count), 1)
        self.assertEqual(Path(self.backup).read_bytes(), content)

    def connect_but_not_to_it(self, path: str) -> sqlite3.Connection:
        if path == self.path:
            raise sqlite3.DatabaseError("damaged")
        return sqlite3.connect(path, isolation_level=None)

    async def test_over_one_that_was_killed_and_one_that_is_damaged(self) -> None:
        """The log of the old one would be played into the new one."""
        store = await self.open(self.path)
        await store.run(add, "kept")
        back_up(self.path, self.backup)
        await gatherResults([store.run(add, f"c{number}") for number in range(200)])
        wal = Path(f"{self.path}-wal").read_bytes()
        await store.close()
        for damaged in (False, True):
            Path(f"{self.path}-wal").write_bytes(wal)
            if damaged:
                self.patch(module, "_connect", self.connect_but_not_to_it)
            aside = restore(self.backup, self.path)
            self.assertTrue(os.path.exists(aside or ""))
            again = await self.open(self.path)
            self.assertEqual(await again.read(count), 1)
            await again.close()
            os.rename(aside or "", f"{aside} {damaged}")  # two within a second have one name

    async def test_what_is_no_backup(self) -> None:
        """Nothing is changed then, and nothing is left."""
        store = await self.open(self.path)
        await store.run(add, "c")
        back_up(self.path, self.backup)
        good = Path(self.backup).read_bytes()
        await store.run(lambda connection: connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '0999'")))
        back_up(self.path, str(self.folder / "newer"))  # to copy it harms nobody
        await store.run(
            lambda connection: connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '{KNOWN}'"))
        )
        await store.close()
        with closing(sqlite3.connect(self.folder / "foreign")) as foreign:
            foreign.execute("CREATE TABLE theirs (x)")
        (self.folder / "text").write_text("a text\n" * 1000)
        (self.folder / "cut").write_bytes(good[: len(good) // 2])
        (self.folder / "empty").write_bytes(b"")
        before, names = Path(self.path).read_bytes(), self.names_in_folder()
        for name, words in {
            "foreign": "is not a database of the hub",
            "text": "is no SQLite database",
            "cut": "damaged",
            "newer": f"it has version 0999 of the tables, and this relayd knows none after {KNOWN}; install",
            "empty": "is not a database of the hub",
            "missing": "No such file or directory",
        }.items():
            error = self.assertRaises(RestoreFailed, restore, str(self.folder / name), self.path)
            self.assertIn(words, str(error), name)
            self.assertIn("was not restored", str(error))
        self.assertEqual(Path(self.path).read_bytes(), before)
        self.assertEqual(self.names_in_folder(), names)

    def test_places(self) -> None:
        missing = str(self.folder / "missing" / "backup")
        error = self.assertRaises(BackupFailed, back_up, self.path, self.backup)
        self.assertIn(f"{self.path}: No such file or directory", str(error))
        Path(self.path).write_bytes(b"")
        error = self.assertRaises(BackupFailed, back_up, self.path, missing)
        self.assertIn("No such file or directory", str(error))
        error = self.assertRaises(BackupFailed, back_up, self.path, self.path)
        self.assertIn("it is the database itself; name another file", str(error))
        error = self.assertRaises(BackupFailed, back_up, "postgresql://u:canary@h/n", self.backup)
        self.assertIn("pg_dump", str(error))
        self.assertNotIn("canary", str(error))
        error = self.assertRaises(RestoreFailed, restore, self.backup, "postgresql://u:canary@h/n")
        self.assertIn("pg_restore", str(error))
        self.assertNotIn("canary", str(error))
        self.assertEqual(self.names_in_folder(), {"hub.sqlite3"})
