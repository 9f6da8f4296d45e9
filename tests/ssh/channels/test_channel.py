"""
One channel alone, and the table of the channels of a connection.
"""

from __future__ import annotations

from typing import cast

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relayd.ssh.channels.channel import MAX_PACKET, WINDOW, Channel
from relayd.ssh.channels.closes import CLOSE_LINGER, DelayedCloses
from relayd.ssh.channels.declined import decline_channel, decline_request
from relayd.ssh.channels.session import Command, Session
from relayd.ssh.channels.table import ChannelTable
from relayd.ssh.transport.breach import Breach
from relayd.ssh.transport.numbers import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_EOF,
    MSG_CHANNEL_OPEN_FAILURE,
    MSG_CHANNEL_WINDOW_ADJUST,
    MSG_REQUEST_FAILURE,
)
from relayd.ssh.transport.transport import ClientTransport
from tests.support.ssh import PacketRecorder
from tests.support.ssh_connection import numbers


class ChannelTestCase(SynchronousTestCase):
    """A table whose packets are recorded."""

    def setUp(self) -> None:
        self.recorder = PacketRecorder()
        self.transport = cast(ClientTransport, self.recorder)
        self.table = ChannelTable()

    def session(self) -> Session:
        return Session(Command(b"true", 100), lambda: None, lambda: None)

    def channel(self, session: Session | None = None) -> Channel:
        """An open channel, which is 100 + n at the server."""
        channel = self.table.add(self.transport, session or self.session())
        channel.remote = 100 + channel.number
        return channel


class SendingTests(ChannelTestCase):
    """Data to the server."""

    def test_no_more_than_the_window(self) -> None:
        channel = self.channel()
        channel.remote_window = 3
        channel.finished = True
        channel.send(b"hello")
        self.assertEqual(self.recorder.take(), [(MSG_CHANNEL_DATA, numbers(100, 3) + b"hel")])
        channel.window_adjusted(10)
        rest = [(MSG_CHANNEL_DATA, numbers(100, 2) + b"lo"), (MSG_CHANNEL_EOF, numbers(100))]
        self.assertEqual((self.recorder.take(), channel.remote_window), (rest, 8))

    def test_the_order_is_kept(self) -> None:
        channel = self.channel()
        channel.send(b"one ")
        channel.remote_window = 100
        channel.send(b"two")
        self.assertEqual(self.recorder.take(), [])
        channel.send_waiting()
        self.assertEqual(self.recorder.take(), [(MSG_CHANNEL_DATA, numbers(100, 7) + b"one two")])

    def test_a_window_that_grows_too_far(self) -> None:
        channel = self.channel()
        channel.window_adjusted(2**32 - 1)
        channel.window_adjusted(2**32 - 1)
        self.assertEqual(channel.remote_window, 2**32 - 1)


class ReceivingTests(ChannelTestCase):
    """Data from the server."""

    def test_the_window_grows_when_half_of_it_is_used(self) -> None:
        channel = self.channel()
        channel.account(WINDOW // 2 - 1, 0)
        self.assertEqual(self.recorder.take(), [])
        channel.account(1, 0)
        self.assertEqual(self.recorder.take(), [(MSG_CHANNEL_WINDOW_ADJUST, numbers(100, WINDOW // 2))])

    def test_what_is_not_read_is_held_back(self) -> None:
        reading: Deferred[None] = Deferred()
        session = Session(Command(b"true", 100), lambda: None, lambda: None, reader=lambda _is_stderr, _data: reading)
        channel = self.channel(session)
        channel.received(bytes(WINDOW // 2), False)
        self.assertEqual((self.recorder.take(), channel.unread), ([], WINDOW // 2))
        reading.callback(None)
        self.assertEqual(self.recorder.take(), [(MSG_CHANNEL_WINDOW_ADJUST, numbers(100, WINDOW // 2))])

    def test_halted(self) -> None:
        channel = self.channel()
        channel.halt(True)
        channel.account(WINDOW, 0)
        self.assertEqual(self.recorder.take(), [])
        channel.halt(False)
        self.assertEqual(self.recorder.take(), [(MSG_CHANNEL_WINDOW_ADJUST, numbers(100, WINDOW))])

    def test_too_much(self) -> None:
        channel = self.channel()
        channel.halt(True)
        channel.account(WINDOW + MAX_PACKET, 0)
        with self.assertRaises(Breach):
            channel.account(1, 0)


class TableTests(ChannelTestCase):
    """`ChannelTable`."""

    def test_by_packet(self) -> None:
        opening = self.table.add(self.transport, self.session())
        opened = self.channel()
        self.assertIs(self.table.opening(numbers(0)), opening)
        self.assertIs(self.table.opened(numbers(1)), opened)
        for wrong in (lambda: self.table.opened(numbers(0)), lambda: self.table.opening(numbers(1))):
            with self.assertRaises(Breach):
                wrong()

    def test_late_messages(self) -> None:
        channel = self.channel()
        self.assertIs(self.table.opened_or_closed(numbers(0)), channel)
        self.table.remove(channel)
        self.assertIsNone(self.table.opened_or_closed(numbers(0)))
        with self.assertRaises(Breach):
            self.table.opened_or_closed(numbers(1))

    def test_what_runs(self) -> None:
        session = self.session()
        channel = self.channel(session)
        self.table.executing[session] = channel
        self.assertIs(self.table.of(session), channel)
        self.table.remove(channel)
        self.assertEqual((self.table.executing, self.table.of(session), len(self.table.by_number)), ({}, None, 0))

    def test_unanswered(self) -> None:
        self.channel()
        waiting, given_up = self.session(), self.session()
        self.table.add(self.transport, waiting)
        self.table.add(self.transport, given_up).close_sent = True
        self.assertEqual(self.table.unanswered(), [waiting])

    def test_all_given_up(self) -> None:
        self.assertFalse(self.table.all_given_up(100.0))
        first, second = self.channel(), self.channel()
        first.close_sent, first.given_up = True, 5.0
        self.assertFalse(self.table.all_given_up(10.0))
        second.close_sent, second.given_up = True, 20.0
        self.assertFalse(self.table.all_given_up(10.0))
        self.assertTrue(self.table.all_given_up(20.0))

    def test_clear(self) -> None:
        channels = [self.channel(), self.channel()]
        self.assertEqual((self.table.clear(), len(self.table.by_number)), (channels, 0))


class ClosesTests(ChannelTestCase):
    """`DelayedCloses`."""

    def test_sent_together(self) -> None:
        clock = Clock()
        closes = DelayedCloses(clock)
        for channel in (self.channel(), self.channel()):
            closes.add(channel)
        self.assertEqual(self.recorder.take(), [])
        clock.advance(CLOSE_LINGER)
        self.assertEqual(self.recorder.take(), [(MSG_CHANNEL_CLOSE, numbers(number)) for number in (100, 101)])
        self.assertEqual((closes.waiting, clock.getDelayedCalls()), ([], []))

    def test_stop(self) -> None:
        clock = Clock()
        closes = DelayedCloses(clock)
        closes.add(self.channel())
        closes.stop()
        self.assertEqual((clock.getDelayedCalls(), self.recorder.take()), ([], []))


class DeclinedTests(ChannelTestCase):
    """Requests of servers."""

    def test_channel(self) -> None:
        decline_channel(self.transport, numbers(3) + b"x11" + numbers(7, 1000, 1000))
        ((message, payload),) = self.recorder.take()
        self.assertEqual((message, payload[:8]), (MSG_CHANNEL_OPEN_FAILURE, numbers(7, 1)))

    def test_global_request(self) -> None:
        decline_request(self.transport, numbers(1) + b"x\1")
        decline_request(self.transport, numbers(1) + b"x\0")
        self.assertEqual(self.recorder.take(), [(MSG_REQUEST_FAILURE, b"")])
