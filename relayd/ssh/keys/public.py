"""
Public keys of hosts and authorities, and their signatures: read strictly, and only up to a sensible size.

Source: RFC 4253, section 6.6 (RSA, DSA); RFC 5656, section 3.1 (ECDSA); RFC 8332 (RSA with SHA-2); RFC 8709 (Ed25519).
"""

from __future__ import annotations

import base64
import hashlib
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from relayd.language.texts import Fault, Text
from relayd.ssh.keys.binary import CutOff, Fields
from relayd.ssh.keys.types import MIN_RSA_BITS, key_type

#: The longest RSA key accepted, in bits: neither OpenSSL nor OpenSSH accepts a longer one.
MAX_RSA_BITS: Final = 16384
#: The longest public exponent, in bits; nearly all keys have 65537. With a long one, to verify a signature is as slow
#: as to make it.
MAX_EXPONENT_BITS: Final = 64
#: Bytes of the longest number of a DSA key, and of each half of its signature.
_MAX_DSA: Final = 4096 // 8 + 1
_DSA_HALF: Final = 20

_CURVES: Final[dict[bytes, tuple[bytes, ec.EllipticCurve, hashes.HashAlgorithm]]] = {
    b"ecdsa-sha2-nistp256": (b"nistp256", ec.SECP256R1(), hashes.SHA256()),
    b"ecdsa-sha2-nistp384": (b"nistp384", ec.SECP384R1(), hashes.SHA384()),
    b"ecdsa-sha2-nistp521": (b"nistp521", ec.SECP521R1(), hashes.SHA512()),
}
_RSA_HASHES: Final[dict[bytes, hashes.HashAlgorithm]] = {
    b"rsa-sha2-512": hashes.SHA512(),
    b"rsa-sha2-256": hashes.SHA256(),
    b"ssh-rsa": hashes.SHA1(),
}


_Key = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey | dsa.DSAPublicKey


class BadPublicKey(Fault):
    """A public key cannot be used; the argument says why."""


class PublicKey:
    """
    A public key, to verify signatures with.

    :param blob: the key as it is on the wire.
    :param min_rsa_bits: the least size of an RSA key.
    :param dsa_allowed: whether it may be a DSA key.
    :raises BadPublicKey: when it cannot be read, is too short, or is of a type that is not supported, such as a
        security key or a certificate.
    """

    def __init__(self, blob: bytes, min_rsa_bits: int, *, dsa_allowed: bool = False) -> None:
        fields = Fields(blob)
        try:
            self._type = fields.string()
            if self._type == b"ssh-dss" and dsa_allowed:
                self._key: _Key = _read_dsa(fields)
            else:
                self._key = self._read(fields, min_rsa_bits)
        except (CutOff, ValueError):  # such as a point that is not on its curve
            raise BadPublicKey("it cannot be read") from None
        if not fields.over:
            raise BadPublicKey("it cannot be read")

    def _read(
        self, fields: Fields, min_rsa_bits: int
    ) -> ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey:
        if self._type == b"ssh-ed25519":
            return ed25519.Ed25519PublicKey.from_public_bytes(fields.string())
        if self._type == b"ssh-rsa":
            exponent, modulus = fields.integer(MAX_EXPONENT_BITS // 8 + 1), fields.integer(MAX_RSA_BITS // 8 + 1)
            if modulus.bit_length() > MAX_RSA_BITS or exponent.bit_length() > MAX_EXPONENT_BITS or not modulus & 1:
                raise CutOff
            if modulus.bit_length() < min_rsa_bits:
                raise BadPublicKey(too_short(modulus.bit_length(), min_rsa_bits))
            return rsa.RSAPublicNumbers(exponent, modulus).public_key()
        if self._type not in _CURVES:
            raise BadPublicKey("it is of a type that is not supported")
        name, curve, _hash = _CURVES[self._type]
        if fields.string() != name:
            raise CutOff
        point = fields.string()
        if point[:1] != b"\4":  # RFC 5656 allows compressed points, which nobody sends and OpenSSH refuses
            raise CutOff
        return ec.EllipticCurvePublicKey.from_encoded_point(curve, point)

    def verify(self, signature: bytes, data: bytes) -> bool:
        """
        Whether this key made *signature* over *data*.

        :param signature: with the name of its algorithm, which must fit this type of key. The caller checks whether it
            is the negotiated one.
        """
        fields = Fields(signature)
        try:
            algorithm, content = fields.string(), fields.string()
            return fields.over and self._verify(algorithm, content, data)
        except (CutOff, InvalidSignature, ValueError):
            return False

    def _verify(self, algorithm: bytes, signature: bytes, data: bytes) -> bool:
        key = self._key
        if isinstance(key, rsa.RSAPublicKey):
            size = (key.key_size + 7) // 8
            if algorithm not in _RSA_HASHES or len(signature) > size:
                return False
            # Some servers leave out zeros at the beginning; OpenSSH accepts that, too.
            key.verify(signature.rjust(size, b"\0"), data, padding.PKCS1v15(), _RSA_HASHES[algorithm])
            return True
        if algorithm != self._type:
            return False
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, data)
            return True
        if isinstance(key, dsa.DSAPublicKey):
            if len(signature) != 2 * _DSA_HALF:
                return False
            halves = signature[:_DSA_HALF], signature[_DSA_HALF:]
            first, second = (int.from_bytes(half, "big") for half in halves)
            key.verify(encode_dss_signature(first, second), data, hashes.SHA1())
            return True
        numbers = Fields(signature)
        most = key.key_size // 8 + 2
        r, s = numbers.integer(most), numbers.integer(most)
        key.verify(encode_dss_signature(r, s), data, ec.ECDSA(_CURVES[self._type][2]))
        return numbers.over


def _read_dsa(fields: Fields) -> dsa.DSAPublicKey:
    p, q, g, y = (fields.integer(_MAX_DSA) for _ in range(4))
    if q.bit_length() != 8 * _DSA_HALF or not 1 < y < p:
        raise CutOff
    return dsa.DSAPublicNumbers(y, dsa.DSAParameterNumbers(p, q, g)).public_key()


def too_short(bits: int, least: int) -> Text:
    """What is wrong with an RSA key of *bits* bits where *least* are needed."""
    if least > MIN_RSA_BITS <= bits:
        return Text(
            "it is an RSA key of {bits} bits, and needs {least} at least; the legacy algorithms allow it",
            bits=bits,
            least=least,
        )
    return Text("it is an RSA key of {bits} bits, and needs {least} at least", bits=bits, least=least)


def rsa_bits(blob: bytes) -> int | None:
    """The size of an RSA key in bits; ``None``: it is another key, or cannot be read."""
    fields = Fields(blob)
    try:
        if fields.string() != b"ssh-rsa":
            return None
        fields.string()
        return fields.integer(len(blob)).bit_length()
    except CutOff:
        return None


def fingerprint(blob: bytes) -> str:
    """A public key as OpenSSH shows it: type and ``SHA256:…``."""
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode("ascii").rstrip("=")
    return f"{key_type(blob).decode('ascii', 'replace')} SHA256:{digest}"
