"""
The ways in which the API key could leave this machine unencrypted without anybody having allowed it.
"""

from __future__ import annotations

import socket
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from relayd.config.values import is_private
from relayd.errors import ConfigError
from relayd.network.spelling import read_address
from relayd.service import make_relay
from relayd.uplink.endpoint import make_endpoint
from relayd.uplink.settings import ServerAddress
from tests.config.test_options import ConfigCase
from tests.peers.test_main_servers import PeerCase
from tests.support.uplink import Scripted, ServiceCase

PROXY = "http://proxy.example:3128"

#: What is this machine, however it is spelt.
OURS = (
    "localhost",
    "LOCALHOST",
    "localhost.",
    "x.localhost",
    "127.0.0.1",
    "127.0.0.1.",
    "127.9.9.9",
    "127.1",
    "0x7f000001",
    "2130706433",
    "[::1]",
    "[::ffff:127.0.0.1]",
)
#: What looks like it, and may be anybody.
NOT_OURS = (
    "localhost.example",
    "xlocalhost",
    "x-localhost.example",
    "0.0.0.0",
    "[::]",
    "128.0.0.1",
    "127.0.0.1.example",
    "127.0.0.1.1",
    "[fe80::1]",
    "[::ffff:128.0.0.1]",
    "[::127.0.0.1]",
    "[64:ff9b::127.0.0.1]",
    "main.example",
)


class OptionTests(ConfigCase):
    """With what settings relayd starts."""

    def test_this_machine(self) -> None:
        for host in OURS:
            self.assertEqual(self.load(server=f"ws://{host}:3000").url, f"ws://{host}:3000")

    def test_others(self) -> None:
        for host in NOT_OURS:
            self.assertIn("unencrypted; use wss://", self.refusal(server=f"ws://{host}:3000"))

    def test_through_a_proxy(self) -> None:
        """It reads all that is said, and decides who "localhost" is."""
        for host in OURS:
            for proxy in (PROXY, "http://127.0.0.1:3128"):
                message = self.refusal(server=f"http://{host}:3000", http_proxy=proxy)
                self.assertIn("unencrypted to the proxy; use wss://", message)
        self.assertEqual(self.load(server="wss://localhost:3000", http_proxy=PROXY).http_proxy, PROXY)
        self.assertTrue(self.load(server="ws://localhost:3000", allow_plaintext=True).allow_plaintext)


class DialTests(ServiceCase):
    """Where what is taken for this machine is dialled."""

    def dialled(self, host: str) -> list[str]:
        """The addresses, one after the other, when none answers; the name is looked up nowhere."""
        clock = MemoryReactorClock()
        self.patch(clock, "nameResolver", None)
        endpoint = make_endpoint(clock, ServerAddress.of(f"ws://{host}:3000"), self.service.servers[0].settings)
        failed = endpoint.connect(Factory())
        found = []
        while not failed.called:
            address, _, factory, *_ = clock.tcpClients[len(found)]
            found.append(address)
            factory.clientConnectionFailed(None, Failure(ConnectionRefusedError()))
        self.failureResultOf(failed)
        return found

    def test_this_machine_only(self) -> None:
        """A name server may say of ``x.localhost``, or even of ``localhost``, what it likes."""
        for host in OURS:
            found = [read_address(address) for address in self.dialled(host)]
            self.assertTrue(found, host)
            self.assertTrue(all(address is not None and address.is_loopback for address in found), found)
        self.assertEqual(self.dialled("x.localhost"), ["127.0.0.1", "::1"])

    @given(st.text(alphabet="0123456789abcfx.:-[]%@/\\\u3002\u24db\u0660localhost", min_size=1, max_size=20))
    def test_whatever_is_taken_for_it(self, host: str) -> None:
        url = f"ws://{host}:3000"
        try:
            private, address = is_private(url, None), ServerAddress.of(url)
        except (ValueError, ConfigError):
            return
        if private:
            for each in self.dialled(host):
                found = read_address(each)
                self.assertTrue(found is not None and found.is_loopback, (url, address, each))

    def test_a_redirect_is_not_followed(self) -> None:
        for status in (301, 302, 303, 307, 308):
            attempts = self.attempts()
            for _ in range(2):  # one dialect, and the other
                answer = f"HTTP/1.1 {status} Moved\r\nLocation: http://evil.example/\r\nContent-Length: 0\r\n\r\n"
                self.join(Scripted(answer.encode())).flush()
                self.advance(8)
            hosts = {client[0] for client in self.reactor.tcpClients[attempts - 1 :]}
            self.assertEqual(hosts, {"192.0.2.9"})


class LocalhostTests(PeerCase):
    """The same with a real socket."""

    async def test_a_name_below_localhost(self) -> None:
        self.patch(socket, "getaddrinfo", lambda *_, **__: self.fail("a name was looked up"))
        scripted = Scripted(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        port: Any = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(
            Factory.forProtocol(lambda: scripted)
        )
        self.addCleanup(port.stopListening)
        self.dial(f"ws://main.localhost:{port.getHost().port}", dialect="native")
        await self.until_logged("Next attempt")
        await self.uplink.stopService()
        self.assertIn(b"Host: main.localhost:", scripted.received)


class ReloadTests(ConfigCase):
    """SIGHUP, with settings that are well by themselves and not beside what needs a restart."""

    def refuse(self, before: dict[str, Any], after: dict[str, Any]) -> None:
        relay = make_relay(MemoryReactorClock(), self.load(**before))
        for name in before:
            self.argv.pop(name.replace("_", "-"))
        new = self.load(**after)
        error = self.assertRaises(ConfigError, relay.apply, new)
        self.assertIn("restart relayd", str(error))
        settings = relay._uplink.servers[0].settings
        self.assertTrue(settings.http_proxy is None or relay._config.allow_plaintext)

    def test_a_proxy_for_another_main_server(self) -> None:
        self.refuse({"server": "ws://localhost:3000"}, {"server": "wss://main.example", "http_proxy": PROXY})

    def test_plaintext_no_longer_allowed(self) -> None:
        self.refuse({"server": "ws://main.example", "allow_plaintext": True}, {"server": "wss://main.example"})
