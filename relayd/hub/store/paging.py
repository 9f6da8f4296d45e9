"""
Pages of lists, and the cursors that lead from one to the next.

A cursor holds the key of the last item of a page.  It is no secret and proves nothing: who may read a list is decided
for each request.  Its checksum is for what was mistyped, cut, or taken from another list.
"""

from __future__ import annotations

from base64 import b64decode, urlsafe_b64encode
from collections.abc import Sequence
from hashlib import sha256
from typing import Final, Generic, TypeVar

import msgspec
from msgspec import Struct

from relayd.hub.store.errors import BadCursor

T = TypeVar("T")

#: The columns by which a list is sorted, with their values in one row.
Key = tuple[str | int, ...]

#: Items of a page: at most, and where nobody says.
MOST: Final = 1000
USUAL: Final = 100

_SUM_BYTES: Final = 4
#: Characters of the longest cursor: no key is longer.
_LONGEST: Final = 4000


class Page(Struct, Generic[T], frozen=True):
    """
    A part of a list.

    :ivar next_cursor: leads to the items after these; ``None``: there are none.
    """

    items: list[T]
    next_cursor: str | None


def encode_cursor(name: str, key: Key) -> str:
    """
    A cursor to what comes after *key*.

    :param name: of the list.
    """
    content = msgspec.msgpack.encode(key)
    return urlsafe_b64encode(_sum(name, content) + content).rstrip(b"=").decode()


def decode_cursor(name: str, cursor: str, types: Sequence[type]) -> Key:
    """
    The key in a cursor.

    :param name: of the list.
    :param types: of the parts of its key.
    :raises BadCursor: when it is not a cursor of this list.
    """
    try:
        if len(cursor) > _LONGEST:
            raise BadCursor
        text = cursor.encode("ascii")
        whole = b64decode(text + b"=" * (-len(text) % 4), b"-_", validate=True)
        checksum, content = whole[:_SUM_BYTES], whole[_SUM_BYTES:]
        if checksum != _sum(name, content):
            raise BadCursor
        key = msgspec.msgpack.decode(content, type=tuple[str | int, ...])
    except (ValueError, msgspec.DecodeError):
        raise BadCursor from None
    if [type(part) for part in key] != list(types):
        raise BadCursor
    return key


def _sum(name: str, content: bytes) -> bytes:
    return sha256(b"%b\0%b" % (name.encode(), content)).digest()[:_SUM_BYTES]
