"""
The frames of nearly all messages, both ways: whole, and short. autobahn reads and writes all others.

Source: RFC 6455, section 5.2.
"""

from __future__ import annotations

from collections import deque
from random import getrandbits
from typing import Final

from relayd.uplink.wire import Pieces

try:
    # autobahn's own module for this also loads a parser of C declarations
    from _nvx_xormasker import ffi, lib  # type: ignore[import-not-found]
except ImportError:  # where autobahn was built without
    lib = None

#: Bytes in the longest payload that is read and written here: the length of a longer one takes eight bytes.
LONGEST: Final = 0xFFFF
#: The first byte of a text message in one frame, and the bit in the second byte that says that it is masked.
WHOLE_TEXT: Final = 0x81
_MASKED: Final = 0x80
#: The lengths that say that two, or eight, more bytes have the length.
_TWO_BYTES: Final = 126
_EIGHT_BYTES: Final = 127
#: Bytes for which Python's own arithmetic takes less time.
_FEW: Final = 512
#: In autobahn's native code: mask 16 bytes at a time.
_VECTORS: Final = 2


def masked_text(payload: bytes) -> bytes:
    """
    The frame of a client's text message.

    :param payload: of `LONGEST` bytes at most.
    """
    size = len(payload)
    # As autobahn says: RFC 6455 wants masks that nobody can predict because of scripts in browsers.
    mask = getrandbits(32).to_bytes(4, "big")
    masked = _masked_by_python(payload, mask) if size < _FEW else _masked(payload, mask)
    if size < _TWO_BYTES:
        return b"%c%c%b%b" % (WHOLE_TEXT, _MASKED | size, mask, masked)
    return b"%c%c%b%b%b" % (WHOLE_TEXT, _MASKED | _TWO_BYTES, size.to_bytes(2, "big"), mask, masked)


def _masked_by_python(data: bytes, mask: bytes) -> bytes:
    size = len(data)
    key = int.from_bytes((mask * (size // 4 + 1))[:size], "little")
    return (int.from_bytes(data, "little") ^ key).to_bytes(size, "little")


def _masked_natively(data: bytes, mask: bytes) -> bytes:
    size = len(data)
    masked = bytearray(data)
    masker = ffi.gc(lib.nvx_xormask_new(mask), lib.nvx_xormask_free)
    lib.nvx_xormask_set_impl(masker, _VECTORS)
    lib.nvx_xormask_process(masker, ffi.from_buffer(masked), size)
    return bytes(masked)


_masked = _masked_by_python if lib is None else _masked_natively


class LongText:
    """
    The frame of a client's text message that is longer than `LONGEST`: a `relayd.network.flow.Source`, so that it is
    masked as it is sent, and not all of it in one step.
    """

    __slots__ = ("_header", "_left", "_mask", "_pieces")

    def __init__(self, payload: bytes | Pieces) -> None:
        mask = getrandbits(32).to_bytes(4, "big")
        self._header = b"%c%c%b%b" % (WHOLE_TEXT, _MASKED | _EIGHT_BYTES, len(payload).to_bytes(8, "big"), mask)
        self._mask = mask
        pieces = payload.pieces if isinstance(payload, Pieces) else [payload]
        self._pieces = deque([memoryview(piece) for piece in pieces])
        self._left = len(payload)

    def __len__(self) -> int:
        return len(self._header) + self._left

    def take(self, most: int) -> bytes:
        """See `Source`."""
        header, self._header = self._header, b""
        data = self._take(most - len(header))
        mask, turn = self._mask, len(data) % 4
        self._mask = mask[turn:] + mask[:turn]
        return header + _masked(data, mask)

    def _take(self, most: int) -> bytes:
        taken = []
        while most and self._pieces:
            piece = self._pieces.popleft()
            if len(piece) > most:
                self._pieces.appendleft(piece[most:])
                piece = piece[:most]
            taken.append(piece)
            most -= len(piece)
            self._left -= len(piece)
        return b"".join(taken)


def whole_text(data: bytes, start: int) -> tuple[str, int] | None:
    """
    The text message that begins at *start*, and where its frame ends.

    :return: ``None``: there is no whole one that a server may send, of `LONGEST` bytes at most. It can be any other, or
        wrong.
    """
    size = len(data)
    if size < start + 2 or data[start] != WHOLE_TEXT:
        return None
    length, begin = data[start + 1], start + 2
    if length == _TWO_BYTES:
        begin += 2
        length = int.from_bytes(data[start + 2 : begin], "big")
        if length < _TWO_BYTES:
            return None
    elif length > _TWO_BYTES:
        return None
    end = begin + length
    if end > size:
        return None
    try:
        return data[begin:end].decode(), end
    except UnicodeDecodeError:
        return None
