"""
Who opens a connection next, and which one makes room for it: turns, the ceiling, age; what refusals teach.
"""

from __future__ import annotations

from typing import Any

from relayd.network.host_rules import HostRule, HostSettings, HostTable
from relayd.ssh.pool.budget import CAP_TIME
from relayd.ssh.pool.decisions import DIAL_PAUSE, MAX_REFUSALS
from relayd.ssh.pool.members import COOL_DOWN, EARNED, HANG_UP_PAUSE, LATE, MAX_HANDSHAKES, RAISE_AFTER
from relayd.ssh.target import Target
from tests.support.ssh_pool import A, B, C, PlacesTestCase, limits, user


class TurnTests(PlacesTestCase):
    """The users of one host share its handshakes."""

    def test_a_long_queue_does_not_starve_others(self) -> None:
        self.make(max_sessions=1, max_connections=50)
        self.connect(A, 0)
        self.add(A, *range(1, 50))
        dialling = self.dials
        self.assertEqual(self.dialled(), [A] * MAX_HANDSHAKES)
        self.add(B, "b")
        self.add(C, "c")
        served = []
        for _ in range(4):
            self.open(dialling.pop(0))
            served += self.dialled()
            dialling += self.dials
        self.assertEqual(served, [A, B, C, A])  # in the order in which they came, then in turns

    def test_who_wants_nothing_any_more_loses_no_time_of_others(self) -> None:
        self.make(max_sessions=1, max_connections=50)
        self.connect(A, 0)
        self.add(A, *range(1, 5))
        first = self.dials[0]
        self.add(B, "b")
        self.add(C, "c")
        self.state.remove(B, "b")
        self.open(first)
        self.assertEqual(self.dialled(), [C])

    def test_a_pause_of_the_host_holds_for_all_and_ends(self) -> None:
        self.add(A, 1)
        (member,) = self.dials
        self.add(B, 2)
        (other,) = self.dials
        self.state.not_opened(member, self.now, hung_up=True)
        self.state.not_opened(other, self.now, hung_up=True)
        self.plan()
        self.assertEqual(self.dials, [])
        self.now = 2 * HANG_UP_PAUSE
        self.assertEqual(self.state.alarm(), self.now)
        self.plan()
        self.assertEqual(len(self.dials), 1)  # one at a time from now on
        self.open(self.dials[0])
        self.assertEqual(len(self.dials), 1)

    def test_one_address_behind_two_jump_hosts_is_two_hosts(self) -> None:
        self.make(max_sessions=3)
        behind = [user("u", "10.0.0.1", user("j", name)) for name in ("east", "west")]
        member = self.connect(behind[0], 1, 2, 3)
        self.state.session_refused(member, self.now)
        self.connect(behind[1], 4, 5, 6)
        self.assertEqual(len(self.starts), 3)
        self.assertEqual(limits(self.state.report, self.max_sessions), {"10.0.0.1:22 via east:22": 2})


class SingleHostTests(PlacesTestCase):
    """What is said of one host, or of one of its users, in place of the numbers for all."""

    def say(self, user: str = "*", **said: Any) -> HostTable:
        return HostTable((HostRule(hosts=("host",), users=(user,), settings=HostSettings(**said)),))

    def test_fewer_sessions_for_one_user(self) -> None:
        self.make(max_sessions=3, table=self.say("a", max_sessions=1))
        self.connect(A, 1, 2, 3)
        self.assertEqual(len(self.starts), 1)
        self.connect(B, 4, 5, 6)
        self.assertEqual(len(self.starts), 3)

    def test_more_sessions_than_others_have(self) -> None:
        self.make(max_sessions=1, table=self.say("a", max_sessions=3))
        self.connect(B, 1, 2)
        self.assertEqual(len(self.starts), 1)
        self.connect(A, 3, 4, 5, 6)
        self.assertEqual(len(self.starts), 3)

    def test_more_sessions_than_the_host_is_known_to_bear(self) -> None:
        self.make(max_sessions=1, table=self.say("a", max_sessions=5))
        self.add(B, 1)
        self.state.opened(self.dials[0], self.now, 2)
        self.connect(A, 2, 3, 4)
        self.assertEqual(len(self.starts), 2)

    def test_more_connections(self) -> None:
        self.make(max_sessions=1, max_connections=1, table=self.say(max_connections=3))
        first = self.connect(A, 1, 2, 3, 4)
        self.assertEqual(self.dialled(), [A, A])
        self.assertFalse(first.retired)

    def test_as_many_commands_as_may_be(self) -> None:
        self.make(max_sessions=5, table=self.say(commands_per_connection=2))
        first = self.connect(A, 1, 2, 3)
        self.assertEqual([work for _, work in self.starts], [1, 2])
        self.close(first)
        self.assertEqual((first.retired, self.evicted), (True, []))
        self.close(first)
        self.assertEqual(self.evicted, [first])

    def test_what_was_not_asked_for_is_no_command(self) -> None:
        self.make(table=self.say(commands_per_connection=1))
        member = self.connect(A, 1)
        self.state.session_closed(member, self.now, given=False)
        self.assertFalse(member.retired)


class CeilingTests(PlacesTestCase):
    """No more than so many connections in all."""

    def setUp(self) -> None:
        self.make(max_total=2)
        self.hosts = [user("u", f"host{number}") for number in range(6)]

    def test_the_longest_idle_one_goes(self) -> None:
        first = self.connect(self.hosts[0])
        second = self.connect(self.hosts[1])
        self.add(self.hosts[0], "again")
        self.close(first)  # so that it is the second that is idle for longer
        self.add(self.hosts[2], "new")
        self.assertEqual((self.evicted, self.dials), ([second], []))
        self.assertEqual(self.state.report.counts().idle, 1)
        self.lose(second)
        self.assertEqual(self.dialled(), [self.hosts[2]])

    def test_busy_ones_stay_and_work_waits(self) -> None:
        first = self.connect(self.hosts[0], "long")
        self.connect(self.hosts[1], "long")
        self.add(self.hosts[2], "new")
        self.assertEqual((self.evicted, self.dials), ([], []))
        self.close(first)
        self.assertEqual(self.evicted, [first])
        self.lose(first)
        self.assertEqual(self.dialled(), [self.hosts[2]])

    def test_one_that_is_about_to_be_used_stays(self) -> None:
        self.make(max_sessions=1, max_connections=1, max_total=2)
        first = self.connect(self.hosts[0], "done")
        self.connect(self.hosts[1], "long")
        self.add(self.hosts[0], "next")
        self.add(self.hosts[2], "new")
        self.close(first)
        self.assertEqual((self.starts, self.evicted), ([], []))  # its only place cools down
        self.pass_time(COOL_DOWN)
        self.assertEqual((self.starts, self.evicted), ([(first, "next")], []))

    def test_in_order_of_waiting(self) -> None:
        busy = [self.connect(host, "long") for host in self.hosts[:2]]
        for host in self.hosts[2:]:
            self.add(host, "new", "newer", "newest")
        served: list[Target] = []
        while len(served) < 4:
            member = busy.pop(0)
            while member.sessions:
                self.close(member)
            self.assertEqual(self.evicted, [member])
            self.lose(member)
            served += self.dialled()
            (dialled,) = self.dials
            self.open(dialled)
            for _ in range(3):
                self.pass_time(COOL_DOWN)
                while dialled.sessions and dialled.lane.waiting:
                    self.close(dialled)
            busy.append(dialled)
        self.assertEqual(served, self.hosts[2:])

    def test_no_more_go_than_are_needed(self) -> None:
        self.make(max_total=4)
        idle = [self.connect(host) for host in self.hosts[:4]]
        self.add(self.hosts[4], "new")
        self.assertEqual(self.evicted, idle[:1])
        self.add(self.hosts[4], "newer")
        self.assertEqual(self.evicted, [])
        self.add(self.hosts[5], "new")
        self.assertEqual(self.evicted, idle[1:2])

    def test_who_waited_and_left_does_not_block_others(self) -> None:
        first = self.connect(self.hosts[0], "long")
        self.connect(self.hosts[1], "long")
        self.add(self.hosts[2], "new")
        self.add(self.hosts[3], "new")
        self.state.remove(self.hosts[2], "new")
        self.close(first)
        self.lose(first)
        self.assertEqual(self.dialled(), [self.hosts[3]])

    def test_who_waited_and_left_needs_no_room(self) -> None:
        first = self.connect(self.hosts[0], "long")
        second = self.connect(self.hosts[1], "long")
        self.add(self.hosts[2], "new")
        self.add(self.hosts[3], "new")
        self.state.remove(self.hosts[3], "new")
        self.close(first)
        self.assertEqual(self.evicted, [first])
        self.close(second)
        self.assertEqual(self.evicted, [])

    def test_who_waits_for_descriptors_is_woken_when_there_may_be_some(self) -> None:
        """Also one whose host had hung up a moment before, and is waited for until then."""
        self.make(max_total=10)
        self.connect(self.hosts[0], "long")
        self.add(A, 1)
        (member,) = self.dials
        self.add(B, 2)
        (other,) = self.dials
        self.state.not_opened(member, self.now, hung_up=True)
        self.state.not_opened(other, self.now, shortage=True)
        self.plan()
        self.pass_time(HANG_UP_PAUSE)
        self.assertEqual((self.dials, self.state.alarm()), ([], CAP_TIME))
        self.pass_time(CAP_TIME)
        self.assertEqual(len(self.dials), 1)


class AgeTests(PlacesTestCase):
    """Connections that are old."""

    def setUp(self) -> None:
        self.make(max_connections=1, max_age=100.0)

    def test_takes_nothing_new_and_does_not_count(self) -> None:
        old = self.connect(A, "long")
        self.now = 99.0
        self.add(A, "young enough")
        self.assertEqual(self.starts, [(old, "young enough")])
        self.close(old)
        self.now = 100.0
        self.add(A, "new")
        self.assertEqual((self.starts, self.evicted, self.dialled()), ([], [], [A]))
        (young,) = self.dials
        self.open(young)
        self.assertEqual(self.starts, [(young, "new")])
        self.close(old)
        self.assertEqual(self.evicted, [old])

    def test_idle_and_old(self) -> None:
        old = self.connect(A)
        self.now = 100.0
        self.add(A, "new")
        self.assertEqual((self.evicted, self.dialled()), ([old], [A]))

    def test_nothing_replaces_it_without_need(self) -> None:
        old = self.connect(A, "long")
        self.now = 100.0
        self.close(old)
        self.assertEqual((self.evicted, self.dials), ([old], []))

    def test_idle_for_too_short_a_time_but_old(self) -> None:
        old = self.connect(A)
        self.state.close_idle(100.0, timeout=1000.0)
        self.plan()
        self.assertEqual(self.evicted, [old])

    def test_a_new_one_that_cannot_be_opened(self) -> None:
        old = self.connect(A, "long")
        self.now = 100.0
        self.add(A, "new")
        self.assertTrue(self.state.not_opened(self.dials[0], self.now))  # the old one takes nothing, so nothing is left
        self.assertEqual(self.state.take_waiting(A), ["new"])
        self.close(old)
        self.lose(old)
        self.assertEqual(self.state.report.targets(), [])


class RefusalTests(PlacesTestCase):
    """What a refused session or a lost connection teaches."""

    def test_a_connection_of_no_use_beside_one_that_works(self) -> None:
        self.make(max_sessions=1)
        good = self.connect(A, 1)
        self.add(A, 2)
        (bad,) = self.dials
        self.open(bad)
        for _ in range(MAX_REFUSALS):
            self.assertEqual(self.starts, [(bad, 2)])
            self.assertFalse(self.state.session_refused(bad, self.now))
            self.state.add(A, 2, first=True)
            self.pass_time(1.0)
        self.assertFalse(self.state.session_refused(bad, self.now))  # no reason for 2 to fail
        self.state.add(A, 2, first=True)
        self.plan()
        self.assertEqual((self.evicted, self.dials), ([bad], []))
        self.lose(bad)
        self.close(good)
        self.pass_time(COOL_DOWN)
        self.assertEqual(self.starts, [(good, 2)])
        self.add(A, 3)
        self.assertEqual(self.dials, [])
        self.pass_time(DIAL_PAUSE)
        self.assertEqual(self.dialled(), [A])

    def test_a_place_that_is_freed_late_is_no_lower_limit(self) -> None:
        self.make(max_sessions=10, max_connections=1)
        member = self.connect(A, *range(10))
        for _ in range(5):
            self.close(member)
        self.pass_time(COOL_DOWN)
        self.add(A, *range(10, 15))
        self.assertEqual(len(self.starts), 5)
        for work in range(10, 15):
            self.state.session_refused(member, self.now)
            self.state.add(A, work, first=True)
        self.plan()
        self.assertEqual(limits(self.state.report, self.max_sessions), {})  # not 5: five more had only just ended
        self.pass_time(COOL_DOWN)
        self.assertEqual(len(self.starts), 5)

    def test_late_again_and_again_it_is(self) -> None:
        """Unless the host gives many sessions between the refusals: then it is busy, and no more."""
        for given, most in ((1, 1), (EARNED, 2)):
            self.make(max_sessions=2, max_connections=1)
            member = self.connect(A, "first", "second")
            for turn in range(20):
                for step in range(given):
                    self.close(member)
                    self.add(A, (turn, step))
                    self.pass_time(COOL_DOWN)
                self.close(member)
                self.add(A, (turn, "refused"))
                self.pass_time(COOL_DOWN)
                if member.sessions < 2:
                    break
                self.state.session_refused(member, self.now)
                self.state.add(A, (turn, "refused"), first=True)
                self.pass_time(2 * COOL_DOWN)
            self.assertEqual(member.lane.host.limit, most)

    def test_what_one_connection_taught_is_not_taught_again_by_another(self) -> None:
        self.make(max_sessions=10, max_connections=2)
        first = self.connect(A, *range(10))
        self.add(A, *range(10, 20))
        (second,) = self.dials
        self.open(second)
        for _ in range(5):
            self.state.session_refused(first, self.now)
        self.assertEqual(limits(self.state.report, self.max_sessions), {"host:22": 5})
        for _ in range(2):
            self.state.session_closed(second, self.now)
        self.state.session_refused(second, self.now)  # 7 are left there, so this is no news
        self.assertEqual(limits(self.state.report, self.max_sessions), {"host:22": 5})

    def test_long_after_the_last_end_it_is(self) -> None:
        self.make(max_sessions=10, max_connections=1)
        member = self.connect(A, *range(10))
        for _ in range(5):
            self.close(member)
        self.pass_time(LATE)
        self.add(A, *range(10, 15))
        self.state.session_refused(member, self.now)
        self.assertEqual(limits(self.state.report, self.max_sessions), {"host:22": 9})
        for _ in range(4):
            self.state.session_refused(member, self.now)
        self.assertEqual(limits(self.state.report, self.max_sessions), {"host:22": 5})

    def test_a_connection_dropped_for_asking_too_much(self) -> None:
        self.make(max_sessions=10, max_connections=1)
        member = self.connect(A, *range(10))
        self.lose(member, opening=7)
        self.assertEqual(limits(self.state.report, self.max_sessions), {})  # forgotten with the last target
        member = self.connect(A, *range(10))
        self.state.add(A, "put back", first=True)
        self.lose(member, opening=7)
        self.assertEqual(limits(self.state.report, self.max_sessions), {"host:22": 3})
        self.open(self.dials[0])
        self.add(A, *range(20, 30))
        self.assertEqual(self.state.report.counts().sessions, 3)
        self.pass_time(RAISE_AFTER)
        self.assertEqual(self.state.report.counts().sessions, 4)

    def test_a_connection_dropped_before_any_session_was_open(self) -> None:
        self.make(max_sessions=10, max_connections=1)
        found: list[int] = []
        self.add(A, *range(10))
        for _ in range(3):
            (dialled,) = self.dials
            self.open(dialled)
            opening = dialled.sessions
            for work in range(opening):
                self.state.add(A, work, first=True)
            self.state.lost(dialled, self.now, opening)
            found += limits(self.state.report, self.max_sessions).values()
            self.plan()
        self.assertEqual(found, [5, 2, 1])  # until it bears what is asked, before anything is given up

    def test_a_lone_session_teaches_nothing(self) -> None:
        member = self.connect(A, 1)
        self.state.add(A, 1, first=True)
        self.lose(member, opening=1)
        self.assertEqual(limits(self.state.report, self.max_sessions), {})


class FreeMemberTests(PlacesTestCase):
    """A session that finds a connection with room takes no steps: `PoolState.free_member` and `start_on`."""

    def free(self, target: Target = A) -> object:
        return self.state.free_member(target, self.now)

    def test_the_one_with_the_most_room(self) -> None:
        """It is the one that a step would give."""
        self.assertIsNone(self.free(), "there is none")
        first = self.connect(A, 1, 2)
        self.add(A, 3)
        (second,) = self.dials
        self.open(second)
        self.assertIsNot(first, second)
        self.assertIs(self.free(), second)
        self.assertTrue(self.state.start_on(second, self.now))
        self.assertIsNone(self.free(), "all are full")
        self.close(first)
        self.assertIsNone(self.free(), "its place cools down")
        self.pass_time(COOL_DOWN)
        self.assertIs(self.free(), first)
        self.assertTrue(self.state.is_settled(self.now))

    def test_others_wait(self) -> None:
        member = self.connect(A, 1, 2)
        self.close(member)
        self.state.add(A, "waits")
        self.pass_time(0)
        self.now += COOL_DOWN
        self.assertFalse(self.state.is_settled(self.now))
        self.assertIsNone(self.free(), "it comes first")
        self.plan()
        self.assertEqual(self.starts, [(member, "waits")])

    def test_too_old(self) -> None:
        self.make(max_age=10)
        member = self.connect(A)
        self.assertIs(self.free(), member)
        self.now += 10
        self.assertIsNone(self.free())
        self.add(A, 1)
        self.assertEqual(self.evicted, [member])
