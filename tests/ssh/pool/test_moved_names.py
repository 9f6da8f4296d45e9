"""
Names that lead to other machines after a while: new commands follow them, and round-robin does not shake connections.
"""

from __future__ import annotations

from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IResolutionReceiver
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from relayd.ssh.channels.channel import State
from relayd.ssh.channels.connection import ClientConnection
from relayd.ssh.errors import AddressForbidden, NotRun
from relayd.ssh.pool import moved_names
from relayd.ssh.pool.moved_names import FRESH, MEMORY, PATIENCE, STALE, LookupHistory
from relayd.ssh.target import Target
from relayd.ssh.transport.numbers import MSG_CHANNEL_CLOSE
from tests.support.memory_pool import PoolTestCase
from tests.support.ssh_connection import numbers
from tests.support.ssh_pool import A, user

ONE, TWO, THREE = "10.0.0.1", "10.0.0.2", "10.0.0.3"


class AnswersTests(SynchronousTestCase):
    """What a name leads to, as far as is known."""

    def answers(self, *found: str, every: float = FRESH) -> LookupHistory:
        """After some look-ups; each answer is one address or several."""
        self.now = 1000.0
        answers = LookupHistory()
        for each in found:
            answers.learn(frozenset(each.split()), self.now)
            self.now += every
        return answers

    def test_fail_over(self) -> None:
        answers = self.answers(ONE, ONE, TWO)
        self.assertFalse(answers.include(ONE, self.now))
        self.assertTrue(answers.include(TWO, self.now))

    def test_one_of_two_is_gone(self) -> None:
        answers = self.answers(f"{ONE} {TWO}", TWO)
        self.assertEqual([answers.include(each, self.now) for each in (ONE, TWO, THREE)], [False, True, False])

    def test_round_robin(self) -> None:
        """Of a name that gives its addresses in turns, those that were told lately count, and one that is gone goes."""
        answers = self.answers(ONE, TWO, ONE)
        self.assertTrue(answers.include(TWO, self.now))
        for _ in range(int(MEMORY / FRESH) + 1):
            answers.learn(frozenset([ONE, THREE]), self.now)
            self.now += FRESH
        self.assertEqual([answers.include(each, self.now) for each in (ONE, TWO, THREE)], [True, False, True])

    def test_back_again_much_later_is_no_round_robin(self) -> None:
        answers = self.answers(ONE, TWO, ONE, every=MEMORY + 1)
        self.assertFalse(answers.include(TWO, self.now))

    @given(st.integers(2, 12), st.integers())
    def test_a_subset_at_a_time(self, count: int, seed: int) -> None:
        """As soon as one address was away and came back, none is taken for gone."""
        addresses = [f"10.0.0.{number}" for number in range(count)]
        answers, random = LookupHistory(), Random(seed)
        met: set[str] = set()
        last: set[str] = set()
        came_back = False
        for number in range(10 * count):
            found = {*random.sample(addresses, random.randint(1, 2)), addresses[number % count]}
            answers.learn(frozenset(found), number * FRESH)
            came_back = came_back or bool(found & met - last)
            met |= found
            last = found
            if came_back:
                self.assertEqual([each for each in met if not answers.include(each, number * FRESH)], [])


class NamesTestCase(PoolTestCase):
    """A pool whose hosts have names, and a name server that answers when the test says so."""

    def setUp(self) -> None:
        self.asked: list[tuple[str, IResolutionReceiver]] = []
        self.lookups: list[str] = []
        super().setUp()

    def make_clock(self) -> Clock:
        reactor = MemoryReactorClock()
        reactor.nameResolver = self  # type: ignore[assignment]
        return reactor

    def resolveHostName(self, receiver: IResolutionReceiver, host: str, *_: Any, **__: Any) -> None:
        self.asked.append((host, receiver))
        self.lookups.append(host)

    def answer(self, *found: str) -> None:
        """What the name server says to the oldest question; nothing: it does not know, or is down."""
        _, receiver = self.asked.pop(0)
        for each in found:
            receiver.addressResolved(IPv4Address("TCP", each, 0))
        receiver.resolutionComplete()

    def open(self, *found: str, target: Target = A) -> ClientConnection:
        """
        A command runs and ends on a new connection.

        :param found: where the name leads; the connection is to the first.
        """
        self.submit(target)
        return self.dial(*found)

    def dial(self, *found: str) -> ClientConnection:
        """The oldest attempt succeeds; the command on it ends."""
        connection = self.dialer.succeed_as(found)
        self.confirm(connection)
        self.end(connection, 0)
        return connection

    def end(self, connection: ClientConnection, number: int) -> None:
        connection.packetReceived(MSG_CHANNEL_CLOSE, numbers(number))
        self.clock.advance(0.1)
        self.packets(connection)


class MovedTests(NamesTestCase):
    """Hosts that move."""

    def test_what_is_asked_after_a_while_waits_for_the_answer(self) -> None:
        old = self.open(ONE)
        self.clock.advance(STALE)
        job = self.submit(command="one")
        self.assertEqual((self.opens(old), self.dialer.targets()), (0, []))
        self.answer(TWO)
        self.assertEqual(self.disconnected(old), "the host's name resolves elsewhere now")
        self.assertEqual(self.dialer.targets(), [A])
        self.lose(old)
        new = self.dialer.succeed_as([TWO])
        self.assertIs(job.connection, new)

    def test_it_stayed(self) -> None:
        connection = self.open(ONE)
        self.clock.advance(STALE)
        self.submit(command="one")
        self.submit(command="two")
        self.assertEqual(len(self.asked), 1)
        self.answer(ONE, TWO)
        self.assertEqual(self.opens(connection), 2)

    def test_a_busy_connection_waits_for_nothing(self) -> None:
        """One look-up in some seconds, and what is known meanwhile decides."""
        connection = self.open(ONE)
        number = 1
        for _ in range(60):
            self.clock.advance(0.5)
            self.submit()
            self.assertEqual(self.opens(connection), 1)
            self.confirm(connection, number)
            self.end(connection, number)
            number += 1
            if self.asked and number % 3 == 0:
                self.answer(ONE)
        self.assertIn(len(self.lookups), range(5, 8))

    def test_what_runs_goes_on(self) -> None:
        connection = self.open(ONE)
        self.submit(command="long")
        self.confirm(connection, 1)
        self.clock.advance(STALE)
        self.submit(command="one")
        self.answer(TWO)
        self.assertEqual((self.disconnected(connection), self.dialer.targets()), ("", [A]))
        self.end(connection, 1)
        self.assertEqual(self.disconnected(connection), "the host's name resolves elsewhere now")

    def test_a_name_server_that_is_down(self) -> None:
        connection = self.open(ONE)
        self.clock.advance(STALE)
        self.submit()
        self.answer()
        self.assertEqual((self.opens(connection), self.disconnected(connection)), (1, ""))

    def test_a_name_server_that_hangs(self) -> None:
        """One command waits for it, for a second, and those that come meanwhile; then none does for a while."""
        connection = self.open(ONE)
        self.clock.advance(STALE)
        self.submit()
        self.clock.advance(PATIENCE / 2)
        self.submit()
        self.assertEqual(self.opens(connection), 0)
        self.clock.advance(PATIENCE / 2)
        self.assertEqual(self.opens(connection), 2)
        for number in range(1, 4):
            self.confirm(connection, number)
            self.clock.advance(STALE)
            self.submit()
            self.assertEqual((self.opens(connection), len(self.asked)), (1, 1))
        self.answer(TWO)
        self.submit()
        self.assertEqual(self.dialer.targets(), [A])

    def test_few_look_ups_at_a_time(self) -> None:
        """The threads that do them are needed for other things."""
        for number in range(5):
            self.open(ONE, target=user("a", f"host{number}"))
        self.clock.advance(STALE)
        for number in range(5):
            self.submit(user("a", f"host{number}"))
        self.assertEqual(len(self.asked), moved_names.MAX_LOOK_UPS)
        for _ in range(5):
            self.answer(ONE)
        self.assertEqual(len(self.asked), 0)
        self.assertEqual(self.pool.report.counts().sessions, 5)

    def test_a_new_connection_tells_too(self) -> None:
        """Where it was dialled by the same name, for whomever."""
        old = self.open(ONE)
        self.open(TWO, target=user("b"))
        self.assertEqual(self.disconnected(old), "the host's name resolves elsewhere now")

    def test_an_address_is_not_looked_up(self) -> None:
        self.submit()
        connection = self.dialer.succeed()
        self.confirm(connection)
        self.end(connection, 0)
        self.clock.advance(100)
        self.submit()
        self.assertEqual((self.asked, self.opens(connection)), ([], 1))

    def test_withdrawn(self) -> None:
        connection = self.open(ONE)
        self.clock.advance(STALE)
        job = self.submit()
        self.pool.withdraw(job)
        self.answer(ONE)
        self.assertEqual((self.opens(connection), self.errors, job.channel.state), (0, [], State.WAITING))

    def test_close(self) -> None:
        connection = self.open(ONE)
        self.clock.advance(STALE)
        self.submit()
        closed = self.pool.close()
        self.assertEqual([type(error) for error in self.errors], [NotRun])
        self.lose(connection)
        self.successResultOf(closed)
        self.answer(TWO)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_the_site_is_asked_about_the_new_address(self) -> None:
        old = self.open(ONE)
        self.clock.advance(STALE)
        self.submit()
        self.answer(TWO)
        self.dialer.fail(AddressForbidden(host="host", port=22))
        self.assertEqual(([type(error) for error in self.errors], self.opens(old)), ([AddressForbidden], 0))

    def test_no_more_names_than_that_are_remembered(self) -> None:
        self.patch(moved_names, "MAX_NAMES", 3)
        for number in range(10):
            self.lose(self.open(ONE, target=user("a", f"host{number}")))
        self.assertLessEqual(len(self.pool._names._names), 3)
