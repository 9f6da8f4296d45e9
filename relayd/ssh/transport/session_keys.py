"""
What follows from a key exchange: its hash, the host's proof, and the keys of both directions. No I/O.
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


def exchange_hash(hash_name: str, greetings: Sequence[bytes], agreed: Agreed) -> bytes:
    """
    H (RFC 4253, section 8).

    :param greetings: both versions and both KEXINIT payloads, ours first each time.
    """
    parts = (*map(NS, greetings), NS(agreed.host_key), agreed.transcript, agreed.secret)
    return hashlib.new(hash_name, b"".join(parts)).digest()


def check_proof(agreed: Agreed, algorithm: bytes, digest: bytes, least_rsa_bits: int) -> None:
    """
    The host must have signed the hash with the key that it showed. Whose key that is is another question.

    :param algorithm: the host key algorithm that was agreed on.
    :param least_rsa_bits: how long a key of RSA must be, be it the host's or that of its certificate's authority.
    :raises BadProof: when it did not.
    """
    if key_type(agreed.host_key) != key_type_of(algorithm):
        raise BadProof("its host key is of another type than agreed")
    try:
        if Fields(agreed.signature).string() != uncertified(algorithm):
            raise BadProof("its signature is of another type than agreed")
        key = PublicKey(_plain_key(agreed.host_key, least_rsa_bits), least_rsa_bits)
    except (BadCertificate, BadPublicKey) as error:
        raise BadProof("its host key cannot be used: {reason}", reason=error.text) from None
    except CutOff:
        raise BadProof("the signature of its host key is wrong") from None
    if not key.verify(agreed.signature, digest):
        raise BadProof("the signature of its host key is wrong")


def _plain_key(host_key: bytes, least_rsa_bits: int) -> bytes:
    """The key that is in a certificate; whether that is good for anything is not seen here."""
    if not is_certified(key_type(host_key)):
        return host_key
    certificate = parse_certificate(host_key)
    bits = rsa_bits(certificate.authority)
    if bits is not None and bits < least_rsa_bits:
        raise BadCertificate(
            "the {bits} RSA bits of its authority are fewer than {least}", bits=bits, least=least_rsa_bits
        )
    return certificate.key


class KeySchedule(Struct, frozen=True):
    """
    Key material (RFC 4253, section 7.2).

    :ivar digest: the hash of this exchange; that of the first one is the session's id.
    """

    hash_name: str
    secret: bytes
    digest: bytes
    session_id: bytes

    def __repr__(self) -> str:
        return "<KeySchedule>"

    def out(self, use: str, size: int) -> bytes:
        """For what we send: by ``iv``, ``key`` or ``mac``, and a number of bytes."""
        return self._derive({"iv": b"A", "key": b"C", "mac": b"E"}[use], size)

    def inward(self, use: str, size: int) -> bytes:
        """For what we receive, likewise."""
        return self._derive({"iv": b"B", "key": b"D", "mac": b"F"}[use], size)

    def _derive(self, letter: bytes, size: int) -> bytes:
        known = hashlib.new(self.hash_name, self.secret + self.digest + letter + self.session_id).digest()
        while len(known) < size:
            known += hashlib.new(self.hash_name, self.secret + self.digest + known).digest()
        return known[:size]
