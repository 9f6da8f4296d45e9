"""
The head of the audit log: number and hash of its last line.  It is noted beside the log, and in the state directory,
out of reach of somebody who can write to the log.
"""

from __future__ import annotations

import os
import re
from hashlib import sha256
from typing import Final

from msgspec import Struct

_HEAD: Final = re.compile(rb"([0-9]{20}) ([0-9a-f]{64})\n")
_OWN: Final = re.compile(rb"([0-9]{20}) ([0-9a-f]{64}) ([0-9]{20}) ([0-9a-f]{64})\n")


class Head(Struct, frozen=True):
    """
    Where a log ends.

    :ivar seq: number of its last line.
    :ivar hash: hash of that line.
    :ivar end: byte of the file after that line; 0: not known.
    """

    seq: int
    hash: str
    end: int = 0


def head_path(path: str) -> str:
    """The file beside a log that has its head, for everybody who verifies it."""
    return path + ".head"


def own_head_path(state_dir: str) -> str:
    """The file that has the head for the next process: nobody else needs it."""
    return os.path.join(state_dir, "audit-head")


def parse_head(content: bytes) -> Head | None:
    """The head in the *content* of the file beside the log; ``None`` if there is none in it."""
    match = _HEAD.fullmatch(content)
    return None if match is None else Head(int(match[1]), match[2].decode())


def format_head(head: Head) -> bytes:
    """The content that `parse_head` reads."""
    return b"%020d %s\n" % (head.seq, head.hash.encode())


def parse_own_head(content: bytes, path: str) -> Head | None:
    """The head of the log at *path* in the file in the state directory; ``None`` if it holds none of that log."""
    match = _OWN.fullmatch(content)
    if match is None or match[4] != _digest(path):
        return None
    return Head(int(match[1]), match[2].decode(), int(match[3]))


def format_own_head(head: Head, path: str) -> bytes:
    """The content that `parse_own_head` reads."""
    return b"%020d %s %020d %s\n" % (head.seq, head.hash.encode(), head.end, _digest(path))


def read_heads(path: str, state_dir: str) -> tuple[Head | None, Head | None]:
    """
    The heads of the log at *path*: the one beside it, and the one in the state directory.

    :raises OSError: when one of them is there and cannot be read.
    """
    return parse_head(_read(head_path(path))), parse_own_head(_read(own_head_path(state_dir)), path)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(300)
    except FileNotFoundError:
        return b""


def _digest(path: str) -> bytes:
    """A digest of the path: as long for every log, so that one write replaces the whole."""
    return sha256(os.path.realpath(path).encode("utf-8", "surrogateescape")).hexdigest().encode()
