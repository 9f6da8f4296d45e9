"""
The pool with connections in memory: ways to other hosts, and commands for hosts behind a jump host.
"""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred

from relayd.ssh.channels.channel import State
from relayd.ssh.channels.connection import ClientConnection
from relayd.ssh.channels.forward import OPEN_TIMEOUT, Forward
from relayd.ssh.errors import (
    ConnectionDropped,
    ConnectionLost,
    ForwardFailed,
    ForwardProhibited,
    LoginRefused,
    LoginResting,
    NotRun,
)
from relayd.ssh.pool.decisions import MAX_DROPS
from relayd.ssh.pool.refused_logins import FIRST_REST
from relayd.ssh.transport.numbers import MSG_CHANNEL_CLOSE
from tests.support.memory_pool import PoolTestCase, refusal
from tests.support.ssh_connection import numbers
from tests.support.ssh_pool import FAR, JUMP, user


class ForwardTests(PoolTestCase):
    """`Pool.forward`."""

    def forward(self) -> tuple[ClientConnection, Deferred[Forward]]:
        """A channel that is asked for."""
        forward = self.pool.forward(JUMP, "far", 22)
        connection = self.dialer.succeed()
        return connection, forward

    def assert_nothing_left(self) -> None:
        counts = self.pool.report.counts()
        self.assertEqual((counts.waiting_forwards, counts.forwards), (0, 0))
        calls = [call for call in self.clock.getDelayedCalls() if "_not_opened" in str(call)]
        self.assertEqual(calls, [])

    def test_opens(self) -> None:
        connection, waiting = self.forward()
        self.assertNoResult(waiting)
        self.confirm(connection)
        forward = self.successResultOf(waiting)
        self.assertEqual((forward.host, forward.port, forward.state), ("far", 22, State.RUNNING))
        self.assertEqual(self.pool.report.counts().forwards, 1)
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
        counts = self.pool.report.counts()
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
