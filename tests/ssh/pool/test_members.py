"""
What the pool keeps of connections, targets and hosts: counters that always agree with what they count.
"""

from __future__ import annotations

from math import inf

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relayd.ssh.pool.alarms import Alarms
from relayd.ssh.pool.budget import CAP_TIME, ConnectionBudget
from relayd.ssh.pool.members import (
    COOL_DOWN,
    HANG_UP_PAUSE,
    LEARNED_FOR,
    MAX_HANDSHAKES,
    MAX_HANG_UPS,
    RAISE_AFTER,
    Lane,
    Member,
    PooledHost,
    where_is,
)
from relayd.ssh.pool.timers import Timers
from tests.support.ssh_pool import FAR, JUMP, A, B

EVENTS = ("dial", "open", "retire", "doubt", "trust", "remove")


def host_of(limit: int = 3) -> PooledHost[str]:
    return PooledHost(where_is(A), limit)


class MemberTests(SynchronousTestCase):
    """`Member`."""

    def setUp(self) -> None:
        self.member = Lane(A, host_of()).dial()
        self.member.lane.opened(self.member)

    def test_a_place_cools_down(self) -> None:
        self.member.sessions = 3
        self.member.session_ended(1.0)
        self.assertEqual((self.member.room(3, 1.0), self.member.next_room(1.0)), (0, 1.0 + COOL_DOWN))
        self.assertEqual(self.member.room(3, 1.0 + COOL_DOWN), 1)

    def test_where_there_is_no_room(self) -> None:
        self.assertEqual((self.member.room(3, 0.0), self.member.forward_room() > 0), (3, True))
        for change in ("retired", "doubted"):
            setattr(self.member, change, True)
            self.assertEqual((self.member.room(3, 0.0), self.member.next_room(0.0)), (0, None))
            self.assertEqual(self.member.forward_room(), 0)
            setattr(self.member, change, False)
        self.member.not_before = 5.0
        self.assertEqual((self.member.room(3, 0.0), self.member.next_room(0.0)), (0, 5.0))


class LaneTests(SynchronousTestCase):
    """`Lane`."""

    @given(st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(0, 9))))
    def test_counters(self, history: list[tuple[str, int]]) -> None:
        lane = Lane(A, host_of())
        for event, pick in history:
            member: Member[str] | None = lane.members[pick % len(lane.members)] if lane.members else None
            if event == "dial":
                lane.dial()
            elif member is None:
                continue
            elif event == "open" and not member.ready:
                lane.opened(member)
            elif event == "retire":
                lane.retire(member, event)
            elif event in ("doubt", "trust"):
                lane.doubt(member, event == "doubt")
            elif event == "remove":
                lane.remove(member)
            self.assertEqual(lane.dialling, sum(not member.ready for member in lane.members))
            self.assertEqual(lane.usable, sum(not member.retired and not member.doubted for member in lane.members))
            self.assertEqual(lane.counted, len(lane.members))

    def test_the_first_reason_counts(self) -> None:
        lane = Lane(A, host_of())
        member = lane.dial()
        lane.retire(member, "one")
        lane.retire(member, "two")
        self.assertEqual(member.reason, "one")

    def test_reserved(self) -> None:
        lane = Lane(JUMP, host_of())
        lane.dialling_behind = 1
        self.assertEqual((lane.counted, lane.reserved, lane.needed), (1, True, True))
        lane.dial()
        self.assertEqual((lane.counted, lane.reserved), (1, False))

    def test_alone(self) -> None:
        self.assertEqual(Lane(A, host_of(5)).limit, 5)


class HostTests(SynchronousTestCase):
    """`PooledHost`."""

    def test_one_command_a_connection(self) -> None:
        """No other limit that is learned meanwhile makes it end earlier, or an alarm be due before it ends."""
        host = host_of()
        host.learn_single(0.0)
        host.lower(1, 0.0)
        self.assertEqual((host.next_raise, host.is_single(RAISE_AFTER)), (LEARNED_FOR, True))
        self.assertFalse(host.raise_limit(RAISE_AFTER))
        self.assertTrue(host.raise_limit(LEARNED_FOR))
        self.assertEqual((host.limit, host.is_single(LEARNED_FOR)), (2, False))

    def test_an_end_with_a_session(self) -> None:
        """Time alone does not change that; a connection that lives on does, and restores the limit."""
        host = host_of()
        host.learn_end(0.0)
        self.assertEqual((host.limit, host.next_raise, host.memorable), (1, inf, True))
        self.assertFalse(host.raise_limit(LEARNED_FOR))
        host.lived_on(LEARNED_FOR)
        self.assertEqual((host.limit, host.ends_with_session, host.memorable), (3, False, False))

    def test_the_limit_falls_and_rises(self) -> None:
        host = host_of(5)
        host.lower(2, 0.0)
        self.assertFalse(host.raise_limit(RAISE_AFTER - 1))
        self.assertTrue(host.raise_limit(RAISE_AFTER))
        self.assertFalse(host.raise_limit(RAISE_AFTER))
        host.lower(0, 0.0)
        self.assertEqual(host.limit, 1)
        host.cap(1)
        self.assertFalse(host.raise_limit(1e9))

    def test_hanging_up(self) -> None:
        host = host_of()
        host.handshakes = 2
        self.assertTrue(host.hung_up(10.0))
        self.assertEqual((host.max_handshakes, host.no_dial_before), (2, 10.0 + HANG_UP_PAUSE))
        host.handshakes = 0  # what is too many is not known then
        again = [host.hung_up(0.0) for _ in range(MAX_HANG_UPS)]
        self.assertEqual(again, [True] * (MAX_HANG_UPS - 1) + [False])
        self.assertEqual(host.max_handshakes, 2)
        self.assertLess(2, MAX_HANDSHAKES)

    def test_what_others_need_comes_first(self) -> None:
        host = host_of()
        lane, needed = Lane(A, host), Lane(B, host)
        needed.dialling_behind = 1
        for each in (lane, needed):
            host.enqueue(each)
        self.assertEqual((list(host.queue), list(host.reserved_queue)), ([lane], [needed]))
        host.dequeue(needed)
        self.assertEqual(list(host.reserved_queue), [])

    def test_name(self) -> None:
        self.assertEqual(str(PooledHost(where_is(FAR), 1)), "far:22 via jump:22")


class BudgetTests(SynchronousTestCase):
    """`ConnectionBudget`."""

    def test_room(self) -> None:
        budget = ConnectionBudget(5)
        budget.used, budget.closing = 4, 1
        self.assertEqual([budget.has_room(cost) for cost in (1, 2)], [True, False])
        self.assertEqual([budget.missing(places) for places in (1, 2, 3)], [-1, 0, 1])

    def test_no_descriptor_left(self) -> None:
        budget = ConnectionBudget(5)
        budget.used = 3
        budget.cap(10.0)
        self.assertEqual((budget.capped, budget.has_room(1)), (True, False))
        budget.uncap(10.0 + CAP_TIME - 1)
        self.assertTrue(budget.capped)
        budget.uncap(10.0 + CAP_TIME)
        self.assertEqual((budget.capped, budget.has_room(2)), (False, True))


class AlarmTests(SynchronousTestCase):
    """`Alarms`, `Timers`."""

    def test_the_earliest_counts(self) -> None:
        alarms: Alarms[str] = Alarms()
        one, two = Lane(A, host_of()), Lane(B, host_of())
        alarms.set(one, 5.0)
        alarms.set(one, 3.0)
        alarms.set(one, 4.0)
        alarms.set(two, 5.0)
        self.assertEqual((alarms.next(), list(alarms.due(2.0)), list(alarms.due(3.0))), (3.0, [], [one]))
        self.assertEqual((alarms.next(), list(alarms.due(9.0)), alarms.next()), (5.0, [two], None))

    def test_cancelled(self) -> None:
        alarms: Alarms[str] = Alarms()
        lane = Lane(A, host_of())
        alarms.set(lane, 5.0)
        alarms.cancel(lane)
        self.assertEqual((alarms.next(), list(alarms.due(9.0))), (None, []))

    def test_timers(self) -> None:
        clock, seen = Clock(), list[str]()
        pauses = iter([2.0, None])

        def sweep() -> float | None:
            seen.append("sweep")
            return next(pauses)

        timers = Timers(clock, lambda: seen.append("alarm"), sweep)
        timers.set_alarm(None)
        timers.set_alarm(5.0)
        timers.set_alarm(3.0)
        timers.set_alarm(4.0)
        timers.start_sweeps(1.0)
        timers.start_sweeps(0.1)
        clock.pump([1.0] * 5)
        self.assertEqual((seen, clock.getDelayedCalls()), (["sweep", "alarm", "sweep"], []))
        timers.set_alarm(9.0)
        timers.start_sweeps(1.0)
        timers.stop()
        self.assertEqual(clock.getDelayedCalls(), [])
