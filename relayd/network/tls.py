"""
TLS as a client: the one place that decides whether a certificate is that of the host that was dialled.
Every TLS client of relayd makes its connections with `client_options`, and asks `is_verified` before it writes.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final
from weakref import ref

from cryptography import x509
from OpenSSL import SSL, crypto
from service_identity import CertificateError, VerificationError
from service_identity.cryptography import verify_certificate_hostname, verify_certificate_ip_address
from service_identity.hazmat import DNS_ID
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, ISSLTransport
from twisted.internet.ssl import (
    Certificate,
    PrivateCertificate,
    TLSVersion,
    optionsForClientTLS,
)
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from relayd.language.texts import printable

#: Characters shown of a text in a certificate.
_LONGEST_SHOWN: Final = 200

#: A name that nobody has (RFC 6761): no certificate can be for it.
_STAND_IN: Final = "name.invalid"

_log = Logger("relayd.network")


class CertificateRefused(Exception):
    """The peer's certificate is not for the host that was dialled; the argument says why, and may follow a colon."""


def client_options(
    host: str,
    *,
    trust: Any = None,
    certificate: PrivateCertificate | None = None,
    chain: list[Certificate] | None = None,
) -> IOpenSSLClientConnectionCreator:
    """
    The options for TLS connections to *host*: TLS 1.2 or later, and only with a certificate for the host.

    :param trust: the authorities to trust; by default those of the system.
    :param certificate: our own certificate for a peer that asks for one, with its *chain*.
    :raises ValueError: when *host* is neither an address nor a name that a certificate can have.
    """
    name = certified_name(host)
    extra: dict[str, Any] = {"raiseMinimumTo": TLSVersion.TLSv1_2}
    if certificate is not None:
        extra["extraCertChain"] = [each.original for each in chain or ()]
    make = partial(optionsForClientTLS, trustRoot=trust, clientCertificate=certificate, extraCertificateOptions=extra)
    try:
        return _Verifying(name, make(name))
    except UnicodeError:
        # Twisted accepts only names of IDNA, and not "my_host". `_Verifying` checks the certificate anyway, and here it
        # also asks for it by name (RFC 6066, section 3).
        return _Verifying(name, make(_STAND_IN, sendServerName=False), server_name=name.encode("ascii"))


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

    The certificate was checked when it came. It is checked again so that nothing depends on a callback alone: Twisted
    26.4 has one that accepts a certificate when its check fails.

    :return: ``False``: the connection ends with `CertificateRefused`, unless it has ended already.
    """
    if transport.disconnecting:  # Twisted calls a handshake completed even where it has just refused the certificate
        return False
    try:
        _check_shown(transport.getPeerCertificate(), host)
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
        if isIPAddress(name) or isIPv6Address(name):
            verify_certificate_ip_address(certificate, name)
        else:
            verify_certificate_hostname(certificate, name)
    except VerificationError:
        names = ", ".join(_names(certificate)) or "no host at all"
        reason = f"its TLS certificate is for another name; it names {printable(names, _LONGEST_SHOWN)}, not {host}"
    except CertificateError as error:
        said = printable(str(error), _LONGEST_SHOWN)
        reason = f"its TLS certificate is not valid for any host ({said}); it needs the subject alternative name {host}"
    except Exception as error:
        raise _not_understood(error, host) from None
    else:
        return
    raise CertificateRefused(reason)


def _check_shown(shown: crypto.X509 | None, host: str) -> None:
    """`check_certificate` for the certificate of a peer, as OpenSSL has read it."""
    if shown is None:
        raise CertificateRefused("it shows no TLS certificate")
    try:
        certificate = shown.to_cryptography()
    except Exception as error:
        raise _not_understood(error, host) from None
    check_certificate(certificate, host)


def _not_understood(error: Exception, host: str) -> CertificateRefused:
    """The error for a certificate that cannot be parsed: nothing is known about the peer then."""
    said = printable(f"{type(error).__name__}: {error}", _LONGEST_SHOWN)
    return CertificateRefused(f"its TLS certificate cannot be read ({said}); get a new one for {host}")


def _names(certificate: x509.Certificate) -> list[str]:
    """The subject alternative names that `check_certificate` has compared *host* with."""
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [*found.get_values_for_type(x509.DNSName), *map(str, found.get_values_for_type(x509.IPAddress))]


@implementer(IOpenSSLClientConnectionCreator)
class _Verifying:
    """
    The options of `optionsForClientTLS`, with a check of our own for the peer's certificate: a handshake with another
    host than *host* fails before our own certificate is sent.

    :param server_name: the name to ask for a certificate, where *options* does not.
    """

    def __init__(self, host: str, options: IOpenSSLClientConnectionCreator, server_name: bytes | None = None) -> None:
        self._host = host
        self._options = options
        self._server_name = server_name

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        connection = self._options.clientConnectionForTLS(tlsProtocol)
        if self._server_name is not None:
            connection.set_tlsext_host_name(self._server_name)
        protocol = ref(tlsProtocol)  # which holds the connection, which holds this

        def verify(_: object, certificate: crypto.X509, error: int, depth: int, ok: int) -> bool:
            if not ok or depth:
                return bool(ok)
            try:
                _check_shown(certificate, self._host)
            except CertificateRefused:
                if (refusing := protocol()) is not None:
                    refusing.failVerification(Failure())
                return False
            return True

        connection.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, verify)
        return connection


def verify_error_of(transport: Any) -> str:
    """Why OpenSSL refused the peer's certificate; empty: unknown. pyOpenSSL has no public name for that."""
    if not ISSLTransport.providedBy(transport):
        return ""
    openssl: Any = SSL
    connection: Any = transport
    try:
        number = openssl._lib.SSL_get_verify_result(connection.getHandle()._ssl)
        if number == 0:
            return ""
        return str(openssl._ffi.string(openssl._lib.X509_verify_cert_error_string(number)).decode())
    except (AttributeError, TypeError, UnicodeError):
        _log.debug("This version of pyOpenSSL does not say why a certificate is refused")
        return ""
