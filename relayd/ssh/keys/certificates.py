"""
OpenSSH certificates, of users and of hosts: read, and held against what is asked of them.

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
from relayd.ssh.keys.public import BadPublicKey, PublicKey
from relayd.ssh.keys.types import LEAST_RSA_BITS, is_certified, key_type, uncertified

USER_CERTIFICATE = 1
HOST_CERTIFICATE = 2

#: How many strings make the public key of each type, after the type's name.
_KEY_FIELDS = {
    b"ssh-ed25519": 1,
    b"ssh-rsa": 2,
    b"ecdsa-sha2-nistp256": 2,
    b"ecdsa-sha2-nistp384": 2,
    b"ecdsa-sha2-nistp521": 2,
    b"sk-ssh-ed25519@openssh.com": 2,
    b"sk-ecdsa-sha2-nistp256@openssh.com": 3,
}
#: What an authority may sign with: not with SHA-1, as OpenSSH since 8.2 (CASignatureAlgorithms).
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
#: The largest one that is read, in bytes; those that are made have some hundred.
MAX_SIZE = 64 * 1024
#: Users or hosts that one may be for, as in OpenSSH (SSHKEY_CERT_MAX_PRINCIPALS); and options, names and values.
MAX_PRINCIPALS = 256
_MAX_OPTIONS = 64
#: The longest name of a host that a principal can be a pattern for (RFC 1035, section 2.3.4).
_MAX_NAME = 255
#: Principals that a message shows, at most.
_MAX_NAMES = 5


class BadCertificate(Fault):
    """A certificate cannot be used; the argument says why."""


class Certificate(Struct, frozen=True):
    """
    What a certificate authority says of a public key.

    :ivar blob: the certificate as it is on the wire.
    :ivar key: the public key that it is of, without the certificate (RFC 4253, section 6.6).
    :ivar kind: `USER_CERTIFICATE` or `HOST_CERTIFICATE`.
    :ivar principals: the users or hosts that it is for.
    :ivar valid_after: in Unix time; from then on it is valid,
    :ivar valid_before: and no more from then on.
    :ivar critical_options: names of what whoever relies on it must understand.
    :ivar authority: public key of whoever signed.
    :ivar signature: theirs, over `signed`.
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
        """Why it is not valid at *now*, in Unix time; ``None``: it is."""
        if now < self.valid_after:
            return Text("it is not valid before {date}", date=_date(self.valid_after))
        if now >= self.valid_before:
            return Text("it expired at {date}", date=_date(self.valid_before))
        return None

    def is_signed(self) -> bool:
        """Whether its signature is really that of its `authority`, made in a way that can be relied upon."""
        try:
            if Fields(self.signature).string() not in _AUTHORITY_SIGNATURES:
                return False
            # The least of all policies; what the one in force asks for was seen to when the host showed it.
            return PublicKey(self.authority, LEAST_RSA_BITS).verify(self.signature, self.signed)
        except (CutOff, BadPublicKey):
            return False

    def names(self) -> Text:
        """Whom it is for, in words; a certificate may have more names than a message."""
        shown = [printable_bytes(name, 100) for name in self.principals[:_MAX_NAMES]]
        if len(self.principals) > _MAX_NAMES:
            shown.append(Text("{count} others", count=len(self.principals) - _MAX_NAMES))
        return joined(shown, Text(" and ")) if shown else Text("nobody")


def parse_certificate(blob: bytes) -> Certificate:
    """
    Take a certificate apart; whether it is valid is not looked at.

    :raises BadCertificate: when it is none.
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
        raise BadCertificate("it is of a type that relayd does not know")
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
    :raises BadCertificate: when it is none, or not valid now.
    """
    # As with keys: texts come through forms, tables and JSON.
    fields = text.replace("\\r", "").replace("\\n", "\n").strip("\ufeff \t\r\n").split(None, 2)
    if len(fields) < 2 or not fields[0].endswith("@openssh.com"):
        raise BadCertificate("it does not begin with a type such as ssh-ed25519-cert-v01@openssh.com")
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
    Why a certificate does not prove that a server is *host*, its authority being one that is trusted.

    :return: ``None``: it proves it.
    """
    # First of all: nothing else of it is worth a look as long as anybody may have written it.
    if not certificate.is_signed():
        return Text("its signature is wrong, or made in a way that is not safe any more")
    if certificate.kind != HOST_CERTIFICATE:
        return Text("it is not the certificate of a host")
    reason = certificate.out_of_date(now)
    if reason is not None:
        return reason
    name = canonical_host(host)
    # One without names would be good for every host; OpenSSH took that for long, and does not since 10.3.
    if not any(_matches(name, principal) for principal in certificate.principals):
        return Text("it is for {names}, not for {name}", names=certificate.names(), name=name)
    if certificate.critical_options:
        option = printable_bytes(certificate.critical_options[0])
        return Text("it has an option that relayd does not know, {option}", option=option)
    return None


def certified_key(blob: bytes) -> bytes:
    """
    The plain public key of a blob that is one or a certificate of one.

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
