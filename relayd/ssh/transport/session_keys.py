"""
The results of a key exchange: its hash, the host's proof, and the keys of both directions. No I/O.

Source: RFC 4253, sections 7.2 and 8.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from msgspec import Struct
from twisted.conch.ssh.common import NS

from relayd.language.texts import Fault
from relayd.ssh.keys.binary import CutOff, Fields
from relayd.ssh.keys.certificates import BadCertificate, parse_certificate
from relayd.ssh.keys.public import BadPublicKey, PublicKey, rsa_bits
from relayd.ssh.keys.types import is_certified, key_type, key_type_of, uncertified
from relayd.ssh.transport.key_exchange_methods import Agreed


class BadProof(Fault):
    """The host did not prove that it has its key; the argument says what is wrong."""


def exchange_hash(hash_name: str, versions_and_kexinits: Sequence[bytes], agreed: Agreed) -> bytes:
    """
    The exchange hash, H (RFC 4253, section 8).

    :param versions_and_kexinits: both versions, then both KEXINIT payloads, ours first each time.
    """
    parts = (*map(NS, versions_and_kexinits), NS(agreed.host_key), agreed.transcript, agreed.secret)
    return hashlib.new(hash_name, b"".join(parts)).digest()


def check_proof(agreed: Agreed, algorithm: bytes, digest: bytes, min_rsa_bits: int) -> None:
    """
    Check that the host has signed the hash with the key that it showed. Whether that is the right key is not checked.

    :param algorithm: the negotiated host key algorithm.
    :param digest: the exchange hash.
    :param min_rsa_bits: the least size of an RSA key, be it the host's or that of its certificate's authority.
    :raises BadProof: when it has not.
    """
    if key_type(agreed.host_key) != key_type_of(algorithm):
        raise BadProof("its host key is of another type than agreed")
    try:
        if Fields(agreed.signature).string() != uncertified(algorithm):
            raise BadProof("its signature is of another type than agreed")
        key = PublicKey(_plain_key(agreed.host_key, min_rsa_bits), min_rsa_bits, dsa_allowed=algorithm == b"ssh-dss")
    except (BadCertificate, BadPublicKey) as error:
        raise BadProof("its host key cannot be used: {reason}", reason=error.text) from None
    except CutOff:
        raise BadProof("the signature of its host key is wrong") from None
    if not key.verify(agreed.signature, digest):
        raise BadProof("the signature of its host key is wrong")


def _plain_key(host_key: bytes, min_rsa_bits: int) -> bytes:
    """The plain key of a key or of a certificate. Whether the certificate is valid is not checked."""
    if not is_certified(key_type(host_key)):
        return host_key
    certificate = parse_certificate(host_key)
    bits = rsa_bits(certificate.authority)
    if bits is not None and bits < min_rsa_bits:
        raise BadCertificate(
            "its authority has an RSA key of {bits} bits, and needs {least} at least", bits=bits, least=min_rsa_bits
        )
    return certificate.key


class KeySchedule(Struct, frozen=True):
    """
    The key material of one exchange (RFC 4253, section 7.2).

    :ivar secret: K, as `Agreed.secret`.
    :ivar digest: the hash of this exchange. The hash of the first one is the session identifier.
    """

    hash_name: str
    secret: bytes
    digest: bytes
    session_id: bytes

    def __repr__(self) -> str:
        return "<KeySchedule>"

    def out(self, use: str, size: int) -> bytes:
        """Key material for what the client sends: for ``iv``, ``key`` or ``mac``, of *size* bytes."""
        return self._derive({"iv": b"A", "key": b"C", "mac": b"E"}[use], size)

    def inward(self, use: str, size: int) -> bytes:
        """The same for what the server sends."""
        return self._derive({"iv": b"B", "key": b"D", "mac": b"F"}[use], size)

    def _derive(self, letter: bytes, size: int) -> bytes:
        known = hashlib.new(self.hash_name, self.secret + self.digest + letter + self.session_id).digest()
        while len(known) < size:
            known += hashlib.new(self.hash_name, self.secret + self.digest + known).digest()
        return known[:size]
