"""
Tests of `relayd.hub.decisions.rollout`, `shares` and `budget`.
"""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relayd.hub.decisions.budget import Budget
from relayd.hub.decisions.rollout import Pace, Rollout
from relayd.hub.decisions.shares import Share
from relayd.hub.decisions.states import InvocationState
from relayd.language.texts import Fault


class ShareTests(SynchronousTestCase):
    def test_per_cent_rounds_up_and_is_at_least_one(self) -> None:
        for written, size, expected in (
            ("20%", 10, 2), ("20%", 11, 3), ("1%", 5, 1), ("0.5 %", 1000, 5), ("100%", 7, 7), (10, 3, 10), ("4", 9, 4),
        ):  # fmt: skip
            self.assertEqual(Share.parse(written, "x").at_least_one(size), expected, written)

    def test_mistakes(self) -> None:
        wrong: tuple[Any, ...] = ("", "a", "101%", "-1", -1, 1.5, True, "1e9", "%", "10 percent", "9" * 40, "²")
        for written in wrong:
            error = self.assertRaises(Fault, Share.parse, written, "concurrency")
            self.assertEqual(
                str(error),
                "concurrency is a number such as 10, or per cent of all hosts of the run such as 20%; "
                f'"{written}" is neither',
            )

    @given(st.integers(0, 100) | st.decimals(0, 100, places=3).map(lambda number: f"{number}%"))
    def test_what_it_writes_it_reads(self, written: int | str) -> None:
        share = Share.parse(written, "x")
        self.assertEqual(Share.parse(str(share), "x"), share)


class RolloutTests(SynchronousTestCase):
    def test_mistakes(self) -> None:
        wrong: tuple[tuple[dict[str, Any], str], ...] = (
            ({"concurrency": 0}, "concurrency is at least 1: with 0 nothing would ever be sent"),
            ({"concurrency": "0%"}, "concurrency is at least 1: with 0 nothing would ever be sent"),
            ({"ramp": [1, 0]}, "ramp is a whole number from 1 to 1,000,000"),
            ({"ramp": [1] * 33}, "ramp has 33 steps; it may have 32"),
            ({"per_relay": 0}, "perRelay is a whole number from 1 to 1,000,000"),
            ({"per_host": True}, "perHost is a whole number from 1 to 1,000,000"),
        )
        for fields, message in wrong:
            self.assertEqual(str(self.assertRaises(Fault, Rollout.parse, **fields)), message)

    def test_stored_and_read(self) -> None:
        for rollout in (Rollout(), Rollout.parse(concurrency="12.5%", ramp=[1, 2], per_relay=3, per_host=1)):
            stored = msgspec.json.decode(msgspec.json.encode(rollout.to_builtins()))
            self.assertEqual(Rollout.from_builtins(stored), rollout)


class PaceTests(SynchronousTestCase):
    def test_ramp(self) -> None:
        """The next step begins when all of the step before has ended, and only then."""
        pace = Pace(Rollout.parse(concurrency=5, ramp=[1, 2]), 100)
        rooms = []
        for event in (pace.sent, pace.ended, pace.sent, pace.sent, pace.ended, pace.ended, pace.sent, pace.ended):
            rooms.append(pace.room)
            event()
        self.assertEqual([*rooms, pace.room], [1, 0, 2, 1, 0, 0, 5, 4, 5])

    def test_not_sent_after_all(self) -> None:
        pace = Pace(Rollout.parse(ramp=[2]), 100)
        pace.sent()
        pace.not_sent()
        self.assertEqual(pace.room, 2)

    @given(
        st.lists(st.integers(1, 4), max_size=4),
        st.none() | st.integers(1, 5),
        st.lists(st.booleans(), max_size=60),
    )
    def test_it_goes_on_after_a_restart_as_before(
        self, ramp: list[int], concurrency: int | None, events: list[bool]
    ) -> None:
        rollout = Rollout.parse(concurrency=concurrency, ramp=ramp)
        pace = Pace(rollout, 30)
        sent = 0
        for send in events:
            if send and pace.room > 0:
                pace.sent()
                sent += 1
            elif pace.under_way:
                pace.ended()
            other = Pace(rollout, 30)
            other.resume(pace.under_way, sent)
            self.assertEqual((other.room, other.under_way), (pace.room, pace.under_way))


class BudgetTests(SynchronousTestCase):
    def test_more_than_allowed(self) -> None:
        for most, size, allowed in (
            (0, 5, 0),
            (3, 5, 3),
            ("10%", 50, 5),
            ("10%", 9, 0),
            ("100%", 9, 9),
            (None, 9, None),
        ):
            self.assertEqual(Budget.parse(most=most).allowed(size), allowed, (most, size))

    def test_what_counts(self) -> None:
        self.assertEqual(Budget.parse().counted, {"failed", "timed-out", "unknown"})
        self.assertEqual(Budget.parse(counted=["expired"]).counted, {InvocationState.EXPIRED})

    def test_mistakes(self) -> None:
        ends = "cancelled, expired, failed, not-executed, refused, timed-out, unknown"
        for counted, message in (
            (["succeeded"], f'errorsCount has "succeeded"; it may have {ends}'),
            (["oops\n"], f'errorsCount has "oops\N{REPLACEMENT CHARACTER}"; it may have {ends}'),
            ([], "errorsCount is empty; leave it out for failed, timed-out, unknown"),
        ):
            self.assertEqual(str(self.assertRaises(Fault, Budget.parse, counted=counted)), message)

    def test_stored_and_read(self) -> None:
        for budget in (Budget(), Budget.parse(most="7.5%", counted=["failed", "refused"])):
            stored = msgspec.json.decode(msgspec.json.encode(budget.to_builtins()))
            self.assertEqual(Budget.from_builtins(stored), budget)
