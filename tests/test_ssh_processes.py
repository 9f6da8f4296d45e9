"""
Telling the processes of a command from those of others, by what a shell on the host lists.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from relayd.ssh.processes import Listing, parse_listing

ME = b"me 50 9"


def leader(
    pid: int, start: int, *argv: bytes, parent: int = 9, session: int = 0, port: int = 4000, state: bytes = b"S"
) -> bytes:
    """A line as the shell writes it."""
    numbers = (pid, parent, session or pid, start, state, port)
    return b"leader %d %d %d %d %s [10.0.0.1 %d 10.0.0.2 22] " % numbers + b"\1".join((*argv, b""))


def listing(*lines: bytes) -> Listing:
    """What was read from the lines."""
    read = parse_listing([ME, leader(50, 999, b"/bin/sh"), *lines])
    assert read is not None
    return read


def find(
    where: Listing, command: bytes, place: int, commands: list[bytes], client_port: int | None = None
) -> int | None:
    """The process of one command."""
    found = where.find(command, place, commands, client_port)
    return None if found is None else found.pid


class FindTests(SynchronousTestCase):
    """`Listing.find`."""

    def test_the_only_one(self) -> None:
        only = listing(leader(60, 5, b"sh", b"-c", b"cd / ; make"))
        self.assertEqual(find(only, b"cd / ; make", 0, [b"cd / ; make"]), 60)

    def test_shell_that_became_its_last_part(self) -> None:
        self.assertEqual(find(listing(leader(60, 5, b"make")), b"make", 0, [b"make"]), 60)

    def test_order_tells_those_that_look_the_same(self) -> None:
        many = listing(leader(70, 5, b"sleep", b"9"), leader(60, 6, b"sleep", b"9"), leader(61, 6, b"sleep", b"9"))
        self.assertEqual([find(many, b"sleep 9", place, [b"sleep 9"] * 3) for place in range(3)], [70, 60, 61])

    def test_count_that_does_not_fit_leaves_a_doubt(self) -> None:
        two = listing(leader(60, 5, b"sleep", b"9"), leader(61, 6, b"sleep", b"9"))
        self.assertIsNone(find(two, b"sleep 9", 0, [b"sleep 9"] * 3))
        self.assertIsNone(find(two, b"sleep 9", 0, [b"sleep 9"]))

    def test_text_tells_where_the_count_does_not_fit(self) -> None:
        two = listing(leader(60, 5, b"sh", b"-c", b"make"), leader(61, 6, b"sh", b"-c", b"left over"))
        self.assertEqual(find(two, b"make", 0, [b"make"]), 60)
        self.assertIsNone(find(two, b"make", 0, [b"make", b"make", b"other"]))

    def test_contradiction_leaves_a_doubt(self) -> None:
        self.assertIsNone(find(listing(leader(60, 5, b"sh", b"-c", b"other")), b"make", 0, [b"make"]))
        two = listing(leader(60, 5, b"sh", b"-c", b"b"), leader(61, 6, b"sh", b"-c", b"a"))
        self.assertIsNone(find(two, b"a", 0, [b"a", b"a"]))

    def test_of_another_connection(self) -> None:
        mixed = listing(leader(60, 5, b"make", parent=8, port=4001), leader(61, 5, b"make"))
        self.assertEqual(find(mixed, b"make", 0, [b"make"], 4001), 60)
        self.assertEqual(find(mixed, b"make", 0, [b"make"]), 61)
        self.assertIsNone(find(mixed, b"make", 0, [b"make"], 4002))

    def test_children_are_not_commands(self) -> None:
        family = listing(leader(60, 5, b"sh", b"-c", b"make; true"), leader(61, 6, b"make", parent=60, session=60))
        self.assertEqual(find(family, b"make; true", 0, [b"make; true"]), 60)

    def test_dead_ones_do_not_count(self) -> None:
        self.assertIsNone(find(listing(leader(60, 5, b"", state=b"Z")), b"make", 0, [b"make"]))

    def test_lines_in_a_command(self) -> None:
        self.assertEqual(find(listing(leader(60, 5, b"sh", b"-c", b"a b")), b"a\nb", 0, [b"a\nb"]), 60)

    def test_line_that_signals(self) -> None:
        for session, line in ((60, b"hit TERM 60 0\n"), (9, b"hit TERM 9 9\n")):
            (found,) = listing(leader(60, 5, b"make", session=session)).leaders[1:]
            self.assertEqual(found.hit("TERM"), line)


class ParseTests(SynchronousTestCase):
    """`parse_listing`."""

    def test_something_else(self) -> None:
        for lines in ([], [b"'exec' is not recognized"], [b"me too"], [ME, b"leader a b c S [x] y"]):
            self.assertIsNone(parse_listing(lines), lines)

    def test_numbers_that_mean_everybody(self) -> None:
        """``kill -- -0`` and ``kill -- -1`` reach processes that no command of ours began."""
        for numbers in (b"1 0 1", b"60 9 0", b"60 9 -1", b"-1 9 -1", b"0 0 0"):
            line = b"leader %s 5 S [10.0.0.1 4000 10.0.0.2 22] sh\1" % numbers
            self.assertIsNone(parse_listing([ME, line]), numbers)
