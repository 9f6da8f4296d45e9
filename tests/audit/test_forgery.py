"""
Tests of what `relayd.audit` makes of a log that somebody wrote to while no relay did.
"""

from __future__ import annotations

import json
from hashlib import sha256

from tests.support.auditing import ForgeryCase, entries, faults, write


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
