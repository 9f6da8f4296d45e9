"""
Tests of `relayd.hub.access.throttle`: guessing is slow, and a user is not locked out for good.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from relayd.hub.access.throttle import BURST, FREE, FREE_ADDRESS, LONGEST, MOST, LoginThrottle, network_of

HOUR = 3600.0


def attempts(throttle: LoginThrottle, user: str, address: str, since: float, until: float) -> int:
    """How many attempts somebody gets who fails each time, and tries again as soon as that is allowed."""
    now, count = since, 0
    while now < until:
        wait = throttle.begin(user, address, now)
        count += not wait
        now += wait or 0.1
    return count


class ThrottleTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.throttle = LoginThrottle()

    def test_some_mistakes_are_free_and_then_the_wait_doubles(self) -> None:
        now, waits = 1000.0, []
        for _ in range(FREE + 12):
            self.assertEqual(self.throttle.begin("alice", "192.0.2.1", now), 0)
            wait = self.throttle.begin("alice", "192.0.2.1", now)
            if wait:
                waits.append(wait)
                now += wait
            else:
                self.throttle.void("alice", "192.0.2.1")
        self.assertEqual(waits[:4], [2, 4, 8, 16])
        self.assertEqual(waits[-1], LONGEST)

    def test_success_forgets(self) -> None:
        for _ in range(3):
            for _ in range(FREE):
                self.assertEqual(self.throttle.begin("alice", "192.0.2.1", 0.0), 0)
            self.throttle.succeeded("alice", "192.0.2.1")

    def test_many_at_once_gain_nothing(self) -> None:
        begun = [self.throttle.begin("alice", "192.0.2.1", 0.0) for _ in range(1000)]
        self.assertEqual(begun.count(0), FREE + 1)

    def test_an_address_that_tries_many_users(self) -> None:
        begun = [self.throttle.begin(f"user{number}", "192.0.2.1", 0.0) for number in range(1000)]
        self.assertEqual(begun.count(0), FREE_ADDRESS + 1)
        self.assertEqual(self.throttle.begin("alice", "192.0.2.2", 0.0), 0)

    def test_a_good_account_does_not_free_an_address(self) -> None:
        """Somebody logs in with their own account between the guesses at others."""
        now, guesses = 0.0, 0
        while now < HOUR:
            if not (wait := self.throttle.begin("mallory", "192.0.2.1", now)):
                self.throttle.succeeded("mallory", "192.0.2.1")
                wait = self.throttle.begin(f"user{guesses}", "192.0.2.1", now)
                guesses += not wait
            now += wait or 0.1
        self.assertLess(guesses, 50)

    def test_not_more_than_100_attempts_on_a_user_in_an_hour(self) -> None:
        """From however many addresses; ASVS 4.0.3, 2.2.1.  One of them is known to be the user's."""
        self.assertEqual(self.throttle.begin("alice", "198.51.100.1", 0.0), 0)
        self.throttle.succeeded("alice", "198.51.100.1")
        count, now = 0, 0.0
        while now < HOUR:
            count += not self.throttle.begin("alice", f"10.0.{int(now) % 250}.{int(now * 7) % 250}", now)
            now += 1.0
        count += attempts(self.throttle, "alice", "198.51.100.1", 0.0, HOUR)
        self.assertGreater(count, BURST)
        self.assertLessEqual(count, 100)

    def test_an_attack_does_not_keep_a_user_from_where_they_work(self) -> None:
        self.throttle.begin("alice", "198.51.100.1", 0.0)
        self.throttle.succeeded("alice", "198.51.100.1")
        for number in range(1000):
            self.throttle.begin("alice", f"10.0.{number // 250}.{number % 250}", 1.0)
        self.assertGreater(self.throttle.begin("alice", "203.0.113.9", 1.0), 0)
        self.assertEqual(self.throttle.begin("alice", "198.51.100.1", 1.0), 0)

    def test_nobody_is_locked_out_for_good(self) -> None:
        """Also from an address that is new: after an attack has ended, the wait is a minute."""
        now = 0.0
        while now < 24 * HOUR:
            self.throttle.begin("alice", f"10.{int(now) % 250}.{int(now) // 250 % 250}.1", now)
            now += 10.0
        self.assertLessEqual(self.throttle.begin("alice", "203.0.113.9", now), HOUR / 60)

    def test_what_was_not_decided_is_not_counted(self) -> None:
        for _ in range(1000):
            self.assertEqual(self.throttle.begin("alice", "192.0.2.1", 0.0), 0)
            self.throttle.void("alice", "192.0.2.1")

    def test_memory_is_bounded(self) -> None:
        for number in range(3 * MOST):
            self.throttle.begin(f"u{number}", f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 0.0)
            self.throttle.succeeded(f"u{number}", f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
        self.assertLessEqual(self.throttle.entries, 4 * MOST)

    def test_networks(self) -> None:
        self.assertEqual(network_of("2001:db8::1"), network_of("2001:db8:0:0:ffff::2"))
        self.assertNotEqual(network_of("2001:db8::1"), network_of("2001:db8:0:1::1"))
        self.assertEqual(network_of("::ffff:192.0.2.1"), "192.0.2.1")
        self.assertEqual(network_of("not an address"), "not an address")

    @settings(max_examples=50, deadline=None)
    @given(
        st.lists(
            st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"), st.sampled_from(["fail", "right", "void"])),
            max_size=200,
        ),
        st.floats(0, 5),
    )
    def test_a_wait_is_bounded_and_true(self, steps: list[tuple[str, str, str]], pause: float) -> None:
        throttle, now = LoginThrottle(), 0.0
        for user, address, outcome in steps:
            wait = throttle.begin(user, address, now)
            self.assertTrue(0 <= wait <= LONGEST)
            if wait:
                self.assertEqual(throttle.begin(user, address, now + wait), 0)
                now += wait
            if outcome == "right":
                throttle.succeeded(user, address)
            elif outcome == "void":
                throttle.void(user, address)
            now += pause
