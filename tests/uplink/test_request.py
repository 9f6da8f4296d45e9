"""
What is asked of a main server, and what is made of answers that it gives before the one that counts.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relayd.uplink.quoting import Quoting
from relayd.uplink.request import MAX_INTERIM, skip_interim
from relayd.uplink.settings import ServerAddress
from relayd.uplink.tunnel import _Refused, _Tunnel
from tests.support.uplink import MainServer, Scripted, ServiceCase

EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Host(SynchronousTestCase):
    def test_the_schemes_own_port_is_left_out(self) -> None:
        for url, expected in (
            ("https://main.test", "main.test"),
            ("https://main.test:443", "main.test"),
            ("wss://main.test", "main.test"),
            ("https://main.test:80", "main.test:80"),
            ("http://main.test", "main.test"),
            ("ws://main.test:80/x", "main.test"),
            ("http://main.test:443", "main.test:443"),
            ("https://[2001:db8::1]", "[2001:db8::1]"),
            ("https://[2001:db8::1]:8443", "[2001:db8::1]:8443"),
            ("http://[fe80::1%25eth0]", "[fe80::1]"),
            ("http://[fe80::1%25eth0]:8443", "[fe80::1]:8443"),
        ):
            self.assertEqual(ServerAddress.of(url).authority, expected)


class Early(MainServer):
    """Says something before the answer to the request."""

    early = b""

    def succeedHandshake(self, res: Any) -> None:
        self.transport.write(self.early)
        super().succeedHandshake(res)


class Interim(ServiceCase):
    def reach(self, early: bytes) -> bool:
        stopped = self.service.stopService()
        self.advance(6)
        self.successResultOf(stopped)
        self.begin()
        server = self.main_server()
        server.__class__ = Early
        server.early = early  # type: ignore[attr-defined]
        self.join(server).flush()
        self.advance(2.1)
        return self.service.status.accepted

    def test_skipped_before_101(self) -> None:
        for early in (CONTINUE, EARLY, CONTINUE + EARLY, b"HTTP/1.1 102\r\n\r\n"):
            self.assertTrue(self.reach(early), early)

    def test_not_without_end(self) -> None:
        self.join(Scripted(CONTINUE * 5000)).flush()
        self.assertIn("endless interim answers", self.warnings()[-1])

    def test_before_a_refusal(self) -> None:
        self.join(Scripted(EARLY + b"HTTP/1.1 403 No\r\n\r\n")).flush()
        self.no_polling()
        self.assertIn("refused this relay (HTTP 403", self.warnings()[-1])

    @given(st.binary(max_size=40), st.integers(0, MAX_INTERIM - 1))
    def test_what_follows_is_untouched(self, rest: bytes, times: int) -> None:
        rest = b"HTTP/1.1 101 Yes\r\n\r\n" + rest
        self.assertEqual(skip_interim(EARLY * times + rest), (rest, times))


class Transport:
    lost = False

    def abortConnection(self) -> None:
        self.lost = True


class Tunnel(SynchronousTestCase):
    def answer(self, data: bytes, size: int) -> tuple[Any, Any]:
        tunnel = _Tunnel(Clock(), Quoting())
        tunnel.transport = Transport()
        for start in range(0, len(data), size):
            tunnel.dataReceived(data[start : start + size])
        return tunnel, tunnel.granted

    def test_skipped_before_200(self) -> None:
        for size in (1, 7, 1000):
            tunnel, granted = self.answer(CONTINUE + EARLY + b"HTTP/1.1 200 OK\r\n\r\nhello", size)
            self.assertIsNone(self.successResultOf(granted))
            inner = Protocol()
            received: list[bytes] = []
            inner.dataReceived = received.append  # type: ignore[method-assign, assignment]
            tunnel.hand_over(inner)
            self.assertEqual(b"".join(received), b"hello")

    def test_not_without_end(self) -> None:
        tunnel, granted = self.answer(CONTINUE * 100, 1000)
        self.assertIn("endless", str(self.failureResultOf(granted, _Refused).value))
        self.assertTrue(tunnel.transport.lost)
