"""
Tests of `relayd.journal.store`: the power fails, or the disk, at each step, also while a log is moved to the archive.
"""

from __future__ import annotations

import contextlib  # "suppress" in a module of tests is trial's
import errno
import os
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from relayd.errors import JournalUnavailable
from relayd.interfaces import EntryState
from relayd.journal.archive import Archive
from relayd.journal.disk import Disk
from relayd.journal.log import SECTOR
from relayd.journal.store import Store
from tests.support.dispatching import result

#: What may come after a state, by the name of the method, and the state after that.
NEXT = {
    None: ("accept", EntryState.ACCEPTED),
    EntryState.ACCEPTED: ("start", EntryState.STARTED),
    EntryState.STARTED: ("finish", EntryState.FINISHED),
    EntryState.FINISHED: ("confirm", EntryState.CONFIRMED),
}


class Commands:
    """
    Commands at some point of their lives, and what their relay was told of them.

    :ivar promised: the state that each is in for sure.
    :ivar asked: those of which a step was asked for, and the answer did not come: they may be one step further.
    :ivar failed: those that could not be accepted.
    """

    def __init__(self, store: Store, seed: int) -> None:
        self._store = store
        self._random = random.Random(seed)
        self.promised: dict[str, EntryState] = {}
        self.asked: dict[str, EntryState] = {}
        self.failed: set[str] = set()

    def act(self) -> None:
        """Some steps of commands, written together."""
        calls: list[Any] = []
        for _ in range(self._random.randrange(1, 4)):
            command_id = f"c{self._random.randrange(30)}"
            name, state = NEXT.get(self.promised.get(command_id), ("", EntryState.DEAD))
            if name and command_id not in self.asked:
                self.asked[command_id] = state
                calls.append((getattr(self._store.steps, name), self.arguments(name, command_id)))
        ids = list(self.asked)
        for command_id, outcome in zip(ids, self._store.apply(calls), strict=True):
            state = self.asked.pop(command_id)
            if not isinstance(outcome, JournalUnavailable):
                self.promised[command_id] = state
                self.failed.discard(command_id)
            elif state is EntryState.ACCEPTED:
                self.failed.add(command_id)

    def arguments(self, name: str, command_id: str) -> tuple[object, ...]:
        if name == "accept":
            return (command_id, f"print of {command_id}".encode(), False)
        return (result(command_id, f"output of {command_id} " * 80),) if name == "finish" else (command_id,)


class StoreCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.directory)
        self.folder = self.directory / "journal"
        self.folder.mkdir()

    def open(self, folder: Path, disk: Disk | None = None) -> tuple[Store, Any]:
        store = Store(str(folder / "journal.sqlite3"), durable=disk is not None, disk=disk)
        return store, store.open()

    def check(self, folder: Path, promised: dict[str, EntryState], asked: dict[str, EntryState], why: str) -> None:
        """What was promised is there after a start."""
        store, recovery = self.open(folder)
        self.assertEqual(store.damaged, [], why)
        ended = dict(recovery.ended)
        for command_id, state in promised.items():
            may_be = {state, asked.get(command_id, state)}
            where = f"{why}: {command_id} {may_be}"
            [known] = store.apply([(store.steps.accept, (command_id, b"other", False))])
            self.assertIsNotNone(known, where)
            self.assertEqual(known.fingerprint, f"print of {command_id}".encode(), where)  # type: ignore[attr-defined]
            expected = {
                EntryState.ACCEPTED: "not-executed",
                EntryState.STARTED: "outcome-unknown",
                EntryState.FINISHED: None,
                EntryState.CONFIRMED: None,
            }
            self.assertIn(ended.get(command_id), {expected[each] for each in may_be}, where)
            if may_be == {EntryState.FINISHED}:
                held = store.steps.load(command_id)
                self.assertEqual(held, result(command_id, f"output of {command_id} " * 80), where)
            if may_be == {EntryState.CONFIRMED}:
                self.assertIsNone(store.steps.load(command_id), where)
                self.assertNotIn(command_id, recovery.live, where)
        for command_id in recovery.live:
            self.assertIn(command_id, {**promised, **asked}, why)
        store.close()
        self.assertEqual([each.name for each in folder.iterdir() if each.name.startswith("log.")], [], why)


class PowerDisk(Disk):
    """Takes a picture of a folder before and after each call, and in the middle of what is written."""

    def __init__(self, picture: Any) -> None:
        self._picture = picture
        self._random = random.Random(3)

    def create(self, path: str, *, durable: bool) -> int:
        file = super().create(path, durable=durable)
        self._picture("create")
        return file

    def write(self, file: int, data: bytes, offset: int) -> None:
        before = os.pread(file, len(data), offset)
        # Any of the sectors are there, in any order.
        for place in range(0, len(data), SECTOR):
            if self._random.random() < 0.5:
                os.pwrite(file, data[place : place + SECTOR], offset + place)
        self._picture("torn")
        os.pwrite(file, before, offset)
        super().write(file, data, offset)
        self._picture("write")

    def unlink(self, path: str) -> None:
        self._picture("before unlink")
        super().unlink(path)
        self._picture("unlink")


class PowerTests(StoreCase):
    """The power fails."""

    def test_at_each_step(self) -> None:
        pictures: list[tuple[str, Path, dict[str, EntryState], dict[str, EntryState]]] = []

        def picture(why: str) -> None:
            path = self.directory / f"picture {len(pictures)}"
            shutil.copytree(self.folder, path)
            pictures.append((why, path, dict(self.commands.promised), dict(self.commands.asked)))

        store = Store(str(self.folder / "journal.sqlite3"), durable=True, disk=PowerDisk(picture))
        self.commands = Commands(store, 7)
        store.open()
        note = Archive._note

        def noted(archive: Archive, name: str, value: str) -> None:
            note(archive, name, value)
            picture("in a transaction")

        self.patch(Archive, "_note", noted)
        for number in range(40):
            self.commands.act()
            if number % 9 == 4:
                store.rotate()
            if number % 9 == 7:
                store.archive()
        store.close()
        self.patch(Archive, "_note", note)
        self.assertGreaterEqual({why for why, *_ in pictures}, {"torn", "write", "before unlink", "in a transaction"})
        self.assertEqual(set(self.commands.promised.values()), {*EntryState} - {EntryState.DEAD})
        for why, path, promised, asked in pictures:
            self.check(path, promised, asked, f"{path.name}, {why}")


class FailingDisk(Disk):
    """A disk on which one call fails, and as many after it as the test says."""

    def __init__(self) -> None:
        self.calls = 0
        self.failing = range(0)

    def _count(self, number: int) -> None:
        self.calls += 1
        if self.calls in self.failing:
            raise OSError(number, os.strerror(number))

    def create(self, path: str, *, durable: bool) -> int:
        self._count(errno.ENOSPC)
        return super().create(path, durable=durable)

    def allocate(self, file: int, offset: int, size: int) -> None:
        self._count(errno.ENOSPC)
        super().allocate(file, offset, size)

    def write(self, file: int, data: bytes, offset: int) -> None:
        if self.calls + 1 in self.failing:
            os.pwrite(file, data[: len(data) // 2], offset)
        self._count(errno.ENOSPC)
        super().write(file, data, offset)
        self._count(errno.EIO)  # it could not be synced, and all of it may be there all the same

    def sync(self, file: int) -> None:
        self._count(errno.EIO)
        super().sync(file)

    def unlink(self, path: str) -> None:
        self._count(errno.EIO)
        super().unlink(path)


class FailureTests(StoreCase):
    """The disk fails, once or for a while, at each of its calls."""

    def run_with(self, first: int, number: int) -> int:
        """Gives how many calls there were."""
        shutil.rmtree(self.folder)
        self.folder.mkdir()
        disk = FailingDisk()
        store, _ = self.open(self.folder, disk)
        disk.calls, disk.failing = 0, range(first, first + number)
        commands = Commands(store, 11)
        for step in range(25):
            commands.act()
            if step % 9 == 4:
                with contextlib.suppress(OSError):
                    store.rotate()
            if step % 9 == 6:
                with contextlib.suppress(OSError):
                    store.archive()
        disk.failing = range(0)
        # As after the end of the process at this moment.
        copy = self.directory / f"copy {first} {number}"
        shutil.copytree(self.folder, copy)
        store.close()
        for folder in (copy, self.folder):
            self.check(folder, commands.promised, {}, f"call {first}, {number} times")
        return disk.calls

    def test_each_call(self) -> None:
        """Nothing that was promised is lost, and nothing is there that was told as failed."""
        calls = self.run_with(0, 0)
        self.assertGreater(calls, 50)
        for first in range(1, calls, 3):
            self.run_with(first, 1)
        for first in range(1, calls, 11):
            self.run_with(first, 6)
