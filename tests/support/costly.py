"""
What a peer or a local user can make cost a lot: certificates and private keys that nobody has to make, and locks.
"""

from __future__ import annotations

import fcntl
import os
from base64 import b64decode, encodebytes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from asyncssh.kex_dh import _group14_p, _group17_p
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat
from twisted.conch.ssh.common import NS
from twisted.conch.ssh.keys import Key

from tests.support.evil import Evil, EvilServer
from tests.support.hostcerts import certificate
from tests.support.ssh import key_pair

CERTIFIED = b"ssh-ed25519-cert-v01@openssh.com"
#: Principals that take long to compare with any name.
SLOW_PATTERN = b"*a" * 60


def putty_key(number: int, memory: int = 256 * 1024, passes: int = 8) -> str:
    """
    An encrypted key in PuTTY's format, which is found to be none only when it has been decrypted.

    :param memory: what that takes, in KiB; with *passes* over it.
    """
    return (
        f"PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: aes256-cbc\nComment: {number}\nPublic-Lines: 1\nAAAA\n"
        f"Key-Derivation: Argon2id\nArgon2-Memory: {memory}\nArgon2-Passes: {passes}\nArgon2-Parallelism: 1\n"
        f"Argon2-Salt: {number:032x}\nPrivate-Lines: 1\nAAAAAAAAAAAAAAAAAAAAAA==\nPrivate-MAC: 00\n"
    )


def openssh_key(rounds: int) -> str:
    """An encrypted key in OpenSSH's format, which is found to be none only after *rounds* of bcrypt."""
    key = ed25519.Ed25519PrivateKey.generate()
    encryption = PrivateFormat.OpenSSH.encryption_builder().kdf_rounds(1).build(b"passphrase")
    _, *lines, _ = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, encryption).splitlines()
    blob = bytearray(b64decode(b"".join(lines)))
    # After the name of the derivation: the length of its options, a salt of 16 bytes with its length, the rounds.
    at = blob.index(NS(b"bcrypt")) + len(NS(b"bcrypt")) + 4 + 4 + 16
    blob[at : at + 4] = rounds.to_bytes(4, "big")
    armour = "-----{} OPENSSH PRIVATE KEY-----\n".format
    return armour("BEGIN") + encodebytes(blob).decode() + armour("END")


def large_rsa() -> rsa.RSAPrivateKey:
    """A key of 8192 bits, as large as they are taken, of two primes that are known: looking for some takes long."""
    p, q, e = _group17_p, _group14_p, 65537
    d = pow(e, -1, (p - 1) * (q - 1))
    return rsa.RSAPrivateNumbers(
        p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), rsa.RSAPublicNumbers(e, p * q)
    ).private_key(unsafe_skip_rsa_key_validation=True)


class _Signer:
    """A private key that Conch's server asks for a signature of a type that no key has."""

    def __init__(self, key: Key) -> None:
        self._key = key

    def sign(self, data: bytes, signatureType: bytes | None = None) -> bytes:
        return bytes(self._key.sign(data))


class _Certificate:
    """What Conch's server shows instead of a public key."""

    def __init__(self, blob: bytes) -> None:
        self._blob = blob

    def blob(self) -> bytes:
        return self._blob


class SelfCertified(EvilServer):
    """
    A host that shows a certificate of an authority which never signed it.

    :param authority: the public key of one that is trusted for every host (``@cert-authority *``).
    """

    def __init__(self, reactor: Any, authority: bytes, principals: int = 250) -> None:
        super().__init__(reactor, _ShowsCertificate)
        key = Key.fromString(key_pair()[0].encode())
        blob = certificate(
            key.public().blob(),
            ed25519.Ed25519PrivateKey.generate(),
            [SLOW_PATTERN] * principals,
            authority_blob=authority,
            signature=NS(b"ssh-ed25519") + NS(bytes(64)),
        )
        self.privateKeys = {CERTIFIED: _Signer(key)}
        self.publicKeys = {CERTIFIED: _Certificate(blob)}


class _ShowsCertificate(Evil):
    def begin(self) -> None:
        self.supportedPublicKeys = [CERTIFIED]
        super().begin()


@contextmanager
def locked(path: str) -> Iterator[None]:
    """Hold a lock on a file, as whoever may read it can."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
