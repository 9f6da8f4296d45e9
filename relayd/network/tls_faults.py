"""
Why TLS with a peer came to nothing, in words for the operator: what was seen, and what to do about it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from cryptography import x509
from OpenSSL import SSL

from relayd.language.texts import printable

#: Characters shown of what a peer said, where nobody else decides.
_LONGEST_SHOWN: Final = 200

# OpenSSL's verdicts on a certificate (x509_vfy.h), which pyOpenSSL gives as numbers
NOT_YET_VALID: Final = 9
EXPIRED: Final = 10
_REVOKED: Final = 23
_NO_REVOCATIONS: Final = 3
_REVOCATIONS_OUT_OF_DATE: Final = (11, 12)
_SELF_SIGNED: Final = 18
_SELF_SIGNED_IN_CHAIN: Final = 19
_NO_ISSUER: Final = (2, 20, 21)

#: The names of alerts (RFC 8446, section 6).
_ALERTS: Final = {
    10: "unexpected_message",
    40: "handshake_failure",
    42: "bad_certificate",
    43: "unsupported_certificate",
    44: "certificate_revoked",
    45: "certificate_expired",
    46: "certificate_unknown",
    47: "illegal_parameter",
    48: "unknown_ca",
    49: "access_denied",
    50: "decode_error",
    51: "decrypt_error",
    70: "protocol_version",
    71: "insufficient_security",
    80: "internal_error",
    112: "unrecognized_name",
    116: "certificate_required",
}
_HANDSHAKE_FAILURE: Final = 40
_ALERT_REVOKED: Final = 44
_ALERT_EXPIRED: Final = 45
_ALERT_UNKNOWN_CA: Final = 48
#: The alerts that may be about the client's certificate, where the peer asked for one.
_ABOUT_OURS: Final = (_HANDSHAKE_FAILURE, 42, 43, _ALERT_REVOKED, _ALERT_EXPIRED, 46, _ALERT_UNKNOWN_CA, 49, 116)

_OLD_VERSION: Final = "it takes neither TLS 1.2 nor 1.3, and relayd speaks nothing older; update the main server's TLS"
_NO_CIPHER: Final = (
    "most often the two have no cipher suite in common, or it has no certificate for this name; its log says which"
)
#: What to do about an alert that is not about our own certificate.
_CURES: Final = {
    _HANDSHAKE_FAILURE: _NO_CIPHER,
    70: _OLD_VERSION,
    71: _NO_CIPHER,
    112: "it does not know the name {host}; look at the name in --server, and at the names that it serves",
}

#: What may be words in a binary answer, and how many of its bytes are shown where there are none.
_TEXTS: Final = re.compile(rb"[ -~]{4,}")
_FEW: Final = 16

#: How whatever a TLS server says begins (RFC 8446, section 5.1).
_RECORDS: Final = (b"\x14\x03", b"\x15\x03", b"\x16\x03", b"\x17\x03")


class TLSFailed(Exception):
    """
    There is no TLS with the peer.

    :param template: says why, and may follow a colon; a format string.
    :param said: its fields with words of the peer, which may be anything.
    :param ours: its other fields.
    """

    def __init__(self, template: str, said: Mapping[str, str] | None = None, /, **ours: object) -> None:
        super().__init__(template)
        self._template = template
        self._said = said or {}
        self._ours = ours

    def words(self, quote: Callable[[str], str]) -> str:
        """Why, in one line. *quote* makes the peer's words fit to be shown."""
        return self._template.format(**self._ours, **{name: quote(text) for name, text in self._said.items()})

    def __str__(self) -> str:
        return self.words(partial(printable, limit=_LONGEST_SHOWN))


class CertificateRefused(TLSFailed):
    """The peer's certificate is not taken for that of the host that was dialled."""


def not_understood(error: Exception, host: str) -> CertificateRefused:
    """The error for a certificate that cannot be parsed: nothing is known about the peer then."""
    said = {"said": f"{type(error).__name__}: {error}"}
    return CertificateRefused("its TLS certificate cannot be read ({said}); get a new one for {host}", said, host=host)


def wrong_name(certificate: x509.Certificate, host: str, *, is_address: bool) -> CertificateRefused:
    """The error for a *certificate* with good names, of which none is *host*."""
    names = ", ".join(_names(certificate))
    wanted = f"IP:{host}" if is_address else f"DNS:{host}"
    new = "give the main server a certificate with the subject alternative name {wanted}"
    if not names:
        return CertificateRefused(
            f"its TLS certificate is for another name; it names no host at all, not {{host}}; {new}",
            host=host, wanted=wanted,
        )  # fmt: skip
    return CertificateRefused(
        f"its TLS certificate is for another name; it names {{names}}, not {{host}}; write a name that it has in "
        f"--server, or {new}",
        {"names": names}, host=host, wanted=wanted,
    )  # fmt: skip


def _names(certificate: x509.Certificate) -> list[str]:
    """The subject alternative names that can be those of a host."""
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [*found.get_values_for_type(x509.DNSName), *map(str, found.get_values_for_type(x509.IPAddress))]


def why_refused(
    number: int, certificate: x509.Certificate, *, depth: int, sent: int, ca_file: str | None
) -> CertificateRefused:
    """
    The error for OpenSSL's verdict *number* on a certificate.

    :param certificate: the one that the verdict is about.
    :param depth: how many certificates are between that one and the peer's own.
    :param sent: how many certificates the peer has sent.
    :param ca_file: the file with the authorities that are trusted; ``None``: those of the system are.
    """
    said = {"subject": _shown(certificate.subject), "issuer": _shown(certificate.issuer)}
    ours: dict[str, object] = {"file": ca_file, "words": _verdict(number)}
    whose = 'the certificate of the authority "{subject}", on which its TLS certificate depends,'
    whose = whose if depth else "its TLS certificate"
    if number in (EXPIRED, NOT_YET_VALID):
        verdict = "has expired" if number == EXPIRED else "is not yet valid"
        template = f"{whose} {verdict}: {_validity(certificate)}; {_CLOCK.format(which='the certificate')}"
    elif number in (_SELF_SIGNED, _SELF_SIGNED_IN_CHAIN, *_NO_ISSUER):
        template = _untrusted(number, depth, sent, ca_file)
    elif number in (_REVOKED, _NO_REVOCATIONS, *_REVOCATIONS_OUT_OF_DATE):
        ours["now"] = _time(datetime.now(UTC))
        template = _revoked(number)
    else:
        template = f"{whose} is refused: {{words}}; the main server needs another one"
    return CertificateRefused(template, said, **ours)


def _untrusted(number: int, depth: int, sent: int, ca_file: str | None) -> str:
    """The template for a certificate whose authority is not trusted."""
    among = "the authorities of this machine" if ca_file is None else "the authorities in --tls-ca {file}"
    add = "name a file with {which} in --tls-ca" if ca_file is None else "add {which} to that file"
    stranger = "if not, look for a proxy or firewall that intercepts TLS"
    if number == _SELF_SIGNED:
        return (
            f'its TLS certificate is self-signed, by "{{subject}}", and not among {among}; if it is the main server\'s '
            f"own (compare the fingerprints), {add.format(which='it')}; {stranger}"
        )
    known = f"if you know that authority, {add.format(which='its certificate')}; {stranger}"
    if number == _SELF_SIGNED_IN_CHAIN:
        return f'its TLS certificate comes from the authority "{{subject}}", which is not among {among}; {known}'
    if depth:
        return (
            f'its TLS certificate comes from the authority "{{issuer}}", by way of "{{subject}}"; the former is not '
            f"among {among}; {known}"
        )
    rest = "no other certificate" if sent == 1 else "no certificate of it"
    return (
        f'its TLS certificate comes from "{{issuer}}", which is not among {among}, and it sends {rest}; if that is an '
        f"intermediate authority, let the main server send its whole chain; otherwise, {known}"
    )


def _revoked(number: int) -> str:
    """The template for what the lists of revoked certificates say, or fail to say."""
    if number == _REVOKED:
        return "its TLS certificate has been revoked, as a list (CRL) in --tls-ca {file} says; replace it"
    if number == _NO_REVOCATIONS:
        return (
            '--tls-ca {file} has lists of revoked certificates (CRL), but none of "{issuer}", which issued its TLS '
            "certificate; add that one, or remove the others"
        )
    return (
        'the list of certificates that "{issuer}" has revoked (CRL), in --tls-ca {file}, is out of date by the clock '
        "of this machine, which says {now}; replace the list, or set the clock"
    )


def why_alerted(number: int, *, host: str, asked: bool, ours: x509.Certificate | None) -> TLSFailed:
    """
    The error for an alert of the peer.

    :param number: the alert's (RFC 8446, section 6).
    :param host: the name that was dialled.
    :param asked: whether the peer asked for a certificate.
    :param ours: the certificate that it got.
    """
    fields: dict[str, object] = {"alert": _ALERTS.get(number, str(number)), "host": host}
    if not asked or number not in _ABOUT_OURS:
        cure = _CURES.get(number, "its log may say why")
        return TLSFailed(f"it ended TLS with the alert {{alert}}: {cure}", **fields)
    if ours is None:
        return TLSFailed(
            "it asked for a client certificate, relayd has none, and it ended TLS with the alert {alert}; name one "
            "with --tls-cert and --tls-key",
            **fields,
        )
    fields["issuer"] = printable(_shown(ours.issuer), _LONGEST_SHOWN)
    cures = {
        _ALERT_EXPIRED: f"{_validity(ours)}; {_CLOCK.format(which='it')}",
        _ALERT_REVOKED: "get a new one",
        _ALERT_UNKNOWN_CA: 'it has to know the authority "{issuer}", or --tls-cert lacks the certificates in between',
    }
    cure = cures.get(number, "its log may say why")
    return TLSFailed(f"it refuses the certificate of --tls-cert with the alert {{alert}}: {cure}", **fields)


def why_broken(error: SSL.Error, heard: bytes, *, done: bool) -> TLSFailed:
    """
    The error for what OpenSSL could not go on with.

    :param heard: how the peer's answer begins.
    :param done: whether the handshake was done.
    """
    if not done and heard and not heard.startswith(_RECORDS):
        return TLSFailed(
            'it does not speak TLS there: its answer begins with "{begin}"; look at the scheme and port of --server',
            {"begin": _legible(heard)},
        )
    words = _openssl_words(error) or "no details"
    if "unsupported protocol" in words:
        return TLSFailed(f"TLS failed: {{words}}; {_OLD_VERSION}", words=words)
    return TLSFailed("TLS failed: {words}", words=words)


def closed_after_asking(ours: x509.Certificate | None) -> TLSFailed:
    """
    The error for a peer that asked for a certificate, and closed the connection after the handshake without an alert,
    as Node.js does with a certificate that it refuses.

    :param ours: the certificate that it got.
    """
    if ours is None:
        return TLSFailed(
            "it asked for a client certificate, relayd has none, and it closed the connection without an answer; if it "
            "needs one, name it with --tls-cert and --tls-key; its log may say why"
        )
    return TLSFailed(
        "it asked for a client certificate, got that of --tls-cert, and closed the connection without an answer; look "
        'whether it takes certificates of the authority "{issuer}"; its log may say why',
        issuer=printable(_shown(ours.issuer), _LONGEST_SHOWN),
    )


def no_answer() -> TLSFailed:
    """The error for a peer that closed the connection before it said anything."""
    return TLSFailed(
        "it closed the connection when relayd began TLS, without an answer; look at the port of --server, and, where a "
        "proxy or load balancer is in between, whether that reaches the main server"
    )


#: What to do about a certificate that is out of its time. Either may be wrong, and nobody here can know which.
_CLOCK: Final = "if the clock is right, replace {which}; if not, set the clock"


def _validity(certificate: x509.Certificate) -> str:
    first, last, now = certificate.not_valid_before_utc, certificate.not_valid_after_utc, datetime.now(UTC)
    return f"it is valid from {_time(first)} to {_time(last)}, and the clock of this machine says {_time(now)}"


def _legible(heard: bytes) -> str:
    """The first line of *heard*, or the texts in it where it is binary, or its bytes as numbers where it has none."""
    line = heard.lstrip().partition(b"\n")[0].strip()
    if line.isascii() and line.decode().isprintable():
        return line.decode()
    return " ".join(text.decode() for text in _TEXTS.findall(heard)) or heard[:_FEW].hex(" ")


def _time(when: datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M:%S} UTC"


def _shown(name: x509.Name) -> str:
    return name.rfc4514_string() or "nobody"


def _verdict(number: int) -> str:
    """OpenSSL's words for a verdict. pyOpenSSL has no public name for them."""
    openssl: Any = SSL
    try:
        words = openssl._ffi.string(openssl._lib.X509_verify_cert_error_string(number))
        return printable(words.decode(), _LONGEST_SHOWN)
    except (AttributeError, TypeError, UnicodeError):
        return f"verdict {number} of OpenSSL"


def _openssl_words(error: SSL.Error) -> str:
    """``[("SSL routines", "", "wrong version number")]`` as text."""
    entries = error.args[0] if error.args and isinstance(error.args[0], list) else []
    return ", ".join(printable(str(entry[-1]), 100) for entry in entries if entry)
