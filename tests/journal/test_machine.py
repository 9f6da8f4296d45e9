"""
Tests of `relayd.journal.store`: steps, full disks, losses of power, starts and clean-ups in any order, against a model.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from twisted.trial.unittest import SynchronousTestCase

from relayd.errors import JournalUnavailable, NotExecuted, OutcomeLost
from relayd.interfaces import EntryState, JournalEntry
from relayd.journal.bodies import encode_result
from relayd.journal.disk import Disk
from relayd.journal.log import SECTOR
from relayd.journal.store import Store
from relayd.wire.failure_results import failure_result
from relayd.wire.messages import CommandResult
from tests.support.dispatching import result

ACCEPTED, STARTED, FINISHED, CONFIRMED, DEAD = (
    EntryState.ACCEPTED, EntryState.STARTED, EntryState.FINISHED, EntryState.CONFIRMED, EntryState.DEAD,
)  # fmt: skip
IDS = [f"c{number}" for number in range(12)]
#: What each step leads to, and from where.
STEPS = {
    "start": (STARTED, {ACCEPTED}),
    "finish": (FINISHED, {ACCEPTED, STARTED}),
    "end": (CONFIRMED, {ACCEPTED, STARTED}),
    "confirm": (CONFIRMED, {FINISHED, DEAD}),
    "bury": (DEAD, {FINISHED}),
}
#: "next" is what usually comes after the state that a command is in; other steps are mostly ones that cannot be.
NEXT = {None: "accept", ACCEPTED: "start", STARTED: "finish", FINISHED: "confirm", DEAD: "confirm", CONFIRMED: "accept"}
NAMES = st.one_of(st.just("next"), st.just("next"), st.sampled_from(["accept", *STEPS]))
BATCHES = st.lists(st.tuples(NAMES, st.sampled_from(IDS)), min_size=1, max_size=6)
#: What the disk does with a batch.
FATES = st.sampled_from(["written"] * 6 + ["full", "torn"])


class Known(NamedTuple):
    """What the journal has of a command."""

    state: EntryState
    print: bytes
    held: CommandResult | None = None


class PowerLossError(BaseException):
    """Nothing that comes after this happens."""


class Machinery(Disk):
    """
    A disk in a machine.

    :ivar full: how many of the next writes fail.
    :ivar lost_after: after how many calls the power is lost; ``None``: it is not.
    :ivar picture: where the files are then, as the disk has them.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._random = random.Random(0)
        self.full = 0
        self.lost_after: int | None = None
        self.picture: Path | None = None
        # Names that were made or removed, and may not be so on the disk yet.
        self._made: set[str] = set()
        self._removed: dict[str, bytes] = {}

    def lose_power(self, after: int, seed: int) -> None:
        self.lost_after = after
        self._random = random.Random(seed)

    def _call(self) -> None:
        if self.picture is not None:
            raise PowerLossError
        if self.lost_after is not None:
            self.lost_after -= 1
            if self.lost_after < 0:
                self.lose()

    def lose(self) -> None:
        """Lose the power now."""
        self.picture = self._folder.with_name(self._folder.name + " picture")
        shutil.copytree(self._folder, self.picture)
        if self._random.random() < 0.5:
            for name in self._made:
                (self.picture / name).unlink(missing_ok=True)
            for name, data in self._removed.items():
                (self.picture / name).write_bytes(data)
        raise PowerLossError

    def create(self, path: str, *, durable: bool) -> int:
        self._call()
        self._made.add(os.path.basename(path))
        return super().create(path, durable=durable)

    def allocate(self, file: int, offset: int, size: int) -> None:
        self._call()
        super().allocate(file, offset, size)

    def write(self, file: int, data: bytes, offset: int) -> None:
        if self.lost_after == 0 and self.picture is None:
            for place in range(0, len(data), SECTOR):  # any of the sectors are there
                if self._random.random() < 0.7:
                    os.pwrite(file, data[place : place + SECTOR], offset + place)
        self._call()
        if self.full:
            self.full -= 1
            # Some of it is there, or all: it may be that it could not be synced.
            os.pwrite(file, data[: len(data) * (len(data) % 2 + 1) // 2], offset)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().write(file, data, offset)

    def truncate(self, file: int, size: int) -> None:
        self._call()
        super().truncate(file, size)

    def sync_folder(self, path: str) -> None:
        self._call()
        super().sync_folder(path)
        self._made.clear()
        self._removed.clear()

    def unlink(self, path: str) -> None:
        self._call()
        self._removed[os.path.basename(path)] = Path(path).read_bytes()
        super().unlink(path)


class JournalMachine(RuleBasedStateMachine):
    """The journal knows what it said that it knows, whatever happens."""

    def __init__(self) -> None:
        super().__init__()
        memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
        self.directory = Path(tempfile.mkdtemp(prefix="relayd-journal-", dir=memory))
        self.folder = self.directory / "0"
        self.folder.mkdir()
        self.starts = self.serial = 0
        self.model: dict[str, Known] = {}
        self.open()

    def open(self) -> None:
        self.disk = Machinery(self.folder)
        self.store = Store(str(self.folder / "journal.sqlite3"), durable=True, disk=self.disk)
        self.store.open()
        assert not self.store.damaged
        while not self.store.learn():
            pass

    def teardown(self) -> None:
        self.release()
        shutil.rmtree(self.directory)

    def release(self) -> None:
        """Close the files, and write nothing."""
        for log in self.store.steps.logs:
            log.close()
        self.store.archived.close()

    # What happens

    @rule(batch=BATCHES, quickly=st.booleans(), fate=FATES, seed=st.integers(0, 1000))
    def apply(self, batch: list[tuple[str, str]], quickly: bool, fate: str, seed: int) -> None:
        if fate == "full" and self.disk.lost_after is None:
            self.disk.full = len(batch) + 2  # whatever is tried
        elif fate == "torn" and not self.disk.full:
            self.disk.lose_power(0, seed)
        calls, expected = [], dict(self.model)
        steps, told = [], []
        for wanted, command_id in batch:
            self.serial += 1
            name = wanted
            if wanted == "next":
                known = expected.get(command_id)
                name = NEXT[None if known is None else known.state]
            steps.append((name, command_id))
            arguments: tuple[Any, ...] = (command_id,)
            if name == "accept":
                arguments = (command_id, f"print {self.serial}".encode(), False)
            elif name == "finish":
                arguments = (result(command_id, f"output {self.serial} " * (self.serial * 37 % 300)),)
            calls.append((getattr(self.store.steps, name), arguments))
            told.append(self.step(expected, name, command_id, arguments))
        full = self.disk.full
        try:
            outcomes = self.write(calls, quickly)
        except PowerLossError:
            self.start_again(expected)
            return
        if self.disk.full == full:
            assert [outcome if told[place] is not JournalUnavailable else type(outcome)
                    for place, outcome in enumerate(outcomes)] == told  # fmt: skip
            self.model = expected
            return
        for (name, command_id), (_, arguments), outcome in zip(steps, calls, outcomes, strict=True):
            if not isinstance(outcome, JournalUnavailable):  # one by one, as far as there was room
                assert self.step(self.model, name, command_id, arguments) == outcome

    def step(self, model: dict[str, Known], name: str, command_id: str, arguments: tuple[Any, ...]) -> object:
        """Do it in *model*; gives what the journal has to say."""
        known = model.get(command_id)
        if name == "accept":
            if known is not None:
                return JournalEntry(fingerprint=known.print, state=known.state)
            model[command_id] = Known(ACCEPTED, arguments[1])
            return None
        state, before = STEPS[name]
        if known is None or known.state not in before:
            return JournalUnavailable
        held = arguments[0] if name == "finish" else known.held if name == "bury" else None
        model[command_id] = Known(state, known.print, held)
        return len(encode_result(arguments[0])) if name == "finish" else None

    def write(self, calls: list[Any], quickly: bool) -> list[object]:
        prepared = self.store.prepare(calls) if quickly else None
        if prepared is None:
            return self.store.apply(calls)
        failed = self.store.write(prepared)
        return self.store.settle(prepared) if failed is None else failed

    @precondition(lambda self: len(self.store.steps.logs) < 8)
    @rule()
    def rotate(self) -> None:
        self.survive(self.store.rotate)

    @rule()
    def archive(self) -> None:
        self.survive(self.store.archive)

    def survive(self, job: Any) -> None:
        try:
            job()
        except OSError:
            assert self.store.steps.logs
        except PowerLossError:
            self.start_again(self.model)

    @precondition(lambda self: not self.disk.full and self.disk.lost_after is None)
    @rule()
    def prune(self) -> None:
        self.store.rotate()
        self.store.archive()
        self.store.prune(self.store.now() + 1, 0, 100)
        self.model = {command_id: known for command_id, known in self.model.items() if known.state is not CONFIRMED}

    @precondition(lambda self: self.disk.lost_after is None)
    @rule(writes=st.integers(1, 3))
    def fill_disk(self, writes: int) -> None:
        self.disk.full = writes

    @precondition(lambda self: not self.disk.full)
    @rule(after=st.integers(0, 5), seed=st.integers(0, 1000))
    def lose_power_soon(self, after: int, seed: int) -> None:
        self.disk.lose_power(after, seed)

    @rule()
    def lose_power(self) -> None:
        self.survive(self.disk.lose)

    @precondition(lambda self: not self.disk.full and self.disk.lost_after is None)
    @rule()
    def stop_and_start(self) -> None:
        self.store.close()
        assert not [name for name in os.listdir(self.folder) if name.startswith("log.")]
        self.open()
        self.model = _recovered(self.model)

    def start_again(self, asked: dict[str, Known]) -> None:
        """The power was lost; *asked*: what would be known if all that was asked for had come to be."""
        assert self.disk.picture is not None
        self.release()
        self.starts += 1
        self.folder = self.disk.picture.rename(self.directory / str(self.starts))
        self.open()
        found = self.known()
        possible = [_recovered(self.model), _recovered(asked)]  # all of it is there, or nothing
        assert found in possible, (found, possible)
        self.model = found

    # What is known

    def known(self) -> dict[str, Known]:
        self.store.steps.begin(False)
        found = {}
        for command_id in IDS:
            entry = self.store.steps._find(command_id)
            if entry is not None:
                held = self.store.steps.load(command_id)
                found[command_id] = Known(entry.state, entry.fingerprint, held)
        return found

    @invariant()
    def it_knows_what_it_said(self) -> None:
        assert self.known() == self.model


def _recovered(model: dict[str, Known]) -> dict[str, Known]:
    """What a start makes of it: what is not finished gets a result that says so."""
    ends = {ACCEPTED: NotExecuted, STARTED: OutcomeLost}
    return {
        command_id: known._replace(state=FINISHED, held=failure_result(command_id, ends[known.state]()))
        if known.state in ends
        else known
        for command_id, known in model.items()
    }


class AnyOrderTests(SynchronousTestCase):
    def test_any_order_of_events(self) -> None:
        run_state_machine_as_test(JournalMachine, settings=settings(max_examples=100, stateful_step_count=40))
