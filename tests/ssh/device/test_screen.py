"""What is left of what a device writes to its terminal."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relayd.ssh.device.screen import LONGEST, WIDTH, Screen


def shown(*pieces: bytes) -> tuple[list[bytes], bytes]:
    screen = Screen()
    lines = [line for piece in pieces for line in screen.feed(piece)]
    return lines, bytes(screen.line)


class ScreenTests(SynchronousTestCase):
    def test_lines(self) -> None:
        self.assertEqual(([b"one", b"", b"two"], b"router>"), shown(b"one\r\n\r\ntwo\n", b"rou", b"ter>"))

    def test_controls_are_taken_away(self) -> None:
        for data, expected in (
            (b"\x1b[32mgreen\x1b[0m", b"green"),
            (b"a\x1b[5Cb", b"a     b"),
            (b"abc\x1b[2DX", b"aXc"),
            (b"abc\x1b[GX", b"Xbc"),
            (b"abc\r\x1b[KX", b"X"),
            (b"abc\x1b[2K\rX", b"X"),
            (b"abc\b\b\x1b[P", b"ac"),
            (b"old\b\b\bnew", b"new"),
            (b"abc\x07\x00\x0f", b"abc"),
            (b"\x1b]0;title\x07abc", b"abc"),
            (b"\x1b(B\x1b=\x1b>\x1bZabc", b"abc"),
            (b"tab\there", b"tab\there"),
            ("中文".encode("gbk"), "中文".encode("gbk")),
        ):
            self.assertEqual(([], expected), shown(data), data)

    def test_pages_leave_nothing(self) -> None:
        cleared = b"--More--" + b"\b" * 8 + b" " * 8 + b"\b" * 8 + b"next line\r\n"
        self.assertEqual([b"next line"], shown(cleared)[0])
        huawei = b"  ---- More ----\x1b[42D" + b" " * 42 + b"\x1b[42Dnext line\r\n"
        self.assertEqual([b"next line"], shown(huawei)[0])

    @given(st.lists(st.sampled_from([b"\x1b", b"[", b"3", b"1mC", b"D", b"]0;", b"\x07", b"a", b"\r", b"\n", b"\b"])))
    def test_pieces_make_no_difference(self, pieces: list[bytes]) -> None:
        self.assertEqual(shown(b"".join(pieces)), shown(*pieces))

    def test_cost_is_bounded(self) -> None:
        """A device that only moves its cursor, or never ends a line, makes neither long lines nor many bytes."""
        lines, _ = shown(b"\x1b[99999Cx\n" * 1000)
        self.assertEqual({WIDTH + 1}, set(map(len, lines)))
        screen = Screen()
        for _ in range(40):
            screen.feed(b"x" * 32768)
            self.assertLess(len(screen.line), LONGEST + 32768)
