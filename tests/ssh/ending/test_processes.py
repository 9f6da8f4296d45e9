"""
Telling the processes of a command from those of others, by what a shell on the host lists.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relayd.ssh.ending.processes import MAX_LINE, Leader, ShellAnswers, find, parse_listing, script

MARK = "c0ffee"


def leader(pid: int, start: int, what: str, session: int = 0) -> bytes:
    """A line as the shell writes it."""
    return f"leader {pid} {session or pid} {start} {what}".encode()


def listing(*lines: bytes) -> list[Leader]:
    """What was read from the lines."""
    read = parse_listing(lines)
    assert read is not None
    return read


def found(where: list[Leader], command: bytes, place: int, commands: list[bytes]) -> int | None:
    """The process of one command."""
    process = find(where, command, place, commands)
    return None if process is None else process.pid


class FindTests(SynchronousTestCase):
    """`find`."""

    def test_the_only_one(self) -> None:
        only = listing(leader(60, 5, "same"))
        self.assertEqual(found(only, b"cd / ; make", 0, [b"cd / ; make"]), 60)

    def test_shell_that_became_its_last_part(self) -> None:
        self.assertEqual(found(listing(leader(60, 5, "program")), b"make", 0, [b"make"]), 60)

    def test_order_tells_those_that_look_the_same(self) -> None:
        many = listing(leader(70, 5, "program"), leader(60, 6, "program"), leader(61, 6, "same"))
        self.assertEqual([found(many, b"sleep 9", place, [b"sleep 9"] * 3) for place in range(3)], [70, 60, 61])

    def test_count_that_does_not_fit_leaves_a_doubt(self) -> None:
        two = listing(leader(60, 5, "program"), leader(61, 6, "program"))
        self.assertIsNone(found(two, b"sleep 9", 0, [b"sleep 9"] * 3))
        self.assertIsNone(found(two, b"sleep 9", 0, [b"sleep 9"]))
        self.assertIsNone(found([], b"sleep 9", 0, [b"sleep 9"]))

    def test_text_tells_where_the_count_does_not_fit(self) -> None:
        two = listing(leader(60, 5, "same"), leader(61, 6, "shell"))
        self.assertEqual(found(two, b"make", 0, [b"make"]), 60)
        self.assertIsNone(found(two, b"make", 0, [b"make", b"make", b"other"]))

    def test_contradiction_leaves_a_doubt(self) -> None:
        self.assertIsNone(found(listing(leader(60, 5, "shell")), b"make", 0, [b"make"]))
        self.assertIsNone(found(listing(leader(60, 5, "shell"), leader(61, 6, "same")), b"a", 0, [b"a", b"a"]))

    def test_order_that_does_not_fit_gives_way_to_the_text(self) -> None:
        self.assertEqual(found(listing(leader(60, 5, "shell"), leader(61, 6, "same")), b"a", 0, [b"a", b"b"]), 61)

    def test_by_text_alone(self) -> None:
        """Where the connection of a process is not known."""
        child = b"child 60 9 5 "
        for what, pid in ((b"same", 60), (b"tail", 60), (b"program", None), (b"shell", None)):
            self.assertEqual(found(listing(child + what), b"make", 0, [b"make"]), pid)
            self.assertIsNone(find(listing(child + what), b"make", 0, [b"make"], [b"make"]))
            self.assertIsNone(found(listing(child + what), b"make", 1, [b"make", b"make"]))
        for other, pid in ((b"same", None), (b"tail", None), (b"program", None), (b"shell", 60)):
            both = listing(child + b"same", b"child 61 9 5 " + other)
            self.assertEqual(found(both, b"make", 0, [b"make", b"other"]), pid)

    def test_line_that_signals(self) -> None:
        for session, line in ((60, b"hit TERM 60 5 60\n"), (9, b"hit TERM 60 5 9\n")):
            (process,) = listing(leader(60, 5, "program", session))
            self.assertEqual(process.hit("TERM"), line)


class ParseTests(SynchronousTestCase):
    """`parse_listing`."""

    def test_something_else(self) -> None:
        good = leader(60, 5, "same")
        for line in (b"", b"'exec' is not recognized", b"leader a b c same", b"leader 6_0 60 5 same", good + b" ",
                     b"leader +60 60 5 same", b"leader " + b"9" * 30 + b" 60 5 same", good + b"\n"):  # fmt: skip
            self.assertIsNone(parse_listing([good, line]), line)

    def test_numbers_that_mean_everybody(self) -> None:
        """``kill -- -0`` and ``kill -- -1`` reach processes that no command of ours began."""
        for pid, session in ((1, 1), (60, 1), (0, 60), (60, -1), (-1, 60)):
            self.assertIsNone(parse_listing([leader(pid, 5, "same", session), b"leader 60 0 5 same"]), (pid, session))


class AnswersTests(SynchronousTestCase):
    """`ShellAnswers`."""

    def test_only_marked_lines(self) -> None:
        data = b"end\nleader 1 1 1 same\nnoise\nc0ffee end\nc0ffe end\n c0ffee end\nxc0ffee end\nc0ffeeend\n"
        self.assertEqual(ShellAnswers(MARK).feed(data), [b"end"])

    def test_long_lines_are_dropped_and_not_kept(self) -> None:
        answers = ShellAnswers(MARK)
        for _ in range(100):
            self.assertEqual(answers.feed(b"c0ffee " + b"x" * 1000), [])
            self.assertLessEqual(len(answers._line), MAX_LINE)
        self.assertEqual(answers.feed(b"c0ffee end\nc0ffee end\n"), [b"end"])

    @given(st.lists(st.binary(max_size=40)), st.lists(st.integers(1, 30)))
    def test_noise_and_pieces_change_nothing(self, noise: list[bytes], sizes: list[int]) -> None:
        """Each of our lines begins with an end of line, whatever came before it."""
        data = b"".join(part + b"\nc0ffee left %d\n" % number for number, part in enumerate(noise))
        answers, read = ShellAnswers(MARK), []
        for size in sizes:
            read += answers.feed(data[:size])
            data = data[size:]
        read += answers.feed(data)
        self.assertEqual(read, [b"left %d" % number for number in range(len(noise))])


class ScriptTests(SynchronousTestCase):
    """`script`."""

    def test_command_stays_within_its_quotes(self) -> None:
        read = script(MARK, b"it's\n'; leaders; '\0", None, 1.25)
        begin = b"unset n w p age\nn=c0ffee p= age=125 w='-c\nit'\\''s '\\''; leaders; '\\'''\n"
        self.assertTrue(read.startswith(begin), read[:80])
        self.assertIn(b" p=4000 ", script(MARK, b"true", 4000, 0.0))
