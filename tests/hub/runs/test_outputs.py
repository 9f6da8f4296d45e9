"""
Tests of `relayd.hub.runs.outputs`.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Literal

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relayd.hub.runs.outputs import Outputs, bytes_of
from relayd.hub.store.output import MAX_CHUNK
from relayd.wire.messages import CommandOutput, CommandResult, Details


def piece(offset: int, data: str, stream: Literal["stdout", "stderr"] = "stdout") -> CommandOutput:
    return CommandOutput(command_id="c", stream=stream, offset=offset, data=data)


def result(stdout: str = "", size: int | None = None, extended: bool = True, **details: object) -> CommandResult:
    known = Details(stdout_bytes=len(stdout.encode()) if size is None else size, **details)  # type: ignore[arg-type]
    return CommandResult(command_id="c", stdout=stdout, stderr="", exit_code=0, details=known, extended=extended)


class OutputsTests(SynchronousTestCase):
    def test_without_pieces_the_result_is_stored(self) -> None:
        kept = Outputs(1000).ended(result("abc"))
        self.assertEqual([(each.sequence, each.offset, each.data) for each in kept.pieces], [(0, 0, b"abc")])
        self.assertEqual(
            (kept.kept, kept.sizes, kept.anew), ({"stdout": 3, "stderr": 0}, {"stdout": 3, "stderr": 0}, [])
        )

    def test_pieces_that_are_all_of_it_are_not_stored_again(self) -> None:
        outputs = Outputs(1000)
        self.assertEqual(outputs.came(piece(0, "ab")).data, b"ab")  # type: ignore[union-attr]
        outputs.came(piece(2, "c\n"))
        kept = outputs.ended(result("abc", size=4))
        self.assertEqual((kept.pieces, kept.anew, kept.kept["stdout"], kept.sizes["stdout"]), ([], [], 4, 4))

    def test_a_gap(self) -> None:
        outputs = Outputs(1000)
        outputs.came(piece(0, "ab"))
        self.assertIsNone(outputs.came(piece(5, "f")))
        self.assertIsNone(outputs.came(piece(6, "g")))
        kept = outputs.ended(result("abcdefg"))
        self.assertEqual([(each.sequence, each.data) for each in kept.pieces], [(1, b"abcdefg")])
        self.assertEqual(kept.anew, ["stdout"])

    def test_what_another_process_stored_comes_anew(self) -> None:
        kept = Outputs(1000, 50, resumed=True).ended(result("abc"))
        self.assertEqual((kept.pieces[0].sequence, kept.anew), (50, ["stdout", "stderr"]))

    def test_a_program_that_does_not_say_how_much_it_was(self) -> None:
        outputs = Outputs(1000)
        outputs.came(piece(0, "ab"))
        kept = outputs.ended(result("ab", size=0, extended=False))
        self.assertEqual(([each.data for each in kept.pieces], kept.anew), ([b"ab"], ["stdout"]))

    def test_bounds(self) -> None:
        outputs = Outputs(3)
        self.assertEqual(outputs.came(piece(0, "abcd")).data, b"abc")  # type: ignore[union-attr]
        self.assertIsNone(outputs.came(piece(4, "e")))
        kept = outputs.ended(result("abcde"))
        self.assertEqual((kept.pieces, kept.kept["stdout"], kept.sizes["stdout"]), ([], 3, 5))
        kept = Outputs(3).ended(result("abcde"))
        self.assertEqual((kept.pieces[0].data, kept.sizes["stdout"]), (b"abc", 5))
        kept = Outputs(100).ended(result("ab[cut]", size=5000, truncated=True))
        self.assertEqual((kept.kept["stdout"], kept.sizes["stdout"]), (7, 5000))

    def test_trimmed_is_not_cut(self) -> None:
        """relayd trims a text; nothing of it was cut."""
        kept = Outputs(100).ended(result("abc", size=4))
        self.assertEqual((kept.kept["stdout"], kept.sizes["stdout"]), (3, 3))

    def test_base64(self) -> None:
        text = b64encode(b"\xff\0").decode()
        kept = Outputs(100).ended(result(text, size=2, encoding="base64"))
        self.assertEqual(kept.pieces[0].data, b"\xff\0")
        self.assertEqual(bytes_of("no base64!", True), b"no base64!")

    def test_hosts_with_the_same_output(self) -> None:
        same, too, other = (Outputs(100).ended(result(text)).digest for text in ("a", "a", "b"))
        self.assertEqual(same, too)
        self.assertNotEqual(same, other)

    @given(
        st.lists(st.tuples(st.integers(0, 20), st.text(max_size=8)), max_size=6),
        st.text(max_size=30),
        st.integers(0, 20),
        st.integers(-5, 2**70),
        st.booleans(),
    )
    def test_any_pieces(self, pieces: list[tuple[int, str]], text: str, limit: int, size: int, extended: bool) -> None:
        """Whatever a relay sends: no more than the bound is kept, and what is stored in the end is one whole."""
        outputs = Outputs(limit)
        stored = [each for offset, data in pieces if (each := outputs.came(piece(offset, data))) is not None]
        kept = outputs.ended(result(text, size=size, extended=extended))
        if "stdout" in kept.anew:
            stored = []
        stored += [each for each in kept.pieces if each.stream == "stdout"]
        at = 0
        for each in stored:
            self.assertEqual(each.offset, at)
            at += len(each.data)
        self.assertLessEqual(at, limit)
        self.assertEqual(at, kept.kept["stdout"])
        self.assertLessEqual(kept.kept["stdout"], kept.sizes["stdout"])
        numbers = [each.sequence for each in stored]
        self.assertEqual(numbers, sorted(set(numbers)))

    def test_large_outputs_are_stored_in_pieces(self) -> None:
        kept = Outputs(10 * MAX_CHUNK).ended(result("x" * (2 * MAX_CHUNK + 1)))
        self.assertEqual([len(each.data) for each in kept.pieces], [MAX_CHUNK, MAX_CHUNK, 1])
