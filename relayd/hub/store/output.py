"""
What commands wrote, in pieces: stored as it arrives, read from any place on, and searched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from msgspec import Struct
from sqlalchemy import Connection, delete, insert, select

from relayd.hub.store.invocations import ids_of
from relayd.hub.store.tables import output_chunks

Stream = Literal["stdout", "stderr"]
STREAMS: Final[tuple[Stream, ...]] = ("stdout", "stderr")
#: Bytes of the largest piece that is stored.
MAX_CHUNK: Final = 64 * 1024
#: Bytes that one search looks at before it hands out what it found, and where to go on.
SEARCHED: Final = 16 * 1024 * 1024
#: Bytes before and after what was found that are shown with it.
_AROUND: Final = 80


class Chunk(Struct, frozen=True, kw_only=True):
    """
    A piece of output.

    :ivar sequence: from 0, in the order of arrival of both streams.  Where a piece has a smaller offset than was
        reached, the stream begins anew there: what came live had gaps, and this is all of it.
    :ivar offset: bytes of its stream before it.
    """

    invocation_id: str
    sequence: int
    stream: Stream
    offset: int
    data: bytes
    change: int


class NewChunk(Struct, frozen=True, gc=False):
    """A piece to be stored."""

    invocation_id: str
    run_id: str
    sequence: int
    stream: Stream
    offset: int
    data: bytes


class Found(Struct, frozen=True, kw_only=True):
    """
    A text that was searched for.

    :ivar offset: bytes of the stream before it.
    :ivar line: what stands around it, on the same line.
    """

    invocation_id: str
    host: str
    stream: Stream
    offset: int
    line: str


class Search(Struct, frozen=True, kw_only=True):
    """
    What a search found.

    :ivar found: the first place in each output that has the text.
    :ivar next_position: where to go on: the position of an invocation; ``None``: all was searched.
    """

    found: list[Found]
    next_position: int | None


def add_chunks(connection: Connection, chunks: Sequence[tuple[NewChunk, int]]) -> None:
    """Store pieces, each with the number of its change."""
    if chunks:
        connection.execute(
            insert(output_chunks),
            [
                {
                    "invocation_id": chunk.invocation_id,
                    "sequence": chunk.sequence,
                    "stream": chunk.stream,
                    "offset": chunk.offset,
                    "data": chunk.data,
                    "run_id": chunk.run_id,
                    "change": change,
                }
                for chunk, change in chunks
            ],
        )


def delete_stream(connection: Connection, invocation_id: str, stream: str) -> None:
    """Forget what came of a stream, since all of it comes now."""
    connection.execute(
        delete(output_chunks).where(output_chunks.c.invocation_id == invocation_id, output_chunks.c.stream == stream)
    )


def forget_chunks(connection: Connection, chunks: Sequence[NewChunk]) -> None:
    """Delete pieces that may have been stored, since they are stored again."""
    for chunk in chunks:
        connection.execute(
            delete(output_chunks).where(
                output_chunks.c.invocation_id == chunk.invocation_id, output_chunks.c.sequence == chunk.sequence
            )
        )


def chunks_since(connection: Connection, run_id: str, change: int, limit: int) -> list[Chunk]:
    """The pieces of a run's outputs that were stored after *change*, in the order of their changes."""
    query = (
        select(*(output_chunks.c[name] for name in Chunk.__struct_fields__))
        .where(output_chunks.c.run_id == run_id, output_chunks.c.change > change)
        .order_by(output_chunks.c.change)
        .limit(limit)
    )
    return [Chunk(**row._mapping) for row in connection.execute(query)]


def read_output(
    connection: Connection, invocation_id: str, stream: Stream, after: int = -1, limit: int = 64
) -> list[Chunk]:
    """
    Pieces of one stream in order.

    :param after: the sequence number of the last piece that is known.
    :param limit: of pieces, `MAX_CHUNK` bytes each.
    """
    query = (
        select(*(output_chunks.c[name] for name in Chunk.__struct_fields__))
        .where(
            output_chunks.c.invocation_id == invocation_id,
            output_chunks.c.stream == stream,
            output_chunks.c.sequence > after,
        )
        .order_by(output_chunks.c.sequence)
        .limit(limit)
    )
    return [Chunk(**row._mapping) for row in connection.execute(query)]


def search(connection: Connection, run_id: str, text: str, position: int = 0, most: int = 100) -> Search:
    """
    Look for a text in the outputs of a run.

    It looks at `SEARCHED` bytes, or a little more, and says where to go on: a search never holds up others for long.

    :param position: of the invocation with which it begins.
    :param most: places that it finds at most.
    """
    wanted = text.encode("utf-8", "replace")
    found: list[Found] = []
    searched = 0
    while True:
        members = list(ids_of(connection, run_id, position, 200))
        for at, invocation_id, host in members:
            if searched >= SEARCHED or len(found) >= most:
                return Search(found=found, next_position=at)
            for stream in STREAMS:
                data = _whole(connection, invocation_id, stream)
                searched += len(data) + 100
                where = data.find(wanted)
                if where >= 0:
                    line = _line(data, where, len(wanted))
                    found.append(Found(invocation_id=invocation_id, host=host, stream=stream, offset=where, line=line))
            position = at + 1
        if not members:
            return Search(found=found, next_position=None)


def _whole(connection: Connection, invocation_id: str, stream: Stream) -> bytes:
    query = (
        select(output_chunks.c.data)
        .where(output_chunks.c.invocation_id == invocation_id, output_chunks.c.stream == stream)
        .order_by(output_chunks.c.sequence)
    )
    return b"".join(connection.execute(query).scalars())


def _line(data: bytes, where: int, length: int) -> str:
    start = max(where - _AROUND, data.rfind(b"\n", 0, where) + 1)
    end = data.find(b"\n", where + length)
    end = min(where + length + _AROUND, len(data) if end < 0 else end)
    return data[start:end].decode("utf-8", "replace")
