"""
How a text in PEM holds a private key: encrypted or not, by which cipher, at what cost, and whether bytes are missing.

Source: OpenSSH's PROTOCOL.key (bcrypt); RFC 1421, section 4.6.1 (DEK-Info); RFC 8018, appendix A (PBKDF2, PBES1); RFC
7914, section 7 (scrypt).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from contextlib import suppress

from msgspec import Struct

from relayd.language.texts import Fault, Text
from relayd.ssh.keys.binary import CutOff, Fields
from relayd.ssh.keys.types import key_type

#: The most work for one key, whose author chooses how much its passphrase takes: some seconds of one processor where
#: other threads can run meanwhile (bcrypt), and some 40 ms where the library keeps the interpreter locked (PBKDF2,
#: scrypt). ssh-keygen makes 16 or 24 rounds, openssl 2,048 iterations, or scrypt with 16 MiB.
MAX_BCRYPT_ROUNDS = 512
MAX_ITERATIONS = 100_000
MAX_SCRYPT_WORK = 16 * 1024 * 1024

_OPENSSH_MAGIC = b"openssh-key-v1\0"
_SEQUENCE, _INTEGER, _OBJECT = 0x30, 0x02, 0x06
_SCRYPT = bytes.fromhex("2b06010401da47040b")  # 1.3.6.1.4.1.11591.4.11
#: The other ciphers that OpenSSL and OpenSSH have, by the names that messages show: a damaged key may have anything.
_PEM_NAMES = frozenset(
    f"{name}-CBC"
    for name in (
        "DES", "AES-192", "SEED", "IDEA", "BF", "CAST5", "RC2", "CAMELLIA-128", "CAMELLIA-192", "CAMELLIA-256",
        "ARIA-128", "ARIA-192", "ARIA-256",
    )
)  # fmt: skip
_OPENSSH_NAMES = frozenset(
    (
        b"3des-cbc", b"aes128-cbc", b"aes192-cbc", b"aes128-ctr", b"aes192-ctr", b"aes128-gcm@openssh.com",
        b"chacha20-poly1305@openssh.com",
    )
)  # fmt: skip
_FIDO_TYPES = frozenset((b"sk-ssh-ed25519@openssh.com", b"sk-ecdsa-sha2-nistp256@openssh.com"))
#: What the library decrypts. Its errors for all else are those for a wrong passphrase.
_PEM_CIPHERS = frozenset(("DES-EDE3-CBC", "AES-128-CBC", "AES-256-CBC"))
_PKCS8_CIPHERS = frozenset(
    bytes.fromhex(identifier)
    for identifier in (
        "2a864886f70d010503", "2a864886f70d010c0101", "2a864886f70d010c0103", "2a864886f70d010c0106",  # PBES1
        "2a864886f70d0307", "2a864886f70d0302", "60864801650304" + "0102", "60864801650304" + "0116",
        "60864801650304" + "012a",  # 3DES, RC2, AES with 128, 192 and 256 bits, each in CBC
    )
)  # fmt: skip
_OTHER = Text("a cipher other than AES and 3DES")
#: Most PEM blocks in one text; a private key has one or two. The search for each one's end reads all that follows.
_MAX_BLOCKS = 32
#: The deepest nesting of the parameters of a PKCS#8 key.
_MAX_DEPTH = 8


class BadContainer(Fault):
    """A private key in PEM cannot be used; the argument says why, and shows nothing of the key."""


class TooCostly(BadContainer):
    """Decrypting a key takes too much memory or time."""


class Damaged(BadContainer):
    """A key is not in the format that it claims."""


class Container(Struct):
    """
    How a text holds a private key.

    :ivar encrypted: whether it takes a passphrase.
    :ivar unsupported: the reason why it cannot be decrypted, as far as is known.
    """

    encrypted: bool = False
    unsupported: Text | None = None


def inspect_container(pem: str) -> Container:
    """
    Find out how a private key in PEM is encrypted, before any work is done.

    :raises TooCostly: when decrypting it would take too much work.
    :raises Damaged: when the key cannot be read that far.
    :raises BadContainer: when it is a key that needs hardware to sign.
    """
    found = Container()
    if re.search(r"^Proc-Type:.*ENCRYPTED", pem, re.MULTILINE) is not None:  # by a single round of MD5
        found.encrypted = True
        named = re.search(r"^DEK-Info: *([A-Za-z0-9-]{1,32})", pem, re.MULTILINE)
        if named is not None and named[1] not in _PEM_CIPHERS:
            found.unsupported = _unsupported(named[1] if named[1] in _PEM_NAMES else _OTHER)
    if pem.count("-----BEGIN ") > _MAX_BLOCKS:
        raise _damaged()
    # Each BEGIN is checked, so that no block can hide inside another one.
    for label, body in re.findall(r"(?=-----BEGIN ([A-Z0-9 ]+)-----(.*?)-----END )", pem, re.DOTALL):
        if label == "OPENSSH PRIVATE KEY":
            _inspect_openssh(_decoded(body), found)
        elif label == "ENCRYPTED PRIVATE KEY":
            _inspect_pkcs8(_decoded(body), found)
        elif label.endswith("PRIVATE KEY") and not found.encrypted:
            with suppress(binascii.Error, ValueError):  # the library decides about what else may be in there
                _check_length(base64.b64decode("".join(body.split()), validate=True))
    return found


def _decoded(body: str) -> bytes:
    joined = "".join(body.split())
    if len(joined) % 4:
        raise _cut()
    try:
        return base64.b64decode(joined, validate=True)
    except (binascii.Error, ValueError):
        raise _damaged() from None


def _inspect_openssh(data: bytes, found: Container) -> None:
    if not data.startswith(_OPENSSH_MAGIC):
        raise _damaged()
    fields = Fields(data[len(_OPENSSH_MAGIC) :])
    try:
        cipher, kdf, options = fields.string(), fields.string(), Fields(fields.string())
        fields.number(4)  # how many keys there are: one
        kind = key_type(fields.string())
        fields.string()  # the private key
    except CutOff:
        raise _cut() from None
    if kind in _FIDO_TYPES:
        raise BadContainer(
            "it is a FIDO key ({type}), which cannot sign without its hardware token; use a key of another type",
            type=kind.decode(),
        )
    if kind == b"ssh-dss":  # `cryptography` would write a warning to standard error
        raise BadContainer("it is neither Ed25519, ECDSA nor RSA")
    if kdf == b"none":
        return
    try:
        options.string()  # a salt
        rounds = options.number(4)
    except CutOff:
        raise _damaged() from None
    if rounds > MAX_BCRYPT_ROUNDS:
        raise _too_costly()
    found.encrypted = True
    if not cipher.startswith(b"aes256-"):
        found.unsupported = Text(
            "it is encrypted with {cipher}, which is not supported; encrypt it again, as with ssh-keygen -p",
            cipher=cipher.decode() if cipher in _OPENSSH_NAMES else _OTHER,
        )


def _inspect_pkcs8(data: bytes, found: Container) -> None:
    """EncryptedPrivateKeyInfo (RFC 5958, section 3): the algorithm with its parameters, then the encrypted key."""
    _check_length(data)
    tag, outer = next(_elements(data), (0, b""))
    inner, algorithm = next(_elements(outer), (0, b""))
    if tag != _SEQUENCE or inner != _SEQUENCE:
        raise _damaged()
    objects, numbers = _flattened(algorithm)
    if _SCRYPT in objects:
        # Cost, block size, parallelisation, and perhaps the length of the key
        cost, block, lanes = (*numbers, 1, 1, 1)[:3]
        if 128 * max(1, cost) * max(1, block) * max(1, lanes) > MAX_SCRYPT_WORK:
            raise _too_costly()
    elif any(number > MAX_ITERATIONS for number in numbers):
        raise _too_costly()
    found.encrypted = True
    if objects and _PKCS8_CIPHERS.isdisjoint(objects):
        found.unsupported = _unsupported(_OTHER)


def _check_length(data: bytes) -> None:
    """Whether all of the outermost DER element is there."""
    size = data[1] & 0x7F if data[1:2] > b"\x80" else 0
    length = int.from_bytes(data[2 : 2 + size], "big") if size else int.from_bytes(data[1:2], "big")
    if data[:1] == bytes((_SEQUENCE,)) and size <= 4 and length > len(data) - 2 - size:
        raise _cut()


def _flattened(data: bytes, depth: int = 0) -> tuple[list[bytes], list[int]]:
    """The object identifiers and the integers inside, in their order."""
    if depth > _MAX_DEPTH:
        raise _damaged()
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
            raise _damaged()
        tag, length = header
        at += 2
        if length & 0x80:
            size = length & 0x7F
            if not 0 < size <= 4:
                raise _damaged()
            length = int.from_bytes(data[at : at + size], "big")
            at += size
        if length > len(data) - at:
            raise _damaged()
        yield tag, data[at : at + length]
        at += length


def _damaged() -> Damaged:
    return Damaged("its content is damaged")


def _cut() -> Damaged:
    return Damaged("its content is damaged: a part of it is missing")


def _unsupported(cipher: str) -> Text:
    return Text(
        "it is encrypted with {cipher}, which is not supported; encrypt it again, as with openssl pkey -aes256",
        cipher=cipher,
    )


def _too_costly() -> TooCostly:
    return TooCostly(
        "decrypting it takes too much memory or time; save it again with fewer rounds, as with ssh-keygen -p -a 64"
    )
