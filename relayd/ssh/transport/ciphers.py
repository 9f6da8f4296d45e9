"""
The ciphers and MACs that protect packets: one object for each direction of a connection.

Source: RFC 4253, section 6; RFC 4344 (counter mode); RFC 5647 and OpenSSH's PROTOCOL, section 1.6 (AES-GCM); PROTOCOL,
section 1.5 (encrypt-then-MAC); OpenSSH's PROTOCOL.chacha20poly1305.  The primitives are `cryptography`'s.
"""

from __future__ import annotations

import hmac
import os
import struct
from collections.abc import Callable
from typing import Protocol

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.poly1305 import Poly1305
from msgspec import Struct

from relayd.language.texts import Fault

#: The longest packet accepted, in bytes: the protocol requires 35,000 (RFC 4253, section 6.1), OpenSSH has 256 KiB.
MAX_PACKET = 256 * 1024
#: The longest one before there are keys, when anybody may send it.
MAX_PLAIN_PACKET = 35_000

_MASK64 = 0xFFFFFFFFFFFFFFFF
_UINT32 = struct.Struct(">L")


class BadPacket(Fault):
    """
    A packet was damaged or forged, or has an impossible length.

    :ivar hide: whether the sender must not learn where. The fault then shows only when as many bytes have arrived, from
        the beginning of this packet, as the longest packet has.
    """

    hide = False


class HiddenFault:
    """An `Opener` that reads the bytes after which a fault may show (`BadPacket.hide`), and raises the fault then."""

    header_size = 0

    def __init__(self, fault: BadPacket) -> None:
        self._fault = fault.with_traceback(None)  # which holds what was received

    def packet_size(self, sequence: int, header: memoryview) -> int:
        return MAX_PACKET

    def open(self, sequence: int, packet: memoryview) -> bytes:
        self._fault.hide = False
        raise self._fault


class Sealer(Protocol):
    """Makes the packets of one connection that are sent."""

    def seal(self, sequence: int, payload: bytes) -> bytes:
        """
        The packet that carries *payload*.

        :param sequence: its number (RFC 4253, section 6.4).
        """


class Opener(Protocol):
    """Reads the packets of one connection that arrive."""

    #: Bytes of a packet that hold its length.
    header_size: int

    def packet_size(self, sequence: int, header: memoryview) -> int:
        """
        The size of a whole packet on the wire. To be called once for each packet, in their order.

        :raises BadPacket: for an impossible length.
        """

    def open(self, sequence: int, packet: memoryview) -> bytes:
        """
        What a packet holds behind its length: the length of its padding, its payload, its padding.

        :raises BadPacket: when it was damaged or forged.
        """


#: Padding for ciphers that authenticate. It may be the same each time; to draw new bytes for each packet would cost as
#: much as its encryption.
_FILLING = os.urandom(32)
#: By their length: what to pad with, and how the length is written.
_FILLINGS = tuple(_FILLING[:size] for size in range(32))
_BYTES = tuple(bytes((size,)) for size in range(32))


def _pad(payload: bytes, block: int, uncounted: int, filling: bytes | None = None) -> bytes:
    """
    *payload* between its padding length and its padding (RFC 4253, section 6).

    :param uncounted: bytes of the packet's length field that are left out of the alignment.
    :param filling: what to pad with; by default random bytes.
    """
    padding = block - (5 - uncounted + len(payload)) % block
    if padding < 4:
        padding += block
    return bytes((padding,)) + payload + (os.urandom(padding) if filling is None else filling[:padding])


def _checked(length: int, block: int, uncounted: int, most: int = MAX_PACKET) -> int:
    if not 8 <= length <= most or (length + 4 - uncounted) % block:
        raise BadPacket("bad packet length")
    return length


class Plain:
    """No protection: for the packets before the end of the first key exchange."""

    header_size = 4

    def seal(self, sequence: int, payload: bytes) -> bytes:
        body = _pad(payload, 8, 0)
        return len(body).to_bytes(4, "big") + body

    def packet_size(self, sequence: int, header: memoryview) -> int:
        return 4 + _checked(int.from_bytes(header[:4], "big"), 8, 0, MAX_PLAIN_PACKET - 4)

    def open(self, sequence: int, packet: memoryview) -> bytes:
        return bytes(packet[4:])


class AESGCMPackets:
    """``aes128-gcm@openssh.com`` and ``aes256-gcm@openssh.com``: the length is authenticated, and not encrypted."""

    header_size = 4

    def __init__(self, key: bytes, iv: bytes) -> None:
        gcm = AESGCM(key)
        self._encrypt, self._decrypt = gcm.encrypt, gcm.decrypt
        self._fixed = iv[:4]
        self._counter = int.from_bytes(iv[4:12], "big")

    # Most packets of all connections come through these three. What the other ciphers call, they do themselves.

    def seal(self, sequence: int, payload: bytes) -> bytes:
        padding = 19 - (len(payload) + 4) % 16
        length = _UINT32.pack(1 + len(payload) + padding)
        nonce = self._fixed + self._counter.to_bytes(8, "big")
        self._counter = (self._counter + 1) & _MASK64
        return length + self._encrypt(nonce, _BYTES[padding] + payload + _FILLINGS[padding], length)

    def packet_size(self, sequence: int, header: memoryview) -> int:
        (length,) = _UINT32.unpack(header)
        if not 16 <= length <= MAX_PACKET or length % 16:
            raise BadPacket("bad packet length")
        return int(length) + 20

    def open(self, sequence: int, packet: memoryview) -> bytes:
        nonce = self._fixed + self._counter.to_bytes(8, "big")
        self._counter = (self._counter + 1) & _MASK64
        try:
            return self._decrypt(nonce, packet[4:], packet[:4])
        except InvalidTag:
            raise BadPacket("bad authentication tag") from None


class ChaCha20Poly1305Packets:
    """``chacha20-poly1305@openssh.com``: the length is encrypted with a separate key."""

    header_size = 4

    def __init__(self, key: bytes, iv: bytes) -> None:
        self._main_key, self._length_key = key[:32], key[32:64]

    def _stream(self, key: bytes, block: bytes, sequence: int, data: bytes | memoryview) -> bytes:
        nonce = block + sequence.to_bytes(8, "big")
        return Cipher(algorithms.ChaCha20(key, nonce), None).encryptor().update(data)

    def seal(self, sequence: int, payload: bytes) -> bytes:
        body = _pad(payload, 8, 4, _FILLING)
        length = self._stream(self._length_key, _BLOCK_0, sequence, len(body).to_bytes(4, "big"))
        packet = length + self._stream(self._main_key, _BLOCK_1, sequence, body)
        return packet + Poly1305.generate_tag(self._tag_key(sequence), packet)

    def packet_size(self, sequence: int, header: memoryview) -> int:
        length = self._stream(self._length_key, _BLOCK_0, sequence, header[:4])
        return 4 + _checked(int.from_bytes(length, "big"), 8, 4) + 16

    def open(self, sequence: int, packet: memoryview) -> bytes:
        try:
            Poly1305.verify_tag(self._tag_key(sequence), packet[:-16], bytes(packet[-16:]))
        except InvalidSignature:
            raise BadPacket("bad authentication tag") from None
        return self._stream(self._main_key, _BLOCK_1, sequence, packet[4:-16])

    def _tag_key(self, sequence: int) -> bytes:
        return self._stream(self._main_key, _BLOCK_0, sequence, bytes(32))


_BLOCK_0 = bytes(8)
_BLOCK_1 = b"\1" + bytes(7)


class _BlockCipher:
    """A block cipher with a separate MAC: what both orders of encryption and MAC share."""

    def __init__(self, kind: CipherKind, key: bytes, iv: bytes, mac: MAC, mac_key: bytes) -> None:
        mode = kind.mode
        if mode is None:
            raise ValueError("a cipher that does not authenticate needs a mode")
        cipher = Cipher(kind.algorithm(key), mode(iv))
        self._block = kind.iv_size  # a block is as long as an initialization vector
        self._encrypt = cipher.encryptor().update
        self._decrypt = cipher.decryptor().update
        self._mac_key = mac_key
        self._hash = mac.hash_name
        self._mac_size = mac.size
        self._chained = mode is modes.CBC

    def _mac(self, sequence: int, data: bytes | memoryview) -> bytes:
        return hmac.digest(self._mac_key, b"".join((sequence.to_bytes(4, "big"), data)), self._hash)[: self._mac_size]


class EncryptThenMACPackets(_BlockCipher):
    """The MACs named ``…-etm@openssh.com``: the length is not encrypted, and the MAC is over the bytes sent."""

    header_size = 4

    def seal(self, sequence: int, payload: bytes) -> bytes:
        body = _pad(payload, self._block, 4)
        packet = len(body).to_bytes(4, "big") + self._encrypt(body)
        return packet + self._mac(sequence, packet)

    def packet_size(self, sequence: int, header: memoryview) -> int:
        return 4 + _checked(int.from_bytes(header[:4], "big"), self._block, 4) + self._mac_size

    def open(self, sequence: int, packet: memoryview) -> bytes:
        sealed = packet[: -self._mac_size]
        if not hmac.compare_digest(self._mac(sequence, sealed), packet[-self._mac_size :]):
            raise BadPacket("bad MAC")
        return self._decrypt(sealed[4:])


class EncryptAndMACPackets(_BlockCipher):
    """
    The order of RFC 4253: the length is encrypted with the rest, and the MAC is over the plain bytes.

    With CBC, an attacker could put a block of an earlier packet where a length is expected, count the bytes that are
    read before the connection ends, and so learn 32 bits of that block (CVE-2008-5161). Therefore, as in OpenSSH, the
    connection ends after the same number of bytes whatever was wrong.
    """

    _first = b""

    def __init__(self, kind: CipherKind, key: bytes, iv: bytes, mac: MAC, mac_key: bytes) -> None:
        super().__init__(kind, key, iv, mac, mac_key)
        self.header_size = self._block  # nothing less can be decrypted

    def seal(self, sequence: int, payload: bytes) -> bytes:
        body = _pad(payload, self._block, 0)
        plain = len(body).to_bytes(4, "big") + body
        return self._encrypt(plain) + self._mac(sequence, plain)

    def packet_size(self, sequence: int, header: memoryview) -> int:
        self._first = self._decrypt(header[: self._block])
        try:
            return 4 + _checked(int.from_bytes(self._first[:4], "big"), self._block, 0) + self._mac_size
        except BadPacket as fault:
            fault.hide = self._chained
            raise

    def open(self, sequence: int, packet: memoryview) -> bytes:
        plain = self._first + self._decrypt(packet[self._block : -self._mac_size])
        if not hmac.compare_digest(self._mac(sequence, plain), packet[-self._mac_size :]):
            fault = BadPacket("bad MAC")
            fault.hide = self._chained
            raise fault
        return plain[4:]


class MAC(Struct, frozen=True):
    """
    A MAC algorithm.

    :ivar size: bytes of the MAC on the wire.
    :ivar key_size: bytes of its key.
    """

    hash_name: str
    size: int
    key_size: int
    encrypt_then_mac: bool = False


class CipherKind(Struct, frozen=True):
    """
    A cipher, with the sizes of its key and initialization vector in bytes.

    :ivar algorithm: of a block cipher.
    :ivar authenticated: makes the packets of a cipher that authenticates by itself; ``None`` for one that needs a MAC.
    :ivar mode: of a block cipher that needs a MAC; ``None`` for one that authenticates by itself.
    """

    key_size: int
    iv_size: int
    authenticated: Callable[[bytes, bytes], AESGCMPackets | ChaCha20Poly1305Packets] | None = None
    mode: Callable[[bytes], modes.CTR | modes.CBC] | None = None
    algorithm: Callable[[bytes], algorithms.AES | TripleDES] = algorithms.AES


CIPHERS: dict[bytes, CipherKind] = {
    b"aes256-gcm@openssh.com": CipherKind(32, 12, authenticated=AESGCMPackets),
    b"aes128-gcm@openssh.com": CipherKind(16, 12, authenticated=AESGCMPackets),
    b"chacha20-poly1305@openssh.com": CipherKind(64, 0, authenticated=ChaCha20Poly1305Packets),
    b"aes256-ctr": CipherKind(32, 16, mode=modes.CTR),
    b"aes192-ctr": CipherKind(24, 16, mode=modes.CTR),
    b"aes128-ctr": CipherKind(16, 16, mode=modes.CTR),
    b"aes256-cbc": CipherKind(32, 16, mode=modes.CBC),
    b"aes192-cbc": CipherKind(24, 16, mode=modes.CBC),
    b"aes128-cbc": CipherKind(16, 16, mode=modes.CBC),
    b"3des-cbc": CipherKind(24, 8, mode=modes.CBC, algorithm=TripleDES),
}

MACS: dict[bytes, MAC] = {
    b"hmac-sha2-256-etm@openssh.com": MAC("sha256", 32, 32, encrypt_then_mac=True),
    b"hmac-sha2-512-etm@openssh.com": MAC("sha512", 64, 64, encrypt_then_mac=True),
    b"hmac-sha2-256": MAC("sha256", 32, 32),
    b"hmac-sha2-512": MAC("sha512", 64, 64),
    b"hmac-sha1-etm@openssh.com": MAC("sha1", 20, 20, encrypt_then_mac=True),
    b"hmac-sha1": MAC("sha1", 20, 20),
    b"hmac-sha1-96": MAC("sha1", 12, 20),
    b"hmac-md5": MAC("md5", 16, 16),
    b"hmac-md5-96": MAC("md5", 12, 16),
}

PacketCipher = AESGCMPackets | ChaCha20Poly1305Packets | EncryptThenMACPackets | EncryptAndMACPackets


def packet_cipher(cipher: bytes, mac: bytes | None, derive: Callable[[str, int], bytes]) -> PacketCipher:
    """
    The protection for one direction of a connection.

    :param cipher: its name.
    :param mac: the name of the MAC; not used where the cipher authenticates by itself.
    :param derive: gives key material (RFC 4253, section 7.2) for ``iv``, ``key`` or ``mac``, of a number of bytes.
    """
    kind = CIPHERS[cipher]
    key, iv = derive("key", kind.key_size), derive("iv", kind.iv_size)
    if kind.authenticated is not None:
        return kind.authenticated(key, iv)
    if mac is None:
        raise ValueError("a cipher that does not authenticate needs a MAC")
    integrity = MACS[mac]
    order = EncryptThenMACPackets if integrity.encrypt_then_mac else EncryptAndMACPackets
    return order(kind, key, iv, integrity, derive("mac", integrity.key_size))


def is_authenticated(cipher: bytes) -> bool:
    """Whether *cipher* needs no MAC."""
    return CIPHERS[cipher].authenticated is not None
