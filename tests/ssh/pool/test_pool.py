"""
The pool with connections in memory: what becomes of its jobs when servers refuse, vanish or stand in the way.
"""

from __future__ import annotations

from twisted.conch.ssh.common import NS
from twisted.logger import capturedLogs, formatEvent

from relayd.ssh.channels.channel import State
from relayd.ssh.channels.connection import ClientConnection
from relayd.ssh.channels.session import Command, Session
from relayd.ssh.errors import (
    ConnectRefused,
    KnownHostsUnusable,
    NotRun,
    SessionRefused,
    SSHError,
    TooManyHops,
    Unreachable,
)
from relayd.ssh.pool.dialer import DialOwner
from relayd.ssh.pool.jobs import Job
from relayd.ssh.pool.members import MAX_FORWARDS
from relayd.ssh.target import Target
from relayd.ssh.transport.numbers import MSG_CHANNEL_CLOSE, MSG_CHANNEL_EOF, MSG_CHANNEL_REQUEST
from tests.support.memory_pool import PoolTestCase
from tests.support.ssh_connection import numbers
from tests.support.ssh_pool import FAR, JUMP, A, limits, user


class JobTests(PoolTestCase):
    """Commands."""

    def test_runs(self) -> None:
        self.submit()
        connection = self.dialer.succeed()
        self.confirm(connection)
        connection.packetReceived(MSG_CHANNEL_EOF, numbers(0))
        connection.packetReceived(MSG_CHANNEL_CLOSE, numbers(0))
        self.assertEqual((self.ended, self.errors), (["true"], []))
        self.assertEqual(self.pool.report.counts().idle, 1)

    def test_refused_and_run_elsewhere(self) -> None:
        self.submit(command="first")
        self.submit(command="second")
        connection = self.dialer.succeed()
        self.confirm(connection, 0)
        self.refuse(connection, 1)
        self.assertEqual(limits(self.pool.report, self.settings.max_sessions), {"host:22": 1})
        other = self.dialer.succeed()
        self.assertEqual(self.opens(other), 1)
        self.assertEqual(self.errors, [])

    def test_refused_while_the_pool_closes(self) -> None:
        self.submit(command="first")
        self.submit(command="second")
        connection = self.dialer.succeed()
        self.confirm(connection, 0)
        closed = self.pool.close()
        self.refuse(connection, 1)
        self.assertEqual([type(error) for error in self.errors], [NotRun])
        self.lose(connection)
        self.successResultOf(closed)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_who_hears_of_the_end_of_a_lost_connection_may_ask_for_more(self) -> None:
        more: list[Job] = []
        session = Session(Command(b"true", 100), lambda: None, lambda: more.append(self.submit()))
        self.pool.submit(Job(A, session, self.errors.append))
        connection = self.dialer.succeed()
        self.confirm(connection)
        connection.packetReceived(MSG_CHANNEL_REQUEST, numbers(0) + NS(b"exit-status") + b"\0" + numbers(0))
        connection.packetReceived(MSG_CHANNEL_EOF, numbers(0))
        self.packets(connection)
        self.lose(connection)
        self.assertEqual((len(more), self.opens(connection), self.dialer.targets()), (1, 0, [A]))

    def test_near(self) -> None:
        self.make(max_sessions=2)
        self.submit()
        connection = self.dialer.succeed()
        self.packets(connection)
        self.submit(command="look", near=connection)
        self.assertEqual(self.opens(connection), 1)

    def test_near_goes_past_others_that_have_waited(self) -> None:
        self.make(max_sessions=1, max_connections=1)
        self.submit()
        connection = self.dialer.succeed()
        self.confirm(connection)
        waiting = self.submit(command="waiting")
        look = self.submit(command="look", near=connection)
        self.assertIs(look.channel.state, State.WAITING)
        connection.packetReceived(MSG_CHANNEL_CLOSE, numbers(0))
        self.clock.advance(1)
        self.assertEqual((look.channel.state, waiting.channel.state), (State.OPENING, State.WAITING))

    def test_near_a_connection_that_is_gone(self) -> None:
        self.submit()
        connection = self.dialer.succeed()
        self.lose(connection)
        self.submit(command="look", near=connection)
        self.dialer.succeed()
        self.assertEqual(self.pool.report.counts().sessions, 2)

    def test_what_is_ending_is_killed_when_the_pool_closes(self) -> None:
        ending = self.submit()
        self.submit()
        connection = self.dialer.succeed()
        self.confirm(connection, 0)
        self.confirm(connection, 1)
        self.packets(connection)
        ending.ending = True
        self.pool.close()
        self.assertEqual(
            self.packets(connection), [(MSG_CHANNEL_REQUEST, numbers(100) + NS(b"signal") + b"\0" + NS(b"KILL"))]
        )
        self.assertEqual(self.disconnected(connection), "relayd shuts down")
        self.lose(connection)

    def test_withdrawn_while_it_waits_lets_others_go(self) -> None:
        self.make(max_total_connections=3)
        way = user("g", "far", FAR)  # three connections
        for name in ("one", "two"):
            self.submit(user(name, name))
            self.dialer.succeed()
        first = self.submit(way)
        self.submit(user("three", "three"))
        self.assertEqual(self.dialer.targets(), [])
        self.pool.withdraw(first)
        self.assertEqual(self.dialer.targets(), [user("three", "three")])

    def test_all_sessions_refused(self) -> None:
        self.make(max_connections=1)
        self.submit()
        connection = self.dialer.succeed()
        number = 0
        while not self.errors:
            self.refuse(connection, number, 2, b"open failed")
            self.clock.advance(10)
            number += 1
        (error,) = self.errors
        self.assertIsInstance(error, SessionRefused)
        self.assertIn("open failed", str(error))
        self.assertEqual(self.disconnected(connection), "it opens no sessions")

    def test_all_sessions_refused_says_nothing_of_ways_to_other_hosts(self) -> None:
        self.make(max_connections=1)
        ways = [self.pool.forward(JUMP, "far", 22) for _ in range(MAX_FORWARDS + 1)]
        self.submit(JUMP)
        connection = self.dialer.succeed()
        # A connection's channels are numbered in the order in which they are asked for: the session's was the first.
        self.refuse(connection, 0)
        number = MAX_FORWARDS + 1
        while not self.errors:
            self.clock.advance(1)
            self.refuse(connection, number)
            number += 1
        self.assertNoResult(ways[-1])
        self.assertEqual(self.disconnected(connection), "")

    def test_failures_that_follow_each_other_at_once(self) -> None:
        left = 2000  # more than Python's stack bears

        async def fail(target: Target, owner: DialOwner) -> ClientConnection:
            raise Unreachable(host=target.host, port=22, reason="?")

        def failed(error: SSHError) -> None:
            nonlocal left
            left -= 1
            if left:
                self.pool.submit(Job(A, self.job().channel, failed))

        self.dialer.dial = fail  # type: ignore[method-assign]
        self.pool.submit(Job(A, self.job().channel, failed))
        self.assertEqual(left, 0)

    def test_who_is_told_of_a_failure_may_ask_for_more(self) -> None:
        self.pool.submit(Job(FAR, self.job().channel, lambda error: self.pool.submit(self.job(FAR))))
        self.dialer.fail(Unreachable(host="jump", port=22, reason="?"))
        self.assertEqual((self.errors, self.dialer.targets()), ([], [JUMP]))


class CeilingTests(PoolTestCase):
    """Connections in all, and their age."""

    def test_an_idle_one_is_closed_for_another(self) -> None:
        self.make(max_total_connections=1)
        job = self.submit(user("one", "one"))
        connection = self.dialer.succeed()
        self.submit(user("two", "two"))
        self.assertEqual(self.disconnected(connection), "")
        self.assertEqual(self.pool.waits_for(user("two", "two")), "all 1 connections that are allowed are in use")
        self.confirm(connection)
        connection.packetReceived(MSG_CHANNEL_CLOSE, numbers(0))
        self.assertIs(job.channel.state, State.ENDED)
        self.assertEqual(self.disconnected(connection), "another connection needs its place")
        self.assertEqual(self.dialer.targets(), [])
        self.lose(connection)
        self.assertEqual(self.dialer.targets(), [user("two", "two")])

    def test_an_old_one_is_closed_after_its_last_command(self) -> None:
        self.make(max_connection_age=100.0)
        self.submit()
        connection = self.dialer.succeed()
        self.confirm(connection)
        self.clock.advance(101)
        self.submit()
        self.assertEqual(self.dialer.targets(), [A])
        self.assertEqual(self.disconnected(connection), "")
        connection.packetReceived(MSG_CHANNEL_CLOSE, numbers(0))
        self.assertEqual(self.disconnected(connection), "it is old")

    def test_more_jump_hosts_than_connections(self) -> None:
        self.make(max_total_connections=2)
        self.submit(user("u", "three", FAR))
        (error,) = self.errors
        self.assertIsInstance(error, TooManyHops)
        self.submit(FAR)
        self.assertEqual(len(self.errors), 1)


class LogTests(PoolTestCase):
    """What the log says of connections: each line names the host once, and in fields."""

    def lines(self, target: Target, error: Exception | None) -> list[str]:
        """What is logged of one connection to *target*, which comes about and ends, or fails with *error*."""
        with capturedLogs() as events:
            self.submit(target)
            if error is None:
                self.lose(self.dialer.succeed())
            else:
                self.dialer.fail(error)
        ours = [event for event in events if event["log_namespace"] == "relayd.ssh"]
        for event in ours:
            self.assertEqual((event["user"], event["host"], event["port"]), (target.username, target.host, 22))
        return [formatEvent(event) for event in ours]

    def test_a_connection(self) -> None:
        connected, disconnected = self.lines(A, None)
        self.assertEqual(connected, "a@host:22: connected")
        self.assertRegex(disconnected, r"^a@host:22: disconnected: ")

    def test_an_error_that_names_the_host(self) -> None:
        error = ConnectRefused(host="host", port=22)
        self.assertEqual(self.lines(A, error), [str(error)])

    def test_an_error_that_does_not(self) -> None:
        error = KnownHostsUnusable(file="/k", reason="no such file")
        self.assertEqual(self.lines(A, error), [f"a@host:22: {error}"])

    def test_an_error_of_a_jump_host(self) -> None:
        error = ConnectRefused(host="jump", port=22)
        error.at_jump_host = True
        self.assertEqual(self.lines(A, error), [f"a@host:22: {error}"])

    def test_a_fault_of_ours(self) -> None:
        (line,) = self.lines(A, ValueError("canary"))
        self.assertRegex(line, r"^a@host:22: connecting failed unexpectedly: ValueError at ")
