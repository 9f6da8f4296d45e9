"""
The packets of SFTP, version 3, as a client needs them: requests in, bytes out; bytes in, answers out. No I/O here.

Source: draft-ietf-secsh-filexfer-02, and "PROTOCOL" of OpenSSH for its extensions.  Conch's `FileTransferClient` does
not fit: it takes packets of any length, a request whose answer it cannot read is never answered, it logs each packet
with the data in it, and its request for the mode of an open file asks for something else.
"""

from __future__ import annotations

import stat
import struct
from typing import Final

from msgspec import Struct
from twisted.conch.ssh.common import NS
from twisted.conch.ssh.filetransfer import (
    FX_EOF,
    FX_NO_SUCH_FILE,
    FX_OK,
    FX_OP_UNSUPPORTED,
    FX_PERMISSION_DENIED,
    FXP_ATTRS,
    FXP_DATA,
    FXP_EXTENDED_REPLY,
    FXP_HANDLE,
    FXP_INIT,
    FXP_NAME,
    FXP_STATUS,
    FXP_VERSION,
)

from relayd.language.texts import Text, printable_bytes

#: Bytes that are written, or asked for, in one request: what every server takes.
CHUNK: Final = 32 * 1024
#: Bytes of the longest packet that is taken: a chunk, or what a server says of itself.
MAX_PACKET: Final = CHUNK + 4096
#: Bytes of the longest handle.
_MAX_HANDLE: Final = 256
#: The version that is spoken.
_VERSION: Final = 3
_SIZE, _OWNER, _PERMISSIONS = 0x1, 0x2, 0x4
_UINT32 = struct.Struct(">L")
_WORDS: Final = {
    FX_NO_SUCH_FILE: Text("there is no such file or directory"),
    FX_PERMISSION_DENIED: Text("permission denied"),
    FX_OP_UNSUPPORTED: Text("its SFTP server does not do that"),
}


class NotSFTP(Exception):
    """
    What the host sends is not SFTP, or breaks its rules.

    :ivar reason: what was seen.
    """

    def __init__(self, reason: Text) -> None:
        super().__init__(reason)
        self.reason = reason


class Status(Struct, frozen=True):
    """How a request ended that brings nothing else."""

    code: int
    words: bytes = b""

    @property
    def ok(self) -> bool:
        """Whether it was done."""
        return self.code == FX_OK

    @property
    def eof(self) -> bool:
        """Whether the end of the file was reached."""
        return self.code == FX_EOF

    @property
    def missing(self) -> bool:
        """Whether there is no such file."""
        return self.code == FX_NO_SUCH_FILE

    @property
    def unsupported(self) -> bool:
        """Whether the server does not know the request."""
        return self.code == FX_OP_UNSUPPORTED

    @property
    def text(self) -> Text:
        """Why it was not done, in the host's words where it has some."""
        words = printable_bytes(self.words).strip()
        if words:
            return Text("the host said “{words}”", words=words)
        return _WORDS.get(self.code, Text("the host gave no reason (SFTP status {code})", code=self.code))


class Attributes(Struct, frozen=True):
    """What a server says of a file; ``None``: nothing."""

    size: int | None
    mode: int | None

    @property
    def regular(self) -> bool:
        """Whether it is known to be a regular file."""
        return self.mode is not None and stat.S_ISREG(self.mode)


class Handle(Struct, frozen=True):
    """An open file."""

    value: bytes


class Data(Struct, frozen=True):
    """A piece of a file."""

    value: bytes


class Version(Struct, frozen=True):
    """What the server is: the names of its extensions."""

    extensions: frozenset[bytes]


Answer = Status | Attributes | Handle | Data


def hello() -> bytes:
    """The client's first packet."""
    return _packet(FXP_INIT, _UINT32.pack(_VERSION))


def request(kind: int, number: int, *fields: bytes) -> bytes:
    """
    A request.

    :param number: by which its answer is known.
    """
    return _packet(kind, _UINT32.pack(number) + b"".join(fields))


def permissions(mode: int) -> bytes:
    """The attributes that set the mode of a file, and nothing else."""
    return struct.pack(">LL", _PERMISSIONS, mode)


#: Attributes that say nothing.
NO_ATTRIBUTES: Final = bytes(4)


def _packet(kind: int, data: bytes) -> bytes:
    return struct.pack(">LB", len(data) + 1, kind) + data


class Reader:
    """Cuts what a server sends into its packets."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._greeted = False

    def feed(self, data: bytes) -> list[Version | tuple[int, Answer]]:
        """
        Take the next bytes; gives what they complete: the version first, then answers with their numbers.

        :raises NotSFTP: when they make no sense.
        """
        held = self._held
        held += data
        found: list[Version | tuple[int, Answer]] = []
        while len(held) >= 4:
            length = _UINT32.unpack_from(held)[0]
            if not 1 <= length <= MAX_PACKET:
                raise NotSFTP(Text("a packet of {length} bytes", length=length))
            if len(held) < 4 + length:
                break
            kind, packet = held[4], bytes(held[5 : 4 + length])
            del held[: 4 + length]
            try:
                found.append(self._read(kind, packet))
            except (struct.error, IndexError):
                raise NotSFTP(Text("a packet that is cut short")) from None
        return found

    def _read(self, kind: int, packet: bytes) -> Version | tuple[int, Answer]:
        if not self._greeted:
            if kind != FXP_VERSION:
                raise NotSFTP(Text("no version in its first packet"))
            self._greeted = True
            return _version(packet)
        number = _UINT32.unpack_from(packet)[0]
        rest = packet[4:]
        if kind == FXP_STATUS:
            code = _UINT32.unpack_from(rest)[0]
            return number, Status(code, _text(rest[4:])[:1024] if len(rest) >= 8 else b"")
        if kind == FXP_HANDLE:
            handle = _text(rest)
            if len(handle) > _MAX_HANDLE:
                raise NotSFTP(Text("a handle of {length} bytes", length=len(handle)))
            return number, Handle(handle)
        if kind == FXP_DATA:
            return number, Data(_text(rest))
        if kind == FXP_ATTRS:
            return number, _attributes(rest)
        if kind in (FXP_NAME, FXP_EXTENDED_REPLY, FXP_VERSION):
            raise NotSFTP(Text("an answer to something that it was not asked"))
        raise NotSFTP(Text("a packet of the unknown kind {kind}", kind=kind))


def _text(data: bytes) -> bytes:
    length = _UINT32.unpack_from(data)[0]
    if length > len(data) - 4:
        raise NotSFTP(Text("a packet that is cut short"))
    return data[4 : 4 + length]


def _version(packet: bytes) -> Version:
    number = _UINT32.unpack_from(packet)[0]
    if number < _VERSION:
        raise NotSFTP(Text("version {number}; what is needed is 3", number=number))
    rest = packet[4:]
    names: set[bytes] = set()
    while rest:
        name = _text(rest)
        value = _text(rest[4 + len(name) :])
        rest = rest[8 + len(name) + len(value) :]
        names.add(name)
    return Version(frozenset(names))


def _attributes(data: bytes) -> Attributes:
    flags = _UINT32.unpack_from(data)[0]
    at, size, mode = 4, None, None
    if flags & _SIZE:
        size = struct.unpack_from(">Q", data, at)[0]
        at += 8
    if flags & _OWNER:
        at += 8
    if flags & _PERMISSIONS:
        mode = _UINT32.unpack_from(data, at)[0]
    return Attributes(size, mode)


def name(path: bytes) -> bytes:
    """
    A path as a field: an SFTP server starts in the home directory, and OpenSSH for Windows has its drives below ``/``.
    """
    if path.startswith(b"~/"):
        path = path[2:]
    elif path[1:2] == b":":
        path = b"/" + path
    return bytes(NS(path))
