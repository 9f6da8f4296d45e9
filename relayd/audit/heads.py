"""
The head of the audit log, number and hash of its last line, as it is noted beside the log and, out of reach of who can
write to that, in the state directory.
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
    :ivar end: byte of the file after that line; 0: not known.
    """

    seq: int
    hash: str
    end: int = 0


def head_path(path: str) -> str:
    """The file beside a log that has its head, for whoever verifies it."""
    return path + ".head"


def own_head_path(state_dir: str) -> str:
    """The file that has the head for the next process: nobody else needs it."""
    return os.path.join(state_dir, "audit-head")


def parse_head(content: bytes) -> Head | None:
    """The head, as the file beside the log tells it; ``None`` if that tells nothing."""
    match = _HEAD.fullmatch(content)
    return None if match is None else Head(int(match[1]), match[2].decode())


def format_head(head: Head) -> bytes:
    """What `parse_head` reads."""
    return b"%020d %s\n" % (head.seq, head.hash.encode())


def parse_own_head(content: bytes, path: str) -> Head | None:
    """The head of the log at *path*, as the file in the state directory tells it; ``None``: nothing, of that log."""
    match = _OWN.fullmatch(content)
    if match is None or match[4] != _digest(path):
        return None
    return Head(int(match[1]), match[2].decode(), int(match[3]))


def format_own_head(head: Head, path: str) -> bytes:
    """What `parse_own_head` reads."""
    return b"%020d %s %020d %s\n" % (head.seq, head.hash.encode(), head.end, _digest(path))


def read_heads(path: str, state_dir: str) -> tuple[Head | None, Head | None]:
    """
    The heads of the log at *path*: that beside it, and that in the state directory.

    :raises OSError: when one is there and cannot be read.
    """
    return parse_head(_read(head_path(path))), parse_own_head(_read(own_head_path(state_dir)), path)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(300)
    except FileNotFoundError:
        return b""


def _digest(path: str) -> bytes:
    """Of one length for every log, so that one write replaces the whole."""
    return sha256(os.path.realpath(path).encode("utf-8", "surrogateescape")).hexdigest().encode()
