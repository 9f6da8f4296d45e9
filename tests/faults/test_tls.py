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
from twisted.internet.defer import Deferred, gatherResults
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
    async def refused(self, certificate: Certificate | None, words: str, version: int | None = None) -> Relayd:
        """The relay says these words, tries again, and the server has learned nothing."""
        factory: Any = Factory.forProtocol(Recorder)
        factory.received, factory.connections = [], 0
        listener = factory
        if certificate is not None:
            listener = TLSMemoryBIOFactory(Context(certificate, version), False, factory)
        port = self.reactor.listenTCP(0, listener, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        proxy = await self.proxy(port.getHost().port)
        raw: list[bytes] = []
        proxy.up.tap = raw.append
        relay = self.make_relay(f"https://localhost:{proxy.port}", "--tls-ca", self.authority.path)
        await self.until(lambda: relay.log.count("Next attempt in") >= 2, f"two attempts, because of {words}")
        lines = [line for line in relay.output if "Next attempt in" in line]
        self.assertIn(words, lines[0])
        for secret in (Relayd.api_key, Relayd.proxy_id, "apiKey"):
            self.assertNotIn(secret.encode(), b"".join(raw))
            if certificate is not None:
                self.assertEqual(factory.received, [], words)
        self.assertGreater(len(b"".join(raw)), 100, "a TLS greeting was sent")
        self.assertNotIn("Traceback", relay.log)
        self.assertNotIn(Relayd.api_key, relay.log)
        return relay

    async def test_each_fault(self) -> None:
        directory = Path(self.mktemp()).resolve()
        self.authority = Authority(directory)
        good = self.authority.issue("localhost")
        cases = [
            self.refused(self.authority.issue("localhost", timedelta(days=-1)), "certificate has expired"),
            self.refused(self.authority.issue("other.example"), "certificate is for another name"),
            self.refused(
                self.authority.issue("localhost", names=None), "it needs the subject alternative name localhost"
            ),
            self.refused(self.authority.issue("localhost", self_signed=True), "certificate is self-signed"),
            self.refused(Authority(directory, "stranger").issue("localhost"), 'comes from "CN=stranger", which'),
            self.refused(None, "it does not speak TLS there"),
            self.refused(good, "it takes neither TLS 1.2 nor 1.3", SSL.TLS1_VERSION),
            self.refused(good, "it takes neither TLS 1.2 nor 1.3", SSL.TLS1_1_VERSION),
        ]
        await gatherResults([Deferred.fromCoroutine(case) for case in cases])
