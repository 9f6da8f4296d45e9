"""
What is said of each fault of TLS: a real OpenSSL at both ends, joined in memory.
"""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.ssl import Certificate as TwistedCertificate
from twisted.internet.ssl import PrivateCertificate, trustRootFromCertificates
from twisted.protocols.tls import _representsEOF
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from relayd.network import tls_faults
from relayd.network.tls import client_options, explain
from relayd.network.tls_faults import TLSFailed
from relayd.uplink.quoting import Quoting
from tests.support.certificates import Authority, Certificate

KEY = "k3y-" + "x" * 40


@implementer(ISSLTransport)
class Transport:
    """Has the TLS side of a connection, as Twisted's has."""

    def __init__(self, handle: object) -> None:
        self._handle = handle

    def getHandle(self) -> object:
        return self._handle


class FaultCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).resolve()
        self.authority = Authority(self.directory)
        self.good = self.authority.issue("main.example")
        self.ends: list[float] = []
        self.revocations: list[bytes] = []
        self.ca_file: str | None = "/etc/relayd/ca{1}.pem"

    def client(self, host: str, ours: Certificate | None = None) -> Any:
        trusted = [] if self.ca_file is None else [TwistedCertificate.loadPEM(Path(self.authority.path).read_bytes())]
        certificate = None
        if ours is not None:
            certificate = PrivateCertificate.loadPEM(Path(ours.cert).read_bytes() + Path(ours.key).read_bytes())
        options = client_options(
            host,
            trust=trustRootFromCertificates(trusted),
            revocations=[x509.load_pem_x509_crl(each) for each in self.revocations],
            ca_file=self.ca_file,
            certificate=certificate,
            on_end_seen=self.ends.append,
        )
        connection: Any = options.clientConnectionForTLS(None)  # type: ignore[arg-type]
        connection.set_connect_state()
        return connection

    def server(self, certificate: Certificate, **settings: Any) -> SSL.Connection:
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_cipher_list(settings.get("ciphers", b"DEFAULT:@SECLEVEL=0"))
        context.set_min_proto_version(settings.get("oldest", SSL.TLS1_VERSION))
        context.set_max_proto_version(settings.get("latest", SSL.TLS1_3_VERSION))
        context.use_certificate_chain_file(certificate.cert)
        context.use_privatekey_file(certificate.key)
        if (authority := settings.get("client_authority")) is not None:
            context.load_verify_locations(authority.path)
            needed = SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT
            context.set_verify(needed if settings.get("strict", True) else SSL.VERIFY_PEER, settings.get("verify"))
        connection = SSL.Connection(context, None)
        connection.set_accept_state()
        return connection

    def meet(self, client: Any, server: SSL.Connection) -> TLSFailed:
        """Let both ends shake hands, and the client read, until it fails."""
        for _ in range(10):
            try:
                client.do_handshake()
                client.recv(1)
            except SSL.WantReadError:
                pass
            except SSL.Error as error:
                return self.explained(client, error)
            _pass_on(client, server)
            with contextlib.suppress(SSL.Error):  # it says so in an alert
                server.do_handshake()
            _pass_on(server, client)
        raise AssertionError("nothing failed")

    def hear(self, client: Any, *answers: bytes) -> TLSFailed:
        """Let the client hear what is not what a good server says."""
        for answer in (b"", *answers):
            if answer:
                client.bio_write(answer)
            try:
                client.do_handshake()
            except SSL.WantReadError:
                continue
            except SSL.Error as error:
                return self.explained(client, error)
        raise AssertionError("nothing failed")

    def explained(self, client: Any, error: BaseException) -> TLSFailed:
        reason = explain(Transport(client), error)
        assert isinstance(reason, TLSFailed), reason
        self.assertNotIn("\n", str(reason))
        return reason

    def refused(self, certificate: Certificate, host: str = "main.example", ours: Certificate | None = None) -> str:
        return str(self.meet(self.client(host, ours), self.server(certificate)))


def _pass_on(source: SSL.Connection, target: SSL.Connection) -> None:
    with contextlib.suppress(SSL.WantReadError):
        target.bio_write(source.bio_read(1 << 16))


class TimeTests(FaultCase):
    """Out of its time: both dates and the clock are there, and nobody claims to know which is wrong."""

    def said_dates(self, words: str) -> list[datetime]:
        parts = words.replace(",", "").replace(";", "").split()
        stamps = [f"{a} {b}" for a, b, c in zip(parts, parts[1:], parts[2:], strict=False) if c == "UTC"]
        return [datetime.strptime(stamp, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC) for stamp in stamps]

    def check(self, words: str, begin: timedelta, end: timedelta) -> None:
        first, last, now = self.said_dates(words)
        self.assertLess(abs(datetime.now(UTC) - now), timedelta(minutes=5))
        self.assertLess(abs(now + begin - first), timedelta(minutes=5))
        self.assertLess(abs(now + end - last), timedelta(minutes=5))
        self.assertTrue(words.endswith("if the clock is right, replace the certificate; if not, set the clock"), words)

    def test_expired(self) -> None:
        words = self.refused(self.authority.issue("main.example", timedelta(days=-1)))
        self.assertIn("its TLS certificate has expired: it is valid from ", words)
        self.check(words, timedelta(days=-30), timedelta(days=-1))

    def test_not_yet_valid(self) -> None:
        words = self.refused(self.authority.issue("main.example", timedelta(days=9), begins=timedelta(days=3)))
        self.assertIn("its TLS certificate is not yet valid: it is valid from ", words)
        self.check(words, timedelta(days=3), timedelta(days=9))

    def test_an_authority(self) -> None:
        """As with a clock of 1970: OpenSSL looks at the root first."""
        times = {"begins": timedelta(days=3), "lifetime": timedelta(days=9)}
        self.authority = Authority(self.directory, "young", **times)
        words = self.refused(self.authority.issue("main.example"))
        self.assertIn(
            'the certificate of the authority "CN=young", on which its TLS certificate depends, is not', words
        )
        self.check(words, *times.values())

    def test_ours(self) -> None:
        ours = self.authority.issue("relay.example", timedelta(days=-1))
        for latest in (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION):
            server = self.server(self.good, client_authority=self.authority, latest=latest)
            words = str(self.meet(self.client("main.example", ours), server))
            self.assertIn("it refuses the certificate of --tls-cert with the alert certificate_expired: it is", words)
            first, last, now = self.said_dates(words)
            self.assertTrue(first < last < now, words)


class AuthorityTests(FaultCase):
    """An authority that is not trusted: it is named, and what to do depends on what is trusted."""

    def test_self_signed(self) -> None:
        words = self.refused(self.authority.issue("main.example", self_signed=True))
        self.assertEqual(
            words,
            'its TLS certificate is self-signed, by "CN=main.example", and not among the authorities in --tls-ca '
            "/etc/relayd/ca{1}.pem; if it is the main server's own (compare the fingerprints), add it to that file; if "
            "not, look for a proxy or firewall that intercepts TLS",
        )

    def test_a_stranger_that_sends_its_own_certificate_too(self) -> None:
        """As a proxy does that intercepts TLS."""
        stranger = Authority(self.directory, "Site Proxy")
        certificate = stranger.issue("main.example")
        _append(certificate, stranger)
        words = self.refused(certificate)
        self.assertIn('comes from the authority "CN=Site Proxy", which is not among the authorities in', words)
        self.assertIn("if you know that authority, add its certificate to that file; if not, look for a proxy", words)

    def test_without_tls_ca(self) -> None:
        self.ca_file = None
        certificate = self.authority.issue("main.example")
        words = self.refused(certificate)
        self.assertIn('comes from "CN=authority", which is not among the authorities of this machine, and', words)
        self.assertIn("name a file with its certificate in --tls-ca; if not", words)

    def test_a_missing_intermediate(self) -> None:
        between = Authority(self.directory, "between", issuer=self.authority)
        certificate = between.issue("main.example")
        words = self.refused(certificate)
        self.assertIn('comes from "CN=between", which is not among the authorities in', words)
        self.assertIn("and it sends no other certificate; if that is an intermediate authority, let the main", words)
        _append(certificate, Authority(self.directory, "third"))
        self.assertIn("and it sends no certificate of it;", self.refused(certificate))

    def test_an_unknown_root_behind_an_intermediate(self) -> None:
        between = Authority(self.directory, "between", issuer=Authority(self.directory, "stranger"))
        certificate = between.issue("main.example")
        _append(certificate, between)
        words = self.refused(certificate)
        self.assertIn('comes from the authority "CN=stranger", by way of "CN=between"; the former is not among', words)

    def test_what_has_no_words_of_its_own(self) -> None:
        usage = x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH])
        certificate = self.authority.issue("main.example", usage=usage)
        words = "its TLS certificate is refused: unsuitable certificate purpose; the main server needs another one"
        self.assertEqual(self.refused(certificate), words)
        self.patch(tls_faults, "SSL", object())
        self.assertIn("is refused: verdict 26 of OpenSSL; the", self.refused(certificate))


def _append(certificate: Certificate, authority: Authority) -> None:
    with open(certificate.cert, "a") as file:
        file.write(Path(authority.path).read_text())


class RevocationTests(FaultCase):
    """Lists of revoked certificates, where the site has any."""

    def test_revoked(self) -> None:
        self.revocations = [self.authority.revoke(self.good)]
        words = (
            "its TLS certificate has been revoked, as a list (CRL) in --tls-ca /etc/relayd/ca{1}.pem says; replace it"
        )
        self.assertIn(words, self.refused(self.good))
        with self.assertRaises(AssertionError, msg="nothing failed"):
            self.refused(self.authority.issue("main.example"))

    def test_a_list_of_another_authority(self) -> None:
        self.revocations = [Authority(self.directory, "stranger").revoke()]
        words = 'lists of revoked certificates (CRL), but none of "CN=authority", which issued its TLS certificate; add'
        self.assertIn(words, self.refused(self.good))

    def test_out_of_date(self) -> None:
        for begins in (timedelta(days=-9), timedelta(days=9)):
            self.revocations = [self.authority.revoke(begins=begins)]
            words = (
                'the list of certificates that "CN=authority" has revoked (CRL), in --tls-ca /etc/relayd/ca{1}.pem, is'
            )
            self.assertIn(words, self.refused(self.good))


class NameTests(FaultCase):
    """Another name: those that it has are there, and what would be right."""

    def test_names(self) -> None:
        words = self.refused(self.authority.issue("other.example"))
        self.assertIn("it names other.example, not main.example; write a name that it has in --server, or give", words)
        self.assertIn("with the subject alternative name DNS:main.example", words)

    def test_an_address(self) -> None:
        for host, wanted in (("192.0.2.7", "IP:192.0.2.7"), ("fe80::1%eth0", "IP:fe80::1")):
            words = self.refused(self.good, host)
            self.assertIn(f"it names main.example, not {wanted[3:]}; write a name that it has in --server", words)
            self.assertTrue(words.endswith(f"the subject alternative name {wanted}"), words)

    def test_what_the_peer_chooses_is_quoted(self) -> None:
        """A certificate may have anything in its names: neither the key nor a line end gets into the log."""
        name = x509.SubjectAlternativeName([x509.DNSName(f"{KEY}.example"), x509.DNSName("x" * 300)])
        for certificate in (self.authority.issue("x", names=name), self.authority.issue(f"a\n{KEY}", self_signed=True)):
            words = self.meet(self.client("main.example"), self.server(certificate)).words(Quoting(KEY))
            self.assertNotIn(KEY, words)
            self.assertIn("[redacted]", words)
            self.assertTrue(words.isprintable(), words)
            self.assertLess(len(words), 800)


class ClientCertificateTests(FaultCase):
    """The main server wants a certificate, in TLS 1.2, and in 1.3, where it says so after the handshake."""

    def ask(self, ours: Certificate | None, authority: Authority | None = None) -> set[str]:
        said = set()
        for latest in (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION):
            server = self.server(self.good, client_authority=authority or self.authority, latest=latest)
            said.add(str(self.meet(self.client("main.example", ours), server)))
        return said

    def test_none(self) -> None:
        words = "it asked for a client certificate, relayd has none, and it ended TLS with the alert {}; name one with "
        alerts = ("handshake_failure", "certificate_required")
        self.assertEqual(self.ask(None), {words.format(alert) + "--tls-cert and --tls-key" for alert in alerts})

    def test_of_an_unknown_authority(self) -> None:
        ours = Authority(self.directory, "stranger").issue("relay.example")
        (words,) = self.ask(ours)
        self.assertIn('with the alert unknown_ca: it has to know the authority "CN=stranger", or --tls-cert', words)

    def test_one_that_is_refused_without_an_alert(self) -> None:
        """The main server closes the connection after the handshake."""
        ours = Authority(self.directory, "stranger").issue("relay.example")
        for certificate, words in (
            (ours, "got that of --tls-cert, and closed the connection without an answer; look whether it takes certif"),
            (None, "relayd has none, and it closed the connection without an answer; if it needs one, name it with"),
        ):
            client = self.client("main.example", certificate)
            server = self.server(self.good, client_authority=self.authority, strict=False, verify=lambda *_: True)
            self.shake_hands(client, server)
            self.assertIn(words, str(self.explained(client, ConnectionDone())))
            server.send(b"HTTP/1.1 403 Forbidden\r\n\r\n")
            _pass_on(server, client)
            client.recv(99)
            error = ConnectionDone()
            self.assertIs(explain(Transport(client), error), error)

    def shake_hands(self, client: Any, server: SSL.Connection) -> None:
        with self.assertRaises(AssertionError, msg="nothing failed"):
            self.meet(client, server)

    def test_revoked(self) -> None:
        """An alert after the certificate was sent; one before it cannot be about the certificate."""
        ours = self.authority.issue("relay.example")
        words = str(tls_faults.why_alerted(44, host="h", asked=True, ours=_read(ours)))
        self.assertIn("the certificate of --tls-cert with the alert certificate_revoked: get a new one", words)
        words = str(self.hear(self.client("main.example", ours), b"\x15\x03\x03\0\2\2\x2c"))
        self.assertEqual(words, "it ended TLS with the alert certificate_revoked: its log may say why")


def _read(certificate: Certificate) -> x509.Certificate:
    return x509.load_pem_x509_certificate(Path(certificate.cert).read_bytes())


class AlertTests(FaultCase):
    """The main server ends the handshake."""

    def test_an_old_version(self) -> None:
        for latest in (SSL.TLS1_VERSION, SSL.TLS1_1_VERSION):
            words = str(self.meet(self.client("main.example"), self.server(self.good, latest=latest)))
            self.assertIn("with the alert protocol_version: it takes neither TLS 1.2 nor 1.3, and relayd", words)

    def test_an_old_version_that_is_answered(self) -> None:
        """A server that knows no newer one answers with its own."""
        hello = b"\3\1" + bytes(32) + b"\0\xc0\x09\0"
        record = b"\2\0\0" + bytes([len(hello)]) + hello
        words = str(self.hear(self.client("main.example"), b"\x16\3\1\0" + bytes([len(record)]) + record))
        self.assertIn("TLS failed: unsupported protocol; it takes neither TLS 1.2 nor 1.3", words)

    def test_no_common_cipher(self) -> None:
        server = self.server(self.good, ciphers=b"AES128-SHA:@SECLEVEL=0", latest=SSL.TLS1_2_VERSION)
        words = str(self.meet(self.client("main.example"), server))
        self.assertIn("with the alert handshake_failure: most often the two have no cipher suite in common", words)

    def test_alerts(self) -> None:
        for number, words in (
            (112, "unrecognized_name: it does not know the name main.example; look at the name in --server"),
            (80, "internal_error: its log may say why"),
            (71, "insufficient_security: most often the two have no cipher suite"),
            (199, "with the alert 199: its log may say why"),
        ):
            alert = b"\x15\x03\x03\0\2\2" + bytes([number])
            self.assertIn(words, str(self.hear(self.client("main.example"), alert)))

    def test_a_warning_is_not_the_reason(self) -> None:
        """An alert that only warns comes before another reason."""
        warning = b"\x15\x03\x03\0\2\1\x70"
        words = str(self.hear(self.client("main.example"), warning, b"HTTP/1.1 400 Bad Request\r\n\r\n"))
        self.assertNotIn("unrecognized_name", words)

    def test_close_notify_in_the_handshake(self) -> None:
        """OpenSSL's error for it has no words, which Twisted needs (`twisted.protocols.tls._representsEOF`)."""
        client = self.client("main.example")
        self.hear_nothing(client)
        client.bio_write(b"\x15\3\3\0\2\1\0")
        with self.assertRaises(SSL.Error) as caught:
            client.do_handshake()
        self.assertIs(_representsEOF(caught.exception), False)
        words = str(self.explained(client, caught.exception))
        self.assertEqual(
            words, "TLS failed: the peer ended it with close_notify during the handshake; its log may say why"
        )

    def hear_nothing(self, client: Any) -> None:
        with self.assertRaises(SSL.WantReadError):
            client.do_handshake()


class NoTLSTests(FaultCase):
    """Something else is there: what it says is quoted, and no guess is made."""

    def test_what_it_says(self) -> None:
        for answer, shown in (
            (b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n", "HTTP/1.1 400 Bad Request"),
            (b"SSH-2.0-OpenSSH_9.9\r\n", "SSH-2.0-OpenSSH_9.9"),
            (b"220 mail.example ESMTP\r\n", "220 mail.example ESMTP"),
            (b"J\0\0\0\n8.0.32\0abcdefgh\1\2", "8.0.32 abcdefgh"),
            (bytes(range(200, 256)), "c8 c9 ca cb cc cd ce cf d0 d1 d2 d3 d4 d5 d6 d7"),
            (b"apiKey=" + KEY.encode() + b"\n", "apiKey=[redacted]"),
        ):
            failed = self.hear(self.client("main.example"), answer)
            words = f'it does not speak TLS there: its answer begins with "{shown}"; look at the scheme and port of'
            self.assertIn(words, failed.words(Quoting(KEY)))

    def test_in_small_pieces(self) -> None:
        """What is said does not depend on how the answer is cut."""
        answer = b"SSH-2.0-OpenSSH_9.9\r\n"
        failed = self.hear(self.client("main.example"), answer[:1], answer[1:])
        self.assertIn('its answer begins with "SSH-2.0-OpenSSH_9.9"', str(failed))
        broken = b"\x16\3\3\0\4\2\0\0\0" * 2  # a record of TLS, and a ServerHello that is too short
        failed = self.hear(self.client("main.example"), broken[:1], broken[1:])
        self.assertIn("TLS failed: ", str(failed))
        self.assertNotIn("it does not speak TLS", str(failed))

    def test_nothing(self) -> None:
        for error in (ConnectionDone(), ConnectionLost()):
            words = str(self.explained(self.client("main.example"), error))
            self.assertIn("it closed the connection when relayd began TLS, without an answer", words)

    def test_what_is_not_tls_s_fault(self) -> None:
        client = self.client("main.example")
        client.bio_write(b"\x16\3\3")
        error = ConnectionDone()
        self.assertIs(explain(Transport(client), error), error)
        self.assertIs(explain(Transport(object()), error), error)
        self.assertIs(explain(object(), error), error)

    @given(st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=4))
    def test_any_answer(self, answers: list[bytes]) -> None:
        """One printable line of a bounded length, or still nothing."""
        client = self.client("main.example")
        try:
            words = self.hear(client, *answers).words(Quoting(KEY))
        except AssertionError:
            return
        self.assertTrue(words.isprintable(), words)
        self.assertLess(len(words), 500)


class EndTests(FaultCase):
    """When a certificate ends, as its user is told."""

    def shake(self, certificate: Certificate) -> None:
        with self.assertRaises(AssertionError, msg="nothing failed"):
            self.refused(certificate)

    def test_good(self) -> None:
        self.shake(self.good)
        self.assertEqual(self.ends, [_read(self.good).not_valid_after_utc.timestamp()])

    def test_one_that_it_depends_on_ends_earlier(self) -> None:
        between = Authority(self.directory, "between", issuer=self.authority, lifetime=timedelta(hours=1))
        certificate = between.issue("main.example")
        _append(certificate, between)
        self.shake(certificate)
        end = x509.load_pem_x509_certificate(Path(between.path).read_bytes()).not_valid_after_utc
        self.assertEqual(self.ends, [end.timestamp()])

    def test_expired(self) -> None:
        certificate = self.authority.issue("main.example", timedelta(days=-1))
        self.refused(certificate)
        self.assertEqual(self.ends, [_read(certificate).not_valid_after_utc.timestamp()])

    def test_a_stranger_s_does_not_count(self) -> None:
        self.refused(self.authority.issue("main.example", self_signed=True))
        self.refused(self.authority.issue("other.example"))  # it may be that of a portal on the way
        self.assertEqual(self.ends, [])
