"""
relayd.hub.links.heartbeat, with a connection that only notes why it is dropped.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relayd.hub import HubSettings
from relayd.hub.links.heartbeat import LEAST_PROGRESS, Heartbeat


class Connection:
    """Stands in for a `relayd.hub.links.bounded_server.BoundedServer`."""

    def __init__(self) -> None:
        self.flow = SimpleNamespace(writable=True)
        self.deaf = False
        self.dropped: list[str] = []

    def drop(self, reason: str) -> None:
        self.dropped.append(reason)


class HeartbeatTests(SynchronousTestCase):
    """A ping each 25 s, a sign of life within 20 s of it."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.connection = Connection()
        self.pings: list[float] = []
        self.heartbeat = Heartbeat(
            self.clock, HubSettings(), cast(Any, self.connection), lambda: self.pings.append(self.clock.seconds())
        )
        self.heartbeat.start()

    def test_a_relay_that_answers(self) -> None:
        for _ in range(4):
            self.clock.advance(25 if not self.pings else 5)
            self.heartbeat.alive()
            self.clock.advance(20)
        self.assertEqual(self.pings, [25, 50, 75, 100])
        self.assertEqual(self.connection.dropped, [])

    def test_silence(self) -> None:
        self.clock.advance(25)
        self.clock.advance(20)
        self.assertEqual(self.connection.dropped, ["it was silent for 20 s"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_long_frame_is_a_sign_of_life_and_single_bytes_are_not(self) -> None:
        self.clock.advance(25)
        self.heartbeat.received(LEAST_PROGRESS)
        self.clock.advance(20)
        self.assertEqual(self.connection.dropped, [])
        self.clock.advance(5)
        self.heartbeat.received(1)
        self.clock.advance(20)
        self.assertEqual(len(self.connection.dropped), 1)

    def test_silence_where_we_do_not_read(self) -> None:
        self.connection.deaf = True
        self.clock.pump([25, 20, 5, 20])
        self.assertEqual((len(self.pings), self.connection.dropped), (2, []))

    def test_a_relay_that_reads_nothing(self) -> None:
        self.connection.flow.writable = False
        self.heartbeat.taken()
        while not self.connection.dropped:
            self.heartbeat.alive()
            self.clock.advance(5)
        self.assertEqual(self.connection.dropped, ["it read nothing of what was sent to it for 2 min"])
        self.assertEqual(self.clock.seconds(), 120)

    def test_the_end(self) -> None:
        self.heartbeat.stop()
        self.heartbeat.stop()
        self.clock.advance(1000)
        self.assertEqual((self.pings, self.connection.dropped), ([], []))
