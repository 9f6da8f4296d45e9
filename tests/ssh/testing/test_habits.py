"""
Hosts that work in their own way: a client runs its commands there all the same, each once.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, gatherResults

from relayd.ssh.client import Completed
from relayd.ssh.pool.members import LEARNED_FOR, SETTLE
from relayd.ssh.testing import Habit, MemoryHost, Misbehaviour
from tests.ssh.testing.test_host import LIMIT, HostCase, answer


class HabitCase(HostCase):
    """Many commands at a time."""

    def begin(self, *commands: bytes, host: MemoryHost | None = None) -> list[Deferred[Completed]]:
        target, deadline = (host or self.host).target(), self.clock.seconds() + LIMIT
        return [self.client.run(target, command, deadline) for command in commands]

    async def outcomes(self, *commands: bytes) -> list[str]:
        """How commands end that begin together: what they write, or the code of the error."""
        running = [each.addCallbacks(_words, lambda failure: failure.value.code) for each in self.begin(*commands)]
        found: list[str] = await self.passing(gatherResults(running))
        return found

    async def round(self, count: int = 10) -> None:
        """So many commands at a time, all of which end well and run once."""
        before = len(self.host.received)
        commands = [b"slow" if number % 3 == 0 else b"%d" % number for number in range(count)]
        self.assertEqual(await self.outcomes(*commands), [f"{command.decode()}!" for command in commands])
        self.assertEqual(sorted(each.command for each in self.host.received[before:]), sorted(commands))

    def learned(self) -> tuple[int, bool]:
        (host,) = self.client.hosts()
        return host.limit, host.single


class HabitTests(HabitCase):
    """One habit each."""

    async def test_a_second_command_is_refused(self) -> None:
        self.host.habit = Habit.REFUSES_SECOND_COMMAND
        await self.round(1)
        await self.round()
        running = self.begin(b"slow")
        self.clock.advance(0.1)
        self.assertEqual(self.learned(), (1, True))
        await self.passing(running[0])
        # and none is refused any more
        refused = self.host.factory.accepted
        await self.round()
        self.assertEqual(self.host.factory.accepted - refused, 10)

    async def test_it_was_the_command_that_was_refused(self) -> None:
        """By a connection that has run another, and by one that has not: nothing is learned of the host."""
        await self.round(1)
        self.host.misbehaviour = Misbehaviour.REFUSES_COMMANDS
        self.assertEqual((await self.error_of()).code, "exec-refused")
        self.host.misbehaviour = None
        await self.round()
        self.assertEqual(self.learned(), (10, False))

    async def test_a_second_session_is_refused(self) -> None:
        self.host.habit = Habit.REFUSES_SECOND_SESSION
        await self.round()
        await self.round()

    async def test_a_host_that_opens_no_session_at_all(self) -> None:
        self.host.misbehaviour = Misbehaviour.REFUSES_SESSIONS
        self.assertEqual(set(await self.outcomes(*[b"x"] * 10)), {"session-refused"})

    async def test_tcp_is_closed_with_any_session(self) -> None:
        """What else runs on the connection may have run or not; that happens once."""
        self.host.habit = Habit.CLOSES_WITH_ANY_SESSION
        found = await self.outcomes(b"1", *[b"slow"] * 4)
        self.assertEqual(set(found) - {"1!", "slow!", "outcome-unknown"}, set())
        self.assertIn("outcome-unknown", found)
        for _ in range(3):
            await self.round(5)
        self.assertEqual(len(self.host.received), 5 + 15)

    async def test_one_command_is_enough_to_learn_that(self) -> None:
        self.host.habit = Habit.CLOSES_WITH_ANY_SESSION
        await self.round(1)
        await self.round()

    async def test_a_host_that_has_changed_its_habit(self) -> None:
        """A connection lives on: that is enough, and costs no command."""
        self.host.habit = Habit.CLOSES_WITH_ANY_SESSION
        await self.round(1)
        self.host.habit = None
        await self.round(1)
        self.assertEqual(self.learned(), (1, False))
        self.clock.advance(SETTLE)
        await self.round(1)
        self.assertEqual(self.learned(), (10, False))

    async def test_one_session_at_a_time(self) -> None:
        """The second is not even answered; nobody waits long for it."""
        self.host.habit = Habit.IGNORES_SECOND_SESSION
        begun = self.clock.seconds()
        await self.round()
        await self.round()
        self.assertLess(self.clock.seconds() - begun, LIMIT)

    async def test_tcp_is_closed_after_the_status(self) -> None:
        self.host.habit = Habit.CLOSES_INSTEAD_OF_SESSION
        done = await self.run_command(b"fail")
        self.assertEqual((done.exit.status, done.error, done.stdout.text()), (3, None, "half"))

    async def test_probes_are_not_answered(self) -> None:
        for habit in (Habit.IGNORES_PROBES, Habit.SENDS_IGNORE):
            self.client = self.make_client(keepalive_interval=0.1)
            self.host.habit = habit
            done = await self.run_command(b"slow")
            self.assertEqual((done.error, done.stdout.text()), (None, "slow!"))

    async def test_every_packet_is_a_sign_of_life(self) -> None:
        """Of a host that answered probes before, too."""
        self.client = self.make_client(keepalive_interval=0.1)
        await self.run_command(b"slow")
        self.host.habit = Habit.SENDS_IGNORE
        self.assertEqual((await self.run_command(b"slow")).error, None)
        self.assertEqual(self.host.factory.accepted, 1)

    async def test_a_host_that_answers_no_more(self) -> None:
        """It answered before, if only that it does not know the question: it is gone."""
        for habit in (None, Habit.SENDS_UNIMPLEMENTED):
            self.client = self.make_client(keepalive_interval=0.1)
            self.host.habit, self.host.misbehaviour = habit, None
            await self.run_command(b"slow")
            self.host.habit, self.host.misbehaviour = Habit.IGNORES_PROBES, Misbehaviour.NEVER_ENDS
            error = (await self.run_command(b"x")).error
            assert error is not None
            self.assertIn("it stopped answering", str(error))

    async def test_what_is_known_of_a_host_is_tried_again(self) -> None:
        """It outlives the connections, but not for ever."""
        self.host.habit = Habit.REFUSES_SECOND_COMMAND
        await self.round(1)
        await self.round()
        self.host.habit = None
        connections = self.host.factory.accepted
        await self.round(2)
        self.assertEqual(self.host.factory.accepted - connections, 2)
        self.clock.advance(LEARNED_FOR)
        await self.round(1)
        self.assertEqual(self.learned()[1], False)

    async def test_another_host_does_not_wait(self) -> None:
        """Whatever one does, the commands of another take no longer."""
        other = self.network.add(MemoryHost("db2.example", run=answer))
        for habit in Habit:
            self.host.habit = habit
            slow = [each.addErrback(lambda _: None) for each in self.begin(*[b"slow"] * 8)]
            begun = self.clock.seconds()
            for each in self.begin(*[b"x"] * 8, host=other):
                self.assertEqual((await self.passing(each)).stdout.text(), "x!")
            self.assertLess(self.clock.seconds() - begun, 1.0)
            await self.passing(gatherResults(slow))


def _words(done: Any) -> str:
    return done.stdout.text() if done.error is None else done.error.code
