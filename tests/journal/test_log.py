"""
Tests of `relayd.journal.log`: what is read of a log that ends in the middle, is damaged, or could not be written.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import shutil
import struct
import tempfile
from pathlib import Path
from zlib import crc32

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from relayd.errors import JournalUnavailable
from relayd.interfaces import EntryState
from relayd.journal.disk import Disk
from relayd.journal.log import BEGIN, LONG, SECTOR, STEP, Log, log_numbers, read_log
from relayd.journal.records import Accepted, AnyRecord, Batch, Confirmed, Finished, Started


class BrokenDisk(Disk):
    """
    A disk on which calls fail.

    :ivar failing: the calls that do.
    """

    def __init__(self) -> None:
        self.failing: set[str] = set()

    def _fail(self, name: str, number: int) -> None:
        if name in self.failing:
            raise OSError(number, os.strerror(number))

    def allocate(self, file: int, offset: int, size: int) -> None:
        self._fail("allocate", errno.ENOSPC)
        super().allocate(file, offset, size)

    def write(self, file: int, data: bytes, offset: int) -> None:
        if "write" in self.failing:
            os.pwrite(file, data[: len(data) // 2], offset)
        self._fail("write", errno.ENOSPC)
        super().write(file, data, offset)
        self._fail("write synced", errno.EIO)  # all of it may be there all the same

    def sync(self, file: int) -> None:
        self._fail("sync", errno.EIO)
        super().sync(file)

    def truncate(self, file: int, size: int) -> None:
        self._fail("truncate", errno.EIO)
        super().truncate(file, size)


class LogTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)
        self.disk = BrokenDisk()
        self.log = self.make()
        self.path = Path(self.log.path)

    def make(self, number: int = 1, *, synced: bool = True) -> Log:
        log = Log(self.folder, number, self.disk, synced=synced)
        self.addCleanup(log.close)
        return log

    def append(self, *ids: str, log: Log | None = None) -> None:
        (log or self.log).append([Accepted(command_id, b"print", 0) for command_id in ids], 1.0, 2.0)

    def filled(self, last: int = 10) -> tuple[bytes, list[int]]:
        """A log of five batches, and where each begins and the last ends; *last*: bytes of the last result."""
        ends = [self.log.size]
        for number in range(4):
            self.append(f"c{number}")
            ends.append(self.log.size)
        body = os.urandom(last) + b"end"  # and not zeros
        self.log.append([Accepted("c4", b"print", 0), Started("c0"), Finished("c0", body)], 1.0, 2.0)
        return self.path.read_bytes(), [*ends, self.log.size]

    def known(self, data: bytes) -> tuple[list[str], bool]:
        content = read_log(data)
        return sorted(content.changes.commands), content.damaged

    def test_what_was_written_is_read(self) -> None:
        data, _ = self.filled()
        content = read_log(data)
        self.assertEqual(self.known(data), (["c0", "c1", "c2", "c3", "c4"], False))
        self.assertIs(content.changes.commands["c0"].state, EntryState.FINISHED)
        place = content.changes.results["c0"]
        self.assertEqual(content.body_of("c0", place), self.log.body_of("c0", place))
        self.assertEqual(content.changes.commands, self.log.changes.commands)
        self.assertEqual(log_numbers(self.folder), [1])

    def test_each_byte_of_the_tail_is_cut_off(self) -> None:
        """And the tail is not there, or is zeros, as in what a file system has set aside."""
        data, ends = self.filled()
        begin, end = ends[-2:]
        for cut in range(begin, end):
            for tail in (b"", bytes(5000)):
                self.assertEqual(self.known(data[:cut] + tail), (["c0", "c1", "c2", "c3"], False), cut)
        self.assertEqual(self.known(data[:BEGIN]), ([], False))
        for cut in range(BEGIN):  # the relay ended while it made the file
            self.assertEqual(self.known(data[:cut]), ([], False), cut)

    def test_each_byte_falls_over(self) -> None:
        data, ends = self.filled()
        for place in range(ends[-1]):
            changed = bytearray(data)
            changed[place] ^= 1 << place % 8
            found, damaged = self.known(bytes(changed))
            if place < BEGIN:  # there are two headers
                self.assertEqual((len(found), damaged), (5, False), place)
            elif place < ends[-2]:
                self.assertEqual(damaged, True, place)
                self.assertEqual(len(found), 4 + (place < ends[1]), place)  # c0 is in the last batch, too
            else:  # nobody can tell this from a batch that was not written to its end
                self.assertEqual((len(found), damaged), (4, False), place)

    def test_any_sectors_of_the_last_batch_are_missing(self) -> None:
        """A disk writes them in any order."""
        data, ends = self.filled(last=5 * SECTOR)
        begin, end = ends[-2:]
        sectors = range(begin // SECTOR, (end - 1) // SECTOR + 1)
        self.assertGreaterEqual(len(sectors), 6)
        for missing in range(1, 1 << len(sectors)):
            torn = bytearray(data)
            for number, sector in enumerate(sectors):
                if missing >> number & 1:
                    first, last = max(begin, sector * SECTOR), min(end, (sector + 1) * SECTOR)
                    torn[first:last] = bytes(last - first)
            self.assertEqual(self.known(bytes(torn)), (["c0", "c1", "c2", "c3"], False), missing)

    def test_anything_in_its_place(self) -> None:
        """What is read is what was written, or nothing; and reading never fails."""
        data, ends = self.filled()
        source = random.Random(5)
        for _ in range(2000):
            changed = bytearray(data[: ends[-1]])
            for _ in range(source.randrange(1, 4)):
                place, length = source.randrange(len(changed)), source.choice((1, 4, 30, 600))
                piece = source.choice((source.randbytes(length), bytes(length), bytes(changed[:length])))
                changed[place : place + source.choice((0, length))] = piece
            content = read_log(bytes(changed))
            for command_id, change in content.changes.commands.items():
                self.assertIn(command_id, self.log.changes.commands)
                if change.fingerprint is not None:
                    self.assertEqual(change.fingerprint, b"print")

    def test_a_hole_in_a_log_that_was_not_synced(self) -> None:
        """The system wrote its pages in any order: that is no damage, and what is there is used."""
        log = self.make(2, synced=False)
        ends = []
        for command_id in "abc":
            self.append(command_id, log=log)
            ends.append(log.size)
        data = bytearray(Path(log.path).read_bytes())
        data[ends[0] : ends[1]] = bytes(ends[1] - ends[0])
        self.assertEqual(self.known(bytes(data)), (["a", "c"], False))

    def test_both_headers_are_gone(self) -> None:
        data, _ = self.filled()
        self.assertEqual(self.known(bytes(BEGIN) + data[BEGIN:]), ([], True))

    def test_an_output_that_looks_like_a_log(self) -> None:
        """Not even the log's own bytes are read as batches at another place."""
        self.append("c1")
        held = self.path.read_bytes()
        self.log.append([Finished("c1", held)], 1.0, 2.0)
        self.append("c2")
        self.append("c1b")
        data = bytearray(self.path.read_bytes())
        data[data.index(b"c1", BEGIN) - 8] ^= 1  # so that batches are looked for
        data[data.index(held[:16], BEGIN) - 3] ^= 1
        content = read_log(bytes(data))
        self.assertEqual((sorted(content.changes.commands), content.damaged), (["c1b", "c2"], True))

    def test_a_log_of_a_newer_version(self) -> None:
        data = bytearray(self.path.read_bytes())
        for begin in (0, SECTOR):
            struct.pack_into("<H", data, begin + 16, 2)
            struct.pack_into("<I", data, begin + 44, crc32(data[begin : begin + 44]))
        error = self.assertRaises(JournalUnavailable, read_log, bytes(data))
        self.assertIn("written by a newer version of relayd", str(error))

    def test_times_that_are_no_times(self) -> None:
        """They would break what shows them, and SQLite takes no NaN."""
        for number, at in enumerate((float("nan"), float("inf"), -1.0, 1e300), 2):
            log = self.make(number)
            self.append("a", log=log)
            log.append([Accepted("b", b"print", 0)], at, 2.0)
            log.append([Accepted("c", b"print", 0)], 1.0, at)
            self.append("d", log=log)
            self.assertEqual(self.known(Path(log.path).read_bytes()), (["a", "d"], True), at)

    def test_a_batch_that_could_not_be_written_does_not_come_back(self) -> None:
        self.append("a")
        for failing in ("allocate", "write", "write synced"):
            with self.subTest(failing=failing):
                self.fails_once({failing}, failing)
        with self.subTest(failing="all"):
            self.fails_once({"write synced", "sync"}, "sync")

    def fails_once(self, failing: set[str], name: str) -> None:
        self.disk.failing = failing
        large = [Finished(f"failed {name}", bytes(300_000)), Accepted(f"other {name}", b"print", 0)]
        self.assertRaises(OSError, self.log.append, large, 1.0, 2.0)
        self.disk.failing = set()
        if name == "sync":  # the file could not be cut just then
            self.append("b")
        self.assertFalse([each for each in self.known(self.path.read_bytes())[0] if name in each])
        self.assertNotIn(f"failed {name}".encode(), self.path.read_bytes())
        self.append(f"next {len(name)}")
        self.assertIn(f"next {len(name)}", self.known(self.path.read_bytes())[0])
        self.assertFalse(self.known(self.path.read_bytes())[1])

    def test_a_long_result(self) -> None:
        """It is not copied, and the bytes on the disk are those that one call of msgpack makes."""
        results = [Finished("b", b"short"), Finished("c", b"x" * LONG), Finished("d", b"\xff" * (LONG + 1))]
        records: list[AnyRecord] = [Accepted("a", b"print", 0), *results]
        self.append("0")
        place = self.log.size
        frame = self.log.frame(records, 1.0, 2.0)
        self.assertIs(frame.body, results[-1].body)
        self.log.append(records, 1.0, 2.0)
        encoded = msgspec.msgpack.encode(Batch(1.0, 2.0, records))
        self.assertTrue(self.path.read_bytes()[: self.log.size].endswith(encoded))
        self.assertEqual(self.log.read(place), records)
        self.append("e")
        content = read_log(self.path.read_bytes())
        self.assertFalse(content.damaged)
        self.assertEqual([content.body_of(each.id, place) for each in results], [each.body for each in results])

    def test_a_long_result_that_could_not_be_written_as_a_whole(self) -> None:
        records: list[AnyRecord] = [Finished("a", b"x" * (LONG + 1))]
        size = self.log.size
        frame = self.log.frame(records, 1.0, 2.0)
        os.pwrite(self.log._file, frame.data + frame.body[:-1] + b"y", size)
        content = read_log(self.path.read_bytes())
        self.assertEqual((content.changes.commands, content.damaged), ({}, False))
        write = self.disk.write

        def fail_at_the_second(file: int, data: bytes, offset: int) -> None:
            if data is frame.body:
                self.disk.failing.add("write")
            write(file, data, offset)

        self.patch(self.disk, "write", fail_at_the_second)
        self.assertRaises(OSError, self.log.write, frame)
        self.assertEqual(self.path.stat().st_size, size)
        self.disk.failing.clear()
        self.append("b")
        self.assertEqual(list(read_log(self.path.read_bytes()).changes.commands), ["b"])

    def test_nothing_is_written_behind_what_could_not_be_cut_off(self) -> None:
        self.append("a")
        self.disk.failing = {"write", "truncate"}
        self.assertRaises(OSError, self.append, "b")
        self.disk.failing = {"truncate"}
        self.assertRaises(OSError, self.append, "c")
        self.disk.failing = set()
        self.append("d")
        self.assertEqual(self.known(self.path.read_bytes()), (["a", "d"], False))

    def test_a_disk_that_is_nearly_full(self) -> None:
        """Has room for what is needed, though not for a whole step."""
        asked: list[int] = []
        allocate = self.disk.allocate

        def almost(file: int, offset: int, size: int) -> None:
            asked.append(size)
            if size > 10_000:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            allocate(file, offset, size)

        self.patch(self.disk, "allocate", almost)
        log = self.make(2)
        self.append("a", log=log)
        self.assertEqual(asked, [STEP, asked[1]])
        self.assertLess(asked[1], 10_000)
        self.assertEqual(self.known(Path(log.path).read_bytes()), (["a"], False))

    def test_a_file_that_cannot_be_made_is_not_left_behind(self) -> None:
        for failing in ("allocate", "write", "write synced", "sync"):
            self.disk.failing = {failing}
            self.assertRaises(OSError, self.make, 2)
            self.assertEqual(os.listdir(self.folder), [self.path.name])

    def test_what_is_written_is_on_the_disk(self) -> None:
        """By the way in which the file is opened; without a promise for a loss of power, it is not."""
        for number, synced in ((2, True), (3, False)):
            log = self.make(number, synced=synced)
            flags = fcntl.fcntl(log._file, fcntl.F_GETFL)
            self.assertEqual(flags & os.O_DSYNC == os.O_DSYNC, synced)

    def test_what_is_confirmed_holds_no_result(self) -> None:
        self.append("a")
        self.log.append([Finished("a", b"body")], 1.0, 2.0)
        self.assertEqual(list(self.log.changes.results), ["a"])
        self.log.append([Confirmed("a")], 1.0, 2.0)
        self.assertEqual(self.log.changes.results, {})
        self.assertIs(self.log.changes.commands["a"].state, EntryState.CONFIRMED)
