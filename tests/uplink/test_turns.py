"""
relayd.uplink.turns and relayd.uplink.result_sender: order is kept, and the event loop gets its turns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relayd.uplink.result_sender import ResultSender
from relayd.uplink.turns import SLICE, Turns
from relayd.wire.dialects.events import EventReceived
from relayd.wire.dialects.native import NativeRelayDialect
from relayd.wire.dialects.native import NativeServerDialect as Server
from relayd.wire.messages import CommandResult


class TurnsTests(SynchronousTestCase):
    """Steps say what they do, and how long it takes."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.held: list[bool] = []
        self.done: list[str] = []
        self.turns = Turns(self.clock, self.held.append)
        self.turns.begin_turn()

    def step(self, name: str, seconds: float = 0.0) -> Callable[[], None]:
        def act() -> None:
            self.clock.rightNow += seconds
            self.done.append(name)

        return act

    def turn(self) -> None:
        """One of the event loop: what it schedules has to wait for the next."""
        call: Any = self.clock.getDelayedCalls()[0]
        act = call.func
        call.cancel()
        act()

    def test_what_is_quick_is_done_at_once(self) -> None:
        for name in "abc":
            self.turns.take_in_turn(self.step(name))
        self.assertEqual((self.done, self.held), (["a", "b", "c"], []))

    def test_the_rest_waits_for_the_next_turn(self) -> None:
        for name in "abcd":
            self.turns.take_in_turn(self.step(name, SLICE * 0.7))
        self.assertEqual((self.done, self.held), (["a", "b"], [True]))
        self.turn()
        self.assertEqual((self.done, self.held), (["a", "b", "c", "d"], [True, False]))

    def test_large_steps_have_a_turn_each(self) -> None:
        self.turns.take_in_turn(self.step("a", 1), large=True)
        self.turns.take_in_turn(self.step("b", 1), large=True)
        self.turns.take_in_turn(self.step("c"))
        for expected in (["a"], ["a", "b"], ["a", "b", "c"]):
            self.turn()
            self.assertEqual(self.done, expected)
        self.assertEqual(self.held, [True, False])

    def test_a_step_goes_on_before_those_that_wait(self) -> None:
        self.turns.take_in_turn(lambda: self.turns.take_next(self.step("more of a")))
        self.turns.take_in_turn(self.step("b"))
        self.assertEqual(self.done, [])
        self.turn()
        self.assertEqual(self.done, ["more of a", "b"])

    def test_a_step_that_fails_stops_nothing(self) -> None:
        self.turns.take_in_turn(lambda: 1 / 0, large=True)  # type: ignore[arg-type,return-value]
        self.turns.take_in_turn(self.step("b"))
        self.assertRaises(ZeroDivisionError, self.turn)
        self.turn()
        self.assertEqual((self.done, self.held), (["b"], [True, False]))


def result(name: str, size: int) -> CommandResult:
    return CommandResult(command_id=name, stdout="é" * size, stderr="\0", exit_code=0)


class SenderTests(SynchronousTestCase):
    """Threads finish when the test says so."""

    def setUp(self) -> None:
        self.frames: list[bytes] = []
        self.threads: list[tuple[Callable[[], Any], Deferred[Any]]] = []
        self.sender = ResultSender(NativeRelayDialect(), self.defer, lambda: 4_000_000, self.frames.append)

    def defer(self, work: Callable[[], Any]) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()
        self.threads.append((work, done))
        return done

    def finish(self) -> None:
        work, done = self.threads.pop(0)
        done.callback(work())

    def sent(self) -> list[tuple[str, str]]:
        found = []
        for frame in self.frames:
            (event,) = Server().receive_text(bytes(frame).decode())
            assert isinstance(event, EventReceived)
            found.append((event.data["commandId"], event.data["result"]["stdout"]))
        return found

    def test_order(self) -> None:
        sizes = {"a": 10, "b": 300_000, "c": 10, "d": 400_000, "e": 10}
        for name, size in sizes.items():
            self.sender.send_result(result(name, size))
        self.assertEqual(len(self.sent()), 1)
        self.finish()
        self.assertEqual(len(self.sent()), 3)
        self.finish()
        self.assertEqual(self.sent(), [(name, "é" * size) for name, size in sizes.items()])
        self.sender.send_result(result("f", 1))
        self.assertEqual(len(self.frames), 6)

    def test_too_large(self) -> None:
        self.sender.send_result(result("a", 3_000_000))
        self.finish()
        self.assertLessEqual(len(self.frames[0]), 4_000_000)
        self.assertIn("bytes cut here to fit the link", self.sent()[0][1])

    def test_half_a_surrogate_pair(self) -> None:
        for size in (1, 300_000):
            self.sender.send_result(CommandResult(command_id="a", stdout="\ud800" * size, stderr="", exit_code=0))
        self.finish()
        self.assertEqual([text for _, text in self.sent()], ["?", "?" * 300_000])

    def test_a_link_that_ends_meanwhile(self) -> None:
        for name in "ab":
            self.sender.send_result(result(name, 300_000))
        self.sender.end()
        self.finish()
        self.assertEqual((self.frames, self.threads), ([], []))

    def test_a_thread_that_fails(self) -> None:
        self.sender.send_result(result("a", 300_000))
        self.sender.send_result(result("b", 1))
        self.threads.pop()[1].errback(RuntimeError())
        self.assertEqual([name for name, _ in self.sent()], ["b"])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
