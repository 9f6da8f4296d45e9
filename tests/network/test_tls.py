"""
Whose certificate is taken for the dialled host's: a table, with a real OpenSSL at both ends of a loopback connection.
"""

from __future__ import annotations

import ast
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from unittest import mock

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtensionOID, NameOID
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.abstract import isIPAddress
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, connectProtocol, wrapClientTLS
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import Certificate as TwistedCertificate
from twisted.internet.ssl import ContextFactory, PrivateCertificate, optionsForClientTLS, trustRootFromCertificates
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer

from relayd.network.tls import certified_name, check_certificate, client_options, explain, is_verified
from relayd.network.tls_faults import CertificateRefused
from relayd.uplink.endpoint import describe
from tests.rules.test_imports import modules
from tests.support.certificates import Authority, Certificate

SECRET = b"GET /?apiKey=k3y HTTP/1.1\r\n\r\n"


def names(*dns: str, ip: str = "", uri: str = "") -> x509.SubjectAlternativeName:
    found: list[x509.GeneralName] = [x509.DNSName(name) for name in dns]
    found += [x509.IPAddress(ip_address(ip))] if ip else []
    found += [x509.UniformResourceIdentifier(uri)] if uri else []
    return x509.SubjectAlternativeName(found)


def malformed(der: bytes) -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, der)


#: The host that is dialled, and the names of a certificate that is good for it.
GOOD: tuple[tuple[str, x509.ExtensionType], ...] = (
    ("main.example", names("main.example")),
    ("main.example", names("other.example", "MAIN.Example")),
    ("main.example.", names("main.example")),
    ("xn--bcher-kva.example", names("xn--bcher-kva.example")),
    ("a.main.example", names("*.main.example")),
    ("127.0.0.1", names(ip="127.0.0.1")),
    ("127.0.0.1", names("main.example", ip="127.0.0.1")),
    ("::1", names(ip="::1")),
    ("fe80::1%lo", names(ip="fe80::1")),
    ("my_host.example", names("my_host.example")),
    ("r4--a.example", names("r4--a.example")),
    ("end-.example", names("end-.example")),
    ("my_host.main.example", names("*.main.example")),
    ("localhost", names("localhost", uri="spiffe://site/relay")),
)

#: The host that is dialled, the names of a certificate that must not pass for it, and what is said then.
BAD: tuple[tuple[str, x509.ExtensionType | None, str], ...] = (
    ("main.example", None, "not valid for any host (Certificate does not contain any `subjectAltName`s."),
    ("127.0.0.1", None, "not valid for any host (Certificate does not contain any"),
    ("main.example", names(), "not valid for any host (Certificate does not contain any"),
    ("main.example", names("other.example"), "is for another name; it names other.example, not main.example"),
    ("main.example", names("main.example.other"), "is for another name"),
    ("my_host.example", names("name.invalid"), "is for another name; it names name.invalid, not my_host.example"),
    ("my_host.example", names("my-host.example"), "is for another name"),
    ("my_host.example", None, "not valid for any host"),
    ("main.example", names("xmain.example"), "is for another name"),
    ("main.example", names("example"), "is for another name"),
    ("a.main.example", names("main.example"), "is for another name"),
    ("main.example", names("*.main.example"), "is for another name"),
    ("a.b.main.example", names("*.main.example"), "is for another name"),
    ("foobar.main.example", names("foo*.main.example"), "is for another name"),
    ("xn--bcher-kva.main.example", names("*.main.example"), "is for another name"),
    ("main.com", names("*.com"), "has too few host components"),
    ("main.com", names("main.com", "*.com"), "has too few host components"),
    ("localhost", names("*"), "has too few host components"),
    ("a.main.example", names("a.*.example"), "has a wildcard outside the left-most part"),
    ("foo.a.example", names("foo*.*.example"), "contains too many wildcards"),
    ("a.b.main.example", names("*.*.main.example"), "contains too many wildcards"),
    ("a.main.example", names("*..example"), "contains empty parts"),
    ("main.example", names(""), "Invalid DNS pattern"),
    ("main.example", names("main.example\0.evil.example"), "Invalid DNS pattern"),
    ("127.0.0.1", names("127.0.0.1"), "Invalid DNS pattern"),
    ("127.0.0.1", names("main.example"), "is for another name"),
    ("127.0.0.1", names(ip="127.0.0.2"), "is for another name; it names 127.0.0.2, not 127.0.0.1"),
    ("127.0.0.1", names(ip="::ffff:127.0.0.1"), "is for another name"),
    ("main.example", names(ip="127.0.0.1"), "is for another name"),
    ("main.example", names(uri="https://main.example"), "is for another name; it names no host at all"),
    ("main.example", names("main.example", uri="https://main.example:443/"), "cannot be read (ValueError"),
)


class Recorder(Protocol):
    """A server: writes down what it receives, decrypted, and whose certificate it was shown."""

    factory: Any
    transport: Any

    def dataReceived(self, data: bytes) -> None:
        self.factory.received += data
        if self.factory.received == SECRET:
            self.factory.asked_for = self.transport.getHandle().get_servername()
            shown = self.transport.getPeerCertificate()
            self.factory.shown = shown and shown.get_subject().commonName
            self.transport.write(b"welcome")


class ServerContext(ContextFactory):
    """Asks for a certificate of the client."""

    def __init__(self, certificate: Certificate, authority: str) -> None:
        self._context = SSL.Context(SSL.TLS_METHOD)
        self._context.use_certificate_chain_file(certificate.cert)
        self._context.use_privatekey_file(certificate.key)
        self._context.load_verify_locations(authority)
        self._context.set_verify(SSL.VERIFY_PEER, lambda *_: True)

    def getContext(self) -> SSL.Context:
        return self._context


@implementer(IHandshakeListener)
class Client(Protocol):
    """Any TLS client of the project: says its secret when it may."""

    transport: Any

    def __init__(self, host: str) -> None:
        self._host = host
        self.received = b""
        self.ended: Deferred[tuple[bytes, str]] = Deferred()

    def handshakeCompleted(self) -> None:
        if is_verified(self.transport, self._host):
            self.transport.write(SECRET)

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        error = reason.value
        self.ended.callback((self.received, describe(explain(self.transport, error or ValueError()))))


class TableTests(TestCase):
    """Every row, over a real connection."""

    timeout = 120

    def setUp(self) -> None:
        self.authority = Authority(Path(self.mktemp()).resolve())
        self.ours = self.authority.issue("relay.example")

    async def meet(self, host: str, certificate: Certificate, *, trusted: bool = True) -> tuple[Any, str]:
        """
        What a server with that certificate got to know, and how the connection ended for a client that dials *host*.
        """
        factory: Any = Factory.forProtocol(Recorder)
        factory.received, factory.shown = b"", None
        context = ServerContext(certificate, self.authority.path)
        server = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        port: Any = await server.listen(TLSMemoryBIOFactory(context, False, factory))
        self.addCleanup(port.stopListening)
        trust = TwistedCertificate.loadPEM(Path(self.authority.path).read_bytes())
        ours = PrivateCertificate.loadPEM(Path(self.ours.cert).read_bytes() + Path(self.ours.key).read_bytes())
        options = client_options(
            host, trust=trustRootFromCertificates([trust] if trusted else []), certificate=ours, chain=[]
        )
        client = Client(host)
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
        await connectProtocol(wrapClientTLS(options, endpoint), client)
        received, words = await client.ended
        self.assertIn(received, (b"", b"welcome"))
        return factory, words

    async def test_good(self) -> None:
        for host, san in GOOD:
            server, words = await self.meet(host, self.authority.issue("x.example", names=san))
            self.assertEqual((server.received, server.shown), (SECRET, "relay.example"), f"{host}: {words}")
            is_address = isIPAddress(host) or ":" in host
            self.assertEqual(server.asked_for, None if is_address else host.removesuffix(".").lower().encode(), host)

    async def refuse_all(self) -> None:
        for host, san, expected in BAD:
            # The common name, which is what it should be, must not count.
            server, words = await self.meet(host, self.authority.issue(host, names=san))
            self.assertEqual(server.received, b"", f"{host} {san}")
            self.assertTrue(words.startswith("its TLS certificate "), words)
            self.assertIn(expected, words)
        self.assertEqual(self.flushLoggedErrors(), [])

    async def test_bad(self) -> None:
        await self.refuse_all()

    async def test_what_only_openssl_reads(self) -> None:
        """The words say what is wrong, and give no advice for something else."""
        certificate = self.authority.issue("main.example")
        self.authority.spoil(certificate)
        for callback in (True, False):
            with mock.patch.object(SSL.Connection, "set_verify", lambda *_: None) if not callback else nullcontext():
                server, words = await self.meet("main.example", certificate)
            self.assertEqual(server.received, b"")
            self.assertTrue(words.startswith("its TLS certificate cannot be read (InvalidVersion"), words)
        self.assertEqual(self.flushLoggedErrors(), [])

    async def test_bad_on_the_second_look(self) -> None:
        """Were the callback wrong, as that of Twisted 26.4 is, nothing would be sent all the same."""
        with mock.patch.object(SSL.Connection, "set_verify", lambda connection, mode, callback: None):
            await self.refuse_all()

    async def test_twisted_takes_them(self) -> None:
        """Why all of this is there; once this fails, Twisted looks by itself."""

        def as_twisted(host: str, *, trust: Any, certificate: Any, chain: Any) -> Any:
            return optionsForClientTLS(host, trustRoot=trust, clientCertificate=certificate)

        patched = mock.patch(f"{__name__}.client_options", as_twisted)
        with patched, mock.patch(f"{__name__}.is_verified", lambda transport, host: not transport.disconnecting):
            server, _ = await self.meet("main.example", self.authority.issue("other.example", names=None))
        self.assertEqual(server.received, SECRET)
        self.assertEqual(len(self.flushLoggedErrors()), 1)

    async def test_our_certificate_is_not_shown_to_a_stranger(self) -> None:
        """The handshake itself fails: the second look alone would come after our certificate was sent."""
        with mock.patch(f"{__name__}.is_verified", lambda transport, host: not transport.disconnecting):
            for host, san, _ in BAD:
                server, words = await self.meet(host, self.authority.issue(host, names=san))
                self.assertEqual(server.received, b"", words)

    async def test_who_signed_it_and_when(self) -> None:
        expired = self.authority.issue("main.example", timedelta(days=-1))
        server, words = await self.meet("main.example", expired)
        self.assertEqual((server.received, "has expired" in words), (b"", True), words)
        server, words = await self.meet("main.example", self.authority.issue("main.example"), trusted=False)
        self.assertEqual(
            (server.received, 'from the authority "CN=authority", which is not among the authorities of this' in words),
            (b"", True),
            words,
        )
        server, words = await self.meet("main.example", self.authority.issue("main.example", self_signed=True))
        self.assertEqual((server.received, "self-signed" in words), (b"", True), words)


class ClientTests(SynchronousTestCase):
    """Who speaks TLS as a client."""

    def test_all_go_through_one_module(self) -> None:
        makers = {"optionsForClientTLS", "CertificateOptions", "SSL4ClientEndpoint", "connectSSL", "startTLS"}
        makers |= {"clientFromString", "BrowserLikePolicyForHTTPS", "SSLContext", "create_default_context", "urlopen"}
        found = set()
        for name, path in modules().items():
            for node in ast.walk(ast.parse(path.read_text())):
                word = getattr(node, "id", getattr(node, "attr", getattr(node, "name", None)))
                if word in makers:
                    found.add(name)
        # The hub is a server; `relayctl` asks a hub by Python's own client, which verifies as well.
        asking = {"relayd.ctl.client.http", "relayd.ctl.client.options", "relayd.ctl.enrolment_request"}
        self.assertEqual(found, {"relayd.network.tls", "relayd.hub.service.certificate"} | asking)


class PropertyTests(SynchronousTestCase):
    """Whatever stands in a certificate."""

    key = ec.generate_private_key(ec.SECP256R1())

    def look(self, san: x509.ExtensionType, host: str) -> None:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(name, name, self.key.public_key(), 1, now, now + timedelta(days=1))
        check_certificate(builder.add_extension(san, critical=False).sign(self.key, hashes.SHA256()), host)

    @given(der=st.binary(max_size=60), host=st.sampled_from(("main.example", "127.0.0.1", "::1")))
    def test_nonsense_is_refused(self, der: bytes, host: str) -> None:
        self.assertRaises(CertificateRefused, self.look, malformed(der), host)

    @given(
        san=st.lists(st.from_regex(r"(\*\.)?[a-c]{1,2}(\.[a-c]{1,2}){0,2}", fullmatch=True), min_size=1, max_size=3),
        host=st.from_regex(r"[a-c]{1,2}(\.[a-c]{1,2}){0,3}", fullmatch=True),
    )
    def test_names(self, san: list[str], host: str) -> None:
        well_formed = all(name.count(".") >= 2 for name in san if "*" in name)
        tail = host.partition(".")[2]
        matches = host in san or (bool(tail) and f"*.{tail}" in san)
        try:
            self.look(names(*san), host)
        except CertificateRefused as error:
            self.assertFalse(matches and well_formed, error)
        else:
            self.assertTrue(matches and well_formed, host)


class HostTests(SynchronousTestCase):
    """What is dialled."""

    def test_what_no_certificate_can_name(self) -> None:
        for host in ("2130706433", "main example", "", ".", "a/b", "*.example", "main.example:443"):
            self.assertRaises(ValueError, certified_name, host)
            self.assertRaises(ValueError, client_options, host)
