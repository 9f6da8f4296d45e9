"""
A server that breaks the connection protocol, on purpose or not: what must hold all the same.
"""

from __future__ import annotations

import struct

from twisted.conch.ssh.common import NS

from relayd.ssh.channels.channel import State
from relayd.ssh.transport.breach import Breach
from relayd.ssh.transport.numbers import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_EOF,
    MSG_CHANNEL_EXTENDED_DATA,
    MSG_CHANNEL_FAILURE,
    MSG_CHANNEL_OPEN_CONFIRMATION,
    MSG_CHANNEL_OPEN_FAILURE,
    MSG_CHANNEL_REQUEST,
    MSG_CHANNEL_SUCCESS,
    MSG_REQUEST_FAILURE,
)
from tests.support.ssh_connection import INTERVAL, ConnectionTestCase, numbers, request


class BreachTests(ConnectionTestCase):
    """
    Whatever the server sends, no command runs twice, and none is lost: an exception makes the transport end the
    connection, which hands back every session that is still on it.
    """

    def breach(self, message: int, packet: bytes) -> bool:
        """Receive what should not have come. Says whether it was taken as a breach."""
        try:
            self.receive(message, packet)
        except Exception:
            self.connection.serviceStopped()
        return self.transport.aborted or bool(self.transport.disconnected) or bool(self.owner.lost)

    def execs(self) -> int:
        return sum(b"exec" in packet for message, packet in self.transport.take() if message == MSG_CHANNEL_REQUEST)

    def test_unknown_channel(self) -> None:
        for message in (
            MSG_CHANNEL_DATA, MSG_CHANNEL_EXTENDED_DATA, MSG_CHANNEL_EOF, MSG_CHANNEL_CLOSE, MSG_CHANNEL_SUCCESS,
            MSG_CHANNEL_FAILURE, MSG_CHANNEL_REQUEST, MSG_CHANNEL_OPEN_CONFIRMATION, MSG_CHANNEL_OPEN_FAILURE,
        ):  # fmt: skip
            self.assertRaises(Breach, self.receive, message, numbers(7, 1, 1, 1) + NS(b"") + NS(b""))

    def test_truncated_packets(self) -> None:
        self.running()
        for message in (MSG_CHANNEL_DATA, MSG_CHANNEL_OPEN_CONFIRMATION, MSG_CHANNEL_OPEN_FAILURE, MSG_CHANNEL_CLOSE):
            self.assertRaises(struct.error, self.receive, message, b"\0\0")
        self.assertEqual(len(self.connection._channels.by_number), 1)

    def test_confirmed_twice(self) -> None:
        session = self.session()
        self.connection.start(session)
        self.confirm()
        self.assertEqual(self.execs(), 1)
        self.breach(MSG_CHANNEL_OPEN_CONFIRMATION, numbers(0, 101, 2**21, 32768))
        self.assertEqual((self.execs(), self.events), (0, ["started"]))

    def test_refused_after_the_command_was_sent(self) -> None:
        session = self.session()
        self.connection.start(session)
        self.confirm()
        self.breach(MSG_CHANNEL_OPEN_FAILURE, numbers(0, 2) + NS(b"no") + NS(b""))
        self.assertEqual(self.owner.refused, [])  # it would be run again
        self.assertIs(session.state, State.STARTING)

    def test_refused_while_the_command_runs(self) -> None:
        session = self.running()
        self.breach(MSG_CHANNEL_OPEN_FAILURE, numbers(0, 2) + NS(b"no") + NS(b""))
        self.assertEqual(self.owner.refused, [])
        self.assertIs(session.state, State.RUNNING)

    def test_closed_before_it_was_confirmed(self) -> None:
        session = self.session()
        self.connection.start(session)
        self.breach(MSG_CHANNEL_CLOSE, numbers(0))
        # Nobody may wait for it for ever: it is handed back, or told to have been refused.
        interrupted = [one for sessions, _ in self.owner.lost for one in sessions]
        self.assertIn(session, interrupted + [refused for refused, *_ in self.owner.refused])

    def test_output_before_it_was_confirmed(self) -> None:
        session = self.session()
        self.connection.start(session)
        for message, packet in (
            (MSG_CHANNEL_DATA, numbers(0) + NS(b"forged")),
            (MSG_CHANNEL_REQUEST, request(0, b"exit-status", numbers(0))),
            (MSG_CHANNEL_EOF, numbers(0)),
        ):
            if self.breach(message, packet):
                break
        else:
            self.connection.serviceStopped()
        # The command was never sent, so nothing may read as its success.
        self.assertEqual(self.events, [])
        self.assertEqual(session.state, State.WAITING)

    def test_failure_of_a_command_that_runs(self) -> None:
        session = self.running()
        self.breach(MSG_CHANNEL_FAILURE, numbers(0))
        self.assertFalse(session.exec_refused)


class StuckTests(ConnectionTestCase):
    """A server that answers probes, but not what is asked of it, keeps no place for ever."""

    def probes(self, count: int) -> None:
        for _ in range(count):
            self.receive(MSG_REQUEST_FAILURE, b"")
            self.clock.advance(INTERVAL)

    def test_channels_that_it_does_not_open_or_close(self) -> None:
        opening, running, busy = self.session(), self.session(), self.session()
        for session in (opening, running, busy):
            self.connection.start(session)
        self.confirm(1)
        self.confirm(2)
        self.connection.close(opening)
        self.connection.close(running)
        self.probes(10)
        self.assertFalse(self.transport.aborted)  # there is still one of use
        self.receive(MSG_CHANNEL_CLOSE, numbers(2))
        self.probes(1)
        self.assertTrue(self.transport.aborted)
        self.connection.serviceStopped()
        self.assertEqual(self.owner.lost[0][1], "it did not close channels that were given up")

    def test_they_get_some_time(self) -> None:
        session = self.running()
        self.connection.close(session)
        self.probes(1)
        self.assertFalse(self.transport.aborted)
        self.probes(1)
        self.assertTrue(self.transport.aborted)
