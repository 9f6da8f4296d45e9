"""
Telling the processes of a command from those of others, by what a shell on the host lists.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from relayd.ssh.processes import Listing, hit, parse_listing

ME = b"me 50 9 10.0.0.1 4000 10.0.0.2 22"


def leader(pid: int, start: int, *argv: bytes, parent: int = 9, port: int = 4000, state: bytes = b"S") -> bytes:
    """A line as the shell writes it."""
    return b"leader %d %d %d %s [10.0.0.1 %d 10.0.0.2 22] " % (pid, parent, start, state, port) + b"\1".join(
        (*argv, b"")
    )


def listing(*lines: bytes) -> Listing:
    """What was read from the lines."""
    read = parse_listing([ME, leader(50, 999, b"/bin/sh"), *lines])
    assert read is not None
    return read


class FindTests(SynchronousTestCase):
    """`Listing.find`."""

    def test_the_only_one(self) -> None:
        found = listing(leader(60, 5, b"sh", b"-c", b"cd / ; make")).find(b"cd / ; make", 0, [b"cd / ; make"], None)
        self.assertEqual(found, 60)

    def test_shell_that_became_its_last_part(self) -> None:
        self.assertEqual(listing(leader(60, 5, b"make")).find(b"make", 0, [b"make"], None), 60)

    def test_order_tells_those_that_look_the_same(self) -> None:
        many = listing(leader(70, 5, b"sleep", b"9"), leader(60, 6, b"sleep", b"9"), leader(61, 6, b"sleep", b"9"))
        self.assertEqual([many.find(b"sleep 9", place, [b"sleep 9"] * 3, None) for place in range(3)], [70, 60, 61])

    def test_count_that_does_not_fit_leaves_a_doubt(self) -> None:
        two = listing(leader(60, 5, b"sleep", b"9"), leader(61, 6, b"sleep", b"9"))
        self.assertIsNone(two.find(b"sleep 9", 0, [b"sleep 9"] * 3, None))
        self.assertIsNone(two.find(b"sleep 9", 0, [b"sleep 9"], None))

    def test_text_tells_where_the_count_does_not_fit(self) -> None:
        two = listing(leader(60, 5, b"sh", b"-c", b"make"), leader(61, 6, b"sh", b"-c", b"left over"))
        self.assertEqual(two.find(b"make", 0, [b"make"], None), 60)
        self.assertIsNone(two.find(b"make", 0, [b"make", b"make", b"other"], None))

    def test_contradiction_leaves_a_doubt(self) -> None:
        self.assertIsNone(listing(leader(60, 5, b"sh", b"-c", b"other")).find(b"make", 0, [b"make"], None))
        self.assertIsNone(
            listing(leader(60, 5, b"sh", b"-c", b"b"), leader(61, 6, b"sh", b"-c", b"a")).find(
                b"a", 0, [b"a", b"a"], None
            )
        )

    def test_of_another_connection(self) -> None:
        mixed = listing(leader(60, 5, b"make", parent=8, port=4001), leader(61, 5, b"make"))
        self.assertEqual(mixed.find(b"make", 0, [b"make"], 4001), 60)
        self.assertEqual(mixed.find(b"make", 0, [b"make"], None), 61)
        self.assertIsNone(mixed.find(b"make", 0, [b"make"], 4002))

    def test_dead_ones_do_not_count(self) -> None:
        self.assertIsNone(listing(leader(60, 5, b"", state=b"Z")).find(b"make", 0, [b"make"], None))

    def test_lines_in_a_command(self) -> None:
        self.assertEqual(listing(leader(60, 5, b"sh", b"-c", b"a b")).find(b"a\nb", 0, [b"a\nb"], None), 60)


class ParseTests(SynchronousTestCase):
    """`parse_listing`."""

    def test_something_else(self) -> None:
        for lines in ([], [b"'exec' is not recognized"], [b"me too"], [ME, b"leader a b c S [x] y"]):
            self.assertIsNone(parse_listing(lines), lines)

    def test_hit(self) -> None:
        self.assertEqual(hit("TERM", 60), b"hit TERM 60\n")
