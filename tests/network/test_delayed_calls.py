"""Delayed calls that share one of the clock's."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.error import AlreadyCalled, AlreadyCancelled
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from relayd.network.delayed_calls import DelayedCalls


class CountingClock(Clock):
    """Counts the calls that it was asked for."""

    asked = 0

    def callLater(self, when: float, what: Any, *args: Any, **kw: Any) -> Any:
        self.asked += 1
        return super().callLater(when, what, *args, **kw)


class DelayedCallsTests(SynchronousTestCase):
    """`DelayedCalls`."""

    def setUp(self) -> None:
        self.clock = CountingClock()
        self.calls = DelayedCalls(self.clock)
        self.made: list[Any] = []

    def test_interfaces(self) -> None:
        verifyObject(IReactorTime, self.calls)
        verifyObject(IDelayedCall, self.calls.callLater(1, self.made.append))

    def test_in_their_order(self) -> None:
        for delay in (3, 1, 2, 1):
            self.calls.callLater(delay, self.made.append, delay)
        self.clock.advance(0.5)
        self.assertEqual(self.made, [])
        self.clock.advance(1.5)
        self.assertEqual(self.made, [1, 1, 2])
        self.clock.advance(1)
        self.assertEqual((self.made, self.clock.getDelayedCalls()), ([1, 1, 2, 3], []))

    def test_the_clock_has_one_call_for_all(self) -> None:
        calls = [self.calls.callLater(60, self.made.append, number) for number in range(1000)]
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        for call in calls[:-1]:
            call.cancel()
        self.assertEqual(self.clock.asked, 1)
        self.clock.advance(60)
        self.assertEqual(self.made, [999])

    def test_commands_one_after_another_beside_a_call_that_waits(self) -> None:
        """The clock is asked for nothing, and what was cancelled does not pile up."""
        self.calls.callLater(15, self.made.append, "keepalive")
        for _ in range(1000):
            self.calls.callLater(60, self.made.append, "deadline").cancel()
        self.assertEqual(self.clock.asked, 1)
        self.assertLess(len(self.calls._heap), 100)

    def test_nothing_waits_nothing_is_left(self) -> None:
        early, late = self.calls.callLater(1, self.made.append, 1), self.calls.callLater(2, self.made.append, 2)
        late.cancel()
        early.cancel()
        self.assertEqual((self.clock.getDelayedCalls(), self.calls.getDelayedCalls()), ([], []))
        self.clock.advance(5)
        self.calls.callLater(1, self.made.append, 3)
        self.clock.advance(1)
        self.assertEqual(self.made, [3])

    def test_a_function_is_let_go(self) -> None:
        call = self.calls.callLater(1, self.made.append, 1)
        call.cancel()
        self.assertIsNone(call.function)
        call = self.calls.callLater(1, self.made.append, 1)
        self.clock.advance(1)
        self.assertIsNone(call.function)

    def test_moved(self) -> None:
        call = self.calls.callLater(2, self.made.append, "moved")
        call.reset(5)
        self.clock.advance(2)
        self.assertEqual((self.made, call.getTime(), call.active()), ([], 5, True))
        call.reset(1)
        self.clock.advance(1)
        self.assertEqual((self.made, call.active()), (["moved"], False))
        self.clock.advance(10)
        self.assertEqual(self.made, ["moved"])
        call = self.calls.callLater(2, self.made.append, "delayed")
        call.delay(1)
        self.clock.advance(2)
        self.assertEqual(self.made, ["moved"])
        self.clock.advance(1)
        self.assertEqual(self.made, ["moved", "delayed"])

    def test_too_late(self) -> None:
        cancelled, made = self.calls.callLater(1, self.made.append, 1), self.calls.callLater(1, self.made.append, 2)
        cancelled.cancel()
        self.clock.advance(1)
        for act in ("cancel", "reset", "delay"):
            arguments = () if act == "cancel" else (1,)
            with self.assertRaises(AlreadyCancelled):
                getattr(cancelled, act)(*arguments)
            with self.assertRaises(AlreadyCalled):
                getattr(made, act)(*arguments)

    def test_one_that_fails(self) -> None:
        """The clock learns of it, and the others are made all the same."""
        self.calls.callLater(1, lambda: 1 // 0)
        self.calls.callLater(1, self.made.append, "after")
        with self.assertRaises(ZeroDivisionError):
            self.clock.advance(1)
        self.clock.advance(0)
        self.assertEqual((self.made, self.clock.getDelayedCalls()), (["after"], []))

    def test_one_that_makes_and_cancels_others(self) -> None:
        second = self.calls.callLater(1, self.made.append, "second")
        third = self.calls.callLater(0.5, lambda: (second.cancel(), self.calls.callLater(1, self.made.append, "new")))
        self.assertTrue(third.active())
        self.clock.advance(0.5)
        self.clock.advance(0.5)
        self.assertEqual(self.made, [])
        self.clock.advance(0.5)
        self.assertEqual(self.made, ["new"])

    @given(st.data())
    def test_as_the_clock_itself(self, data: st.DataObject) -> None:
        """Whatever is asked for, cancelled and moved, all are made as the clock would make them."""
        times = st.integers(0, 20)
        clock, plain = Clock(), Clock()
        made: tuple[list[int], list[int]] = ([], [])
        pairs: list[tuple[Any, Any]] = []
        calls = DelayedCalls(clock)
        for number in range(data.draw(st.integers(1, 40))):
            act = data.draw(st.sampled_from(("call", "cancel", "reset", "pass")))
            if act == "call":
                delay = data.draw(times)
                pairs.append(
                    (calls.callLater(delay, made[0].append, number), plain.callLater(delay, made[1].append, number))
                )
            elif act == "pass":
                for _ in range(data.draw(times)):
                    clock.advance(1)
                    plain.advance(1)
                    self.assertEqual(sorted(made[0]), sorted(made[1]))
            elif pairs and (pair := data.draw(st.sampled_from(pairs)))[0].active():
                self.assertTrue(pair[1].active())
                for call in pair:
                    if act == "cancel":
                        call.cancel()
                    else:
                        call.reset(delay := data.draw(times) if call is pair[0] else delay)
        for _ in range(21):
            clock.advance(1)
            plain.advance(1)
        self.assertEqual(sorted(made[0]), sorted(made[1]))
        self.assertEqual((clock.getDelayedCalls(), calls.getDelayedCalls()), ([], []))
