"""
The hub's database when the process or the disk fails: what was said to be committed is there, and nothing by halves.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from sqlalchemy import Connection
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from relayd.hub.store.backup import back_up
from relayd.hub.store.errors import BackupFailed, StoreUnavailable
from relayd.hub.store.ids import new_id
from relayd.hub.store.store import Store, open_store
from relayd.hub.store.tables import credentials
from tests.hub.store.test_store import add, count
from tests.support.account import run_privileged
from tests.support.databases import OnBothStores
from tests.support.relays import ROOT

#: How often the process is killed.
KILLS = int(os.environ.get("TEST_KILLS", "5"))
#: Seconds that anything may take.
PATIENCE = 60


def add_pair(connection: Connection, name: str) -> None:
    for half in ("left", "right"):
        connection.execute(
            credentials.insert().values(id=new_id(1), name=f"{name} {half}", method="password", created_at=1)
        )


#: A process that adds pairs, a dozen in a turn, and writes a line for each that is committed.
SCRIPT = """
import sys
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import react
from relayd.hub.store.store import open_store
from tests.faults.test_hub_store import add_pair

async def main(reactor):
    store = await open_store(reactor, sys.argv[1])
    number = 0
    while True:
        names = [f"{sys.argv[2]}.{number + each}" for each in range(12)]
        number += 12
        await gatherResults([store.run(add_pair, name).addCallback(say, name) for name in names])

def say(_, name):
    sys.stdout.write(name + "\\\\n")
    sys.stdout.flush()

react(lambda reactor: Deferred.fromCoroutine(main(reactor)))
"""


class KillTests(OnBothStores):
    timeout = 20 * PATIENCE

    async def test_killed_in_the_middle(self) -> None:
        """Again and again: what was said to be committed is there, whole."""
        await self.store.close()
        chance = random.Random(7)
        said: set[str] = set()
        for round in range(KILLS):
            said |= await deferToThread(self.killed_after, f"round{round}", chance.randrange(1, 120))
        store = await self.opened(self.place)
        names = await store.read(
            lambda connection: connection.exec_driver_sql("SELECT name FROM credentials").scalars().all()
        )
        pairs = [name.rpartition(" ")[0] for name in names]
        self.assertGreater(len(said), KILLS)
        self.assertEqual(said - set(pairs), set(), "lost")
        self.assertEqual([name for name in set(pairs) if pairs.count(name) != 2], [], "by halves")

    def killed_after(self, mark: str, lines: int) -> set[str]:
        """What a process said before it was killed, once it had said so much."""
        argv = [sys.executable, "-c", SCRIPT.replace("\\\\n", "\\n"), self.place, mark]
        process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(lines)]
        process.send_signal(signal.SIGKILL)
        said += process.stdout.read().splitlines(keepends=True)
        process.wait(PATIENCE)
        process.stdout.close()
        return {line.strip() for line in said if line.endswith("\n")}


class DiskTests(TestCase):
    """A file system of 4 MB for an SQLite database."""

    timeout = 2 * PATIENCE

    def setUp(self) -> None:
        self.disk = Path(tempfile.mkdtemp(prefix="relayd-test-disk-"))
        owner = f"uid={os.geteuid()},gid={os.getegid()},mode=700"
        run_privileged(["mount", "-t", "tmpfs", "-o", f"size=4m,{owner}", "tmpfs", str(self.disk)])
        self.addCleanup(self.disk.rmdir)
        self.addCleanup(run_privileged, ["umount", "-l", str(self.disk)])
        self.path = str(self.disk / "hub.sqlite3")

    def open(self) -> Deferred[Store]:
        from twisted.internet import reactor

        return open_store(reactor, self.path)

    def fill(self) -> Path:
        """Leave no room; gives the file that takes it."""
        filler = self.disk / "filler"
        with open(filler, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                return filler

    async def test_full(self) -> None:
        """It is said, all that was committed can be read, and with room it goes on."""
        store = await self.open()
        self.addCleanup(store.close)
        await store.run(add, "before")
        filler = self.fill()
        outcomes = await gatherResults(
            [
                store.run(add, f"{number} {'x' * 2000}").addErrback(lambda failure: failure.value)
                for number in range(900)
            ]
        )
        failed = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        self.assertGreater(len(failed), 0)
        for error in failed:
            self.assertIs(type(error), StoreUnavailable)
            self.assertIn("the disk is full; make room. Nothing was changed.", str(error))
        self.assertEqual(await store.read(count), 1 + len(outcomes) - len(failed))
        filler.unlink()
        await store.run(add, "after")
        self.assertEqual(await store.read(count), 2 + len(outcomes) - len(failed))

    async def test_full_at_the_start(self) -> None:
        filler = self.fill()
        error = await self.assertFailure(self.open(), StoreUnavailable)
        self.assertIn("the disk is full; make room", str(error))
        filler.unlink()
        store = await self.open()
        await store.run(add, "c")
        await store.close()

    async def test_full_during_a_backup(self) -> None:
        """Nothing is left of it, and the backup before it is as it was."""
        folder = Path(tempfile.mkdtemp(prefix="relayd-backup-"))
        self.addCleanup(shutil.rmtree, folder)
        self.path = str(folder / "hub.sqlite3")
        store = await self.open()
        self.addCleanup(store.close)
        backup = self.disk / "backup"
        await store.run(add, "c")
        back_up(self.path, str(backup))
        await gatherResults([store.run(add, f"{number} {'x' * 10_000}") for number in range(600)])
        error = self.assertRaises(BackupFailed, back_up, self.path, str(backup))
        self.assertIn("the disk is full; make room", str(error))
        self.assertEqual(os.listdir(self.disk), ["backup"])
        with closing(sqlite3.connect(backup)) as copy:
            self.assertEqual(copy.execute("SELECT count(*) FROM credentials").fetchone(), (1,))
