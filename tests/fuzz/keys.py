"""
Private keys, as main servers send them: texts in OpenSSH's format, PEM and PuTTY's, and what is inside of each.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterator
from functools import cache
from types import SimpleNamespace
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from twisted.conch.ssh.common import NS
from twisted.conch.ssh.keys import Key

from relayd.ssh.keys import containers, putty
from relayd.ssh.keys.private import UnreadableKey, parse_private_key
from tests.fuzz.engine import CANARY, Target, check_words, grow

# Work that takes a tenth of a second and not seconds; what finds a way around the bounds still takes longer.
containers.MAX_BCRYPT_ROUNDS = 2
containers.MAX_ITERATIONS = 20_000
containers.MAX_SCRYPT_WORK = 1 << 20
putty.MAX_MEMORY = 64
putty.MAX_WORK = 256

#: The first byte: a whole text, or the bytes in an envelope of one of these kinds. 0x80: PuTTY's MAC is taken unseen.
_LABELS = ("", "OPENSSH PRIVATE KEY", "PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY")
_PUTTY = len(_LABELS)
_ANY_MAC = 0x80
_ALGORITHMS = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp521", "ssh-rsa")


def _run(data: bytes) -> None:
    if len(data) < 2:
        return
    kind, detail, data = data[0], data[1], data[2:]
    any_mac, kind = kind & _ANY_MAC, (kind & 0x7F) % (_PUTTY + 1)
    if kind == 0:
        text = grow(data).decode("utf-8", "ignore")
    elif kind < _PUTTY:
        text = _pem(_LABELS[kind], data)
    else:
        text = _ppk(_ALGORITHMS[detail % len(_ALGORITHMS)], data)
    # As it is with whoever must not see the MAC fail
    shim: Any = SimpleNamespace(digest=hmac.digest, compare_digest=lambda one, other: True)
    putty.hmac = shim if any_mac else hmac  # type: ignore[attr-defined]
    for passphrase in (None, CANARY):
        try:
            key = parse_private_key(text, passphrase)
        except UnreadableKey as error:
            check_words(error, 200)
        else:
            key.blob()


def _pem(label: str, body: bytes) -> str:
    return f"-----BEGIN {label}-----\n{base64.encodebytes(body).decode()}-----END {label}-----\n"


def _ppk(algorithm: str, data: bytes, version: int = 3) -> str:
    """Unencrypted: public and private part, the first after a byte of its size."""
    size = data[0] if data else 0
    public, private = data[1 : 1 + size], data[1 + size :]
    parts = (algorithm.encode(), b"none", b"comment", public, private)
    mac_key = hashlib.sha1(b"putty-private-key-file-mac-key").digest() if version == 2 else b""
    mac = hmac.digest(mac_key, b"".join(map(NS, parts)), "sha1" if version == 2 else "sha256").hex()
    lines = [f"PuTTY-User-Key-File-{version}: {algorithm}", "Encryption: none", "Comment: comment"]
    for name, part in (("Public", public), ("Private", private)):
        encoded = base64.encodebytes(part).decode().splitlines()
        lines += [f"{name}-Lines: {len(encoded)}", *encoded]
    return "\n".join([*lines, f"Private-MAC: {mac}", ""])


@cache
def _keys() -> tuple[Any, ...]:
    return (
        ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32))),
        ec.derive_private_key(7, ec.SECP256R1()),
        rsa.generate_private_key(65537, 1024),
    )


def _body(pem: str) -> bytes:
    return base64.b64decode("".join(line for line in pem.splitlines() if line and "-----" not in line))


def _seeds() -> Iterator[bytes]:
    secret = CANARY.encode()
    openssh = PrivateFormat.OpenSSH.encryption_builder().kdf_rounds(1).build(secret)
    forms: tuple[tuple[int, PrivateFormat, Any], ...] = (
        (1, PrivateFormat.OpenSSH, NoEncryption()),
        (1, PrivateFormat.OpenSSH, openssh),
        (2, PrivateFormat.PKCS8, NoEncryption()),
        (3, PrivateFormat.PKCS8, BestAvailableEncryption(secret)),
        (4, PrivateFormat.TraditionalOpenSSL, NoEncryption()),
    )
    for key in _keys():
        for number, form, encryption in forms:
            if form is PrivateFormat.TraditionalOpenSSL and isinstance(key, ed25519.Ed25519PrivateKey):
                continue
            kind = 5 if number == 4 and isinstance(key, ec.EllipticCurvePrivateKey) else number
            pem = key.private_bytes(Encoding.PEM, form, encryption).decode()
            yield bytes((0, 0)) + pem.encode()
            yield bytes((kind, 0)) + _body(pem)
    rsa_key = _keys()[2]
    legacy = rsa_key.private_bytes(
        Encoding.PEM, PrivateFormat.TraditionalOpenSSL, BestAvailableEncryption(secret)
    ).decode()
    yield bytes((0, 0)) + legacy.encode()
    for number, key in ((0, _keys()[0]), (1, _keys()[1]), (3, rsa_key)):
        public = Key(key).blob()
        data = bytes((min(len(public), 255),)) + public + _putty_private(key)
        yield bytes((_PUTTY, number)) + data
        for version in (2, 3):
            yield bytes((0, 0)) + _ppk(_ALGORITHMS[number], data, version).encode()
    argon = _ppk("ssh-ed25519", bytes((51,)) + Key(_keys()[0]).blob() + bytes(48)).replace(
        "Encryption: none", "Encryption: aes256-cbc"
    )
    more = (
        "Key-Derivation: Argon2id\nArgon2-Memory: 64\nArgon2-Passes: 2\nArgon2-Parallelism: 1\nArgon2-Salt: " + "0" * 32
    )
    yield bytes((_ANY_MAC, 0)) + argon.replace("Private-Lines", more + "\nPrivate-Lines").encode()
    begun = b"PRIVATE KEY-----\n-----BEGIN A-----\n-----END A-----"
    yield bytes((0, 0)) + begun + bytes((17, 17, 12, 0xFF))
    yield (
        bytes((0, 0))
        + b"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\n-----END "
        + bytes((31, 23, 12, 0xF0))
    )


def _putty_private(key: Any) -> bytes:
    def number(value: int) -> bytes:
        return NS(value.to_bytes(value.bit_length() // 8 + 1, "big"))

    if isinstance(key, ed25519.Ed25519PrivateKey):
        return NS(key.private_bytes_raw())
    numbers = key.private_numbers()
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return number(numbers.private_value)
    return b"".join(map(number, (numbers.d, numbers.p, numbers.q, numbers.iqmp)))


_WORDS = (
    *(f"-----BEGIN {label}-----\n" for label in _LABELS[1:]),
    *(f"-----END {label}-----\n" for label in _LABELS[1:]),
    *("PuTTY-User-Key-File-2: ", "PuTTY-User-Key-File-3: ", "Encryption: ", "none", "aes256-cbc", "Public-Lines: "),
    *("Private-Lines: ", "Private-MAC: ", "Key-Derivation: ", "Argon2i", "Argon2-Memory: ", "Argon2-Passes: "),
    *("Argon2-Parallelism: ", "Proc-Type: 4,ENCRYPTED", "DEK-Info: AES-128-CBC,", "\\n", "9" * 4400, "²", "\ufeff"),
    *("openssh-key-v1\0", "bcrypt", "aes256-ctr", "ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256", "nistp256"),
)

TARGETS = {"ssh-keys": Target(_run, _seeds, tuple(word.encode() for word in _WORDS))}
