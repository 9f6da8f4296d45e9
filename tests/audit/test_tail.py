"""
Tests of `relayd.audit.tail`: what a crash leaves is no forgery.
"""

from __future__ import annotations

import signal
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from relayd.audit.lines import decode_line
from tests.support.auditing import ForgeryCase, faults, files, state, write


class CrashTests(ForgeryCase):
    """What a crash leaves is no forgery, and no whole line of it is lost."""

    def setUp(self) -> None:
        super().setUp()
        before = self.path.stat().st_size
        self.old = [head.read_bytes() for head in self.heads]
        write(self.path, 5)
        self.content, self.before = self.path.read_bytes(), before

    def crash(self, rest: bytes) -> list[str]:
        """The file is on the disk up to the head, and *rest* of what was to follow; what the next life makes of it."""
        for head, content in zip(self.heads, self.old, strict=True):
            head.write_bytes(content)
        self.path.write_bytes(self.content[: self.before] + rest)
        found = write(self.path, 1)
        self.assertEqual((found.foreign, found.missing), (0, 0))
        return faults(self.path)

    @given(st.data())
    def test_at_any_byte(self, data: st.DataObject) -> None:
        """``kill -9``, or a full disk: the head is older than the file, whose last line is torn."""
        rest = self.content[self.before :]
        rest = rest[: data.draw(st.integers(0, len(rest)))]
        self.assertEqual(self.crash(rest), [])
        whole = [line for line in rest.split(b"\n") if b'"accepted"' in line and decode_line(line)]
        self.assertEqual(len(self.ids()), 4 + len(whole) + 1)

    @given(st.data())
    def test_one_after_the_other(self, data: st.DataObject) -> None:
        """Each process ends the line of the one before with the first byte that it writes, and no more than that."""
        rest = self.content[self.before :].split(b"\n")[0]
        torn = [rest[: data.draw(st.integers(1, len(rest) - 1))] for _ in range(data.draw(st.integers(1, 5)))]
        self.assertEqual(self.crash(b"\n".join(torn)), [])

    def test_blocks_that_were_never_written(self) -> None:
        """A loss of power: the file has its length, and the disk not all of it.  Whole lines after that are kept."""
        rest = self.content[self.before :]
        lines = rest.splitlines(keepends=True)
        hole = b"".join([lines[0], b"\0" * (len(lines[1]) + 100), lines[2][100:], *lines[3:]])
        told = self.crash(hole)
        self.assertEqual([text[:2] for text in told], ["8 ", "9 "])  # lines were written there, and are gone
        self.assertEqual(self.ids()[-4:], ["c2", "c3", "c4", "c0"])

    def test_and_then_a_forgery(self) -> None:
        for head, content in zip(self.heads, self.old, strict=True):
            head.write_bytes(content)
        self.append(*self.forge())
        found = write(self.path, 1)
        self.assertEqual((found.foreign, found.last), (1, 12))
        self.assertEqual(self.ids(), ["c0", "c1", "c2", "c3", "c0", "c1", "c2", "c3", "c4", "c0"])

    def test_killed_writer(self) -> None:
        """A real process, killed while it writes, again and again."""
        script = (
            "import sys, time\n"
            "from relayd.audit.chain import Chain\n"
            "from relayd.audit.keeping import Keeping\n"
            "log = Chain(sys.argv[1], sys.argv[2], Keeping(max_size=30_000), {})\n"
            "found = log.open('1.0')\n"
            "assert not found.foreign and not found.missing, found\n"
            "while True:\n"
            "    log.prepare()\n"
            "    log.append([(time.time(), 'accepted', {'commandId': 'c'})] * 20)\n"
            "    print('written', flush=True)\n"
        )
        for number in range(6):
            argv = [sys.executable, "-c", script, str(self.path), str(state(self.path))]
            writer = subprocess.Popen(argv, stdout=subprocess.PIPE)
            assert writer.stdout is not None
            for _ in range(5 + number):
                self.assertEqual(writer.stdout.readline(), b"written\n")
            writer.send_signal(signal.SIGKILL)
            writer.wait()
            writer.stdout.close()
        found = write(self.path, 1)
        self.assertEqual((found.foreign, found.missing), (0, 0))
        self.assertEqual(faults(*files(self.path)), [])
