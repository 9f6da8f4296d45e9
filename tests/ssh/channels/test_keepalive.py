"""
The keepalive of a connection alone.
"""

from __future__ import annotations

import socket
from functools import partial
from typing import cast

from twisted.internet.interfaces import ISystemHandle
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from relayd.language.texts import Text
from relayd.ssh.channels.keepalive import FIRST_PROBE, MAX_MISSED_PROBES, REKEY_AFTER, Keepalive, judge_by_tcp
from relayd.ssh.channels.session import Command, Session
from relayd.ssh.channels.table import ChannelTable
from relayd.ssh.transport.transport import ClientTransport
from tests.support.ssh import PacketRecorder, RecordingTCP

INTERVAL = 10.0


class Link:
    """A connection that notes what is asked of it."""

    def __init__(self) -> None:
        self.heard = 1
        self.answers_probes = True
        self.recorder = PacketRecorder()
        self.transport = cast(ClientTransport, self.recorder)
        self.probes = 0
        self.given_up: list[str] = []

    def probe(self) -> None:
        self.probes += 1

    def give_up(self, reason: Text) -> None:
        self.given_up.append(reason)


@implementer(ISystemHandle)
class Below:
    """What is below a transport: a socket."""

    def __init__(self, handle: socket.socket) -> None:
        self._handle = handle

    def getHandle(self) -> socket.socket:
        return self._handle


class KeepaliveTests(SynchronousTestCase):
    """`Keepalive`."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.link = Link()
        self.channels = ChannelTable()
        self.keepalive = Keepalive(self.clock, self.link, self.channels, INTERVAL)

    def pass_intervals(self, count: int, *, heard: bool) -> None:
        for _ in range(count):
            self.link.heard += heard
            self.clock.advance(INTERVAL)

    def test_a_server_that_answers(self) -> None:
        self.pass_intervals(10, heard=True)
        self.assertEqual((self.link.probes, self.link.given_up), (10, []))

    def test_a_silent_server(self) -> None:
        self.pass_intervals(1, heard=True)
        self.pass_intervals(MAX_MISSED_PROBES - 1, heard=False)
        self.assertEqual(self.link.given_up, [])
        self.pass_intervals(5, heard=False)
        self.assertEqual(self.link.given_up, ["it stopped answering"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_server_that_never_answered_a_probe(self) -> None:
        """Nothing tells whether it is gone, here."""
        self.link.answers_probes = False
        self.pass_intervals(100, heard=False)
        self.assertEqual((self.link.probes, self.link.given_up), (100, []))

    def test_an_answer_just_in_time(self) -> None:
        for _ in range(5):
            self.pass_intervals(1, heard=True)
            self.pass_intervals(MAX_MISSED_PROBES - 1, heard=False)
        self.assertEqual(self.link.given_up, [])

    def test_channels_that_are_not_closed(self) -> None:
        channel = self.channels.add(self.link.transport, Session(Command(b"true", 1), lambda: None, lambda: None))
        channel.close_sent = True
        self.pass_intervals(MAX_MISSED_PROBES, heard=True)
        self.assertEqual(self.link.given_up, ["it did not close channels that were given up"])

    def test_keys_are_renewed(self) -> None:
        for _ in range(2):
            self.pass_intervals(round(REKEY_AFTER / INTERVAL), heard=True)
        self.assertEqual(self.link.recorder.renewals, 2)

    def test_it_is_soon_known_whether_a_server_answers(self) -> None:
        self.clock.advance(FIRST_PROBE)
        self.assertEqual(self.link.probes, 1)

    def test_the_kernel_is_asked_about_the_machine(self) -> None:
        """Of a socket alone: what is in memory, or comes through a jump host, has none of its own."""
        with socket.socket() as end:
            judge_by_tcp(Below(end), 15.0)
            read = partial(end.getsockopt, socket.IPPROTO_TCP)
            found = [read(socket.TCP_KEEPIDLE), read(socket.TCP_KEEPINTVL), read(socket.TCP_KEEPCNT)]
            self.assertEqual((found, read(socket.TCP_USER_TIMEOUT)), ([15, 15, MAX_MISSED_PROBES], 45_000))
        judge_by_tcp(RecordingTCP(), 15.0)

    def test_stop(self) -> None:
        self.keepalive.stop()
        self.keepalive.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
