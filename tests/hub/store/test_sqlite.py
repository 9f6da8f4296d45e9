"""
The hub's database in an SQLite file: who may use it, and what can be wrong with it.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from sqlalchemy import text
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import TestCase

from relayd.hub.store import sqlite as module
from relayd.hub.store.database import Stage
from relayd.hub.store.errors import CommitUnknown, StoreError, StoreInUse, StoreUnavailable, StoreUnusable
from relayd.hub.store.sqlite import in_words
from relayd.hub.store.store import Store, open_store
from tests.hub.store.test_store import add, count
from tests.support.relays import ROOT


class SQLiteTests(TestCase):
    timeout = 120

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="relayd-sqlite-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.path = self.folder / "hub.sqlite3"

    def open(self) -> Deferred[Store]:
        from twisted.internet import reactor

        return open_store(reactor, str(self.path)).addCallback(self.opened)

    def opened(self, store: Store) -> Store:
        self.addCleanup(store.close)
        return store

    async def test_every_commit_is_on_the_disk(self) -> None:
        store = await self.open()

        def pragmas(connection: object) -> list[object]:
            names = ("journal_mode", "synchronous", "foreign_keys", "secure_delete", "auto_vacuum")
            return [connection.execute(text(f"PRAGMA {name}")).scalar() for name in names]  # type: ignore[attr-defined]

        self.assertEqual(await store.run(pragmas), ["wal", 2, 1, 2, 2])

    async def test_for_this_user_alone(self) -> None:
        os.umask(old := os.umask(0))
        self.addCleanup(os.umask, old)
        os.umask(0)
        store = await self.open()
        await store.run(add, "c")
        modes = {path.name: path.stat().st_mode & 0o777 for path in self.folder.iterdir()}
        self.assertEqual(set(modes.values()), {0o600}, modes)

    async def test_a_second_process(self) -> None:
        store = await self.open()
        script = "import sys; from relayd.hub.store.store import database_at; database_at(sys.argv[1]).open()"
        argv = [sys.executable, "-c", script, str(self.path)]
        done = await deferToThread(subprocess.run, argv, cwd=ROOT, capture_output=True, text=True, check=False)
        self.assertEqual(
            done.stderr.splitlines()[-1],
            f"relayd.hub.store.errors.StoreInUse: The hub's database {self.path} is in use by another process"
            f" ({os.getpid()}). Stop that one, or give each hub a state directory of its own.",
        )
        await self.assertFailure(self.open(), StoreInUse)  # nor by the same one
        await store.close()
        await self.open()

    async def test_locked_by_another_program(self) -> None:
        """All that waits fails once, and not one after the other."""
        self.patch(module, "BUSY_TIMEOUT", 0.3)
        store = await self.open()
        await store.run(add, "before")
        with closing(sqlite3.connect(self.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            waiting = [store.run(add, f"c{number}") for number in range(100)]
            errors = await gatherResults([self.assertFailure(each, StoreUnavailable) for each in waiting])
            self.assertEqual({id(error) for error in errors}, {id(errors[0])}, "one transaction was tried")
            self.assertIn("another program has locked its file; end that. Nothing was changed.", str(errors[0]))
            self.assertTrue(errors[0].retriable)
            self.assertEqual(await store.read(count), 1)
            other.execute("COMMIT")
        await store.run(add, "after")

    async def test_removed(self) -> None:
        store = await self.open()
        await store.run(add, "c")
        self.assertIs(store.trouble, None)
        os.rename(self.path, self.folder / "elsewhere")
        with capturedLogs() as logs:
            await self.lost(store)
            await self.lost(store)
            os.rename(self.folder / "elsewhere", self.path)
            await store.run(add, "d")
        self.assertIs(store.trouble, None)
        said = [formatEvent(event) for event in logs if event.get("log_namespace") == "relayd.hub"]
        self.assertEqual(
            said,
            [
                "The hub's database cannot be used: somebody removed or replaced its file; restart the hub.",
                "The hub's database can be used again",
            ],
        )

    async def lost(self, store: Store) -> None:
        for waiting in (store.run(add, "d"), store.read(count)):
            error = await self.assertFailure(waiting, StoreUnusable)
            self.assertIn("somebody removed or replaced its file; restart the hub", str(error))
        self.assertEqual(store.trouble, str(error))

    async def test_not_a_database(self) -> None:
        self.path.write_bytes(b"a text of somebody\n" * 1000)
        error = await self.assertFailure(self.open(), StoreUnusable)
        self.assertIn("is no SQLite database", str(error))
        self.assertTrue(self.path.read_bytes().startswith(b"a text of somebody"))

    async def test_of_another_program(self) -> None:
        with closing(sqlite3.connect(self.path)) as other:
            other.execute("CREATE TABLE theirs (x)")
        before = self.path.read_bytes()
        error = await self.assertFailure(self.open(), StoreUnusable)
        self.assertIn("the database of another program; name another one", str(error))
        self.assertEqual(self.path.read_bytes(), before)

    async def test_damaged(self) -> None:
        store = await self.open()
        await gatherResults([store.run(add, f"c{number}") for number in range(3000)])
        await store.close()
        content = bytearray(self.path.read_bytes())
        content[4096:] = b"x" * (len(content) - 4096)
        self.path.write_bytes(content)
        error = await self.assertFailure(self.open(), StoreUnusable)
        self.assertIn("its file is damaged; stop the hub and restore a backup", str(error))

    async def test_no_folder(self) -> None:
        self.path = self.folder / "missing" / "hub.sqlite3"
        error = await self.assertFailure(self.open(), StoreUnusable)
        self.assertIn("No such file or directory", str(error))

    def test_kinds_of_errors(self) -> None:
        """What may succeed later, what needs somebody, and what may have been done nevertheless."""

        def said(name: str, stage: Stage = Stage.CHANGING) -> StoreError:
            error = sqlite3.OperationalError("a text of SQLite, canary")
            error.sqlite_errorname = name
            told = in_words(error, stage)
            self.assertNotIn("canary", str(told))
            return told

        for name in ("SQLITE_FULL", "SQLITE_BUSY_SNAPSHOT", "SQLITE_IOERR_WRITE"):
            self.assertIs(type(said(name)), StoreUnavailable, name)
        for name in ("SQLITE_READONLY_DBMOVED", "SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_CANTOPEN"):
            self.assertIs(type(said(name)), StoreUnusable, name)
        unknown = said("SQLITE_IOERR_FSYNC", Stage.COMMITTING)
        self.assertIs(type(unknown), CommitUnknown)
        self.assertEqual(unknown.executed, "unknown")
        self.assertIs(type(said("SQLITE_FULL", Stage.COMMITTING)), StoreUnavailable)
