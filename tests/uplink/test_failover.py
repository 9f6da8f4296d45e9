"""
Several main servers in memory: time by a Clock, the network by iosim, each main server by autobahn's protocol.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address
from twisted.logger import LogLevel
from twisted.test.iosim import FakeTransport, IOPump, connect

from relayd.interfaces import Claims
from relayd.uplink.servers import Failover
from relayd.uplink.service import LEAST_ROUND, UplinkService
from relayd.uplink.settings import UplinkSettings
from tests.support.uplink import ORDER, MainServer, Scripted, ServiceCase

FIRST, SECOND = "http://192.0.2.1:3000", "http://192.0.2.2:3000"
#: Seconds after which a main server that says nothing has accepted the relay.
PROBATION = 2.1


class FailoverCase(ServiceCase):
    def begin(self, **settings: Any) -> None:
        self.claims: dict[str, Claims] = {}
        made = [
            UplinkSettings(server=url + "/?token=hunter2", proxy_id="p", read_api_key=self.read_key, dialect="socketio")
            for url in (FIRST, SECOND)
        ]
        failover = Failover(delay=30.0, claims=lambda name: self.claims.get(name.rstrip("/"), Claims()))
        self.service = UplinkService(self.reactor, self.receiver, made[0], others=made[1:], failover=failover)
        self.service.startService()

    def host(self) -> str:
        """Which one was dialled last."""
        return {"192.0.2.1": FIRST, "192.0.2.2": SECOND}[self.reactor.tcpClients[-1][0]]

    def join(self, server: Any) -> IOPump:
        host, port, factory, *_ = self.reactor.tcpClients[-1]
        client = factory.buildProtocol(IPv4Address("TCP", host, port))
        ends = FakeTransport(server, isServer=True), FakeTransport(client, isServer=False)
        self.pumps.append(connect(server, ends[0], client, ends[1], clock=self.reactor))
        return self.pumps[-1]

    def until(self, url: str, seconds: float) -> None:
        """Attempts are refused until *url* is dialled, which must be within so many seconds."""
        end = self.reactor.seconds() + seconds
        dialled = self.attempts() - 1
        while self.reactor.seconds() < end:
            if self.attempts() > dialled:
                dialled = self.attempts()
                if self.host() == url:
                    return
                self.refuse()
            self.advance(0.5)
        self.fail(f"{url} was not dialled")

    def lose(self, server: MainServer) -> None:
        server.transport.abortConnection()
        self.advance(0)

    def on_the_second(self) -> tuple[MainServer, IOPump]:
        """The first is away, and the second in use."""
        self.until(SECOND, 31)
        server, pump = self.connected()
        self.advance(PROBATION)
        self.assertTrue(self.service.status.accepted)
        self.assertEqual(str(self.service.current.address), SECOND + "/")
        return server, pump

    def back(self, seconds: float = 60.0) -> tuple[MainServer, IOPump]:
        """The first is there again when the relay tries it."""
        attempts = self.attempts()
        for _ in range(int(seconds)):
            self.advance(1)
            if self.attempts() > attempts:
                break
        self.assertEqual(self.host(), FIRST)
        return self.connected()


class AwayTests(FailoverCase):
    def test_the_second_is_used_while_the_first_is_away(self) -> None:
        server, pump = self.on_the_second()
        self.assertIn("cannot be reached: connection refused", self.warnings()[0])
        self.assertIn("Next attempt in", self.warnings()[0])
        self.assertTrue(any(line.endswith(f", at {SECOND}/.") for line in self.warnings()), self.warnings())
        server.dialect.request("execute_command", ORDER)
        server.flush()
        pump.flush()
        [command] = [value for word, value in self.receiver.calls if word == "command"]
        self.assertEqual(command.origin, SECOND + "/")

    def test_one_that_refuses_the_key_is_passed_over_at_once(self) -> None:
        self.join(Scripted(b"HTTP/1.1 401 Unauthorized\r\n\r\n")).flush()
        self.assertIn("refused this relay", self.warnings()[-1])
        self.assertEqual(self.host(), SECOND)

    def test_one_that_never_answers_holds_up_the_others_for_a_while_only(self) -> None:
        self.join(Scripted(b""))
        for _ in range(int(LEAST_ROUND) + 40):
            if self.host() == SECOND:
                break
            if self.attempts() > 1 and self.reactor.tcpClients[-1][2] is not None and len(self.pumps) < self.attempts():
                self.join(Scripted(b""))
            self.advance(1)
        self.assertEqual(self.host(), SECOND)

    def test_attempts_are_counted_for_each(self) -> None:
        self.on_the_second()
        first, second = self.service.servers
        self.assertGreater(first.attempts, 1)
        self.assertEqual(second.attempts, 1)


class ReturnTests(FailoverCase):
    def test_it_returns_to_the_first(self) -> None:
        """The first accepts the relay before the second is left, and in good order."""
        second, _ = self.on_the_second()
        self.back()
        self.assertIsNone(second.closed)
        self.assertEqual(self.receiver.words(), ["ready"], "the command logic does not have the new link yet")
        self.advance(PROBATION)
        self.assertEqual(second.closed, 1000)
        self.assertEqual(self.receiver.words(), ["ready", "lost", "ready"])
        self.assertEqual(str(self.service.current.address), FIRST + "/")
        self.assertTrue(self.service.status.accepted)
        losses = self.service.status.losses
        self.advance(20)
        self.assertEqual((self.service.status.losses, self.service.status.last_error), (losses, None))
        self.assertIn(f"This relay leaves {SECOND}/ for {FIRST}/.", self.lines(LogLevel.info))

    def test_it_stays_while_something_is_under_way(self) -> None:
        self.on_the_second()
        self.claims[SECOND] = Claims(commands=True)
        attempts = self.attempts()
        for _ in range(40):
            self.advance(1)
        self.assertEqual(self.attempts(), attempts, "the first is not even asked")

    def test_a_command_that_comes_meanwhile_is_answered_first(self) -> None:
        second, _ = self.on_the_second()
        first, _ = self.back()
        self.claims[SECOND] = Claims(commands=True)
        self.advance(PROBATION)
        self.assertEqual((first.closed, second.closed), (1000, None))
        self.assertEqual(self.receiver.words(), ["ready"])
        self.assertTrue(self.service.status.accepted)
        self.assertEqual(str(self.service.current.address), SECOND + "/")

    def test_a_first_that_refuses_the_relay_costs_nothing(self) -> None:
        """The command logic never hears of it."""
        second, _ = self.on_the_second()
        warnings = len(self.warnings())
        first, pump = self.back()
        first.dialect.close()
        first.flush()
        pump.flush()
        self.advance(1)
        self.assertEqual(self.receiver.words(), ["ready"])
        self.assertIsNone(second.closed)
        self.assertEqual(len(self.warnings()), warnings)
        self.assertIn("stays with", self.lines(LogLevel.info)[-1])
        attempts = self.attempts()
        self.advance(10)
        self.assertEqual(self.attempts(), attempts)

    def test_the_second_is_lost_while_the_first_is_tried(self) -> None:
        second, _ = self.on_the_second()
        self.back()
        attempts = self.attempts()
        self.lose(second)
        self.assertFalse(self.service.status.accepted)
        self.advance(PROBATION)
        self.assertTrue(self.service.status.accepted)
        self.assertEqual(str(self.service.current.address), FIRST + "/")
        self.assertEqual(self.receiver.words(), ["ready", "lost", "ready"])
        self.assertEqual(self.attempts(), attempts)

    def test_results_are_brought_to_the_second(self) -> None:
        """And the relay is back at the first when they are confirmed."""
        self.on_the_second()
        first, _ = self.back()
        self.advance(PROBATION)
        self.claims[SECOND] = Claims(results=True)
        attempts = self.attempts()
        self.advance(1)
        self.assertEqual((self.attempts(), self.host()), (attempts + 1, SECOND))
        self.connected()
        self.advance(PROBATION)
        self.assertEqual(first.closed, 1000)
        self.assertEqual(str(self.service.current.address), SECOND + "/")
        self.claims.clear()
        self.back(3)

    def test_stopping_while_the_first_is_tried(self) -> None:
        second, _ = self.on_the_second()
        first, _ = self.back()
        stopped = self.service.stopService()
        self.advance(1)
        self.successResultOf(stopped)
        self.assertEqual((first.closed, second.closed), (1000, 1000))

    def test_stopping_while_it_is_dialled(self) -> None:
        self.on_the_second()
        attempts = self.attempts()
        for _ in range(60):
            if self.attempts() > attempts:
                break
            self.advance(1)
        stopped = self.service.stopService()
        self.advance(1)
        self.successResultOf(stopped)
        self.assertEqual(self.reactor.getDelayedCalls(), [])
