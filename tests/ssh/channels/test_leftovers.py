"""
Commands that have ended while something that they left running holds their output: the status is known, and told.
"""

from __future__ import annotations

from typing import Any

from twisted.conch.ssh.common import NS
from twisted.internet.defer import Deferred

from relayd.ssh import Completed
from relayd.ssh.channels.leftovers import LEFT_AFTER, LOOK_AFTER
from relayd.ssh.channels.session import Command, ExitInfo, Session
from relayd.ssh.transport.numbers import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_EOF,
    MSG_CHANNEL_REQUEST,
    MSG_GLOBAL_REQUEST,
    MSG_REQUEST_FAILURE,
)
from tests.support.ssh import DEADLINE, ServerTestCase, marked_sleep, processes
from tests.support.ssh_connection import ConnectionTestCase, numbers, request


class ServerTests(ServerTestCase):
    """Against a real sshd."""

    async def leave(self, ending: str, timeout: float = DEADLINE, **settings: Any) -> Completed:
        """A command that ends with *ending* at once; what it leaves running is there before and after its result."""
        client, target = self.make_client(**settings), self.target(await self.start_server("MaxSessions 1"))
        await self.run_command(client, target, "true")
        mark, sleep = marked_sleep()
        completed = await self.run_command(client, target, f"echo started; nohup {sleep} & {ending}", timeout)
        self.assertEqual(completed.stdout.text(), "started")
        self.assertEqual(completed.error, None)
        self.assertIn("left running", str(completed.open))
        self.assertEqual(len(processes(mark)), 1)
        # The place is free, and what was ordered to run on does.
        after = await self.run_command(client, target, "echo next")
        self.assertEqual((after.stdout.text(), client.counts().connections), ("next", 1))
        self.assertEqual(len(processes(mark)), 1)
        return completed

    async def test_status(self) -> None:
        completed = await self.leave("exit 7", max_connections=1)
        self.assertEqual((completed.exit, completed.killed), (ExitInfo(7, None), None))
        self.assertLess(completed.timings["run"], DEADLINE / 2)

    async def test_signal(self) -> None:
        completed = await self.leave("kill -KILL $$", max_connections=1)
        self.assertEqual(completed.exit, ExitInfo(None, "KILL"))

    async def test_deadline_before_the_wait_is_over(self) -> None:
        completed = await self.leave("exit 7", timeout=LOOK_AFTER, max_connections=1)
        self.assertEqual((completed.exit.status, completed.killed), (7, None))

    async def test_something_that_writes_on(self) -> None:
        client, target = self.make_client(), self.target(await self.start_server())
        await self.run_command(client, target, "true")
        mark, sleep = marked_sleep()
        writer = f"(while sleep 0.2; do echo more; done & {sleep}) & exit 7"
        completed = await self.run_command(client, target, writer, 4)
        self.assertEqual((completed.exit.status, completed.error, completed.killed), (7, None, None))
        self.assertIn("may keep it open", str(completed.open))
        self.assertIn("more", completed.stdout.text())
        self.assertEqual(len(processes(mark)), 1)

    async def test_output_that_comes_later_is_waited_for(self) -> None:
        client, target = self.make_client(), self.target(await self.start_server())
        command = "(sleep 1.2; echo one; sleep 1.2; echo two; sleep 1.2; echo three) & exit 7"
        completed = await self.run_command(client, target, command)
        self.assertEqual((completed.stdout.text(), completed.exit.status), ("one\ntwo\nthree", 7))
        self.assertEqual((completed.error, completed.open), (None, None))

    async def test_cancelled(self) -> None:
        client, target = self.make_client(), self.target(await self.start_server())
        mark, sleep = marked_sleep()
        ended = self.directory / "ended"
        running = self.run_command(client, target, f"echo started; {sleep} & exit 7")
        await self.until(lambda: processes(mark), "it runs")
        await self.until(lambda: _status_known(running), "its status has come")
        running.cancel()
        completed = await running
        self.assertEqual((completed.exit.status, completed.error, completed.killed), (7, None, None))
        self.assertIn("left running", str(completed.open))
        await self.run_command(client, target, f"touch {ended}")
        self.assertEqual(len(processes(mark)), 1)


def _status_known(running: Deferred[Any]) -> bool:
    execution: Any = running._canceller.__self__  # type: ignore[union-attr]
    known: bool = execution._session.exit.known
    return known


class ConnectionTests(ConnectionTestCase):
    """One connection in memory."""

    def left(self) -> tuple[Session, list[bool]]:
        """A session whose command runs; and what is told of its being left."""
        told: list[bool] = []
        session = Session(Command(b"true", 1000), lambda: None, lambda: None, on_left=told.append)
        number = self.connection._channels._next
        self.connection.start(session)
        self.confirm(number)
        self.receive(99, numbers(number))
        return session, told

    def pass_time(self, seconds: float, *, answers: bool = True) -> None:
        """Let time pass; the server answers probes, if it *answers*."""
        self.transport.take()
        for _ in range(round(seconds / LOOK_AFTER)):
            self.clock.advance(LOOK_AFTER)
            probes = sum(message == MSG_GLOBAL_REQUEST for message, _ in self.transport.take())
            for _ in range(probes if answers else 0):
                self.receive(MSG_REQUEST_FAILURE, b"")

    def end(self, number: int = 0) -> None:
        self.receive(MSG_CHANNEL_REQUEST, request(number, b"exit-status", numbers(7)))

    def test_told_once_nothing_comes_any_more(self) -> None:
        _session, told = self.left()
        self.end()
        self.pass_time(LEFT_AFTER)
        self.assertEqual(told, [])
        self.pass_time(LOOK_AFTER)
        self.assertEqual(told, [False])

    def test_output_puts_it_off(self) -> None:
        _session, told = self.left()
        self.end()
        for _ in range(5):
            self.pass_time(LEFT_AFTER)
            self.receive(MSG_CHANNEL_DATA, numbers(0) + NS(b"more"))
        self.assertEqual(told, [])
        self.pass_time(LEFT_AFTER + LOOK_AFTER)
        self.assertEqual(told, [False])

    def test_a_network_that_stalls(self) -> None:
        """What was sent may be on its way as long as no answer has come."""
        _session, told = self.left()
        self.end()
        self.pass_time(5 * LEFT_AFTER, answers=False)
        self.assertEqual(told, [])

    def test_output_that_its_reader_holds_back(self) -> None:
        session, told = self.left()
        reading: Deferred[None] = Deferred()
        session.reader = lambda _is_stderr, _data: reading
        self.receive(MSG_CHANNEL_DATA, numbers(0) + NS(b"much"))
        self.end()
        self.pass_time(5 * LEFT_AFTER)
        self.assertEqual(told, [])
        reading.callback(None)
        self.pass_time(LEFT_AFTER + LOOK_AFTER)
        self.assertEqual(told, [False])

    def test_output_that_has_arrived_and_waits_for_its_turn(self) -> None:
        """A server whose bytes cost much is read a little at a time."""
        _session, told = self.left()
        self.end()
        self.transport.pace.holding = True
        self.pass_time(5 * LEFT_AFTER)
        self.assertEqual(told, [])
        self.transport.pace.holding = False
        self.pass_time(LEFT_AFTER + LOOK_AFTER)
        self.assertEqual(told, [False])

    def test_only_the_good_bye_is_missing(self) -> None:
        _session, told = self.left()
        self.end()
        self.receive(MSG_CHANNEL_EOF, numbers(0))
        self.pass_time(LEFT_AFTER + LOOK_AFTER)
        self.assertEqual(told, [True])

    def test_nothing_is_left_of_one_that_closes(self) -> None:
        _session, told = self.left()
        self.end()
        self.receive(MSG_CHANNEL_EOF, numbers(0))
        self.receive(MSG_CHANNEL_CLOSE, numbers(0))
        _other, other_told = self.left()
        self.pass_time(LOOK_AFTER)
        self.assertEqual([call for call in self.clock.getDelayedCalls() if call.getTime() < LOOK_AFTER + 10], [])
        self.pass_time(5 * LEFT_AFTER)
        self.assertEqual((told, other_told), ([], []))
