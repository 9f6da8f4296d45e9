"""
Main servers whose TLS is not what it should be: none of them ever sees the API key, and the log names the cause.

``tests/peers/test_tls.py`` has the same for each certificate, with the uplink alone and npm's server; here the whole
relay runs, and all that the servers receive is written down, as it comes and decrypted.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from OpenSSL import SSL
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import ContextFactory
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure

from tests.support.certificates import Authority, Certificate
from tests.support.faults import FaultCase
from tests.support.relays import Relayd


class Recorder(Protocol):
    """Writes down what it receives, answers as an HTTP server that does not know what it is asked, and hangs up."""

    factory: Any
    transport: Any

    def dataReceived(self, data: bytes) -> None:
        self.factory.received.append(data)
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        self.transport.loseConnection()

    def connectionMade(self) -> None:
        self.factory.connections += 1

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Often at once."""


class Context(ContextFactory):
    """TLS with these versions at most, however unsafe they are."""

    def __init__(self, certificate: Certificate, version: int | None) -> None:
        self._context = SSL.Context(SSL.TLS_METHOD)
        if version is not None:
            self._context.set_cipher_list(b"ALL:@SECLEVEL=0")
            self._context.set_max_proto_version(version)
            self._context.set_min_proto_version(SSL.TLS1_VERSION)
        self._context.use_certificate_chain_file(certificate.cert)
        self._context.use_privatekey_file(certificate.key)

    def getContext(self) -> SSL.Context:
        return self._context


class TLSTests(FaultCase):
    """One relay, which finds another server behind the same port for each fault."""

    async def refused(self, certificate: Certificate | None, words: str, version: int | None = None) -> None:
        """The relay says these words, tries again, and the server has learned nothing."""
        factory: Any = Factory.forProtocol(Recorder)
        factory.received, factory.connections = [], 0
        listener = factory
        if certificate is not None:
            listener = TLSMemoryBIOFactory(Context(certificate, version), False, factory)
        port = self.reactor.listenTCP(0, listener, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        raw: list[bytes] = []
        self.way.up.tap = raw.append
        self.way.server_port = port.getHost().port
        # An attempt at the server before this one may still be under way, and its line comes before the next attempt.
        await self.until(lambda: factory.connections, f"one attempt, because of {words}")
        await self.sleep(0.01)
        first = len(self.relay.output)
        await self.until(lambda: self.attempts(first) and factory.connections > 1, f"two attempts, because of {words}")
        for line in self.attempts(first):
            self.assertIn(words, line)
        for secret in (Relayd.api_key, Relayd.proxy_id, "apiKey"):
            self.assertNotIn(secret.encode(), b"".join(raw))
            if certificate is not None:
                self.assertEqual(factory.received, [], words)
        self.assertGreater(len(b"".join(raw)), 100, "a TLS greeting was sent")

    def attempts(self, first: int) -> list[str]:
        """What the relay said of its attempts, from a line of its output on."""
        return [line for line in self.relay.output[first:] if "Next attempt in" in line]

    async def test_each_fault(self) -> None:
        directory = Path(self.mktemp()).resolve()
        self.authority = Authority(directory)
        good = self.authority.issue("localhost")
        cases: list[tuple[Any, ...]] = [
            (self.authority.issue("localhost", timedelta(days=-1)), "certificate has expired"),
            (self.authority.issue("other.example"), "certificate is for another name"),
            (self.authority.issue("localhost", names=None), "it needs the subject alternative name localhost"),
            (self.authority.issue("localhost", self_signed=True), "certificate is self-signed"),
            (Authority(directory, "stranger").issue("localhost"), 'comes from "CN=stranger", which'),
            (None, "it does not speak TLS there"),
            (good, "it takes neither TLS 1.2 nor 1.3", SSL.TLS1_VERSION),
            (good, "it takes neither TLS 1.2 nor 1.3", SSL.TLS1_1_VERSION),
        ]
        self.way = await self.proxy(0)
        self.way.holding = True
        self.relay = self.make_relay(
            f"https://localhost:{self.way.port}", "--tls-ca", self.authority.path, "--reconnect-delay", "100ms"
        )
        await self.until(lambda: self.way.links, "it dials")
        self.way.holding = False
        self.way.newest.cut()
        await self.until(lambda: self.attempts(0), "the first attempt is over")
        for case in cases:
            await self.refused(*case)
        self.assertNotIn("Traceback", self.relay.log)
        self.assertNotIn(Relayd.api_key, self.relay.log)
