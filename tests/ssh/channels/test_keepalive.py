"""
The keepalive of a connection alone.
"""

from __future__ import annotations

from typing import cast

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relayd.language.texts import Text
from relayd.ssh.channels.keepalive import MAX_MISSED_PROBES, REKEY_AFTER, Keepalive
from relayd.ssh.channels.session import Command, Session
from relayd.ssh.channels.table import ChannelTable
from relayd.ssh.transport.transport import ClientTransport
from tests.support.ssh import PacketRecorder

INTERVAL = 10.0


class Link:
    """A connection that notes what is asked of it."""

    def __init__(self) -> None:
        self.heard = 1
        self.recorder = PacketRecorder()
        self.transport = cast(ClientTransport, self.recorder)
        self.probes = 0
        self.given_up: list[str] = []

    def probe(self) -> None:
        self.probes += 1

    def give_up(self, reason: Text) -> None:
        self.given_up.append(reason)


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

    def test_stop(self) -> None:
        self.keepalive.stop()
        self.keepalive.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
