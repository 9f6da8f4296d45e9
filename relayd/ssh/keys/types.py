"""
The types of keys and of their certificates, by their names.

Source: RFC 4253, section 6.6; RFC 8332; OpenSSH's PROTOCOL.certkeys.
"""

from __future__ import annotations

#: The shortest RSA key that any policy accepts, in bits, as in OpenSSH (RequiredRSASize).
MIN_RSA_BITS = 1024

#: Bytes of a type's name that are read; the longest known has 44.
_LONGEST_TYPE = 64
_CERTIFICATE = b"-cert-v01@openssh.com"


def is_certified(name: bytes) -> bool:
    """Whether a key type or an algorithm is one of certificates."""
    return name.endswith(_CERTIFICATE)


def certified(name: bytes) -> bytes:
    """The key type or algorithm of certificates: ``ssh-ed25519-cert-v01@openssh.com`` for ``ssh-ed25519``."""
    return name.removesuffix(b"@openssh.com") + _CERTIFICATE


def uncertified(name: bytes) -> bytes:
    """The key type or algorithm of plain keys: ``ssh-ed25519`` for both it and ``ssh-ed25519-cert-v01@openssh.com``."""
    plain = name.removesuffix(_CERTIFICATE)
    return plain + b"@openssh.com" if plain != name and plain.startswith(b"sk-") else plain


def key_type_of(host_key_algorithm: bytes) -> bytes:
    """The type of key, or of certificate, for a host key algorithm: ``ssh-rsa`` for ``rsa-sha2-512``."""
    if not host_key_algorithm.startswith(b"rsa-sha2-"):
        return host_key_algorithm
    return certified(b"ssh-rsa") if is_certified(host_key_algorithm) else b"ssh-rsa"


#: The types of certificates that a host may show.
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
