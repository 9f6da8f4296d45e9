"""
The cost of decrypting a private key. The author of a key file chooses how much work its passphrase takes.

Source: OpenSSH's PROTOCOL.key (bcrypt); RFC 8018, appendix A (PBKDF2, PBES1); RFC 7914, section 7 (scrypt).
"""

from __future__ import annotations

import base64
import binascii
import re
import struct
from collections.abc import Iterator

from twisted.conch.ssh.common import getNS

#: The most work for one key: some seconds of one processor where other threads can run meanwhile (bcrypt), and some
#: 40 ms where the library keeps the interpreter locked (PBKDF2, scrypt). ssh-keygen makes 16 or 24 rounds, openssl
#: 2,048 iterations, or scrypt with 16 MiB.
MAX_BCRYPT_ROUNDS = 512
MAX_ITERATIONS = 100_000
MAX_SCRYPT_WORK = 16 * 1024 * 1024

_OPENSSH_MAGIC = b"openssh-key-v1\0"
_SEQUENCE, _INTEGER, _OBJECT = 0x30, 0x02, 0x06
_SCRYPT = bytes.fromhex("2b06010401da47040b")  # 1.3.6.1.4.1.11591.4.11
#: Most PEM blocks in one text; a private key has one or two. The search for each one's end reads all that follows.
_MAX_BLOCKS = 32
#: The deepest nesting of the parameters of a PKCS#8 key.
_MAX_DEPTH = 8


class TooCostly(Exception):
    """Decrypting a key takes too much memory or time."""


class Damaged(Exception):
    """A key is not in the format that it claims."""


def check_cost(pem: str) -> bool:
    """
    Find out how a private key in PEM is encrypted, before any work is done.

    :return: whether it is encrypted.
    :raises TooCostly: when decrypting it would take too much work.
    :raises Damaged: when the key cannot be read that far.
    """
    encrypted = re.search(r"^Proc-Type:.*ENCRYPTED", pem, re.MULTILINE) is not None  # by a single round of MD5
    if pem.count("-----BEGIN ") > _MAX_BLOCKS:
        raise Damaged
    # Each BEGIN is checked, so that no block can hide inside another one.
    for label, body in re.findall(r"(?=-----BEGIN ([A-Z0-9 ]+)-----(.*?)-----END )", pem, re.DOTALL):
        if label == "OPENSSH PRIVATE KEY":
            encrypted |= _check_openssh(_decoded(body))
        elif label == "ENCRYPTED PRIVATE KEY":
            _check_pkcs8(_decoded(body))
            encrypted = True
    return encrypted


def _decoded(body: str) -> bytes:
    try:
        return base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError):
        raise Damaged from None


def _check_openssh(data: bytes) -> bool:
    if not data.startswith(_OPENSSH_MAGIC):
        raise Damaged
    try:
        _cipher, kdf, options, _rest = getNS(data[len(_OPENSSH_MAGIC) :], 3)
        if kdf == b"none":
            return False
        _salt, rounds = getNS(options)
    except struct.error:
        raise Damaged from None
    if len(rounds) != 4:
        raise Damaged
    if int.from_bytes(rounds, "big") > MAX_BCRYPT_ROUNDS:
        raise TooCostly
    return True


def _check_pkcs8(data: bytes) -> None:
    """EncryptedPrivateKeyInfo (RFC 5958, section 3): the algorithm with its parameters, then the encrypted key."""
    tag, outer = next(_elements(data), (0, b""))
    inner, algorithm = next(_elements(outer), (0, b""))
    if tag != _SEQUENCE or inner != _SEQUENCE:
        raise Damaged
    objects, numbers = _flattened(algorithm)
    if _SCRYPT in objects:
        # Cost, block size, parallelisation, and perhaps the length of the key
        cost, block, lanes = (*numbers, 1, 1, 1)[:3]
        if 128 * max(1, cost) * max(1, block) * max(1, lanes) > MAX_SCRYPT_WORK:
            raise TooCostly
    elif any(number > MAX_ITERATIONS for number in numbers):
        raise TooCostly


def _flattened(data: bytes, depth: int = 0) -> tuple[list[bytes], list[int]]:
    """The object identifiers and the integers inside, in their order."""
    if depth > _MAX_DEPTH:
        raise Damaged
    objects: list[bytes] = []
    numbers: list[int] = []
    for tag, content in _elements(data):
        if tag == _OBJECT:
            objects.append(content)
        elif tag == _INTEGER:
            numbers.append(int.from_bytes(content, "big"))
        elif tag == _SEQUENCE:
            more_objects, more_numbers = _flattened(content, depth + 1)
            objects += more_objects
            numbers += more_numbers
    return objects, numbers


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and content of each DER element (X.690, section 8.1)."""
    at = 0
    while at < len(data):
        header = data[at : at + 2]
        if len(header) < 2:
            raise Damaged
        tag, length = header
        at += 2
        if length & 0x80:
            size = length & 0x7F
            if not 0 < size <= 4:
                raise Damaged
            length = int.from_bytes(data[at : at + size], "big")
            at += size
        if length > len(data) - at:
            raise Damaged
        yield tag, data[at : at + length]
        at += length
