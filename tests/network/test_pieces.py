"""relayd.network.pieces: the same as in one step."""

from __future__ import annotations

from base64 import b64encode

from twisted.trial.unittest import SynchronousTestCase

from relayd.network.pieces import PIECE, from_base64, to_base64, to_utf8

SIZES = (0, 1, 2, 3, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE + 2, PIECE * 4 // 3, 3 * PIECE)


class PiecesTests(SynchronousTestCase):
    def test_base64(self) -> None:
        for size in SIZES:
            data = (bytes(range(256)) * (size // 256 + 1))[:size]
            self.assertEqual(to_base64(data), b64encode(data).decode())
            self.assertEqual(from_base64(to_base64(data)), data)

    def test_utf8(self) -> None:
        for size in SIZES:
            for character in ("x", "é", "汉", "😀"):
                pieces = list(to_utf8(character * size))
                self.assertEqual(b"".join(pieces).decode(), character * size)
                self.assertLessEqual(max(map(len, pieces), default=0), 4 * PIECE)

    def test_half_a_pair(self) -> None:
        with self.assertRaises(UnicodeEncodeError):
            list(to_utf8("x" * PIECE + "\ud83d"))
