"""
Types of keys by their names, plain and certified, and the least that a key must be.

Source: RFC 4253, section 6.6; RFC 8332; OpenSSH's PROTOCOL.certkeys.
"""

from __future__ import annotations

#: The shortest key of RSA that any policy takes, in bits (RequiredRSASize of OpenSSH).
LEAST_RSA_BITS = 1024

#: Bytes of a type's name that are read; the longest known has 44.
_LONGEST_TYPE = 64
_CERTIFICATE = b"-cert-v01@openssh.com"


def is_certified(name: bytes) -> bool:
    """Whether a key type, or an algorithm, is that of a certificate (OpenSSH's PROTOCOL.certkeys)."""
    return name.endswith(_CERTIFICATE)


def certified(name: bytes) -> bytes:
    """A key type, or an algorithm, for a certificate: ``ssh-ed25519-cert-v01@openssh.com`` for ``ssh-ed25519``."""
    return name.removesuffix(b"@openssh.com") + _CERTIFICATE


def uncertified(name: bytes) -> bytes:
    """The contrary of `certified`; a name that is none of a certificate stays as it is."""
    plain = name.removesuffix(_CERTIFICATE)
    return plain + b"@openssh.com" if plain != name and plain.startswith(b"sk-") else plain


def key_type_of(host_key_algorithm: bytes) -> bytes:
    """The type of key that signs by *host_key_algorithm*: ``ssh-rsa`` for ``rsa-sha2-512``; so too for certificates."""
    if not host_key_algorithm.startswith(b"rsa-sha2-"):
        return host_key_algorithm
    return certified(b"ssh-rsa") if is_certified(host_key_algorithm) else b"ssh-rsa"


#: The types of certificate that a host may show.
HOST_CERTIFICATE_TYPES = frozenset(
    certified(name)
    for name in (
        b"ssh-ed25519", b"ecdsa-sha2-nistp256", b"ecdsa-sha2-nistp384", b"ecdsa-sha2-nistp521", b"ssh-rsa",
    )
)  # fmt: skip


def key_type(blob: bytes) -> bytes:
    """
    The type of a public key or a certificate, which is its first string.

    Of a signature it is the algorithm (RFC 4253, section 6.6).
    """
    length = int.from_bytes(blob[:4], "big")
    return blob[4 : 4 + min(length, _LONGEST_TYPE)]
