"""
What is to be written and read, and what came of it. No I/O here.
"""

from __future__ import annotations

import secrets
from hashlib import sha256

from msgspec import Struct

from relayd.language.texts import Text

#: What the name of a file begins with that is written beside another, which it then replaces.
BESIDE = ".relayd-"


class FileToWrite(Struct, frozen=True, kw_only=True):
    """
    A file that is to be written.

    :ivar path: as the host gets it: absolute, or ``~/`` and what follows the home directory.
    :ivar name: the same for people.
    :ivar mode: its permissions.
    :ivar sha256: what is to have arrived, in hexadecimal digits; ``None``: it is not checked.
    """

    path: bytes
    name: str
    content: bytes
    mode: int
    sha256: str | None = None

    def __repr__(self) -> str:
        return f"FileToWrite({self.name!r}, {len(self.content)} bytes)"  # the content may hold secrets


class FileToRead(Struct, frozen=True, kw_only=True):
    """
    A file that is to be read.

    :ivar most: bytes of it that are wanted.
    """

    path: bytes
    name: str
    most: int


class ReadFile(Struct, frozen=True, kw_only=True):
    """
    What was read of a file.

    :ivar size: bytes of the file, as far as that is known.
    :ivar content: its beginning, or all of it; ``None``: nothing was read.
    :ivar truncated: whether the content is not all of the file.
    :ivar error: why it is missing, or not complete.
    """

    name: str
    size: int | None = None
    content: bytes | None = None
    truncated: bool = False
    error: Text | None = None

    def __repr__(self) -> str:
        return f"ReadFile({self.name!r})"

    @property
    def sha256(self) -> str | None:
        """That of the whole file; ``None``: not all of it was read."""
        whole = self.content is not None and not self.truncated and self.error is None
        return sha256(self.content or b"").hexdigest() if whole else None


class FileOrders(Struct, frozen=True, kw_only=True):
    """
    The files of one command.

    :ivar writes: before it.
    :ivar reads: after it.
    :ivar most: bytes that are read of all files together.
    :ivar posix: whether a POSIX shell may do it where SFTP cannot.
    """

    writes: tuple[FileToWrite, ...] = ()
    reads: tuple[FileToRead, ...] = ()
    most: int = 64 << 20
    posix: bool = True


def beside(path: bytes) -> bytes:
    """A new name in the same directory, which nobody can guess."""
    directory, slash, _ = path.rpartition(b"/")
    return directory + slash + f"{BESIDE}{secrets.token_hex(16)}".encode("ascii")


def unread(reads: tuple[FileToRead, ...], error: Text) -> tuple[ReadFile, ...]:
    """What is said of files that were not read."""
    return tuple(ReadFile(name=each.name, error=error) for each in reads)
