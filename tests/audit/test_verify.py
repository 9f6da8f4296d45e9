"""
Tests of `relayd.audit.verify`: whatever somebody does to a log, it is found.
"""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relayd.audit.lines import MAX_LINE, decode_line, encode_line
from tests.support.auditing import directory, edit, faults, files, write

#: Of no relay.
KEY = b"k" * 32


FORGED = "was not written by this relay: its seal is wrong"


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
