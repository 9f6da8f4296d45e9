"""
OpenSSH certificates, of users and of hosts: read and checked.

Source: OpenSSH's PROTOCOL.certkeys; sshkey_cert_check_authority in OpenSSH 10.3 (what makes one valid).
"""

from __future__ import annotations

import base64
import binascii
import time
from fnmatch import fnmatchcase

from msgspec import Struct
from twisted.conch.ssh.common import NS

from relayd.language.texts import Fault, Text, joined, printable_bytes
from relayd.network.spelling import canonical_host
from relayd.ssh.keys.binary import CutOff, Fields
from relayd.ssh.keys.mistaken import not_a_certificate
from relayd.ssh.keys.public import BadPublicKey, PublicKey
from relayd.ssh.keys.types import MIN_RSA_BITS, is_certified, key_type, uncertified

USER_CERTIFICATE = 1
HOST_CERTIFICATE = 2

#: How many strings a public key of each type has after its name.
_KEY_FIELDS = {
    b"ssh-ed25519": 1,
    b"ssh-rsa": 2,
    b"ecdsa-sha2-nistp256": 2,
    b"ecdsa-sha2-nistp384": 2,
    b"ecdsa-sha2-nistp521": 2,
    b"sk-ssh-ed25519@openssh.com": 2,
    b"sk-ecdsa-sha2-nistp256@openssh.com": 3,
}
#: The algorithms that an authority may sign with. SHA-1 is not among them, as in OpenSSH since 8.2
#: (CASignatureAlgorithms).
_AUTHORITY_SIGNATURES = frozenset(
    (
        b"ssh-ed25519",
        b"ecdsa-sha2-nistp256",
        b"ecdsa-sha2-nistp384",
        b"ecdsa-sha2-nistp521",
        b"rsa-sha2-512",
        b"rsa-sha2-256",
    )
)
#: The largest certificate that is read, in bytes; real ones have some hundred.
MAX_SIZE = 64 * 1024
#: Most principals of one certificate, as in OpenSSH (SSHKEY_CERT_MAX_PRINCIPALS), and most names and values of options.
MAX_PRINCIPALS = 256
_MAX_OPTIONS = 64
#: The longest name of a host (RFC 1035, section 2.3.4), and so the longest pattern.
_MAX_NAME = 255
#: Most principals that a message shows.
_MAX_NAMES = 5


class BadCertificate(Fault):
    """A certificate cannot be used; the argument says why."""


class Certificate(Struct, frozen=True):
    """
    What a certificate authority says about a public key.

    :ivar blob: the certificate as it is on the wire.
    :ivar key: the public key that it certifies (RFC 4253, section 6.6).
    :ivar kind: `USER_CERTIFICATE` or `HOST_CERTIFICATE`.
    :ivar principals: the users or hosts that it is for.
    :ivar valid_after: when it begins to be valid, in Unix time.
    :ivar valid_before: when it ceases to be valid, in Unix time.
    :ivar critical_options: names of options; a program that does not know one of them must reject the certificate.
    :ivar authority: public key of the authority.
    :ivar signature: that of the authority, over `signed`.
    """

    blob: bytes
    key: bytes
    kind: int
    principals: tuple[bytes, ...]
    valid_after: int
    valid_before: int
    critical_options: tuple[bytes, ...]
    authority: bytes
    signature: bytes
    signed: bytes

    def out_of_date(self, now: float) -> Text | None:
        """Why it is not valid at *now*, in Unix time; ``None``: it is valid."""
        if now < self.valid_after:
            return Text("it is not valid before {date}", date=_date(self.valid_after))
        if now >= self.valid_before:
            return Text("it expired at {date}", date=_date(self.valid_before))
        return None

    def is_signed(self) -> bool:
        """Whether its `authority` really signed it, with an algorithm that is safe."""
        try:
            if Fields(self.signature).string() not in _AUTHORITY_SIGNATURES:
                return False
            # The least size of all policies. That of the current one was checked when the host showed the certificate.
            return PublicKey(self.authority, MIN_RSA_BITS).verify(self.signature, self.signed)
        except (CutOff, BadPublicKey):
            return False

    def names(self) -> Text:
        """Its principals, in words; of many, only the first ones."""
        shown = [printable_bytes(name, 100) for name in self.principals[:_MAX_NAMES]]
        if len(self.principals) > _MAX_NAMES:
            shown.append(Text("{count} others", count=len(self.principals) - _MAX_NAMES))
        return joined(shown, Text(" and ")) if shown else Text("nobody")


def parse_certificate(blob: bytes) -> Certificate:
    """
    Parse a certificate. Whether it is valid is not checked.

    :raises BadCertificate: when it is not a certificate.
    """
    if len(blob) > MAX_SIZE:
        raise BadCertificate("it is too large")
    try:
        return _parse(blob)
    except CutOff:
        raise BadCertificate("its content is damaged") from None


def _parse(blob: bytes) -> Certificate:
    fields = Fields(blob)
    name = fields.string()
    kind_of_key = uncertified(name)
    if not is_certified(name) or kind_of_key not in _KEY_FIELDS:
        raise BadCertificate("it is of an unknown type")
    fields.string()  # a nonce
    start = fields.at
    for _ in range(_KEY_FIELDS[kind_of_key]):
        fields.string()
    key = NS(kind_of_key) + blob[start : fields.at]
    fields.number(8)  # a serial number
    kind = fields.number(4)
    fields.string()  # a name for logs
    principals = Fields(fields.string()).strings(MAX_PRINCIPALS)
    valid_after, valid_before = fields.number(8), fields.number(8)
    options = Fields(fields.string()).strings(_MAX_OPTIONS)
    fields.string()  # extensions: rights that a server gives
    fields.string()  # reserved
    authority = fields.string()
    signed = blob[: fields.at]
    signature = fields.string()
    if not fields.over or len(options) % 2:
        raise CutOff
    return Certificate(
        blob, key, kind, principals, valid_after, valid_before, options[::2], authority, signature, signed
    )


def read_user_certificate(text: str, now: float) -> Certificate:
    """
    Read the certificate of a user from the text of a file such as ``id_ed25519-cert.pub``: ``TYPE BASE64 COMMENT``.

    :param now: in Unix time.
    :raises BadCertificate: when it is not one, or not valid now.
    """
    # As with keys: on their way through forms, tables and JSON, texts lose their line ends.
    text = text.replace("\\r", "").replace("\\n", "\n").strip("\ufeff \t\r\n")
    fields = text.split(None, 2)
    if len(fields) < 2 or not is_certified(fields[0].encode("utf-8", "replace")):
        raise BadCertificate(
            not_a_certificate(text) or Text("it does not begin with a type such as ssh-ed25519-cert-v01@openssh.com")
        )
    try:
        blob = base64.b64decode(fields[1], validate=True)
    except (binascii.Error, ValueError):
        raise BadCertificate("its content is damaged") from None
    certificate = parse_certificate(blob)
    if key_type(blob) != fields[0].encode("utf-8", "replace"):
        raise BadCertificate("its content is damaged")
    if certificate.kind != USER_CERTIFICATE:
        raise BadCertificate("it is the certificate of a host, not of a user")
    reason = certificate.out_of_date(now)
    if reason is not None:
        raise BadCertificate(reason)
    return certificate


def fault_of_host_certificate(certificate: Certificate, host: str, now: float) -> Text | None:
    """
    Why a certificate of a trusted authority does not prove that a server is *host*; ``None``: it does.
    """
    # The signature first: without it, anybody may have written the rest.
    if not certificate.is_signed():
        return Text("its signature is wrong, or made with an algorithm that is not safe any more")
    if certificate.kind != HOST_CERTIFICATE:
        return Text("it is not the certificate of a host")
    reason = certificate.out_of_date(now)
    if reason is not None:
        return reason
    name = canonical_host(host)
    # A certificate without names would be valid for every host. OpenSSH accepted that before 10.3.
    if not any(_matches(name, principal) for principal in certificate.principals):
        return Text("it is for {names}, not for {name}", names=certificate.names(), name=name)
    if certificate.critical_options:
        option = printable_bytes(certificate.critical_options[0])
        return Text("it has an unknown option, {option}", option=option)
    return None


def certified_key(blob: bytes) -> bytes:
    """
    The plain public key of a public key or a certificate.

    :raises BadCertificate: when it is a certificate that cannot be read.
    """
    return parse_certificate(blob).key if is_certified(key_type(blob)) else blob


def _matches(name: str, principal: bytes) -> bool:
    """Whether a host certificate's principal, in which ``*`` and ``?`` are wildcards, covers *name*."""
    if len(principal) > _MAX_NAME:
        return False
    try:
        pattern = principal.decode("utf-8").lower()
    except UnicodeDecodeError:
        return False
    return fnmatchcase(name, pattern.replace("[", "[[]"))


def _date(seconds: int) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
    except (OverflowError, ValueError, OSError):
        return Text("the end of time")
