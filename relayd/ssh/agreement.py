"""
What follows from a key exchange: its hash, the host's proof, and the keys of both directions. No I/O.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from msgspec import Struct
from twisted.conch.ssh.common import NS, getNS
from twisted.conch.ssh.keys import BadKeyError, Key

from relayd.ssh.algorithms import key_type_of, uncertified
from relayd.ssh.certificates import BadCertificate, certified_key
from relayd.ssh.hostkeys import key_type
from relayd.ssh.kex import Agreed
from relayd.texts import Fault


class BadProof(Fault):
    """The host did not prove that it has its key; the argument says what is wrong."""


def exchange_hash(hash_name: str, greetings: Sequence[bytes], agreed: Agreed) -> bytes:
    """
    H (RFC 4253, section 8).

    :param greetings: both versions and both KEXINIT payloads, ours first each time.
    """
    parts = (*map(NS, greetings), NS(agreed.host_key), agreed.transcript, agreed.secret)
    return hashlib.new(hash_name, b"".join(parts)).digest()


def check_proof(agreed: Agreed, algorithm: bytes, digest: bytes) -> None:
    """
    The host must have signed the hash with the key that it showed. Whose key that is is another question.

    :param algorithm: the host key algorithm that was agreed on.
    :raises BadProof: when it did not.
    """
    if key_type(agreed.host_key) != key_type_of(algorithm):
        raise BadProof("its host key is of another type than agreed")
    if getNS(agreed.signature)[0] != uncertified(algorithm):
        raise BadProof("its signature is of another type than agreed")
    try:
        key = certified_key(agreed.host_key)  # whether a certificate is good for anything is not seen here
        proved = Key.fromString(key, type="BLOB").verify(agreed.signature, digest)
    except (BadCertificate, BadKeyError, ValueError):
        raise BadProof("its host key cannot be read") from None
    if not proved:
        raise BadProof("the signature of its host key is wrong")


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
