"""
What busy relays send waits its turn, and nothing of it is lost or changes its order.
"""

from __future__ import annotations

import contextlib
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from relayd.hub.links.intake import SHARE, Intake


class Relay:
    """A connection that takes its time to look at each piece."""

    def __init__(self, case: IntakeTests, takes: float) -> None:
        self._case = case
        self._takes = takes
        self.seen: list[bytes] = []
        self.paused: set[str] = set()

    def pause(self, why: str, on: bool) -> None:
        (self.paused.add if on else self.paused.discard)(why)

    def look_at(self, data: bytes) -> None:
        self._case.now += self._takes
        self.seen.append(data)
        if data == b"broken":
            raise ValueError("broken")


class Turns:
    """A clock of which each turn does what was asked for before it, as the reactor's."""

    def __init__(self) -> None:
        self.due: list[Any] = []

    def callLater(self, seconds: float, function: Any) -> None:
        self.due.append(function)

    def advance(self) -> None:
        due, self.due = self.due, []
        for function in due:
            function()


class IntakeTests(SynchronousTestCase):
    """In turns of the event loop, by a clock that only relays move."""

    def setUp(self) -> None:
        self.now = 0.0
        self.clock: Any = Turns()
        self.intake = Intake(self.clock, lambda: self.now)  # type: ignore[arg-type]
        self.relays = [Relay(self, 0.6 * SHARE) for _ in range(10)]

    def test_what_is_quick_is_looked_at_at_once(self) -> None:
        for _ in range(3):
            for relay in self.relays[:2]:
                self.intake.take(relay, b"x")
            self.clock.advance()
        self.assertEqual([len(relay.seen) for relay in self.relays[:2]], [3, 3])
        self.assertEqual(self.clock.due, [])

    def test_one_turn_has_its_bound(self) -> None:
        """The others are not read until they are looked at, in the order in which they came."""
        for relay in self.relays:
            self.intake.take(relay, b"x")
        for turn in range(1, 6):
            self.assertEqual([bool(relay.seen) for relay in self.relays].count(True), 2 * turn)
            self.assertEqual([bool(relay.paused) for relay in self.relays], [not relay.seen for relay in self.relays])
            self.clock.advance()
        self.clock.advance()
        self.assertEqual(self.clock.due, [])

    def test_no_order_changes(self) -> None:
        slow, other = Relay(self, SHARE), self.relays[0]
        self.intake.take(slow, b"1")
        self.intake.take(other, b"a")
        self.intake.take(slow, b"2")
        self.intake.take(slow, b"3")
        self.intake.take(other, b"b")
        self.clock.advance()
        self.assertEqual((slow.seen, other.seen), ([b"1", b"23"], [b"ab"]))

    def test_the_end_of_a_connection_loses_nothing(self) -> None:
        slow, other = Relay(self, SHARE), self.relays[0]
        self.intake.take(slow, b"1")
        self.intake.take(other, b"last")
        self.intake.finish(other)
        self.assertEqual(other.seen, [b"last"])
        self.clock.advance()
        self.assertEqual(other.seen, [b"last"])

    def test_one_that_fails_holds_up_nobody(self) -> None:
        slow, broken, other = Relay(self, SHARE), Relay(self, SHARE), self.relays[0]
        self.intake.take(slow, b"1")
        self.intake.take(broken, b"broken")
        self.intake.take(other, b"a")
        for _ in range(2):
            with contextlib.suppress(ValueError):
                self.clock.advance()
        self.assertEqual(other.seen, [b"a"])
