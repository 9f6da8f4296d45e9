"""
What is kept of a command's output, and how it reads.
"""

from __future__ import annotations

import json
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relayd.ssh.channels.output import OutputBuffer
from tests.support.ssh import tool

pieces = st.lists(
    st.one_of(st.binary(max_size=12), st.text(max_size=6).map(str.encode), st.sampled_from([b" ", b"\n", b"\xf0\x9f"])),
    max_size=12,
)


def buffer(limit: int, *chunks: bytes) -> OutputBuffer:
    kept = OutputBuffer(limit)
    for chunk in chunks:
        kept.append(chunk)
    return kept


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """*data* in chunks of these sizes, the rest as the last one."""
    chunks = []
    for size in sizes:
        chunks.append(data[:size])
        data = data[size:]
    return [*chunks, data]


class TextTests(SynchronousTestCase):
    """Decoding and trimming."""

    def test_empty(self) -> None:
        self.assertEqual((buffer(10).text(), buffer(10).total, buffer(10).truncated), ("", 0, False))

    def test_a_character_split_between_chunks(self) -> None:
        data = "aé漢🙂z".encode()
        self.assertEqual(buffer(100, *(data[at : at + 1] for at in range(len(data)))).text(), "aé漢🙂z")

    def test_a_character_split_between_what_would_be_head_and_tail(self) -> None:
        data = "x" * 4 + "🙂" + "y" * 4
        self.assertEqual(buffer(12, data.encode()).text(), data)

    def test_bytes_that_are_no_utf8(self) -> None:
        self.assertEqual(buffer(100, b"a\xff\xc3b\xe6\xbc").text(), "a\ufffd\ufffdb\ufffd")

    def test_trimmed_at_both_ends_only(self) -> None:
        self.assertEqual(buffer(100, b"\n\n a \n\n b\t\r\n").text(), "a \n\n b")

    def test_trims_what_javascript_trims(self) -> None:
        program = (
            "const trimmed = []; for (let code = 0; code < 0x110000; code++)"
            " if (String.fromCodePoint(code).trim() === '') trimmed.push(code); console.log(JSON.stringify(trimmed))"
        )
        javascript = set(json.loads(tool("node", "-e", program)))
        ours = {
            code
            for code in range(0x20000)  # above these no character is white
            if not 0xD800 <= code < 0xE000 and buffer(10, chr(code).encode()).text() == ""
        }
        self.assertEqual(ours, javascript)

    @given(pieces, st.lists(st.integers(0, 20), max_size=12), st.integers(0, 60))
    def test_chunks_make_no_difference(self, data: list[bytes], sizes: list[int], limit: int) -> None:
        whole = b"".join(data)
        one, many = buffer(limit, whole), buffer(limit, *cut(whole, sizes))
        self.assertEqual(many.text(), one.text())
        self.assertEqual((many.total, many.truncated), (len(whole), len(whole) > limit))
        if not many.truncated:
            self.assertEqual(many.text(), buffer(1000, whole).text())


class LimitTests(SynchronousTestCase):
    """What is given up when there is too much."""

    def test_at_the_limit_nothing_is_cut(self) -> None:
        self.assertEqual(buffer(10, b"0123456789").text(), "0123456789")
        self.assertFalse(buffer(10, b"0123456789").truncated)

    def test_one_more_is_cut(self) -> None:
        kept = buffer(10, b"0123456789a")
        self.assertTrue(kept.truncated)
        self.assertEqual(kept.text(), "01234\n[relayd: 1 bytes cut here]\n6789a")

    def test_beginning_and_end_are_kept(self) -> None:
        kept = buffer(9, b" begin", b"x" * 1_000_000, b"end\n")
        self.assertEqual(kept.text(), "begi\n[relayd: 1,000,001 bytes cut here]\nend")
        self.assertEqual(kept.total, 1_000_010)

    def test_no_remains_of_a_character(self) -> None:
        text = "🙂" * 50
        for limit in range(8, 60):
            shown = buffer(limit, text.encode()).text()
            self.assertNotIn("\ufffd", shown, f"limit {limit}")
            start, _, end = shown.split("\n")
            number = int(shown.split("relayd: ")[1].split(" ")[0].replace(",", ""))
            self.assertEqual(number + len((start + end).encode()), len(text.encode()))

    def test_limits_of_nearly_nothing(self) -> None:
        self.assertEqual(buffer(0).text(), "")
        self.assertEqual(buffer(0, b"abc").text(), "\n[relayd: 3 bytes cut here]\n")
        self.assertEqual(buffer(1, b"abc").text(), "a\n[relayd: 2 bytes cut here]\n")

    @given(st.lists(st.integers(0, 40_000), max_size=60), st.integers(0, 200_000))
    def test_never_keeps_much_more_than_the_limit(self, sizes: list[int], limit: int) -> None:
        kept = OutputBuffer(limit)
        for size in sizes:
            kept.append(bytes(size))
            held = sum(map(len, (*kept._head, *kept._tail)))
            self.assertLessEqual(held, limit + 2 * 16_384 + max(sizes))  # what is small is put together first
            self.assertGreaterEqual(held, min(limit, kept.total))

    def test_many_small_chunks_take_no_more_memory(self) -> None:
        # A server may send its bytes a few at a time, or none: what they cost must not be many times what they are.
        self.assertLess(self.memory_of(2), 4 * 50_000)

    def test_empty_chunks_take_no_memory(self) -> None:
        self.assertLess(self.memory_of(0), 50_000)

    def memory_of(self, size: int) -> int:
        tracemalloc.start()
        try:
            kept = buffer(50_000, b"x" * 25_000)
            for number in range(50_000):
                kept.append(b"%02d" % (number % 100) if size else b"")
            return tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
