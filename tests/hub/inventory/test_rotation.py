"""
New sealing keys, on both databases, while others change what is sealed, and after a kill.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from relayd.hub.inventory.errors import NotOpened, SealingKeysUnusable
from relayd.hub.inventory.rotation import Rotated, add_key, remove_old_keys, rotate, seal_anew
from relayd.hub.inventory.sealing import FixedKeys, KeyFile, Sealer
from relayd.hub.store import credentials
from relayd.hub.store.host_records import SealedCredential
from relayd.hub.store.tables import runs
from tests.support.databases import OnBothStores

NOW = 1_800_000_000_000_000
#: A process that rotates in steps of one, and says so before each.
PROGRAM = """
import os, sys
from twisted.internet.task import react
from relayd.hub.inventory import rotation
from relayd.hub.inventory.sealing import KeyFile
from relayd.hub.store.store import open_store
from twisted.internet.defer import ensureDeferred

real = rotation.replace_sealed
count = 0

def replace(connection, table, values):
    global count
    count += 1
    if count == int(sys.argv[3]):
        os.kill(os.getpid(), 9)
    return real(connection, table, values)

rotation.replace_sealed = replace

async def main(reactor):
    store = await open_store(reactor, sys.argv[1])
    await rotation.rotate(store, KeyFile(sys.argv[2], {}), step=3)
    await store.close()

react(lambda reactor: ensureDeferred(main(reactor)))
"""


class RotationTests(OnBothStores):
    async def start(self) -> None:
        await super().start()
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        self.file = KeyFile(str(folder / "keys"), {})
        self.file.make()
        self.sealer = Sealer(self.file)
        for number in range(10):
            await self.add(number)
        await self.store.run(self.add_run)

    def sealed(self, number: int) -> SealedCredential:
        sealed = self.sealer.seal(b"secret %d" % number, f"credential:{number:02}")
        return SealedCredential(id=f"{number:02}", name=f"c{number}", method="password", sealed=sealed)

    def add(self, number: int) -> Deferred[Any]:
        return self.store.run(credentials.add_credential, self.sealed(number), NOW)

    def add_run(self, connection: Connection) -> None:
        values = {
            "id": "run",
            "created_by": "user:a",
            "created_at": NOW,
            "state": "running",
            "command": "{}",
            "sealed": self.sealer.seal(b"stdin", "run:run"),
            "selector": "all",
            "rollout": "{}",
            "output_limit": 1,
            "size": 1,
        }
        connection.execute(insert(runs), values)

    async def opened_with(self, sealer: Sealer) -> list[bytes]:
        values = await self.store.read(credentials.sealed_after, "credentials", "", 100)
        [run] = await self.store.read(credentials.sealed_after, "runs", "", 100)
        opened = [sealer.open(value.sealed, f"credential:{value.id}").reveal() for value in values]
        return [*opened, sealer.open(run.sealed, "run:run").reveal()]

    async def test_the_old_key_can_go(self) -> None:
        before = await self.opened_with(self.sealer)
        [old] = self.file.keys()
        self.assertEqual(await rotate(self.store, self.file, 3), Rotated(anew=11, current=11, lost=()))
        new, *rest = self.file.keys()
        self.assertEqual(rest, [old])
        self.assertEqual(await remove_old_keys(self.store, self.file), 1)
        self.assertEqual(self.file.keys(), (new,))
        self.assertEqual(await self.opened_with(Sealer(FixedKeys((new,)))), before)
        await self.assertFailure(self.opened_with_deferred(Sealer(FixedKeys((old,)))), NotOpened)

    def opened_with_deferred(self, sealer: Sealer) -> Deferred[list[bytes]]:
        return Deferred.fromCoroutine(self.opened_with(sealer))

    async def test_a_hub_that_runs_meanwhile(self) -> None:
        """It seals with the newest key, and opens what either has sealed."""
        hub = Sealer(KeyFile(self.file.path, {}))
        hub.seal(b"x", "y")
        early = self.sealed(20)  # sealed before the new key is there, and stored after
        rotating = Deferred.fromCoroutine(rotate(self.store, self.file, 1))
        await self.add(21)
        self.assertEqual(len(await self.opened_with(hub)), 12)
        await rotating
        await self.store.run(credentials.add_credential, early, NOW)
        kept = self.file.keys()
        await self.assertFailure(Deferred.fromCoroutine(remove_old_keys(self.store, self.file)), SealingKeysUnusable)
        self.assertEqual(self.file.keys(), kept)
        await rotate(self.store, self.file)
        self.assertEqual(self.file.keys(), kept)  # it went on with the key that was made
        await remove_old_keys(self.store, self.file)
        self.assertEqual(len(await self.opened_with(hub)), 13)

    async def test_keys_stay_where_something_came_while_they_went(self) -> None:
        early = self.sealed(20)
        await rotate(self.store, self.file)
        kept = self.file.keys()
        store = self.store

        class Late:
            """Another hub stores what it sealed, as the keys are taken out."""

            reads = 0

            def read(self, *args: Any) -> Deferred[Any]:
                self.reads += 1
                if self.reads != 5:
                    return store.read(*args)
                added = store.run(credentials.add_credential, early, NOW)
                return added.addCallback(lambda _: store.read(*args))

        late: Any = Late()
        await self.assertFailure(Deferred.fromCoroutine(remove_old_keys(late, self.file)), SealingKeysUnusable)
        self.assertEqual(self.file.keys(), kept)

    async def test_what_no_key_opens_is_named_and_stays(self) -> None:
        stranger = SealedCredential(id="05x", name="x", method="password", sealed=b"nonsense")
        await self.store.run(credentials.add_credential, stranger, NOW)
        rotated = await rotate(self.store, self.file, 3)
        self.assertEqual((rotated.anew, rotated.lost), (11, ("credentials 05x",)))
        await self.assertFailure(Deferred.fromCoroutine(remove_old_keys(self.store, self.file)), SealingKeysUnusable)

    async def test_a_file_that_cannot_be_written(self) -> None:
        environ = {"CREDENTIALS_DIRECTORY": os.path.dirname(self.file.path)}
        credential = KeyFile(self.file.path, environ)
        error = self.assertRaises(SealingKeysUnusable, add_key, credential)
        self.assertIn("name the file that it is made from", str(error))
        self.assertEqual(await seal_anew(self.store, Sealer(credential)), Rotated(0, 11, ()))

    async def test_killed_and_begun_again(self) -> None:
        """However far it came, all opens, and the next rotation goes on with the same key."""
        before = await self.opened_with(self.sealer)
        place = self.place
        await self.store.close()
        for step in (1, 3, 2):
            await self.killed(place, step)
            self.assertEqual(len(self.file.keys()), 2)
        self.store = await self.opened(place)
        self.assertEqual(await self.opened_with(self.sealer), before)
        keys = self.file.keys()
        rotated = await rotate(self.store, self.file, 3)
        self.assertLess(rotated.anew, 11)
        await remove_old_keys(self.store, self.file)
        self.assertEqual(self.file.keys(), keys[:1])
        self.assertEqual(await self.opened_with(self.sealer), before)

    async def killed(self, place: str, step: int) -> None:
        from twisted.internet import reactor

        argv = [sys.executable, "-c", PROGRAM, place, self.file.path, str(step)]
        process = subprocess.Popen(argv, cwd=Path(__file__).parents[3])
        while process.poll() is None:
            await deferLater(reactor, 0.1)
        self.assertEqual(process.returncode, -signal.SIGKILL)
