"""
Long values converted in pieces: no step is so long that it keeps the other threads from running, as Python's own would.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterator
from typing import Final

#: Characters, or bytes, that are converted in one step: whole groups of base64, of three bytes or four characters.
PIECE: Final = 192 * 1024


def to_base64(data: bytes) -> str:
    """*data* in base64."""
    return "".join(b64encode(data[at : at + PIECE]).decode() for at in range(0, len(data), PIECE))


def from_base64(text: str) -> bytes:
    """The bytes that *text* stands for, which is base64 without anything else."""
    return b"".join(b64decode(text[at : at + PIECE]) for at in range(0, len(text), PIECE))


def to_utf8(text: str) -> Iterator[bytes]:
    """
    *text* in UTF-8, in pieces.

    :raises UnicodeEncodeError: when it has half a surrogate pair.
    """
    return (text[at : at + PIECE].encode() for at in range(0, len(text), PIECE))
