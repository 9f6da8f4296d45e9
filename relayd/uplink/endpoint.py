"""
The way to the main server: TCP, a proxy's tunnel, TLS; and what to say when it leads nowhere.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from errno import EHOSTUNREACH, ENETUNREACH
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from msgspec import Struct
from OpenSSL import crypto
from twisted.internet import error as network
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint, wrapClientTLS
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from twisted.internet.ssl import Certificate, PrivateCertificate, trustRootFromCertificates
from zope.interface import implementer

from relayd.errors import UplinkError
from relayd.language.texts import printable, span
from relayd.network.descriptors import words_for, words_of
from relayd.network.lookup import NamedEndpoint, NoNameService
from relayd.network.spelling import loopback_addresses, read_address
from relayd.network.tls import client_options
from relayd.network.tls_faults import TLSFailed
from relayd.uplink.quoting import Quoting
from relayd.uplink.request import MakeRequest
from relayd.uplink.settings import ServerAddress, UplinkSettings
from relayd.uplink.tunnel import ProxyError, ProxyUnreachable, TunnelEndpoint, authorization

#: A list of revoked certificates (RFC 7468, section 6).
_CRL: Final = re.compile(rb"-----BEGIN X509 CRL-----[^-]*(-----END X509 CRL-----)?\r?\n?")

#: Seconds for name lookup and TCP handshake, and again for a proxy's answer.
CONNECT_TIMEOUT: Final = 15.0

_NO_ROUTE: Final = (EHOSTUNREACH, ENETUNREACH)
_PRINTABLE: Final = Quoting()


class Route(Struct, frozen=True, kw_only=True):
    """
    The way to the main server, for the TCP connections of one uplink connection.

    :ivar endpoint: connects to the main server.
    :ivar server_name: the name that it must prove over TLS; ``None``: there is no TLS.
    :ivar make_request: makes HTTP requests, with the API key.
    :ivar subprotocols: the WebSocket subprotocols from which it may choose.
    :ivar max_frame: bytes in the largest message that relayd takes.
    :ivar quote: makes what it says fit to be shown.
    """

    endpoint: IStreamClientEndpoint
    server_name: str | None
    make_request: MakeRequest
    subprotocols: list[str]
    max_frame: int
    quote: Callable[[str], str]


def make_endpoint(
    reactor: Any,
    address: ServerAddress,
    settings: UplinkSettings,
    on_end_seen: Callable[[float], None] = lambda end: None,
) -> IStreamClientEndpoint:
    """
    The endpoint of the main server at *address*. It reads the certificates each time, so that they can be rotated.

    :param on_end_seen: see `relayd.network.tls.client_options`.
    :raises UplinkError: when the file of a certificate, or of the proxy's password, cannot be used.
    """
    if settings.http_proxy is None:
        endpoint = _tcp(reactor, address)
    else:
        proxy = ServerAddress.of(settings.http_proxy, "--http-proxy")
        credentials = authorization(settings.http_proxy, settings.read_proxy_password())
        endpoint = TunnelEndpoint(
            reactor, _tcp(reactor, proxy), str(proxy), address.netloc, credentials, CONNECT_TIMEOUT
        )
    if address.secure:
        endpoint = wrapClientTLS(_tls_options(address.host, settings, on_end_seen), endpoint, clock=reactor)
    return endpoint


def unused_proxy(address: ServerAddress, settings: UplinkSettings) -> str | None:
    """
    What to log where the environment names a proxy that relayd does not use, or ``None``.

    The text does not quote the value, which may hold a password.
    """
    names = ("HTTPS_PROXY", "https_proxy") if address.secure else ("HTTP_PROXY", "http_proxy")
    found = next((name for name in (*names, "ALL_PROXY", "all_proxy") if os.environ.get(name)), None)
    if found is None or settings.http_proxy is not None:
        return None
    return f"{found} is set and not used: relayd goes through a proxy only where --http-proxy names one"


def end_of_own_certificate(settings: UplinkSettings) -> float | None:
    """When the certificate in --tls-cert ends, in seconds since 1970; ``None`` where there is none that can be read."""
    if settings.tls_cert is None:
        return None
    try:
        found = x509.load_pem_x509_certificates(_read("--tls-cert", settings.tls_cert))
    except (UplinkError, ValueError):
        return None
    return min(each.not_valid_after_utc.timestamp() for each in found)


def describe(error: BaseException, quote: Callable[[str], str] = _PRINTABLE) -> str:
    """
    Why there is no connection, in words that say where to look.

    :param quote: makes what the main server says fit to be shown.
    """
    if isinstance(error, TLSFailed):
        return error.words(quote)
    if isinstance(error, ProxyUnreachable):
        return f"the HTTP proxy {error.proxy} cannot be reached: {_describe(error.cause, '--http-proxy')}"
    return _describe(error, "--server")


def _describe(error: BaseException, option: str) -> str:
    if isinstance(error, ProxyError):
        return str(error)
    if isinstance(error, network.DNSLookupError):
        return f"its name was not found; look at {option} and at the name service of this machine"
    if isinstance(error, NoNameService):
        time = span(CONNECT_TIMEOUT)
        return f"its name could not be looked up within {time}; look at the name service of this machine"
    if isinstance(error, network.ConnectionRefusedError):
        return f"connection refused; nothing listens there, or a firewall rejects it: look at the port in {option}"
    if isinstance(error, network.TimeoutError | network.TCPTimedOutError):
        return f"no answer within {span(CONNECT_TIMEOUT)}; look at {option}, and at firewalls on the way"
    if isinstance(error, network.ConnectionDone):
        return "it closed the connection"
    if isinstance(error, network.ConnectionLost):
        return "the connection was cut"
    if isinstance(error, network.ConnectError) and isinstance(error.osError, int):
        routes = f"; look at {option} and at the routes of this machine" if error.osError in _NO_ROUTE else ""
        return f"{words_for(error.osError)}{routes}"
    return printable(str(error) or type(error).__name__, 200)


def _tcp(reactor: Any, address: ServerAddress) -> IStreamClientEndpoint:
    """The endpoint of TCP. ``localhost`` is this machine, whatever a name server says, as for the options."""
    spelt = read_address(address.host)
    found = loopback_addresses(address.host) or (() if spelt is None else (spelt,))
    if not found:
        return NamedEndpoint(reactor, address.host, address.port, CONNECT_TIMEOUT)
    kinds = {4: TCP4ClientEndpoint, 6: TCP6ClientEndpoint}
    return _FirstOf([kinds[each.version](reactor, str(each), address.port, CONNECT_TIMEOUT) for each in found])


@implementer(IStreamClientEndpoint)
class _FirstOf:
    """Connects to the first of several endpoints that can be reached, or fails with the error of the first one."""

    def __init__(self, endpoints: Sequence[IStreamClientEndpoint]) -> None:
        self._endpoints = endpoints

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        first, *others = self._endpoints
        try:
            return await first.connect(factory)
        except network.ConnectError as error:
            for other in others:
                with suppress(network.ConnectError):
                    return await other.connect(factory)
            raise error from None


def _tls_options(
    host: str, settings: UplinkSettings, on_end_seen: Callable[[float], None]
) -> IOpenSSLClientConnectionCreator:
    trust, ours, chain = None, None, []
    revocations: list[x509.CertificateRevocationList] = []
    if settings.tls_ca is not None:
        trust = trustRootFromCertificates(_certificates("--tls-ca", settings.tls_ca))
        revocations = _revocations("--tls-ca", settings.tls_ca)
    if settings.tls_cert is not None and settings.tls_key is not None:
        first, *chain = _certificates("--tls-cert", settings.tls_cert)
        key = _read("--tls-key", settings.tls_key)
        try:
            load_pem_private_key(key, None)  # OpenSSL would ask the terminal for the passphrase of an encrypted one
            ours = PrivateCertificate.loadPEM(first.dumpPEM() + b"\n" + key)
        except (crypto.Error, network.VerifyError, UnsupportedAlgorithm, ValueError, TypeError):
            raise UplinkError(
                reason=f"--tls-key {settings.tls_key} holds no unencrypted PEM key for the certificate in --tls-cert"
            ) from None
    try:
        return client_options(
            host,
            trust=trust,
            revocations=revocations,
            ca_file=settings.tls_ca,
            certificate=ours,
            chain=chain,
            on_end_seen=on_end_seen,
        )
    except ValueError:
        raise UplinkError(reason=f"no certificate can name the host {host} of --server; write it another way") from None


def _certificates(option: str, path: str) -> list[Certificate]:
    try:
        found = x509.load_pem_x509_certificates(_read(option, path))
    except ValueError:
        reason = f"{option} {path} holds no PEM certificate; it must have -----BEGIN CERTIFICATE----- in it"
        raise UplinkError(reason=reason) from None
    return [Certificate(crypto.X509.from_cryptography(certificate)) for certificate in found]


def _revocations(option: str, path: str) -> list[x509.CertificateRevocationList]:
    try:
        # One that was cut off is no PEM: it must not be passed over, or what it revokes would be accepted.
        return [x509.load_pem_x509_crl(found[0]) for found in _CRL.finditer(_read(option, path))]
    except ValueError:
        raise UplinkError(reason=f"{option} {path} holds a list of revoked certificates that cannot be read") from None


def _read(option: str, path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        advice = "; relayd's user has to read it" if isinstance(error, PermissionError) else ""
        raise UplinkError(reason=f"{option} {path} cannot be read: {words_of(error)}{advice}") from None
