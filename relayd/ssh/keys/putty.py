"""
Private keys in PuTTY's own format, versions 2 and 3.

Source: PuTTY's documentation, appendix C ("PPK file format").
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import NoReturn

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.argon2 import Argon2d, Argon2i, Argon2id
from twisted.conch.ssh.common import NS, getNS

from relayd.language.texts import Fault

HEADER = "PuTTY-User-Key-File-"

#: The most memory for decrypting a key, in KiB; keys of PuTTY need 8 MiB.
MAX_MEMORY = 256 * 1024
#: The most work for decrypting a key, in KiB times passes: two seconds; keys of PuTTY take a tenth of a second.
MAX_WORK = 2 * 1024 * 1024
_MAX_LANES = 16

_CURVES: dict[bytes, ec.EllipticCurve] = {
    b"nistp256": ec.SECP256R1(),
    b"nistp384": ec.SECP384R1(),
    b"nistp521": ec.SECP521R1(),
}
_ARGON2: dict[str, type[Argon2id] | type[Argon2i] | type[Argon2d]] = {
    "Argon2id": Argon2id,
    "Argon2i": Argon2i,
    "Argon2d": Argon2d,
}

PuttyKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class PuttyKeyError(Fault):
    """A PuTTY key cannot be used; the argument says why, and shows nothing of the key."""


def parse_putty_key(text: str, passphrase: str | None) -> PuttyKey:
    """
    Read a private key in PuTTY's format.

    :param text: lines without blanks around them.
    :raises PuttyKeyError: when it cannot be used.
    """
    fields = _fields(text.splitlines())
    version = next((version for version in ("2", "3") if HEADER + version in fields), None)
    if version is None:
        raise PuttyKeyError("it is in a version of PuTTY's format other than 2 and 3")
    algorithm = fields[HEADER + version]
    encryption = fields.get("Encryption", "")
    if encryption not in ("none", "aes256-cbc"):
        raise PuttyKeyError("its encryption is not one that PuTTY uses")
    if encryption == "none":
        passphrase = ""
    elif passphrase is None:
        raise PuttyKeyError("it is encrypted, and no passphrase was given")
    public = base64.b64decode(fields["Public-Lines"])
    private = base64.b64decode(fields["Private-Lines"])
    cipher_key, iv, mac_key = _keys(version, encryption, fields, passphrase.encode("utf-8"))
    if encryption != "none":
        private = Cipher(algorithms.AES(cipher_key), modes.CBC(iv)).decryptor().update(private)
    covered = b"".join(
        NS(part) for part in (algorithm.encode(), encryption.encode(), fields["Comment"].encode(), public, private)
    )
    mac = hmac.digest(mac_key, covered, "sha1" if version == "2" else "sha256")
    if not hmac.compare_digest(mac.hex(), fields.get("Private-MAC", "").lower()):
        if encryption == "none":
            _damaged()
        raise PuttyKeyError("the passphrase is wrong, or its content is damaged")
    return _key(algorithm, public, private)


def _fields(lines: list[str]) -> dict[str, str]:
    """The ``Name: value`` lines; for a name ``…-Lines``, the value is the base64 on the lines that follow it."""
    fields: dict[str, str] = {}
    at = 0
    while at < len(lines):
        name, colon, value = lines[at].partition(":")
        at += 1
        value = value.strip()
        if not colon:
            _damaged()
        if name.endswith("-Lines"):
            count = int(value) if value.isdecimal() else -1
            if not 0 <= count <= len(lines) - at:
                raise PuttyKeyError("its end is missing: it was cut off")
            value = "".join(lines[at : at + count])
            at += count
        fields[name] = value
    if not {"Public-Lines", "Private-Lines", "Comment"} <= set(fields):
        raise PuttyKeyError("its end is missing: it was cut off")
    return fields


def _keys(version: str, encryption: str, fields: dict[str, str], passphrase: bytes) -> tuple[bytes, bytes, bytes]:
    """The key and initialization vector of the cipher, and the key of the MAC."""
    if version == "2":
        stretched = b"".join(hashlib.sha1(bytes((0, 0, 0, number)) + passphrase).digest() for number in (0, 1))
        return stretched[:32], bytes(16), hashlib.sha1(b"putty-private-key-file-mac-key" + passphrase).digest()
    if encryption == "none":
        return b"", b"", b""
    kind = _ARGON2.get(fields.get("Key-Derivation", ""))
    numbers = [fields.get(f"Argon2-{name}", "") for name in ("Memory", "Passes", "Parallelism")]
    if kind is None or not all(number.isdecimal() for number in numbers):
        _damaged()
    memory, passes, lanes = map(int, numbers)
    if memory > MAX_MEMORY or memory * passes > MAX_WORK or lanes > _MAX_LANES:
        raise PuttyKeyError("decrypting it takes too much memory or time; save it again with PuTTYgen's defaults")
    derived = kind(
        salt=bytes.fromhex(fields.get("Argon2-Salt", "")), length=80, iterations=passes, lanes=lanes, memory_cost=memory
    ).derive(passphrase)
    return derived[:32], derived[32:48], derived[48:]


def _key(algorithm: str, public: bytes, private: bytes) -> PuttyKey:
    _name, rest = getNS(public)
    if algorithm == "ssh-ed25519":
        return ed25519.Ed25519PrivateKey.from_private_bytes(getNS(private)[0])
    if algorithm.startswith("ecdsa-sha2-"):
        curve = _CURVES.get(getNS(rest)[0])
        if curve is None:
            _damaged()
        return ec.derive_private_key(_integers(private, 1)[0], curve)
    if algorithm == "ssh-rsa":
        exponent, modulus = _integers(rest, 2)
        secret, p, q, inverse = _integers(private, 4)
        numbers = rsa.RSAPrivateNumbers(
            p, q, secret, secret % (p - 1), secret % (q - 1), inverse, rsa.RSAPublicNumbers(exponent, modulus)
        )
        return numbers.private_key(unsafe_skip_rsa_key_validation=True)  # see `relayd.ssh.keys.private`
    raise PuttyKeyError("it is neither Ed25519, ECDSA nor RSA")


def _integers(data: bytes, count: int) -> list[int]:
    return [int.from_bytes(field, "big") for field in getNS(data, count)[:count]]


def _damaged() -> NoReturn:
    raise PuttyKeyError("its content is damaged")
