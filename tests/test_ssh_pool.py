"""
The pool with connections in memory: what becomes of its jobs when servers refuse, vanish or stand in the way.
"""

from __future__ import annotations

from typing import Any, cast

from twisted.conch.ssh.common import NS
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relayd.ssh.connection import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_EOF,
    MSG_CHANNEL_OPEN,
    MSG_CHANNEL_OPEN_CONFIRMATION,
    MSG_CHANNEL_OPEN_FAILURE,
    MSG_CHANNEL_REQUEST,
    Connection,
)
from relayd.ssh.dial import Dialer, DialOwner
from relayd.ssh.errors import (
    ConnectionDropped,
    ConnectionLost,
    ForwardFailed,
    ForwardProhibited,
    LoginRefused,
    LoginResting,
    NotRun,
    SessionRefused,
    SSHError,
    TooManyHops,
    Unreachable,
)
from relayd.ssh.forward import OPEN_TIMEOUT, Forward
from relayd.ssh.pool import Job, Pool
from relayd.ssh.pool_members import MAX_FORWARDS
from relayd.ssh.pool_state import MAX_DROPS
from relayd.ssh.refusals import FIRST_REST
from relayd.ssh.session import Session, State
from relayd.ssh.settings import SSHSettings
from relayd.ssh.target import Target
from relayd.ssh.transport import ClientTransport
from tests.support.ssh import PacketRecorder
from tests.support.ssh_connection import numbers
from tests.support.ssh_pool import FAR, JUMP, A, user


class Transport(PacketRecorder):
    """Below a pooled connection."""

    def most_sessions(self) -> int | None:
        return None


class StandInDialer:
    """Dials when the test says so, and through jump hosts as the real one does."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.dialled: list[tuple[Target, Deferred[None]]] = []
        self.connections: list[Connection] = []

    async def dial(self, target: Target, owner: DialOwner) -> Connection:
        if target.via is not None:
            await owner.forward(target.via, target.host, target.port)
        let: Deferred[None] = Deferred()
        self.dialled.append((target, let))
        await let
        connection = Connection(self.clock, owner, 1e9)
        connection.transport = cast(ClientTransport, Transport())
        connection.serviceStarted()
        self.connections.append(connection)
        return connection

    def targets(self) -> list[Target]:
        """Whom it waits to reach."""
        return [target for target, _ in self.dialled]

    def succeed(self) -> Connection:
        """The oldest attempt succeeds."""
        self.dialled.pop(0)[1].callback(None)
        return self.connections[-1]

    def fail(self, error: SSHError) -> None:
        """The oldest attempt fails."""
        self.dialled.pop(0)[1].errback(error)


def refusal(target: Target) -> LoginRefused:
    return LoginRefused(host=target.host, port=22, username=target.username, tried="password", offered="publickey")


class PoolTestCase(SynchronousTestCase):
    """A pool whose connections are in memory."""

    def setUp(self) -> None:
        self.make()

    def make(self, **settings: Any) -> None:
        self.clock = Clock()
        self.dialer = StandInDialer(self.clock)
        self.settings = SSHSettings(known_hosts="", **settings)
        self.pool = Pool(self.clock, cast(Dialer, self.dialer), self.settings)
        self.errors: list[SSHError] = []
        self.ended: list[str] = []

    def job(self, target: Target = A, command: str = "true") -> Job:
        session = Session(command.encode(), 100, lambda: None, lambda: self.ended.append(command))
        return Job(target, session, self.errors.append)

    def submit(self, target: Target = A, command: str = "true", near: Connection | None = None) -> Job:
        job = self.job(target, command)
        self.pool.submit(job, near)
        return job

    def packets(self, connection: Connection) -> list[tuple[int, bytes]]:
        return cast(Transport, connection.transport).take()

    def opens(self, connection: Connection) -> int:
        """How many channels were asked for since the last look."""
        return sum(message == MSG_CHANNEL_OPEN for message, _ in self.packets(connection))

    def confirm(self, connection: Connection, number: int = 0) -> None:
        connection.packetReceived(MSG_CHANNEL_OPEN_CONFIRMATION, numbers(number, 100 + number, 2**21, 32768))

    def refuse(self, connection: Connection, number: int = 0, code: int = 4, reason: bytes = b"no") -> None:
        connection.packetReceived(MSG_CHANNEL_OPEN_FAILURE, numbers(number, code) + NS(reason) + NS(b""))

    def lose(self, connection: Connection) -> None:
        connection.serviceStopped()

    def disconnected(self, connection: Connection) -> str:
        """Why the pool had it disconnected, if it did."""
        return cast(Transport, connection.transport).disconnected


class JobTests(PoolTestCase):
    """Commands."""

    def test_runs(self) -> None:
        self.submit()
        connection = self.dialer.succeed()
        self.confirm(connection)
        connection.packetReceived(MSG_CHANNEL_EOF, numbers(0))
        connection.packetReceived(MSG_CHANNEL_CLOSE, numbers(0))
        self.assertEqual((self.ended, self.errors), (["true"], []))
        self.assertEqual(self.pool.counts().idle, 1)

    def test_refused_and_run_elsewhere(self) -> None:
        self.submit(command="first")
        self.submit(command="second")
        connection = self.dialer.succeed()
        self.confirm(connection, 0)
        self.refuse(connection, 1)
        self.assertEqual(self.pool.limits(), {"host:22": 1})
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
        session = Session(b"true", 100, lambda: None, lambda: more.append(self.submit()))
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
        self.assertEqual(self.pool.counts().sessions, 2)

    def test_the_doomed_are_killed_when_the_pool_closes(self) -> None:
        doomed = self.submit()
        self.submit()
        connection = self.dialer.succeed()
        self.confirm(connection, 0)
        self.confirm(connection, 1)
        self.packets(connection)
        doomed.doomed = True
        self.pool.close()
        self.assertEqual(
            self.packets(connection), [(MSG_CHANNEL_REQUEST, numbers(100) + NS(b"signal") + b"\0" + NS(b"KILL"))]
        )
        self.assertEqual(self.disconnected(connection), "relayd closes")
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

        async def fail(target: Target, owner: DialOwner) -> Connection:
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


class ForwardTests(PoolTestCase):
    """`Pool.forward`."""

    def forward(self) -> tuple[Connection, Deferred[Forward]]:
        """A channel that is asked for."""
        forward = self.pool.forward(JUMP, "far", 22)
        connection = self.dialer.succeed()
        return connection, forward

    def assert_nothing_left(self) -> None:
        counts = self.pool.counts()
        self.assertEqual((counts.waiting_forwards, counts.forwards), (0, 0))
        calls = [call for call in self.clock.getDelayedCalls() if "_not_opened" in str(call)]
        self.assertEqual(calls, [])

    def test_opens(self) -> None:
        connection, waiting = self.forward()
        self.assertNoResult(waiting)
        self.confirm(connection)
        forward = self.successResultOf(waiting)
        self.assertEqual((forward.host, forward.port, forward.state), ("far", 22, State.RUNNING))
        self.assertEqual(self.pool.counts().forwards, 1)
        connection.packetReceived(MSG_CHANNEL_CLOSE, numbers(0))
        self.assertIs(forward.state, State.ENDED)
        self.assert_nothing_left()

    def test_far_host_not_reachable(self) -> None:
        connection, waiting = self.forward()
        self.packets(connection)
        self.refuse(connection, 0, 2, b"Connection refused")
        error = self.failureResultOf(waiting, ForwardFailed).value
        self.assertEqual(
            (str(error), error.retriable, error.phase),
            (
                "jump:22 could not connect to far:22: Connection refused. Check the address, and the network between "
                "the two.",
                True,
                "connect",
            ),
        )
        self.assertEqual(self.opens(connection), 0)
        self.assertFalse(error.at_jump_host)
        self.assert_nothing_left()

    def test_forwarding_not_allowed(self) -> None:
        connection, waiting = self.forward()
        self.refuse(connection, 0, 1, b"open failed")
        error = self.failureResultOf(waiting, ForwardProhibited).value
        self.assertIn("jump:22 does not allow forwarding to far:22", str(error))
        self.assertFalse(error.retriable)
        self.assert_nothing_left()

    def test_another_reason(self) -> None:
        connection, waiting = self.forward()
        self.refuse(connection, 0, 4, b"")
        self.assertNotIsInstance(self.failureResultOf(waiting, ForwardFailed).value, ForwardProhibited)

    def test_no_answer(self) -> None:
        connection, waiting = self.forward()
        self.clock.advance(OPEN_TIMEOUT)
        self.assertIn("no answer within 15 s", str(self.failureResultOf(waiting, ForwardFailed).value))
        self.confirm(connection)
        connection.packetReceived(MSG_CHANNEL_CLOSE, numbers(0))
        self.assert_nothing_left()

    def test_cancelled_while_it_waits(self) -> None:
        waiting = self.pool.forward(JUMP, "far", 22)
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        connection = self.dialer.succeed()
        self.assertEqual(self.opens(connection), 0)
        self.assert_nothing_left()

    def test_cancelled_while_it_opens(self) -> None:
        connection, waiting = self.forward()
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.packets(connection)
        self.confirm(connection)
        self.assertEqual(self.packets(connection), [(MSG_CHANNEL_CLOSE, numbers(100))])
        connection.packetReceived(MSG_CHANNEL_CLOSE, numbers(0))
        self.assert_nothing_left()

    def test_interrupted_and_tried_again(self) -> None:
        connection, waiting = self.forward()
        self.lose(connection)
        connection = self.dialer.succeed()
        self.confirm(connection)
        self.successResultOf(waiting)

    def test_interrupted_too_often(self) -> None:
        connection, waiting = self.forward()
        for _ in range(MAX_DROPS):
            self.lose(connection)
            self.assertNoResult(waiting)
            connection = self.dialer.succeed()
        self.lose(connection)
        error = self.failureResultOf(waiting, ConnectionLost).value
        self.assertTrue(error.at_jump_host)
        self.assertEqual(self.dialer.targets(), [])
        self.assert_nothing_left()

    def test_connection_lost_once_it_is_open(self) -> None:
        connection, waiting = self.forward()
        self.confirm(connection)
        forward = self.successResultOf(waiting)
        self.lose(connection)
        self.assertIs(forward.state, State.ENDED)
        self.assert_nothing_left()

    def test_connection_lost_while_it_ends(self) -> None:
        connection, waiting = self.forward()
        self.confirm(connection)
        forward = self.successResultOf(waiting)
        forward.abortConnection()
        self.clock.advance(0)
        self.lose(connection)
        self.assertIs(forward.state, State.ENDED)
        self.assert_nothing_left()

    def test_pool_closes(self) -> None:
        waiting = self.pool.forward(JUMP, "far", 22)
        self.pool.close()
        self.failureResultOf(waiting, NotRun)
        self.failureResultOf(self.pool.forward(JUMP, "far", 22), NotRun)
        self.assert_nothing_left()


class JumpTests(PoolTestCase):
    """Commands for hosts behind a jump host."""

    def test_way(self) -> None:
        self.submit(FAR)
        self.assertEqual(self.dialer.targets(), [JUMP])
        jump = self.dialer.succeed()
        self.confirm(jump)
        self.assertEqual(self.dialer.targets(), [FAR])
        far = self.dialer.succeed()
        self.assertEqual(self.opens(far), 1)
        counts = self.pool.counts()
        self.assertEqual((counts.connections, counts.sessions, counts.forwards), (2, 1, 1))

    def test_login_at_the_jump_host_refused(self) -> None:
        self.submit(FAR)
        self.submit(FAR)
        self.dialer.fail(refusal(JUMP))
        self.assertEqual([type(error) for error in self.errors], [LoginRefused] * 2)
        self.assertIn("jump:22 refused the login of j", str(self.errors[0]))
        self.errors.clear()
        for target in (FAR, JUMP):
            self.submit(target)
        self.assertEqual([type(error) for error in self.errors], [LoginResting] * 2)
        self.assertIn("jump:22", str(self.errors[0]))
        self.clock.advance(FIRST_REST)
        self.submit(FAR)
        self.confirm(self.dialer.succeed())
        self.assertEqual(self.dialer.targets(), [FAR])  # which never refused anything

    def test_login_at_the_far_host_refused(self) -> None:
        self.submit(FAR)
        jump = self.dialer.succeed()
        self.confirm(jump)
        self.dialer.fail(refusal(FAR))
        self.errors.clear()
        self.submit(FAR)
        self.assertEqual([type(error) for error in self.errors], [LoginResting])
        self.packets(jump)
        self.submit(JUMP)
        self.submit(user("another", "far", JUMP))
        self.assertEqual(self.opens(jump), 2)

    def test_jump_host_hangs_up(self) -> None:
        self.submit(FAR)
        attempts = 0
        while not self.errors:
            self.dialer.fail(ConnectionDropped(host="jump", port=22, step="key exchange", reason="?"))
            attempts += 1
            self.clock.advance(60)
        self.assertEqual(attempts, 6)  # and not as often again for each attempt at the far host
        self.assertIn("jump:22", str(self.errors[0]))

    def test_the_far_host_is_not_reached(self) -> None:
        self.submit(FAR)
        jump = self.dialer.succeed()
        self.packets(jump)
        self.refuse(jump, 0, 2, b"No route to host")
        self.assertEqual([type(error) for error in self.errors], [ForwardFailed])
        self.assertEqual(self.opens(jump), 0)

    def test_the_jump_host_has_no_session_left(self) -> None:
        self.make(max_sessions=1)
        self.submit(JUMP)
        self.confirm(self.dialer.succeed())
        self.submit(FAR)
        self.confirm(self.dialer.connections[0], 1)
        self.assertEqual(self.dialer.targets(), [FAR])

    def test_close_tells_the_farthest_first(self) -> None:
        self.submit(FAR)
        jump = self.dialer.succeed()
        self.confirm(jump)
        far = self.dialer.succeed()
        order = []
        for name, connection in (("jump", jump), ("far", far)):
            connection.disconnect = lambda reason, name=name: order.append(name)  # type: ignore[method-assign, misc]
        closed = self.pool.close()
        self.assertEqual(order, ["far", "jump"])
        self.lose(jump)
        self.lose(far)
        self.successResultOf(closed)
