"""relayd.journal.bodies: a large result is held as a small one is."""

from __future__ import annotations

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from relayd.journal import bodies
from relayd.journal.bodies import decode_result, encode_result
from relayd.network.pieces import PIECE
from relayd.wire.messages import CommandResult


class BodiesTests(SynchronousTestCase):
    def test_the_same_bytes(self) -> None:
        """Whatever is in the outputs, also what stands for them."""
        for text in ("x", "汉", "\0", bodies._STDERR, bodies._STDOUT):
            for sizes in ((0, PIECE + 1), (PIECE + 1, 1), (40, PIECE), (PIECE * 2, PIECE * 2)):
                stdout, stderr = ((text * size)[:size] for size in sizes)
                result = CommandResult(command_id="c", stdout=stdout, stderr=stderr, exit_code=0)
                body = encode_result(result)
                self.assertEqual(body, msgspec.msgpack.encode(result))
                self.assertEqual(decode_result(body), result)

    def test_half_a_pair(self) -> None:
        result = CommandResult(command_id="c", stdout="x" * PIECE, stderr="\ud83d", exit_code=0)
        self.assertEqual(decode_result(encode_result(result)).stderr, "?")
