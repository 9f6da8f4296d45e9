"""
Certificates of hosts that no tool would make: each part of them can be wrong.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from twisted.conch.ssh.common import MP, NS

PrivateKey = ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

HOST = 2


def rsa_blob(modulus: int, exponent: int = 65537) -> bytes:
    """A public key of RSA, whether it makes sense or not."""
    return bytes(NS(b"ssh-rsa") + MP(exponent) + MP(modulus))


def blob_of_private(key: PrivateKey) -> bytes:
    """The public key on the wire."""
    if isinstance(key, rsa.RSAPrivateKey):
        numbers = key.public_key().public_numbers()
        return rsa_blob(numbers.n, numbers.e)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return bytes(NS(b"ssh-ed25519") + NS(key.public_key().public_bytes_raw()))
    point = key.public_key().public_numbers()
    encoded = b"\4" + point.x.to_bytes(32, "big") + point.y.to_bytes(32, "big")
    return bytes(NS(b"ecdsa-sha2-nistp256") + NS(b"nistp256") + NS(encoded))


def sign(key: PrivateKey, data: bytes) -> bytes:
    """A signature with its algorithm."""
    if isinstance(key, rsa.RSAPrivateKey):
        return bytes(NS(b"rsa-sha2-512") + NS(key.sign(data, padding.PKCS1v15(), hashes.SHA512())))
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return bytes(NS(b"ssh-ed25519") + NS(key.sign(data)))
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
    return bytes(NS(b"ecdsa-sha2-nistp256") + NS(MP(r) + MP(s)))


def certificate(
    subject: bytes,
    authority: PrivateKey,
    principals: Iterable[bytes],
    *,
    kind: int = HOST,
    options: bytes = b"",
    signature: bytes | None = None,
    authority_blob: bytes | None = None,
) -> bytes:
    """
    A certificate on the wire, valid for ever.

    :param subject: the public key that it is of.
    :param options: critical ones, as they are on the wire.
    :param signature: one that is none, instead of the authority's.
    """
    size = int.from_bytes(subject[:4], "big")
    body = b"".join(
        (
            NS(subject[4 : 4 + size] + b"-cert-v01@openssh.com"),
            NS(bytes(32)),
            subject[4 + size :],
            struct.pack(">QL", 1, kind),
            NS(b"of a test"),
            NS(b"".join(map(NS, principals))),
            bytes(8),
            b"\xff" * 8,
            NS(options),
            NS(b""),
            NS(b""),
            NS(blob_of_private(authority) if authority_blob is None else authority_blob),
        )
    )
    return body + bytes(NS(sign(authority, body) if signature is None else signature))
