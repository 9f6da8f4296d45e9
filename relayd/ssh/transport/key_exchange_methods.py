"""
The key exchange methods: how client and server agree on a secret; the client side of each.

Source: RFC 4253, section 8, and RFC 8268 (Diffie-Hellman); RFC 4419 (group exchange); RFC 5656, section 4 (ECDH); RFC
8731 (Curve25519); draft-ietf-sshm-mlkem-hybrid-kex (ML-KEM with X25519); draft-ietf-sshm-ntruprime-ssh (Streamlined
NTRU Prime with X25519).  No I/O; the primitives are `cryptography`'s, but for two.
"""

from __future__ import annotations

import hashlib
import secrets
import struct
import warnings
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any, Protocol

from cryptography.hazmat.primitives.asymmetric import dh, ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.utils import CryptographyDeprecationWarning
from msgspec import Struct
from twisted.conch.ssh.common import MP, NS, getMP, getNS

from relayd.network.descriptors import shortage
from relayd.ssh.transport.breach import Breach, LibraryGone
from relayd.ssh.transport.numbers import (
    MSG_KEX_DH_GEX_INIT,
    MSG_KEX_DH_GEX_REPLY,
    MSG_KEX_DH_GEX_REQUEST,
    MSG_KEX_INIT,
    MSG_KEX_REPLY,
)

try:
    from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
except ImportError:  # before cryptography 47
    MLKEM768PrivateKey = None  # type: ignore[assignment,misc]

#: An extra of this package; it has dozens of methods, and takes more than a megabyte of memory.
HAS_PQCRYPTO = find_spec("pqcrypto") is not None

# Servers that have nothing newer will be there for years, and a warning about each of them helps nobody.
warnings.filterwarnings("ignore", "Diffie-Hellman over finite fields", CryptographyDeprecationWarning)


#: RFC 2409, section 6.2, and RFC 3526: the constant that makes the group's modulus a safe prime.
_MODP_OFFSETS = {1024: 129093, 2048: 124476, 3072: 1690314, 4096: 240904, 6144: 929484, 8192: 4743158}

#: Sizes of a group in bits: least, preferred, most (RFC 4419, section 3; RFC 8270). Every server has one of 3072 or
#: 4096 bits; longer ones would only let a hostile server keep this process busy.
GROUP_SIZES = (2048, 3072, 4096)
#: The same for ``…-sha1``, whose servers may have nothing but the group of ``diffie-hellman-group1-sha1``, or as short.
OLD_GROUP_SIZES = (1024, 3072, 4096)
#: Length of our secret exponent in a group that the server chose.
EXPONENT_BITS = 512

_ML_KEM_CIPHERTEXT = 1088


class Agreed(Struct, frozen=True):
    """
    What a key exchange method ends with.

    :ivar host_key: public key blob of the server.
    :ivar signature: over the exchange hash.
    :ivar transcript: what the method adds to the exchange hash, between the host key and the secret.
    :ivar secret: K, encoded as the method says (a multiple precision integer or a string).
    """

    host_key: bytes
    signature: bytes
    transcript: bytes
    secret: bytes


class KeyExchangeMethod(Protocol):
    """
    One run of a key exchange method.

    :ivar price: microseconds of processor time that it takes on a slow machine, signatures and new ciphers included.
    """

    hash_name: str

    @property
    def price(self) -> int: ...

    def first(self) -> tuple[int, bytes]:
        """The first message to send: its number and payload."""

    def step(self, message: int, payload: bytes) -> tuple[int, bytes] | Agreed:
        """
        Read the server's answer.

        :return: the next message to send, or the outcome.
        :raises Breach: when the answer is not valid.
        """


class _OneRound:
    """A method of one message each way: our public value, then the server's."""

    hash_name = "sha256"
    price = 2_000
    _ours = b""

    def first(self) -> tuple[int, bytes]:
        return MSG_KEX_INIT, self._encode(self._ours)

    def step(self, message: int, payload: bytes) -> tuple[int, bytes] | Agreed:
        if message != MSG_KEX_REPLY:
            raise Breach("message {number} in the middle of a key exchange", number=message)
        host_key, rest = getNS(payload)
        # An integer and a string look alike: a length, then so many bytes.
        theirs, signature, _rest = getNS(rest, 2)
        try:
            secret = self._secret(theirs)
        except ValueError:
            raise Breach("an invalid public value") from None
        return Agreed(host_key, signature, self._encode(self._ours) + NS(theirs), secret)

    def _encode(self, value: bytes) -> bytes:
        return NS(value)

    def _secret(self, theirs: bytes) -> bytes:
        raise NotImplementedError


class Curve25519(_OneRound):
    """``curve25519-sha256``"""

    def __init__(self) -> None:
        self._private = X25519PrivateKey.generate()
        self._ours = self._private.public_key().public_bytes_raw()

    def _secret(self, theirs: bytes) -> bytes:
        return _integer(self._private.exchange(X25519PublicKey.from_public_bytes(theirs)))


class MLKEM768X25519(_OneRound):
    """``mlkem768x25519-sha256``: safe while either of its two halves is, against a quantum computer too."""

    def __init__(self) -> None:
        self._x25519 = X25519PrivateKey.generate()
        self._mlkem = MLKEM768PrivateKey.generate()
        self._ours = self._mlkem.public_key().public_bytes_raw() + self._x25519.public_key().public_bytes_raw()

    def _secret(self, theirs: bytes) -> bytes:
        quantum_safe = self._mlkem.decapsulate(theirs[:_ML_KEM_CIPHERTEXT])
        classic = self._x25519.exchange(X25519PublicKey.from_public_bytes(theirs[_ML_KEM_CIPHERTEXT:]))
        return NS(hashlib.sha256(quantum_safe + classic).digest())


class SNTRUP761X25519(_OneRound):
    """``sntrup761x25519-sha512``: as `MLKEM768X25519`, with Streamlined NTRU Prime."""

    hash_name = "sha512"
    price = 50_000  # most of it for the key

    def __init__(self) -> None:
        self._library = _sntrup_761()
        self._x25519 = X25519PrivateKey.generate()
        public, self._secret_key = self._library.keygen()
        self._ours = public + self._x25519.public_key().public_bytes_raw()

    def _secret(self, theirs: bytes) -> bytes:
        size = self._library.CIPHERTEXT_SIZE
        quantum_safe = self._library.decaps(self._secret_key, theirs[:size])
        classic = self._x25519.exchange(X25519PublicKey.from_public_bytes(theirs[size:]))
        return NS(hashlib.sha512(quantum_safe + classic).digest())


def _sntrup_761() -> Any:
    """
    The library for Streamlined NTRU Prime, imported with the first server that has no better method.

    :raises LibraryGone: when it cannot be imported any more.
    """
    try:
        from pqcrypto.kem import sntrup_761
    except (ImportError, OSError) as error:
        reason = shortage() or type(error).__name__
        raise LibraryGone(
            "this client cannot load the Python package {library}, which was there when it began: {reason}",
            library="pqcrypto",
            reason=reason,
        ) from None
    return sntrup_761


class ECDH(_OneRound):
    """``ecdh-sha2-nistp256``, ``ecdh-sha2-nistp384`` and ``ecdh-sha2-nistp521``"""

    def __init__(self, curve: ec.EllipticCurve, hash_name: str) -> None:
        self.hash_name = hash_name
        self._curve = curve
        self._private = ec.generate_private_key(curve)
        self._ours = self._private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

    def _secret(self, theirs: bytes) -> bytes:
        point = ec.EllipticCurvePublicKey.from_encoded_point(self._curve, theirs)
        return _integer(self._private.exchange(ec.ECDH(), point))


class _KnownGroup:
    """A Diffie-Hellman group of an RFC, with the generator 2, and our values in it."""

    def __init__(self, prime: int) -> None:
        self._prime = prime
        self._numbers = dh.DHParameterNumbers(prime, 2)
        self._private = self._numbers.parameters().generate_private_key()
        self.public = MP(self._private.public_key().public_numbers().y)

    def secret(self, theirs: int) -> bytes:
        if not 1 < theirs < self._prime - 1:
            raise Breach("an invalid public value")
        return _integer(self._private.exchange(dh.DHPublicNumbers(theirs, self._numbers).public_key()))


class _UncheckedGroup:
    """
    A Diffie-Hellman group that the server chose, or that `cryptography` does not know, and our values in it.

    `cryptography` first checks that the modulus of an unknown group is a safe prime. For 4096 bits that takes 3.5 s for
    each of the two values, in which the event loop stands still. OpenSSH does not check it: the server signs the group,
    and with a bad one it only betrays itself. So this class uses Python's own arithmetic, with an exponent that is used
    once.
    """

    def __init__(self, prime: int, generator: int) -> None:
        self._prime = prime
        # As long as twice the strength of the strongest cipher is enough (RFC 4419, section 6.2).
        self._private = secrets.randbits(EXPONENT_BITS) | 1 << EXPONENT_BITS - 1
        self.public = MP(pow(generator, self._private, prime))

    def secret(self, theirs: int) -> bytes:
        if not 1 < theirs < self._prime - 1:
            raise Breach("an invalid public value")
        return bytes(MP(pow(theirs, self._private, self._prime)))


class FixedGroup(_OneRound):
    """The groups that have a number, such as ``diffie-hellman-group14-sha256``."""

    def __init__(self, bits: int, hash_name: str) -> None:
        self.hash_name = hash_name
        self.price = 8_000 if bits <= 4096 else 25_000
        prime = modp_prime(bits)
        self._group = _KnownGroup(prime) if bits >= 2048 else _UncheckedGroup(prime, 2)

    def _encode(self, value: bytes) -> bytes:
        return bytes(self._group.public)

    def _secret(self, theirs: bytes) -> bytes:
        return self._group.secret(int.from_bytes(theirs, "big", signed=True))


class GroupExchange:
    """``diffie-hellman-group-exchange-sha256`` and ``…-sha1``: the server chooses the group."""

    price = 50_000

    def __init__(self, hash_name: str, sizes: tuple[int, int, int] = GROUP_SIZES) -> None:
        self.hash_name = hash_name
        self._sizes = sizes
        self._request = struct.pack(">LLL", *sizes)
        self._group: _UncheckedGroup | None = None
        self._values = b""

    def first(self) -> tuple[int, bytes]:
        return MSG_KEX_DH_GEX_REQUEST, self._request

    def step(self, message: int, payload: bytes) -> tuple[int, bytes] | Agreed:
        if message == MSG_KEX_REPLY and self._group is None:
            prime, rest = getMP(payload)
            generator, _rest = getMP(rest)
            if not self._sizes[0] <= prime.bit_length() <= self._sizes[2] or not prime & 1:
                raise Breach("a group of {bits} bits", bits=prime.bit_length())
            if not 1 < generator < prime - 1:
                raise Breach("an invalid generator")
            self._group = _UncheckedGroup(prime, generator)
            self._values = MP(prime) + MP(generator) + self._group.public
            return MSG_KEX_DH_GEX_INIT, self._group.public
        if message == MSG_KEX_DH_GEX_REPLY and self._group is not None:
            host_key, rest = getNS(payload)
            theirs, rest = getMP(rest)
            signature, _rest = getNS(rest)
            secret = self._group.secret(theirs)
            return Agreed(host_key, signature, self._request + self._values + MP(theirs), secret)
        raise Breach("message {number} in the middle of a key exchange", number=message)


@cache
def modp_prime(bits: int) -> int:
    """
    The modulus of a group of RFC 2409 or RFC 3526, by their own formula:
    2^bits - 2^(bits - 64) - 1 + 2^64 ([2^(bits - 130) pi] + offset).
    """
    middle = _pi(bits - 130) + _MODP_OFFSETS[bits]
    return int(2**bits - 2 ** (bits - 64) - 1 + 2**64 * middle)


def _pi(bits: int) -> int:
    """The integer part of 2^bits pi, by Machin's formula."""
    guard = 64
    one = 1 << (bits + guard)

    def arctan_of_inverse(number: int) -> int:
        power = total = one // number
        step = 3
        while power:
            power //= -number * number
            total += power // step
            step += 2
        return total

    return (16 * arctan_of_inverse(5) - 4 * arctan_of_inverse(239)) >> guard


def _integer(value: bytes) -> bytes:
    """A shared secret as the multiple precision integer that goes into the exchange hash (RFC 4251, section 5)."""
    result: Any = MP(int.from_bytes(value, "big"))
    return bytes(result)


METHODS: dict[bytes, Callable[[], KeyExchangeMethod]] = {
    b"curve25519-sha256": Curve25519,
    b"curve25519-sha256@libssh.org": Curve25519,
    b"ecdh-sha2-nistp256": lambda: ECDH(ec.SECP256R1(), "sha256"),
    b"ecdh-sha2-nistp384": lambda: ECDH(ec.SECP384R1(), "sha384"),
    b"ecdh-sha2-nistp521": lambda: ECDH(ec.SECP521R1(), "sha512"),
    b"diffie-hellman-group-exchange-sha256": lambda: GroupExchange("sha256"),
    b"diffie-hellman-group16-sha512": lambda: FixedGroup(4096, "sha512"),
    b"diffie-hellman-group14-sha256": lambda: FixedGroup(2048, "sha256"),
    b"diffie-hellman-group15-sha512": lambda: FixedGroup(3072, "sha512"),
    b"diffie-hellman-group17-sha512": lambda: FixedGroup(6144, "sha512"),
    b"diffie-hellman-group18-sha512": lambda: FixedGroup(8192, "sha512"),
    b"diffie-hellman-group14-sha1": lambda: FixedGroup(2048, "sha1"),
    b"diffie-hellman-group-exchange-sha1": lambda: GroupExchange("sha1", OLD_GROUP_SIZES),
    b"diffie-hellman-group1-sha1": lambda: FixedGroup(1024, "sha1"),
}
if MLKEM768PrivateKey is not None:
    METHODS[b"mlkem768x25519-sha256"] = MLKEM768X25519
if HAS_PQCRYPTO:
    METHODS[b"sntrup761x25519-sha512"] = METHODS[b"sntrup761x25519-sha512@openssh.com"] = SNTRUP761X25519
#: Methods that need a library which is not installed here, with the library's name for pip.
MISSING_LIBRARIES: dict[bytes, str] = {
    name: library
    for name, library in (
        (b"mlkem768x25519-sha256", "cryptography>=47"),
        (b"sntrup761x25519-sha512", "pqcrypto"),
        (b"sntrup761x25519-sha512@openssh.com", "pqcrypto"),
    )
    if name not in METHODS
}
