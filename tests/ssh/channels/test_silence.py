"""
A connection that died without a word: what it was asked for is done by another one, once.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.conch.ssh.common import NS
from twisted.internet.defer import Deferred

from relayd.ssh.channels.channel import State
from relayd.ssh.channels.connection import ClientConnection
from relayd.ssh.channels.session import Command, Session
from relayd.ssh.channels.silence import LATE_LOOKS
from relayd.ssh.errors import ConnectTimeout, LoginRefused
from relayd.ssh.pool.jobs import Job
from relayd.ssh.target import Target
from relayd.ssh.transport.numbers import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_EOF,
    MSG_CHANNEL_OPEN,
    MSG_CHANNEL_REQUEST,
    MSG_CHANNEL_SUCCESS,
    MSG_GLOBAL_REQUEST,
    MSG_REQUEST_FAILURE,
)
from tests.support.memory_pool import PoolTestCase, refusal
from tests.support.ssh_connection import numbers, request
from tests.support.ssh_pool import FAR, JUMP, A, limits


class SilenceTestCase(PoolTestCase):
    """Has a connection that was used."""

    def end(self, connection: ClientConnection, number: int) -> None:
        """A command succeeds."""
        connection.packetReceived(MSG_CHANNEL_SUCCESS, numbers(number))
        connection.packetReceived(MSG_CHANNEL_REQUEST, request(number, b"exit-status", numbers(0)))
        connection.packetReceived(MSG_CHANNEL_EOF, numbers(number))
        connection.packetReceived(MSG_CHANNEL_CLOSE, numbers(number))

    def used(self, target: Target = A) -> ClientConnection:
        """A connection on which a command has run."""
        self.submit(target, "before")
        connection = self.dialer.succeed()
        self.confirm(connection)
        self.end(connection, 0)
        self.clock.advance(60)
        self.packets(connection)
        return connection

    def execs(self, connection: ClientConnection) -> list[bytes]:
        """The commands that were sent on it since the last look."""
        return [
            data.partition(NS(b"exec") + b"\1")[2][4:]
            for message, data in self.packets(connection)
            if message == MSG_CHANNEL_REQUEST and NS(b"exec") in data
        ]

    def wait(self, seconds: int) -> None:
        """Time passes, in steps in which delayed calls that follow each other get their turn."""
        for _ in range(seconds * 4):
            self.clock.advance(0.25)


class SilenceTests(SilenceTestCase):
    """Commands."""

    def test_another_one_takes_over(self) -> None:
        silent = self.used()
        job = self.submit(command="one")
        self.wait(1)
        self.assertEqual(self.dialer.targets(), [])
        self.wait(2)
        self.assertEqual(self.dialer.targets(), [A])
        other = self.dialer.succeed()
        self.confirm(other)
        self.assertEqual((self.execs(silent), self.execs(other)), ([], [b"one"]))
        # and new ones go there, too
        self.submit(command="two")
        self.assertEqual((self.opens(silent), self.opens(other)), (0, 1))
        self.assertIs(job.connection, other)
        self.end(other, 0)
        self.assertEqual(self.ended, ["before", "one"])

    def test_the_old_one_answers_first(self) -> None:
        old = self.used()
        self.submit(command="one")
        self.wait(3)
        self.packets(old)
        self.confirm(old, 1)
        # The channel that was given up is closed, unused; another one is asked for.
        self.assertEqual([message for message, _ in self.packets(old)], [MSG_CHANNEL_CLOSE, MSG_CHANNEL_OPEN])
        self.confirm(old, 2)
        self.assertEqual(self.execs(old), [b"one"])
        self.dialer.succeed()
        self.assertEqual(self.opens(self.dialer.connections[-1]), 0)
        old.packetReceived(MSG_CHANNEL_CLOSE, numbers(1))
        self.assertEqual(self.ended, ["before"])
        self.end(old, 2)
        self.assertEqual(self.ended, ["before", "one"])
        self.assertEqual(self.pool.report.counts().sessions, 0)

    def test_the_old_one_answers_too_late(self) -> None:
        """Its answers, and its end, mean nothing for a command that runs elsewhere."""
        old = self.used()
        self.submit(command="one")
        self.wait(3)
        other = self.dialer.succeed()
        self.confirm(other)
        other.packetReceived(MSG_CHANNEL_SUCCESS, numbers(0))
        self.confirm(old, 1)
        old.packetReceived(MSG_CHANNEL_CLOSE, numbers(1))
        self.assertEqual((self.ended, self.execs(old), self.errors), (["before"], [], []))
        self.assertEqual(self.pool.report.counts().sessions, 1)
        self.end(other, 0)
        self.assertEqual(self.ended, ["before", "one"])

    def test_the_old_one_refuses_too_late(self) -> None:
        old = self.used()
        self.submit(command="one")
        self.wait(3)
        other = self.dialer.succeed()
        self.confirm(other)
        self.packets(old)
        self.refuse(old, 1)
        self.assertEqual((self.execs(other), self.opens(old), self.opens(other)), ([b"one"], 0, 0))

    def test_the_old_one_is_lost_too_late(self) -> None:
        old = self.used()
        self.submit(command="one")
        self.wait(3)
        other = self.dialer.succeed()
        self.lose(old)
        self.confirm(other)
        self.assertEqual(
            (self.execs(other), self.errors, limits(self.pool.report, self.settings.max_sessions)), ([b"one"], [], {})
        )

    def test_what_runs_there_stays(self) -> None:
        """Whether it completes is to be seen; only what the server was told nothing of goes elsewhere."""
        self.submit(command="long")
        silent = self.dialer.succeed()
        self.confirm(silent)
        self.clock.advance(60)
        self.submit(command="one")
        self.wait(3)
        other = self.dialer.succeed()
        self.confirm(other)
        self.assertEqual((self.execs(silent), self.execs(other)), ([b"long"], [b"one"]))

    def test_a_server_that_says_anything_is_there(self) -> None:
        busy = self.used()
        self.submit(command="one")
        for _ in range(LATE_LOOKS - 1):
            self.wait(1)
            busy.packetReceived(MSG_REQUEST_FAILURE, b"")
        self.assertEqual(self.dialer.targets(), [])

    def test_a_server_that_answers_all_but_that(self) -> None:
        """The connection has run a command, and opens no other session: hosts are like that, and it is learned."""
        busy = self.used()
        self.submit(command="one")
        for _ in range(LATE_LOOKS):
            self.wait(1)
            busy.packetReceived(MSG_REQUEST_FAILURE, b"")
        other = self.dialer.succeed()
        self.confirm(other)
        self.assertEqual((self.execs(busy), self.execs(other)), ([], [b"one"]))
        # What it opens too late is closed at once.
        self.confirm(busy, 1)
        self.assertEqual([message for message, _ in self.packets(busy)], [MSG_CHANNEL_CLOSE])
        self.end(other, 0)
        self.assertEqual(self.ended, ["before", "one"])
        # From now on, each command has a connection.
        self.assertTrue(self.disconnected(other))
        self.submit(command="two")
        self.assertEqual(self.dialer.targets(), [A])

    def test_a_server_that_opens_one_session_at_a_time(self) -> None:
        """It says nothing about the second one; it answers a probe, so it is there."""
        self.submit(command="long")
        first = self.dialer.succeed()
        self.confirm(first)
        first.packetReceived(MSG_CHANNEL_SUCCESS, numbers(0))
        self.submit(command="one")
        for _ in range(LATE_LOOKS):
            self.wait(1)
            if any(message == MSG_GLOBAL_REQUEST for message, _ in self.packets(first)):
                first.packetReceived(MSG_REQUEST_FAILURE, b"")
        other = self.dialer.succeed()
        self.confirm(other)
        self.assertEqual(self.execs(other), [b"one"])
        self.assertEqual(limits(self.pool.report, self.settings.max_sessions), {"host:22": 1})
        self.submit(command="two")
        self.assertEqual((self.opens(first), self.opens(other), self.dialer.targets()), (0, 0, [A]))
        # The one that was retired is closed when its command has ended, and the late session with it.
        self.end(first, 0)
        self.confirm(first, 1)
        first.packetReceived(MSG_CHANNEL_CLOSE, numbers(1))
        self.assertTrue(self.disconnected(first))
        self.assertEqual((self.ended, self.errors), (["long"], []))

    def test_a_connection_that_we_do_not_read_from_is_not_silent(self) -> None:
        """It has to wait for its turn, after it had made much work."""
        connection = self.used()
        connection.transport.pace.holding = True
        self.submit(command="one")
        self.wait(10)
        self.assertEqual(self.dialer.targets(), [])
        connection.transport.pace.holding = False
        self.wait(3)
        self.assertEqual(self.dialer.targets(), [A])

    def test_a_held_up_process_is_no_silence(self) -> None:
        """What has arrived meanwhile is read after the delayed calls that are due."""
        connection = self.used()
        self.submit(command="one")
        self.clock.advance(30)
        self.confirm(connection, 1)
        self.wait(5)
        self.assertEqual((self.dialer.targets(), self.execs(connection)), ([], [b"one"]))

    def test_a_server_that_never_gave_a_session(self) -> None:
        """Others would be no better: it gets no connection after the other."""
        self.submit()
        self.dialer.succeed()
        self.wait(30)
        self.assertEqual(self.dialer.targets(), [])

    def test_a_connection_that_was_opened_in_vain(self) -> None:
        """The old one answered first, and this one has not run anything: it may die like any other."""
        old = self.used()
        self.submit(command="one")
        self.wait(3)
        self.confirm(old, 1)
        self.confirm(old, 2)
        self.end(old, 2)
        spare = self.dialer.succeed()
        self.assertEqual(self.opens(spare), 0)
        self.lose(old)
        self.submit(command="two")
        self.assertEqual(self.opens(spare), 1)
        self.wait(3)
        self.assertEqual(self.dialer.targets(), [A])
        other = self.dialer.succeed()
        self.confirm(other)
        self.assertEqual((self.execs(other), self.errors), ([b"two"], []))

    def test_no_more_connections_than_usual_stay_silent(self) -> None:
        self.make(max_connections=2)
        self.used()
        for _ in range(2):
            self.submit()
            self.wait(3)
            other = self.dialer.succeed()
            self.confirm(other)
            self.end(other, 0)
        self.submit()
        self.wait(10)
        self.assertEqual(self.dialer.targets(), [])

    def test_a_host_that_cannot_be_reached_beside_it(self) -> None:
        """The old connection may still answer: nothing fails for the sake of the new one, which is tried again."""
        old = self.used()
        self.submit(command="one")
        self.wait(3)
        self.dialer.fail(ConnectTimeout(host="host", port=22, time="15 s"))
        self.assertEqual((self.errors, self.dialer.targets()), ([], []))
        self.assertIn("does not answer", self.pool.waits_for(A))
        self.wait(6)
        self.assertEqual(self.dialer.targets(), [A])
        self.dialer.fail(ConnectTimeout(host="host", port=22, time="15 s"))
        self.confirm(old, 1)
        self.confirm(old, 2)
        self.assertEqual((self.execs(old), self.errors), ([b"one"], []))

    def test_the_old_one_is_lost_and_the_host_cannot_be_reached(self) -> None:
        old = self.used()
        self.submit(command="one")
        self.wait(3)
        self.dialer.fail(ConnectTimeout(host="host", port=22, time="15 s"))
        self.lose(old)
        self.dialer.fail(ConnectTimeout(host="host", port=22, time="15 s"))
        self.assertEqual([type(error) for error in self.errors], [ConnectTimeout])

    def test_a_login_that_is_refused_is_not_tried_again(self) -> None:
        self.used()
        self.submit(command="one")
        self.wait(3)
        self.dialer.fail(refusal(A))
        self.wait(20)
        self.assertEqual(([type(error) for error in self.errors], self.dialer.targets()), ([LoginRefused], []))

    def test_withdrawn(self) -> None:
        silent = self.used()
        job = self.submit(command="one")
        self.wait(3)
        self.pool.withdraw(job)
        other = self.dialer.succeed()
        self.assertEqual(self.opens(other), 0)
        self.confirm(silent, 1)
        self.assertEqual((self.execs(silent), self.ended), ([], ["before"]))

    def test_permission_is_asked_for_once(self) -> None:
        asked: list[Deferred[None]] = []

        def permission() -> Deferred[None]:
            asked.append(Deferred())
            return asked[-1]

        silent = self.used()
        session = Session(Command(b"one", 100), lambda: None, lambda: None, permission=permission)
        self.pool.submit(Job(A, session, self.errors.append))
        self.wait(3)
        other = self.dialer.succeed()
        self.confirm(other)
        self.assertEqual((len(asked), self.execs(other)), (1, []))
        asked[0].callback(None)
        self.confirm(silent, 1)
        self.assertEqual((self.execs(other), self.execs(silent)), ([b"one"], []))

    def test_a_channel_that_waits_for_us_is_no_silence(self) -> None:
        connection = self.used()
        session = Session(Command(b"one", 100), lambda: None, lambda: None, permission=Deferred)
        self.pool.submit(Job(A, session, self.errors.append))
        self.confirm(connection, 1)
        self.wait(10)
        self.assertEqual(self.dialer.targets(), [])

    def test_a_jump_host(self) -> None:
        """It is asked itself, and not only whether another host answers; that one is reached through a new one."""
        jump = self.used(JUMP)
        self.submit(FAR, "one")
        self.wait(3)
        self.assertEqual(self.dialer.targets(), [JUMP])
        other = self.dialer.succeed()
        self.assertEqual((self.opens(jump), self.opens(other)), (1, 1))
        self.confirm(other)
        self.assertEqual(self.dialer.targets(), [FAR])
        self.assertEqual(self.errors, [])

    def test_a_host_behind_it_that_takes_its_time(self) -> None:
        jump = self.used(JUMP)
        self.submit(FAR, "one")
        for _ in range(6):
            jump.packetReceived(MSG_REQUEST_FAILURE, b"")
            self.wait(1)
            self.pool.forward(JUMP, "other", 22).addErrback(lambda _: None)
        self.assertEqual(self.dialer.targets(), [])

    def test_close(self) -> None:
        silent = self.used()
        self.submit(command="one")
        self.wait(3)
        other = self.dialer.succeed()
        closed = self.pool.close()
        self.lose(silent)
        self.lose(other)
        self.successResultOf(closed)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class AtMostOnceTests(SilenceTestCase):
    """Whatever the order in which connections fall silent, answer, refuse, are lost and opened."""

    @given(st.data())
    def test_no_command_is_sent_twice(self, data: Any) -> None:
        self.make(max_connections=2, max_sessions=3)
        self.used()
        sent: Counter[bytes] = Counter()
        jobs: list[Job] = []
        asked: dict[ClientConnection, list[int]] = {}
        open_at: dict[ClientConnection, int] = {}

        def look() -> None:
            """Keep what was sent."""
            for connection in self.dialer.connections:
                for message, packet in self.packets(connection):
                    if message == MSG_CHANNEL_OPEN:
                        number = int.from_bytes(packet.partition(b"session")[2][:4], "big")
                        asked.setdefault(connection, []).append(number)
                    elif message == MSG_CHANNEL_REQUEST and NS(b"exec") in packet:
                        sent[packet.partition(NS(b"exec") + b"\1")[2][4:]] += 1
                        open_at[connection] = int.from_bytes(packet[:4], "big") - 100

        kinds = st.sampled_from(("order", "wait", "answer", "answer", "refuse", "lose", "dial", "dial", "end", "fail"))
        steps = data.draw(st.lists(kinds, min_size=4, max_size=40))
        for step in ["order", "wait", *steps]:
            look()
            waiting = [connection for connection, found in asked.items() if found]
            if step == "order" and len(jobs) < 6:
                jobs.append(self.submit(command=f"command {len(jobs)}"))
            elif step == "wait":
                self.wait(3)
            elif step in ("answer", "refuse") and waiting:
                connection = waiting[0] if data.draw(st.booleans()) else waiting[-1]
                (self.confirm if step == "answer" else self.refuse)(connection, asked[connection].pop(0))
            elif step == "lose" and len(self.dialer.connections) > 1:
                connection = self.dialer.connections.pop(0)
                look()
                asked.pop(connection, None)
                open_at.pop(connection, None)
                self.lose(connection)
            elif step == "dial" and self.dialer.dialled:
                self.dialer.succeed()
            elif step == "fail" and self.dialer.dialled:
                self.dialer.fail(ConnectTimeout(host="host", port=22, time="15 s"))
            elif step == "end" and open_at:
                connection, number = open_at.popitem()
                if connection in self.dialer.connections:
                    self.end(connection, number)
        look()
        self.assertLessEqual(max(sent.values(), default=0), 1, steps)
        for job in jobs:
            session = job.channel
            assert isinstance(session, Session)
            began = session.state in (State.STARTING, State.RUNNING, State.ENDED)
            self.assertEqual(sent[session.command] == 1, began)
        ended = set(self.ended) - {"before"}
        self.assertLessEqual({command.encode() for command in ended}, set(sent))
