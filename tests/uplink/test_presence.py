"""
What the main server tells everybody of this relay, and what follows: in memory, by a Clock.
"""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from twisted.trial.unittest import SynchronousTestCase

from relayd.uplink.presence import AT_ONCE, Presence, told_of
from relayd.wire.dialects.events import Disconnected
from relayd.wire.messages import Secret
from tests.support.uplink import ORDER, MainServer, ServiceCase
from tests.wire.dialects.test_native import json_values


class Telling(SynchronousTestCase):
    def test_told_of(self) -> None:
        for data, online in (
            ({"id": "p", "status": "offline"}, False),
            ({"id": "p", "status": "online", "at": 1}, True),
            ({"id": "q", "status": "offline"}, None),
            ({"id": "p", "status": "busy"}, None),
            ({"id": "p", "status": ["offline"]}, None),
            ({"id": ["p"]}, None),
        ):
            self.assertIs(told_of(data, "p"), online, data)
        for data, online in (
            ({"id": 7, "status": "offline"}, False),
            ({"id": 12, "proxyId": "7", "status": "offline"}, False),
            ({"proxyId": 7, "status": "online"}, True),
            ({"id": 7, "proxyId": "q", "status": "offline"}, None),  # a row's number, and not ours
            ({"id": 7.0, "status": "offline"}, None),
            ([{"id": 7, "status": "offline"}], None),
        ):
            self.assertIs(told_of(data, "7"), online, data)
        self.assertIsNone(told_of({"id": True, "status": "offline"}, "True"))

    @given(json_values | st.fixed_dictionaries({"id": st.just("p"), "status": json_values}))
    def test_anything(self, data: Any) -> None:
        self.assertIn(told_of(data, "p"), (True, False, None))

    def test_pauses_grow(self) -> None:
        """At once, then longer each time; from the start again when nothing was told for a while."""
        presence = Presence(random.Random(1))
        now, pauses, settles = 0.0, [], []
        for _ in range(10):
            presence.connected(now)
            pauses.append(presence.went_offline(now, 5.0))
            settles.append(presence.settle)
            now += pauses[-1] + 1
        self.assertEqual(pauses[0], AT_ONCE)
        for pause, middle in zip(pauses[1:], (5, 10, 20, 40, 80, 160, 300, 300, 300), strict=True):
            self.assertTrue(middle * 0.6 <= pause <= middle * 1.4, pauses)
        self.assertEqual(settles, [0.5, 1, 2, 4, 8, 16, 30, 30, 30, 30])
        self.assertEqual(presence.went_offline(now + 3000, 5.0), AT_ONCE)

    def test_another_relay(self) -> None:
        """Who comes online twice, or long after we did, is another: then what ends may be that one's."""
        presence = Presence(random.Random(1))
        presence.connected(0.0)
        self.assertFalse(presence.came_online(0.1))
        self.assertTrue(presence.came_online(0.2))
        self.assertFalse(presence.came_online(0.3), "told once")
        self.assertGreaterEqual(presence.went_offline(1.0, 5.0), 3.0)
        presence.connected(1000.0)
        self.assertTrue(presence.came_online(1010.0))
        presence.connected(2000.0)
        self.assertEqual(presence.went_offline(2000.0, 5.0), AT_ONCE)


class Forgotten(ServiceCase):
    """The main server says that this relay is offline."""

    def tell(self, server: MainServer, status: str, name: str = "p") -> None:
        server.dialect.send_event("proxy_status_update", {"id": name, "status": status})
        server.flush()
        self.advance(0)

    def test_dialled_again(self) -> None:
        """The old connection ends in good order, and to its end, before there is another one."""
        server, _ = self.connected()
        self.tell(server, "offline")
        self.advance(0.49)
        self.assertEqual(server.events[-1:], server.events[1:2], "nothing yet")
        self.advance(0.02)
        self.assertEqual(server.events[-1], Disconnected("it disconnected the namespace", refused=False))
        self.assertEqual((server.closed, self.receiver.words()), (1000, ["ready", "lost"]))
        self.assertEqual(self.attempts(), 1)
        self.advance(0.5)
        self.assertEqual(self.attempts(), 2)
        self.assertIn("said that this relay is offline although it was connected", self.warnings()[-1])
        self.assertIn("Next attempt in 0.5 s", self.warnings()[-1])

    def test_main_server_that_hangs(self) -> None:
        """One that does not answer the good-bye holds nothing up for long."""
        server, _ = self.connected()
        self.tell(server, "offline")
        server.deaf = True
        self.advance(0.51)
        self.advance(5.0)
        self.advance(0.5)
        self.assertEqual(self.attempts(), 2)

    def test_nothing_to_do(self) -> None:
        """It has come online meanwhile, or is sent a command; others do not matter; the connection has ended."""
        server, pump = self.connected()
        self.tell(server, "offline", "q")
        self.tell(server, "offline")
        self.tell(server, "online")
        self.advance(10)
        self.tell(server, "offline")
        server.dialect.send_event("execute_command", ORDER)
        server.flush()
        self.advance(0)
        self.advance(10)
        self.assertEqual(self.receiver.words(), ["ready", "command"])
        self.tell(server, "offline")
        server.transport.loseConnection()
        pump.flush()
        self.advance(7.01)
        server, _ = self.connected()
        self.advance(10)
        self.assertEqual(self.receiver.words(), ["ready", "command", "lost", "ready"])

    def test_once_for_many(self) -> None:
        """Being told again and again changes nothing."""
        server, _ = self.connected()
        for _ in range(1000):
            self.tell(server, "offline")
        self.assertLessEqual(len(self.reactor.getDelayedCalls()), 4)
        self.advance(0.51)
        self.advance(0.5)
        self.assertEqual(self.attempts(), 2)

    def test_bounded(self) -> None:
        """A main server that says so all the time, as when two relays of one name take turns: ever more seldom."""
        server, _ = self.connected()
        attempts = 1
        for _ in range(3600):
            if self.attempts() > attempts:
                attempts = self.attempts()
                server, _ = self.connected()
            if self.receiver.link is not None:
                server.dialect.ping()
                self.tell(server, "offline")
            self.advance(1)
        self.assertLess(attempts, 25, "in an hour")

    def test_told_to_strangers_too(self) -> None:
        """A broadcast proves nothing of the key; an order does."""
        server, pump = self.connected()
        self.tell(server, "online")
        server.dialect.send_event("welcome", {})
        server.flush()
        pump.flush()
        self.assertFalse(self.service.status.accepted)
        server.dialect.close()
        server.flush()
        pump.flush()
        self.assertIn("compare --proxy-id", self.warnings()[-1])

    def test_another_relay_is_told_of(self) -> None:
        server, _ = self.connected()
        self.tell(server, "online")
        self.assertEqual(self.warnings(), [])
        for _ in range(3):
            self.tell(server, "online")
        (warning,) = self.warnings()
        self.assertIn("p came online while this relay was online already: another relay may use this name", warning)


class Displaced(ServiceCase):
    """The main server ends connections that it had accepted."""

    def turn_away(self, server: MainServer) -> None:
        server.dialect.close()
        server.flush()
        self.advance(0)

    def test_key_that_has_served(self) -> None:
        """It is not to blame, accepted or not yet; another one is."""
        server, _ = self.connected()
        self.advance(2.1)
        self.turn_away(server)
        self.advance(7.01)
        server, _ = self.connected()
        self.turn_away(server)
        for line in self.warnings():
            self.assertIn("(it disconnected the namespace), although it had accepted this relay", line)
            self.assertIn("another relay may use the same name", line)
            self.assertNotIn("compare", line)
        another = replace(self.service.servers[0].settings, read_api_key=lambda: Secret("an0ther-" + "z" * 40))
        self.service.configure(another)
        self.advance(14.01)
        server, _ = self.connected()
        self.turn_away(server)
        self.assertIn("compare --proxy-id", self.warnings()[-1])

    def test_pause_grows(self) -> None:
        """As with two relays of one name; a connection that has lived for a while begins anew."""
        for middle in (5, 10, 20, 40):
            attempts = self.attempts()
            server, _ = self.connected()
            self.advance(2.1)
            self.turn_away(server)
            self.advance(middle * 0.6 - 0.01)
            self.assertEqual(self.attempts(), attempts)
            self.advance(middle * 0.8 + 0.02)
            self.assertEqual(self.attempts(), attempts + 1)
        server, _ = self.connected()
        for _ in range(30):  # the heartbeat of the main server
            self.advance(10)
            server.dialect.ping()
            server.flush()
            self.advance(0)
        self.turn_away(server)
        attempts = self.attempts()
        self.advance(7.01)
        self.assertEqual(self.attempts(), attempts + 1)
