"""
Tests of `relayd.audit`: what is in the log, that the chain holds whatever happens to files, disk and process, and that
nobody changes it unnoticed.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relayd.audit.heads import head_path, own_head_path
from relayd.audit.keeping import moved_files
from relayd.audit.key import command_digest, read_key
from relayd.audit.lines import GENESIS, MAX_LINE, decode_line, encode_line
from tests.support.auditing import chain, directory, edit, entries, faults, files, fill, small_disk, state, write

#: Of no relay.
KEY = b"k" * 32
FORGED = "was not written by this relay: its seal is wrong"


class LineTests(SynchronousTestCase):
    """One line."""

    def test_its_hash_is_that_of_the_bytes_before_it(self) -> None:
        line, digest = encode_line(7, 1e9 + 0.25, "accepted", {"host": "größe\n"}, GENESIS, KEY)
        read = decode_line(line[:-1])
        assert read is not None
        self.assertEqual(
            line.decode(),
            '{"seq":7,"time":"2001-09-09T01:46:40.250000Z","event":"accepted","host":"gr\\u00f6\\u00dfe\\n",'
            f'"prev":"{GENESIS}","mac":"{read.mac}","hash":"{digest}"}}\n',
        )
        self.assertEqual((read.seq, read.event, read.prev, read.hash), (7, "accepted", GENESIS, digest))

    @given(st.data())
    def test_any_other_byte_is_seen(self, data: st.DataObject) -> None:
        line = encode_line(1, 1e9, "accepted", {"host": "web1"}, GENESIS, KEY)[0][:-1]
        index = data.draw(st.integers(0, len(line) - 1))
        byte = data.draw(st.integers(0, 255).filter(lambda byte: byte != line[index]))
        self.assertIsNone(decode_line(line[:index] + bytes([byte]) + line[index + 1 :]))
        self.assertIsNone(decode_line(line[:index] + line[index + 1 :]))
        self.assertIsNone(decode_line(line[:index] + bytes([byte]) + line[index:]))

    @given(st.binary())
    def test_whatever_is_there_instead(self, content: bytes) -> None:
        self.assertIsNone(decode_line(content))

    def test_a_hash_alone_makes_no_line(self) -> None:
        whole = b'{"seq":1,"time":"","event":"","prev":""'
        for body in (
            b'{"seq":1',
            b'{"seq":"1","time":"","event":"","prev":""',
            b"{",
            whole.replace(b'"event":"', b'"event":"\xff'),  # neither of these is an error of msgspec's own
            whole + b',"x":' + b"[" * 5000 + b"]" * 5000,
        ):
            digest = sha256(body).hexdigest().encode()
            self.assertIsNone(decode_line(body + b',"hash":"' + digest + b'"}'))


class KeyTests(SynchronousTestCase):
    """The key of commands' digests."""

    def test_it_is_made_once_for_this_user_alone(self) -> None:
        path = directory(self) / "audit-key"
        key = read_key(str(path), make=True)
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)
        self.assertEqual((read_key(str(path), make=True), len(key)), (key, 32))

    def test_without_it_a_digest_cannot_be_tried_out(self) -> None:
        self.assertNotEqual(command_digest(b"1" * 32, "uptime"), command_digest(b"2" * 32, "uptime"))
        self.assertEqual(  # RFC 4231, test case 2
            command_digest(b"Jefe", "what do ya want for nothing?"),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        )

    def test_what_is_no_key(self) -> None:
        path = directory(self) / "audit-key"
        path.write_text("")
        self.assertRaises(ValueError, read_key, str(path), make=True)
        path.unlink()
        self.assertRaises(OSError, read_key, str(path), make=False)


class TamperingTests(SynchronousTestCase):
    """One change to a log of several files and two lives of the relay is found, whichever it is."""

    def setUp(self) -> None:
        self.path = directory(self) / "audit.log"
        write(self.path, 5, max_size=1200)
        write(self.path, 4)
        self.files = files(self.path)
        self.assertEqual(len(self.files), 2)
        self.lines = [(path, line) for path in self.files for line in path.read_bytes().splitlines(keepends=True)]
        self.check(self.lines, found=False)

    def check(self, lines: list[tuple[Path, bytes]], *, found: bool = True) -> None:
        """Of *lines*, each with its file, something is wrong."""
        for path in self.files:
            path.write_bytes(b"".join(line for where, line in lines if where == path))
        self.assertEqual(bool(faults(*self.files)), found, faults(*self.files))

    @given(st.data())
    def test_one_change(self, data: st.DataObject) -> None:
        lines = list(self.lines)
        index = st.integers(0, len(lines) - 1)
        at = data.draw(index)
        path, line = lines[at]
        kind = data.draw(st.sampled_from(["remove", "byte", "forge", "swap", "duplicate", "insert"]))
        if kind == "remove":
            del lines[at]
        elif kind == "byte":
            place = data.draw(st.integers(0, len(line) - 2))
            byte = data.draw(st.integers(0, 255).filter(lambda byte: byte != line[place]))
            lines[at] = path, line[:place] + bytes([byte]) + line[place + 1 :]
        elif kind == "forge":  # with a hash that is right in itself
            was = decode_line(line[:-1])
            assert was is not None
            lines[at] = path, encode_line(was.seq, 1e9, was.event, {"host": "another"}, was.prev, KEY)[0]
        elif kind == "swap":
            other = data.draw(index.filter(lambda other: other != at))
            lines[at], lines[other] = (path, lines[other][1]), (lines[other][0], line)
        elif kind == "duplicate":
            to = data.draw(index)
            lines.insert(to, (lines[to][0], line))
        else:
            lines.insert(at, (path, data.draw(st.binary()) + b"\n"))
        self.check(lines)

    @given(st.data())
    def test_a_run_of_lines_is_removed(self, data: st.DataObject) -> None:
        """Not all of a file, though: that is how old files leave, but for the last."""
        lines = list(self.lines)
        begin = data.draw(st.integers(0, len(lines) - 1))
        end = data.draw(st.integers(begin + 1, len(lines)))
        kept = lines[:begin] + lines[end:]
        self.check(kept, found=kept != [each for each in lines if each[0] == self.files[1]])


class MessageTests(SynchronousTestCase):
    """What is said of a change, and that it is said once."""

    def setUp(self) -> None:
        self.path = directory(self) / "audit.log"
        write(self.path, 8)  # after two lines of its own

    def test_none(self) -> None:
        self.assertEqual(faults(self.path), [])

    def test_changed(self) -> None:
        edit(self.path, lambda lines: [*lines[:4], lines[4].replace(b"c2", b"c9"), *lines[5:]])
        self.assertEqual(faults(self.path), ["5 was changed or inserted: it is not as relayd wrote it"])

    def test_removed(self) -> None:
        edit(self.path, lambda lines: lines[:4] + lines[6:])
        self.assertEqual(faults(self.path), ["5 comes after lines that are missing: 5–6"])

    def test_out_of_order(self) -> None:
        edit(self.path, lambda lines: lines[:4] + lines[7:] + lines[4:7])
        self.assertEqual(
            faults(self.path),
            ["5 comes after lines that are missing: 5–7", "8 is out of order: number 5 after 10"],
        )

    def test_forged(self) -> None:
        def forge(lines: list[bytes]) -> list[bytes]:
            was = decode_line(lines[4][:-1])
            assert was is not None
            return [*lines[:4], encode_line(5, 1e9, "accepted", {}, was.prev, KEY)[0], *lines[5:]]

        edit(self.path, forge)
        self.assertEqual(
            faults(self.path, sealed=False),
            ["6 does not follow the line before: that one was changed, or is of another chain"],
        )
        self.assertEqual(faults(self.path), [f"5 {FORGED}"])

    def test_another_chain(self) -> None:
        other = directory(self) / "audit.log"
        write(other, 1)
        edit(self.path, lambda lines: [*lines, *other.read_bytes().splitlines(keepends=True)])
        self.assertEqual(faults(self.path, sealed=False), ["11 begins another chain"])
        self.assertEqual(faults(self.path), [f"{number} {FORGED}" for number in (11, 12, 13)])

    def test_a_line_without_end(self) -> None:
        """Readers hold no more of it than a line can have."""
        edit(self.path, lambda lines: [*lines, b"x" * 5 * MAX_LINE])
        self.assertEqual(len(faults(self.path)), 2)

    def test_the_beginning_of_an_older_file(self) -> None:
        edit(self.path, lambda lines: lines[1:])
        self.assertEqual(faults(self.path), ["1 is not the first of a file: what stood before it was removed"])


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
        self.assertEqual(error.strerror, "another relay is writing it")
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
