"""
Tests of `relayd.uplink.result_sender`: the order of results, what fits, and what waits for one that is made ready.
"""

from __future__ import annotations

from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from relayd.uplink import result_sender
from relayd.uplink.result_sender import LARGE, ResultSender
from relayd.uplink.wire import Pieces
from relayd.wire.dialects.native import NativeRelayDialect
from relayd.wire.messages import CommandResult


def result(command_id: str, size: int = 1) -> CommandResult:
    return CommandResult(command_id=command_id, stdout="x" * size, stderr="", exit_code=0)


class ResultSenderTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.sent: list[bytes] = []
        self.work: list[tuple[Deferred[Any], Any]] = []
        self.dialect = NativeRelayDialect()
        self.sender = self.make(1 << 20)

    def make(self, limit: int) -> ResultSender:
        return ResultSender(self.dialect, self.later, lambda: limit, lambda frame: self.sent.append(bytes(frame)))

    def later(self, function: Any) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()
        self.work.append((done, function))
        return done

    def finish(self) -> None:
        """The thread has done the oldest piece of work."""
        done, function = self.work.pop(0)
        done.callback(function())

    def ids(self) -> list[str]:
        return [frame.partition(b'"commandId":"')[2].partition(b'"')[0].decode() for frame in self.sent]

    def test_small_results_go_at_once_and_after_large_ones_in_their_order(self) -> None:
        self.sender.send_result(result("a"))
        self.sender.send_result(result("large", LARGE + 1))
        self.sender.send_result(result("b"))
        self.assertEqual((self.ids(), self.sender.busy), (["a"], True))
        self.finish()
        self.assertEqual((self.ids(), self.sender.busy), (["a", "large", "b"], False))

    def test_a_step_is_taken_when_all_before_it_is_sent(self) -> None:
        """As a question for a sign of life: it must not overtake the results that it asks about."""
        steps: list[list[str]] = []
        self.sender.after_results(lambda: steps.append(self.ids()))
        self.sender.send_result(result("large", LARGE + 1))
        self.sender.send_result(result("a"))
        self.sender.after_results(lambda: steps.append(self.ids()))
        self.sender.send_result(result("b"))
        self.assertEqual(steps, [[]])
        self.finish()
        self.assertEqual((steps, self.ids()), ([[], ["large", "a"]], ["large", "a", "b"]))

    def test_whoever_wants_to_wait_hears_when_it_is_idle(self) -> None:
        self.sender.send_result(result("large", LARGE + 1))
        idle, given_up = self.sender.when_idle(), self.sender.when_idle()
        given_up.cancel()
        self.failureResultOf(given_up)
        self.assertNoResult(idle)
        self.finish()
        self.successResultOf(idle)

    def test_large_results_are_sent_as_small_ones_are(self) -> None:
        """Whatever is in the outputs, also what stands for them."""
        sent: list[Any] = []
        for text in ("x", "汉", '"\\\n\0', result_sender._STDERR, '"' + result_sender._STDOUT + '"'):
            outputs = {"stdout": text * (LARGE + 1), "stderr": text[::-1]}
            whole = msgspec.structs.replace(result("c"), **outputs)
            for form in (whole, msgspec.structs.replace(whole, extended=True)):
                sender = ResultSender(self.dialect, self.later, lambda: 1 << 30, sent.append)
                sender.send_result(form)
                self.finish()
                self.assertIsInstance(frame := sent.pop(), Pieces)
                self.assertEqual(bytes(frame), self.dialect.event_frame("command_result", form.to_wire()))
                self.assertEqual(len(frame), len(bytes(frame)))
                self.assertLess(max(map(len, frame.pieces)), 8 << 20)

    def test_end(self) -> None:
        self.sender.send_result(result("large", LARGE + 1))
        self.sender.send_result(result("a"))
        idle = self.sender.when_idle()
        self.sender.end()
        self.successResultOf(idle)
        self.finish()
        self.assertEqual(self.ids(), [])

    def test_limit(self) -> None:
        self.sender = self.make(100_000)
        self.sender.send_result(result("a", 200_000))
        self.assertLessEqual(len(self.sent[0]), 100_000)
        self.assertIn(b"bytes cut here to fit the link", self.sent[0])
