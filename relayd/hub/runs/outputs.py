"""
What is kept of the outputs of one invocation: pieces that come while it runs, and the result, which has all.

Nothing here does input or output.
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Iterator
from hashlib import sha256
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from relayd.hub.store.output import MAX_CHUNK, STREAMS, Stream
from relayd.wire.messages import CommandOutput, CommandResult

#: The largest number of bytes that the database can hold.
_MOST_NUMBER: Final = 2**62


class Piece(Struct, frozen=True, gc=False):
    """A part of a stream to be stored."""

    stream: Stream
    sequence: int
    offset: int
    data: bytes


class Kept(Struct, frozen=True, kw_only=True):
    """
    What is kept of both outputs in the end.

    :ivar pieces: to be stored.
    :ivar anew: streams of which what is stored is to be deleted before.
    :ivar kept: bytes that are kept, by stream.
    :ivar sizes: bytes that the command wrote; more than are kept where something was cut.
    :ivar digest: the same where hosts have the same outputs.
    """

    pieces: list[Piece]
    anew: list[Stream]
    kept: dict[Stream, int]
    sizes: dict[Stream, int]
    digest: bytes


class Outputs:
    """
    The outputs of one invocation.

    :param limit: bytes of each stream that are kept.
    :param resumed: whether another process may have stored some: the result brings all of it anew.
    """

    __slots__ = ("_broken", "_kept", "_limit", "_next", "_reached")

    def __init__(self, limit: int, next_sequence: int = 0, *, resumed: bool = False) -> None:
        self._limit = limit
        self._next = next_sequence
        #: Bytes of each stream that have come.
        self._reached: dict[Stream, int] = {}
        #: Bytes of them that are stored.
        self._kept: dict[Stream, int] = {}
        #: Streams of which a part did not come, or was not stored.
        self._broken: set[Stream] = set(STREAMS) if resumed else set()

    def came(self, output: CommandOutput) -> Piece | None:
        """A piece has come; ``None``: it is not kept."""
        stream = output.stream
        data = bytes_of(output.data, output.encoding == "base64")
        reached = self._reached.get(stream, 0)
        if output.offset != reached or not data:
            self._broken.add(stream)
            return None
        self._reached[stream] = reached + len(data)
        room = self._limit - self._kept.get(stream, 0)
        if stream in self._broken or room <= 0:
            return None
        data = data[:room]
        self._kept[stream] = self._kept.get(stream, 0) + len(data)
        self._next += 1
        return Piece(stream, self._next - 1, reached, data)

    def dropped(self, piece: Piece) -> None:
        """A piece was not stored after all."""
        self._broken.add(piece.stream)

    def ended(self, result: CommandResult) -> Kept:
        """The result has come: what is to be stored of it."""
        encoded = result.details.encoding == "base64"
        digest = sha256()
        kept = Kept(pieces=[], anew=[], kept={}, sizes={}, digest=b"")
        for stream in STREAMS:
            data = bytes_of(getattr(result, stream), encoded)
            digest.update(len(data).to_bytes(8) + data)
            written = min(getattr(result.details, f"{stream}_bytes"), _MOST_NUMBER)
            if self._has_all(stream, written, result.extended):
                kept.kept[stream] = self._kept[stream]
                kept.sizes[stream] = written
            else:
                self._take(kept, stream, data, written if result.details.truncated else 0)
        return replace(kept, digest=digest.digest())

    def _has_all(self, stream: Stream, written: int, extended: bool) -> bool:
        """Whether what came while it ran is all that it wrote, as far as that is to be kept."""
        if not extended or stream in self._broken or not written:
            return False
        return self._reached.get(stream) == written

    def _take(self, kept: Kept, stream: Stream, data: bytes, written: int) -> None:
        if stream in self._kept or stream in self._broken:
            kept.anew.append(stream)
        part = data[: self._limit]
        kept.kept[stream] = len(part)
        kept.sizes[stream] = max(written, len(data))
        for piece in self._pieces(stream, part):
            kept.pieces.append(piece)

    def _pieces(self, stream: Stream, data: bytes) -> Iterator[Piece]:
        for offset in range(0, len(data), MAX_CHUNK):
            self._next += 1
            yield Piece(stream, self._next - 1, offset, data[offset : offset + MAX_CHUNK])

    def kept_so_far(self) -> dict[Stream, int]:
        """Bytes that are stored of each stream, of one that ends without a result."""
        return dict(self._kept)


def bytes_of(text: str, encoded: bool) -> bytes:
    """The bytes of an output on the wire; of one that is no base64, although it should be, those of its text."""
    if encoded:
        try:
            return b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            pass
    return text.encode("utf-8", "replace")
