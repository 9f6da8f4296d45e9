"""
Tests of what `relayd.audit` makes of a log that somebody wrote to while no relay did, and that it tells that from what
a crash leaves: `relayd.audit.tail`, `relayd.audit.seal`.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relayd.audit.heads import head_path, own_head_path
from relayd.audit.lines import GENESIS, decode_line, encode_line
from relayd.audit.seal import read_seal, seal_file
from tests.support.auditing import directory, edit, entries, faults, files, state, write

#: Not the relay's.
KEY = b"k" * 32


class ForgeryCase(SynchronousTestCase):
    """Has the log of a relay that is stopped: six lines."""

    def setUp(self) -> None:
        self.path = directory(self) / "audit.log"
        write(self.path, 4)
        self.heads = [Path(head_path(str(self.path))), Path(own_head_path(str(state(self.path))))]

    def ids(self) -> list[str]:
        """The commands in the log, by lines that are the relay's."""
        seal = read_seal(seal_file(str(state(self.path))))
        assert seal is not None
        found = []
        for content in self.path.read_bytes().splitlines():
            line = decode_line(content)
            if line is not None and seal.holds(content, line) and line.event == "accepted":
                found.append(json.loads(content)["commandId"])
        return found

    def forge(self, count: int = 1) -> list[bytes]:
        """Lines that go on where the log ends, with hashes that are right."""
        last = entries(self.path)[-1]
        seq, prev, forged = last["seq"], last["hash"], []
        for number in range(count):
            line, prev = encode_line(seq + 1 + number, 1e9, "accepted", {"commandId": "forged"}, prev, KEY)
            forged.append(line)
        return forged

    def append(self, *lines: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(b"".join(lines))


class ForgeryTests(ForgeryCase):
    """Lines that somebody appended are no part of the chain, stay where they are, and are told of."""

    def check(self, foreign: int, *numbers: int) -> None:
        """The next life finds *foreign* lines, and the verifier those with these *numbers*; then all is well again."""
        before = self.path.read_bytes()
        found = write(self.path, 2)
        self.assertEqual((found.foreign, found.last, found.missing), (foreign, 6, 0))
        self.assertTrue(self.path.read_bytes().startswith(before))
        told = faults(self.path)
        self.assertEqual([int(text.split()[0]) for text in told], list(numbers), told)
        start = json.loads(self.path.read_bytes()[len(before) :].split()[0])
        self.assertEqual((start["event"], start["seq"], start["foreign"]), ("start", 7, foreign))
        self.assertEqual(self.ids(), ["c0", "c1", "c2", "c3", "c0", "c1"])
        self.assertEqual(write(self.path, 1).foreign, 0)
        self.assertEqual(faults(self.path), told)

    def test_one(self) -> None:
        self.append(*self.forge())
        self.assertEqual(faults(self.path), ["7 was not written by this relay: its seal is wrong"])
        self.check(1, 7)

    def test_many(self) -> None:
        self.append(*self.forge(50))
        self.check(50, *range(7, 57))

    def test_without_the_seal_the_line_after_them_tells(self) -> None:
        self.append(*self.forge(3))
        write(self.path, 1)
        self.assertEqual(
            faults(self.path, sealed=False),
            ["10 says that somebody else wrote lines before it, from number 7 on: the seal tells which"],
        )

    def test_of_the_time_before_seals(self) -> None:
        body = self.forge()[0].partition(b',"mac":')[0]
        self.append(body + b',"hash":"' + sha256(body).hexdigest().encode() + b'"}\n')
        self.check(1, 7)

    def test_copies_of_its_own_lines(self) -> None:
        lines = self.path.read_bytes().splitlines(keepends=True)
        for copies in (lines[3:4], lines[-1:], lines[3:], lines):
            content = self.path.read_bytes()
            heads = [head.read_bytes() for head in self.heads]
            self.append(*copies)
            found = write(self.path, 1)
            self.assertEqual((found.foreign, found.last), (len(copies), 6))
            self.assertNotEqual(faults(self.path), [])
            for path, old in zip((self.path, *self.heads), (content, *heads), strict=True):
                path.write_bytes(old)

    def test_text(self) -> None:
        self.append(b"what is no line\n")
        self.check(1, 7)

    def test_a_torn_line_and_a_forged_one(self) -> None:
        self.append(b'{"seq":7,"time"', b"\n", *self.forge())
        self.check(1, 7, 8)

    def test_a_line_without_end(self) -> None:
        self.append(self.forge()[0][:-1])
        self.check(1, 7)

    def test_with_a_head_beside_the_log_that_fits(self) -> None:
        [line] = self.forge()
        self.append(line)
        self.heads[0].write_bytes(b"%020d %s\n" % (7, line[-67:-3]))
        self.check(1, 7)

    def test_they_cannot_be_removed_or_changed_later(self) -> None:
        """The line after them has a digest of all of them."""
        self.append(*self.forge(2))
        write(self.path, 1)
        torn = entries(self.path)[8]["torn"]
        lines = self.path.read_bytes().splitlines(keepends=True)
        self.assertEqual(torn, sha256(b"".join(lines[6:8]).removesuffix(b"\n")).hexdigest())

    def test_log_and_its_head_are_gone(self) -> None:
        """The head in the state directory is out of reach of who can write to the log's: the numbers go on."""
        self.path.unlink()
        self.heads[0].unlink()
        write(self.path, 1)
        self.assertEqual(entries(self.path)[0]["seq"], 7)

    def test_an_older_state_of_log_and_head(self) -> None:
        before = {path: path.read_bytes() for path in (self.path, self.heads[0])}
        write(self.path, 3)
        for path, content in before.items():
            path.write_bytes(content)
        found = write(self.path, 1)
        self.assertEqual((found.last, found.missing), (6, 4))
        self.assertEqual(faults(self.path), ["7 comes after lines that are missing: 7–10"])

    def test_another_log(self) -> None:
        """The head in the state directory is that of one log, and counts for no other."""
        other = self.path.parent / "other.log"
        found = write(other, 1)
        self.assertEqual((found.foreign, found.missing), (0, 0))
        self.assertEqual([entry["seq"] for entry in entries(other)], [1, 2, 3])
        found = write(self.path, 1)
        self.assertEqual((found.foreign, found.missing, entries(self.path)[-1]["seq"]), (0, 0, 8))
        self.assertEqual(faults(self.path), [])


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
            "from pathlib import Path\n"
            "from tests.support.auditing import chain\n"
            "log = chain(Path(sys.argv[1]), max_size=30_000)\n"
            "found = log.open('1.0')\n"
            "assert not found.foreign and not found.missing, found\n"
            "while True:\n"
            "    log.prepare()\n"
            "    log.append([(time.time(), 'accepted', {'commandId': 'c'})] * 20)\n"
            "    print('written', flush=True)\n"
        )
        for number in range(6):
            writer = subprocess.Popen([sys.executable, "-c", script, str(self.path)], stdout=subprocess.PIPE)
            assert writer.stdout is not None
            for _ in range(5 + number):
                self.assertEqual(writer.stdout.readline(), b"written\n")
            writer.send_signal(signal.SIGKILL)
            writer.wait()
            writer.stdout.close()
        found = write(self.path, 1)
        self.assertEqual((found.foreign, found.missing), (0, 0))
        self.assertEqual(faults(*files(self.path)), [])


class SealTests(ForgeryCase):
    """Where the seal begins to count."""

    def unseal(self) -> None:
        """As a log of the time before seals: lines without them."""
        lines, prev = [], GENESIS
        for entry in entries(self.path):
            body = json.dumps({**entry, "prev": prev}, separators=(",", ":")).partition(',"mac":')[0].encode()
            prev = sha256(body).hexdigest()
            lines.append(body + b',"hash":"' + prev.encode() + b'"}\n')
        self.path.write_bytes(b"".join(lines))
        self.heads[0].write_bytes(b"%020d %s\n" % (len(lines), prev.encode()))
        shutil.rmtree(state(self.path))

    def test_a_log_of_the_time_before_seals(self) -> None:
        self.unseal()
        found = write(self.path, 1)
        self.assertEqual((found.unsealed, found.foreign, found.missing), (6, 0, 0))
        self.assertEqual(write(self.path, 1).unsealed, 0)
        self.assertEqual(faults(self.path), [])
        edit(self.path, lambda lines: [*lines[:2], lines[2].replace(b"c0", b"c9"), *lines[3:]])
        self.assertEqual(len(faults(self.path)), 1)

    def test_it_is_for_this_user_alone(self) -> None:
        for path in state(self.path).iterdir():
            self.assertEqual(path.stat().st_mode & 0o777, 0o600, path)

    def test_it_is_not_shown(self) -> None:
        seal = read_seal(seal_file(str(state(self.path))))
        assert seal is not None
        self.assertNotIn(repr(seal.key), repr(seal))

    def test_what_is_none(self) -> None:
        Path(seal_file(str(state(self.path)))).write_text("no seal")
        error = self.assertRaises(ValueError, write, self.path, 1)
        self.assertIn("it is not a seal", str(error))
