"""
TLS as a client: the one place that decides whether a certificate is that of the host that was dialled.
Every TLS client of relayd makes its connections with `client_options`, and asks `is_verified` before it writes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from cryptography import x509
from OpenSSL import SSL, crypto
from service_identity import CertificateError, VerificationError
from service_identity.cryptography import verify_certificate_hostname, verify_certificate_ip_address
from service_identity.hazmat import DNS_ID
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, ISSLTransport
from twisted.internet.ssl import Certificate, CertificateOptions, PrivateCertificate, TLSVersion, platformTrust
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from relayd.network.tls_faults import (
    EXPIRED,
    NOT_YET_VALID,
    CertificateRefused,
    closed_after_asking,
    no_answer,
    not_understood,
    why_alerted,
    why_broken,
    why_refused,
    wrong_name,
)

#: Bytes that are kept of the beginning of a peer's answer, to say what it is where it is not TLS.
_BEGINNING: Final = 256
#: The state in which OpenSSL is when the peer has asked for a certificate.
_ASKED: Final = b"certificate request"
_FATAL: Final = 2  # RFC 8446, section 6
#: What is said of a peer that ends TLS in good order while it should begin.
_CLOSE_NOTIFY: Final = "the peer ended it with close_notify during the handshake; its log may say why"


def client_options(
    host: str,
    *,
    trust: Any = None,
    revocations: Sequence[x509.CertificateRevocationList] = (),
    ca_file: str | None = None,
    certificate: PrivateCertificate | None = None,
    chain: list[Certificate] | None = None,
    on_end_seen: Callable[[float], None] = lambda end: None,
) -> IOpenSSLClientConnectionCreator:
    """
    The options for TLS connections to *host*: TLS 1.2 or later, and only with a certificate for the host.

    :param trust: the authorities to trust; by default those of the system.
    :param revocations: lists of revoked certificates (CRL). If there are any, the one of the peer's authority has to be
        among them, and not out of date.
    :param ca_file: where they come from, for errors; ``None``: from the system.
    :param certificate: our own certificate for a peer that asks for one, with its *chain*.
    :param on_end_seen: is called with the end of the peer's certificate, or of one that it depends on and that ends
        earlier, in seconds since 1970: at each handshake with a certificate that is good, or out of its time.
    :raises ValueError: when *host* is neither an address nor a name that a certificate can have.
    """
    ours: dict[str, Any] = {}
    if certificate is not None:
        ours = {
            "privateKey": certificate.privateKey.original,
            "certificate": certificate.original,
            "extraCertChain": [each.original for each in chain or ()],
        }
    options = CertificateOptions(
        trustRoot=platformTrust() if trust is None else trust, raiseMinimumTo=TLSVersion.TLSv1_2, **ours
    )
    context = options.getContext()
    store = context.get_cert_store()
    if revocations and store is not None:
        for each in revocations:
            store.add_crl(each)
        store.set_flags(crypto.X509StoreFlags.CRL_CHECK)
    return _Options(certified_name(host), context, ca_file, certificate, on_end_seen)


def certified_name(host: str) -> str:
    """
    The name of *host* in its certificate: a name without a dot at its end, an address without its zone.

    :raises ValueError: when no certificate can have that name.
    """
    if isIPAddress(host):
        return host
    if isIPv6Address(host):
        return host.partition("%")[0]
    name = host.removesuffix(".")
    DNS_ID(name)
    return name


def is_verified(transport: Any, host: str) -> bool:
    """
    Whether the peer of *transport* is *host*. To be asked in ``handshakeCompleted``, before a byte is written.

    The certificate was checked when it came. It is checked again so that nothing depends on a callback alone: the one
    of Twisted 26.4 accepts a certificate when its check fails.

    :return: ``False``: the connection ends with `CertificateRefused`, unless it has ended already.
    """
    if transport.disconnecting:  # Twisted calls a handshake completed even where it has just refused the certificate
        return False
    try:
        check_certificate(_read(transport.getPeerCertificate(), host), host)
    except CertificateRefused:
        transport.failVerification(Failure())
        return False
    return True


def check_certificate(certificate: x509.Certificate, host: str) -> None:
    """
    Check that *certificate* is for *host* (RFC 9525): the host is among its subject alternative names, and all of these
    are valid. Its authority and its dates are not checked here.

    :raises CertificateRefused: when it is not, or when that cannot be found out.
    """
    try:
        name = certified_name(host)
        is_address = isIPAddress(name) or isIPv6Address(name)
        if is_address:
            verify_certificate_ip_address(certificate, name)
        else:
            verify_certificate_hostname(certificate, name)
    except VerificationError:
        refusal = wrong_name(certificate, name, is_address=is_address)
    except CertificateError as error:
        refusal = CertificateRefused(
            "its TLS certificate is not valid for any host ({said}); it needs the subject alternative name {host}",
            {"said": str(error)}, host=host,
        )  # fmt: skip
    except Exception as error:
        refusal = not_understood(error, host)
    else:
        return
    raise refusal


def explain(transport: Any, error: BaseException) -> BaseException:
    """
    Why the connection of *transport* ended: *error*, or what TLS knows better. To be asked in ``connectionLost``.

    :return: a `relayd.network.tls_faults.TLSFailed`, or *error* where TLS is not the reason, or not in use.
    """
    over_tls = ISSLTransport.providedBy(transport)
    connection = transport.getHandle() if over_tls else None
    return connection.explain(error) if isinstance(connection, _Connection) else error


def _read(shown: crypto.X509 | None, host: str) -> x509.Certificate:
    """A certificate that a peer has shown, as OpenSSL has read it."""
    if shown is None:
        raise CertificateRefused("it shows no TLS certificate")
    try:
        return shown.to_cryptography()
    except Exception as error:
        raise not_understood(error, host) from None


def _end_of(shown: crypto.X509) -> float:
    """When a certificate ends, in seconds since 1970; OpenSSL reads more certificates than `_read` does."""
    end = (shown.get_notAfter() or b"").decode("ascii")
    return datetime.strptime(end, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


@implementer(IOpenSSLClientConnectionCreator)
class _Options:
    """
    Makes the TLS side of connections to *host*.

    :ivar host: the name that the peer must prove.
    :ivar ours: our own certificate, if there is one.
    """

    def __init__(
        self,
        host: str,
        context: SSL.Context,
        ca_file: str | None,
        certificate: PrivateCertificate | None,
        on_end_seen: Callable[[float], None],
    ) -> None:
        self.host = host
        self.ca_file = ca_file
        self.ours = None if certificate is None else certificate.original.to_cryptography()
        self.on_end_seen = on_end_seen
        self._context = context
        context.set_info_callback(_note_state)

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        return _Connection(self._context, self)


def _note_state(connection: SSL.Connection, where: int, value: int) -> None:
    """OpenSSL has come to another state, or an alert came."""
    if not isinstance(connection, _Connection):
        return
    if where == SSL.SSL_CB_READ_ALERT and value >> 8 == _FATAL:
        connection.alert = value & 0xFF
    elif where & SSL.SSL_CB_LOOP and _ASKED in connection.get_state_string():
        connection.asked = True


class _Connection(SSL.Connection):
    """
    The TLS side of one connection: remembers what is needed to say why it failed.

    A handshake with another host fails before our own certificate is sent.

    :ivar alert: the alert with which the peer has ended it.
    :ivar asked: whether the peer has asked for our certificate.
    """

    def __init__(self, context: SSL.Context, options: _Options) -> None:
        super().__init__(context, None)
        self.alert: int | None = None
        self.asked = False
        self._options = options
        self._heard = b""
        self._done = False
        #: Whether anything came that was not TLS's own.
        self._answered = False
        self._refusal: CertificateRefused | None = None
        #: When each of the certificates seen so far ends.
        self._ends: list[float] = []
        if not (isIPAddress(options.host) or isIPv6Address(options.host)):  # RFC 6066, section 3
            self.set_tlsext_host_name(options.host.encode("ascii"))
        self.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _verify)

    def bio_write(self, buf: Any) -> int:
        if len(self._heard) < _BEGINNING:  # the peer may send it in small pieces
            self._heard += bytes(buf[: _BEGINNING - len(self._heard)])
        return super().bio_write(buf)

    def recv(self, bufsiz: int, flags: int | None = None) -> bytes:
        data = super().recv(bufsiz, flags)
        self._answered = True
        return data

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except SSL.ZeroReturnError:  # has no arguments, in which Twisted looks for OpenSSL's words
            raise SSL.Error([("SSL routines", "", _CLOSE_NOTIFY)]) from None
        self._done = True

    def verify(self, shown: crypto.X509, number: int, depth: int, ok: bool) -> bool:
        """Whether to go on, after OpenSSL's verdict on a certificate: the peer's own (*depth* 0), or one above it."""
        out_of_time = not ok and number in (EXPIRED, NOT_YET_VALID)
        try:
            if ok or out_of_time:
                self._ends.append(_end_of(shown))
            if not ok:
                sent = len(self.get_peer_cert_chain() or ())
                certificate, ca_file = _read(shown, self._options.host), self._options.ca_file
                raise why_refused(number, certificate, depth=depth, sent=sent, ca_file=ca_file)
            if depth == 0:
                check_certificate(_read(shown, self._options.host), self._options.host)
        except CertificateRefused as refusal:
            self._refusal = refusal
        except Exception as error:  # a name or a date that nobody can read
            self._refusal = not_understood(error, self._options.host)
        if self._ends and (out_of_time or (depth == 0 and self._refusal is None)):
            self._options.on_end_seen(min(self._ends))
        return self._refusal is None

    def explain(self, error: BaseException) -> BaseException:
        """See `explain`."""
        if self._refusal is not None:
            return self._refusal
        if isinstance(error, SSL.Error):
            if self.alert is None:
                return why_broken(error, self._heard, done=self._done)
            options = self._options
            return why_alerted(self.alert, host=options.host, asked=self.asked, ours=options.ours)
        if self._answered or not isinstance(error, ConnectionDone | ConnectionLost):
            return error
        if self.asked and self._done:
            return closed_after_asking(self._options.ours)
        return error if self._heard else no_answer()


def _verify(connection: SSL.Connection, shown: crypto.X509, number: int, depth: int, ok: int) -> bool:
    """OpenSSL's callback for one certificate."""
    return isinstance(connection, _Connection) and connection.verify(shown, number, depth, bool(ok))
