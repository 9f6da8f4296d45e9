"""
Which connection carries the way to another host, and how a way through jump hosts is counted.
"""

from __future__ import annotations

from typing import Any

from relayd.ssh.pool.members import MAX_FORWARDS, Member
from relayd.ssh.target import Target
from tests.support.ssh_pool import FAR, JUMP, A, PlacesTestCase, user


class ForwardTests(PlacesTestCase):
    """Channels to other hosts, and what needs them."""

    def test_no_session_place(self) -> None:
        member = self.connect(JUMP, 1, 2)
        self.add(JUMP, "x", "y", "z", forward=True)
        self.assertEqual(self.starts, [(member, "x"), (member, "y"), (member, "z")])
        self.assertEqual((self.state.report.counts().sessions, self.state.report.counts().forwards), (2, 3))
        self.assertEqual(self.dials, [])

    def test_dials(self) -> None:
        self.add(JUMP, "x", forward=True)
        self.assertEqual(self.dialled(), [JUMP])
        self.open(self.dials[0])
        self.assertEqual([work for _, work in self.starts], ["x"])

    def test_bounded_and_even(self) -> None:
        first = self.connect(JUMP)
        self.add(JUMP, *range(MAX_FORWARDS + 3), forward=True)
        self.assertEqual(len(self.starts), MAX_FORWARDS)
        self.assertEqual(self.state.report.counts().waiting_forwards, 3)
        (second,) = self.dials
        self.open(second)
        self.assertEqual([member for member, _ in self.starts], [second] * 3)
        self.state.forward_ended(first, self.now)
        self.add(JUMP, "x", forward=True)
        self.assertEqual([member for member, _ in self.starts], [second])  # 3 against 255

    def test_keeps_its_connection(self) -> None:
        member = self.connect(JUMP)
        self.add(JUMP, "x", forward=True)
        self.state.close_idle(1e6, timeout=1.0)
        self.plan()
        self.assertEqual(self.evicted, [])
        self.state.forward_ended(member, 1e6)
        self.state.close_idle(1e6 + 1, timeout=1.0)
        self.plan()
        self.assertEqual(self.evicted, [member])

    def test_taken(self) -> None:
        self.add(JUMP, "x", "y", forward=True)
        self.add(JUMP, "command")
        self.assertEqual(self.state.take_waiting(JUMP, sessions_only=True), ["command"])
        self.assertEqual(self.state.take_waiting(JUMP), ["x", "y"])

    def test_removed(self) -> None:
        self.add(JUMP, "x", forward=True)
        self.assertTrue(self.state.remove(JUMP, "x"))
        self.assertFalse(self.state.remove(JUMP, "x"))

    def test_a_jump_host_without_sessions_still_forwards(self) -> None:
        self.make(max_connections=1)
        member = self.connect(JUMP)
        self.add(JUMP, "x", forward=True)
        self.add(JUMP, "command")
        while not self.state.session_refused(member, self.now):
            self.state.add(JUMP, "command", first=True)
            self.pass_time(1.0)
        self.plan()
        self.assertEqual(self.evicted, [])
        self.add(JUMP, "y", forward=True)
        self.assertEqual(self.starts, [(member, "y")])
        self.pass_time(1.0)
        self.add(JUMP, "another command")
        self.assertEqual(self.starts, [(member, "another command")])  # which tells whether it is so still


class WayTests(PlacesTestCase):
    """Connections through jump hosts below the ceiling."""

    def far(self, number: int) -> Target:
        return user("f", f"far{number}", JUMP)

    def connect_far(self, target: Target) -> tuple[Member[Any], Member[Any]]:
        """A connection that is idle, and the jump host's below it."""
        self.add(target, "scout")
        (member,) = self.dials
        self.add(JUMP, f"to {target.host}", forward=True)
        if self.dials:
            self.open(self.dials[0])
        ((below, _),) = self.starts
        self.state.remove(target, "scout")
        self.open(member)
        return member, below

    def test_all_of_the_way_is_counted_before_any_of_it(self) -> None:
        self.make(max_total=2)
        self.add(FAR, "far")
        (far,) = self.dials
        self.add(A, "near")
        self.assertEqual(self.dials, [])  # the other place is the jump host's, which was not dialled yet
        self.add(JUMP, "to far", forward=True)
        self.assertEqual(self.dialled(), [JUMP])
        self.open(self.dials[0])
        self.open(far)
        self.assertEqual(self.starts, [(far, "far")])

    def test_what_others_wait_for_comes_before_others(self) -> None:
        self.make(max_total=3)
        self.connect(A, "long")
        self.add(FAR, "far")
        other_on_jump = user("other", "jump")
        self.add(other_on_jump, "waits for a place")
        self.assertEqual(self.dials, [])
        self.add(JUMP, "to far", forward=True)
        self.assertEqual(self.dialled(), [JUMP])

    def test_waiting_itself_when_it_becomes_needed(self) -> None:
        self.make(max_total=3)
        busy = [self.connect(user("u", f"host{number}"), "long") for number in range(3)]
        self.add(user("other", "jump"), "waits")
        self.add(JUMP, "waits too")
        self.add(FAR, "far")
        served = []
        for member in busy:
            self.close(member)
            self.lose(member)
            served.append(self.dialled())
        # The host behind it needs two places, and comes before the second user of the jump host.
        self.assertEqual(served, [[user("other", "jump")], [], [FAR, JUMP]])

    def test_the_place_is_given_back_when_it_was_not_needed(self) -> None:
        self.make(max_total=2)
        self.add(FAR, "far")
        (far,) = self.dials
        self.add(A, "near")
        self.assertTrue(self.state.not_opened(far, self.now))  # such as for a key that cannot be read
        self.state.take_waiting(FAR)
        self.plan()
        self.assertEqual(self.dialled(), [A])
        self.assertEqual(self.state.report.targets(), [A])

    def test_a_jump_host_that_is_needed_is_not_idle(self) -> None:
        self.make(max_total=2)
        jump = self.connect(JUMP)
        self.add(FAR, "far")
        (far,) = self.dials
        self.add(A, "near")
        self.assertEqual(self.evicted, [])
        self.state.close_idle(1e6, timeout=1.0)
        self.plan()
        self.assertEqual(self.evicted, [])
        self.add(JUMP, "to far", forward=True)
        self.open(far)
        self.close(far)
        self.assertEqual(self.evicted, [far])  # which frees the jump host's only channel, but nobody needs its place
        self.lose(far)
        self.assertEqual(self.dialled(), [A])
        self.state.forward_ended(jump, self.now)
        self.plan()
        self.assertEqual(self.evicted, [])

    def test_two_ways_at_once_do_not_wait_for_each_other(self) -> None:
        self.make(max_total=3)
        ways = [user("f", f"far{number}", user("j", f"jump{number}")) for number in range(2)]
        for way in ways:
            self.add(way, "work")
            if way is ways[0]:
                (far,) = self.dials
        self.assertEqual(self.dials, [])
        jump = ways[0].via
        assert jump is not None
        self.add(jump, "forward", forward=True)
        (member,) = self.dials
        self.open(member)
        self.open(far)
        self.close(far)
        self.assertEqual(self.evicted, [far])
        self.lose(far)
        self.assertEqual(self.dialled(), [ways[1]])

    def test_an_idle_one_gives_its_channel_to_another_host(self) -> None:
        self.make(max_connections=1, max_total=10_000)
        members = [self.connect_far(self.far(number)) for number in range(MAX_FORWARDS)]
        self.add(self.far(999), "work")
        (waiting,) = self.dials
        self.add(JUMP, "to far 999", forward=True)
        far, jump = members[0]
        self.assertEqual(self.evicted, [far])
        self.add(JUMP, "something else")
        self.assertEqual(self.evicted, [])  # one is enough
        self.lose(far)
        self.state.forward_ended(jump, self.now)
        self.plan()
        self.assertEqual(self.starts, [(jump, "to far 999")])
        self.open(waiting)
        self.assertEqual([work for _, work in self.starts], ["work"])

    def test_one_that_becomes_idle_gives_its_channel_to_another_host(self) -> None:
        self.make(max_connections=1, max_total=10_000)
        far, _jump = self.connect_far(self.far(0))
        self.add(self.far(0), "long")
        self.add(JUMP, *range(MAX_FORWARDS - 1), forward=True)
        self.add(self.far(1), "work")
        self.add(JUMP, "to far 1", forward=True)
        self.assertEqual(self.evicted, [])
        self.close(far)
        self.assertEqual(self.evicted, [far])

    def test_nothing_goes_where_another_connection_can_be_had(self) -> None:
        self.make(max_connections=2, max_total=10_000)
        self.connect_far(self.far(0))
        self.add(JUMP, *range(MAX_FORWARDS - 1), forward=True)
        self.add(self.far(1), "work")
        self.add(JUMP, "to far 1", forward=True)
        self.assertEqual((self.evicted, self.dialled()), ([], [JUMP]))
