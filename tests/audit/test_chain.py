"""
Tests of `relayd.audit.chain`: the chain holds across restarts, rotation and full disks.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relayd.audit.heads import head_path, own_head_path
from relayd.audit.keeping import moved_files
from relayd.audit.lines import GENESIS, decode_line, encode_line
from tests.support.auditing import chain, directory, edit, entries, faults, files, fill, small_disk, state, write

#: Of no relay.
KEY = b"k" * 32
FORGED = "was not written by this relay: its seal is wrong"


class RestartTests(SynchronousTestCase):
    """The chain goes on where it ended."""

    def setUp(self) -> None:
        self.path = directory(self) / "audit.log"
        write(self.path, 3)

    def test_next_life(self) -> None:
        write(self.path, 1)
        self.assertEqual([entry["seq"] for entry in entries(self.path)], list(range(1, 8)))
        self.assertEqual(
            [entry["event"] for entry in entries(self.path)], ["file", "start", *["accepted"] * 3, "start", "accepted"]
        )
        self.assertEqual(faults(self.path, harmless=True), [])

    def test_a_torn_line(self) -> None:
        size = len(self.path.read_bytes().splitlines()[-1])
        for number, at in enumerate(range(1, size, 5), 1):
            last = decode_line(self.path.read_bytes().splitlines()[-1])
            assert last is not None
            torn = encode_line(last.seq + 1, 1e9, "accepted", {"commandId": "c9"}, GENESIS, KEY)[0][:-2][:at]
            edit(self.path, lambda lines, rest=torn: [*lines, rest])  # type: ignore[misc]
            self.assertEqual(sum("is unfinished" in text for text in faults(self.path, harmless=True)), 1)
            self.assertEqual(faults(self.path), [])
            write(self.path, 1)
            self.assertEqual(faults(self.path), [])
            self.assertEqual(sum("is torn" in text for text in faults(self.path, harmless=True)), number)

    def test_what_is_left_of_it_cannot_be_changed(self) -> None:
        edit(self.path, lambda lines: [*lines, b'{"seq":6'])
        write(self.path, 1)
        edit(self.path, lambda lines: [line.replace(b'{"seq":6\n', b'{"seq":9\n') for line in lines])
        self.assertEqual(faults(self.path), ["6 was changed or inserted: it is not as relayd wrote it"])

    def test_a_line_that_lacks_its_end(self) -> None:
        edit(self.path, lambda lines: [*lines[:-1], lines[-1][:-1]])
        write(self.path, 1)
        self.assertEqual(faults(self.path, harmless=True), [])
        self.assertEqual(len(entries(self.path)), 7)

    def test_the_first_line_is_torn(self) -> None:
        self.path.write_bytes(self.path.read_bytes()[:50])
        for head in (head_path(str(self.path)), own_head_path(str(state(self.path)))):
            Path(head).unlink()
        write(self.path, 1)
        self.assertEqual(faults(self.path), [])
        self.assertEqual(len(faults(self.path, harmless=True)), 1)
        self.assertEqual(self.path.read_bytes().count(b'"torn"'), 1)

    def test_the_head_was_not_written(self) -> None:
        head = Path(head_path(str(self.path)))
        before = head.read_bytes()
        write(self.path, 1)
        head.write_bytes(before)
        write(self.path, 1)
        self.assertEqual(faults(self.path), [])

    def test_the_tail_was_removed(self) -> None:
        edit(self.path, lambda lines: lines[:-2])
        self.assertEqual(len(faults(self.path)), 1)
        write(self.path, 1)
        self.assertEqual(faults(self.path), ["4 comes after lines that are missing: 4–5"])

    def test_the_last_line_was_forged(self) -> None:
        def forge(lines: list[bytes]) -> list[bytes]:
            was = decode_line(lines[-1][:-1])
            assert was is not None
            return [*lines[:-1], encode_line(was.seq, 1e9, "accepted", {}, was.prev, KEY)[0]]

        edit(self.path, forge)
        found = write(self.path, 1)
        self.assertEqual((found.foreign, found.missing, found.last), (1, 1, 4))
        self.assertEqual(faults(self.path), [f"5 {FORGED}", "6 comes after lines that are missing: 5–5"])

    def test_the_last_line_was_spoilt(self) -> None:
        """It does not pass for one that a crash tore."""
        edit(self.path, lambda lines: [*lines[:-1], lines[-1].replace(b"c2", b"c9")])
        write(self.path, 1)
        self.assertEqual(
            faults(self.path),
            ["5 was changed or inserted: it is not as relayd wrote it", "6 comes after lines that are missing: 5–5"],
        )

    def test_one_relay_at_a_time(self) -> None:
        log = chain(self.path)
        log.open("1.0")
        error = self.assertRaises(OSError, write, self.path, 1)
        self.assertEqual(error.strerror, "another process is writing it")
        log.close()
        write(self.path, 1)
        self.assertEqual(faults(self.path), [])

    def test_one_that_could_not_be_opened_is_in_nobodys_way(self) -> None:
        content = self.path.read_bytes()
        self.path.unlink()
        self.path.mkdir()
        self.assertRaises(OSError, write, self.path, 1)
        self.path.rmdir()
        self.path.write_bytes(content)
        write(self.path, 1)

    def test_it_is_for_this_user_alone(self) -> None:
        self.addCleanup(os.umask, os.umask(0))
        path = directory(self) / "audit.log"
        write(path, 1)
        for each in (path, Path(head_path(str(path)))):
            self.assertEqual(stat.S_IMODE(each.stat().st_mode), 0o600)


class RotationTests(SynchronousTestCase):
    """The chain goes on from file to file."""

    def setUp(self) -> None:
        self.path = directory(self) / "audit.log"

    def test_by_size(self) -> None:
        write(self.path, 30, max_size=1000)
        parts = files(self.path)
        self.assertGreater(len(parts), 5)
        self.assertEqual(parts, [*(Path(each.path) for each in moved_files(str(self.path))), self.path])
        self.assertEqual(faults(*parts), [])
        found = entries(*parts)
        self.assertEqual([entry["seq"] for entry in found], list(range(1, len(found) + 1)))
        self.assertEqual(sum(entry["event"] == "accepted" for entry in found), 30)
        for part in parts[:-1]:
            self.assertEqual(int(part.suffix[1:]), entries(part)[-1]["seq"])

    def test_old_files_go(self) -> None:
        write(self.path, 30, max_size=1000, keep=2)
        parts = files(self.path)
        self.assertEqual(len(parts), 3)
        self.assertEqual(faults(*parts), [])
        self.assertGreater(entries(parts[0])[0]["seq"], 1)

    def test_a_file_that_is_not_there(self) -> None:
        write(self.path, 30, max_size=1000)
        parts = files(self.path)
        found = faults(*parts[:2], *parts[3:])
        self.assertEqual(len(found), 1, found)
        self.assertIn("1 comes after lines that are missing: ", found[0])

    def test_moved_by_somebody_else(self) -> None:
        self._while_it_is_written(lambda: self.path.rename(f"{self.path}.1"))

    def test_moved_and_made_anew_by_somebody_else(self) -> None:
        def rotate() -> None:
            self.path.rename(f"{self.path}.1")
            self.path.touch()

        self._while_it_is_written(rotate)

    def test_copied_and_emptied_by_somebody_else(self) -> None:
        def rotate() -> None:
            Path(f"{self.path}.1").write_bytes(self.path.read_bytes())
            os.truncate(self.path, 0)

        self._while_it_is_written(rotate)

    def test_moved_between_two_lives(self) -> None:
        write(self.path, 2)
        self.path.rename(f"{self.path}.1")
        write(self.path, 2)
        self.assertEqual(faults(*files(self.path)), [])
        self.assertEqual([entry["seq"] for entry in entries(self.path)], [5, 6, 7, 8])

    def test_something_else_is_in_its_place(self) -> None:
        def rotate() -> None:
            self.path.rename(f"{self.path}.1")
            self.path.write_bytes(b"no line")

        found = self._while_it_is_written(rotate, sound=False)
        self.assertEqual(len(found), 1)
        self.assertIn("1 was changed or inserted", found[0])

    def _while_it_is_written(self, rotate: Callable[[], object], sound: bool = True) -> list[str]:
        log = chain(self.path)
        log.open("1.0")
        self.addCleanup(log.close)
        log.prepare()
        log.append([(1e9, "accepted", {"commandId": "c1"})])
        rotate()
        log.prepare()
        log.append([(1e9, "accepted", {"commandId": "c2"})])
        found = faults(self.path, Path(f"{self.path}.1"))
        if sound:
            self.assertEqual(found, [])
            self.assertEqual([entry["event"] for entry in entries(self.path)], ["file", "accepted"])
        return found


class FullDiskTests(SynchronousTestCase):
    """No line is lost, doubled or halved when the disk is full for a while."""

    def test_the_head_is_never_ahead_of_what_the_disk_has(self) -> None:
        path = directory(self) / "audit.log"
        write(path, 1)
        head = Path(head_path(str(path)))
        before = head.read_bytes()

        def fail(descriptor: int) -> None:
            raise OSError(errno.EIO, "no")

        self.patch(os, "fsync", fail)
        self.assertRaises(OSError, write, path, 1)
        self.assertEqual(head.read_bytes(), before)

    @examples(max_examples=10)
    @given(st.integers(1, 3000))
    def test_it_goes_on_from_the_byte_where_it_stopped(self, length: int) -> None:
        disk = small_disk(self)
        path = disk / "audit.log"
        log = chain(path)
        log.open("1.0")
        try:
            log.prepare()
            filler = fill(disk)
            records = [(1e9, "accepted", {"commandId": "x" * length})] * 5
            error = None
            for _ in range(5):
                try:
                    log.append(records)
                except OSError as failure:
                    error = failure
                    break
            assert error is not None
            self.assertEqual(error.errno, errno.ENOSPC)
            self.assertGreater(log.unwritten, 0)
            self.assertRaises(OSError, log.prepare)
            filler.unlink()
            log.prepare()
            log.append(records)
        finally:
            log.close()
        self.assertEqual(faults(path, harmless=True), [])
