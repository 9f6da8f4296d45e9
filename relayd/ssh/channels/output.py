"""
What a command wrote, within limits: of too much output, the beginning and the end are kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from relayd.language.charsets import UTF8, Decoder, first_character, has_shifts, in_the_middle, is_single_byte
from relayd.language.texts import Text, Translate, english

#: What JavaScript's ``String.prototype.trim`` removes (ECMA-262, "WhiteSpace" and "LineTerminator"): results are
#: trimmed as the specification's example relay does it. Python's white space differs.
_JAVASCRIPT_SPACE = (
    "\t\n\v\f\r \N{NO-BREAK SPACE}\N{OGHAM SPACE MARK}\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009"
    "\u200a\N{LINE SEPARATOR}\N{PARAGRAPH SEPARATOR}\N{NARROW NO-BREAK SPACE}\N{MEDIUM MATHEMATICAL SPACE}"
    "\N{IDEOGRAPHIC SPACE}\N{ZERO WIDTH NO-BREAK SPACE}"
)


#: Bytes below which chunks are joined, as each chunk costs memory by itself.
_SMALL = 16384
#: Bytes in which the start of a line is searched for after a cut.
_FAR: Final = 4096
#: Bytes that are decoded in one step, so that in a thread none of them keeps other threads from running for long.
_PIECE: Final = 256 * 1024


class Output(Struct, frozen=True):
    """
    What was kept of one stream so far; unlike the buffer it never changes, so it may be used in any thread. The chunks
    are those of the buffer: to join them is work for that thread.

    :ivar size: bytes of both.
    :ivar total: bytes seen.
    :ivar truncated: whether bytes were cut, between ``head`` and ``tail``.
    """

    head: tuple[bytes, ...]
    tail: tuple[bytes, ...]
    size: int
    total: int
    truncated: bool

    def text(self, translate: Translate = english, charset: str = UTF8) -> str:
        """
        The output as text, trimmed at both ends; bytes that are no text are replaced. A line stands for what was cut.

        :param charset: the character set of the output, by its name in `relayd.language.charsets`.
        """
        if not self.truncated:
            data = b"".join((*self.head, *self.tail))
            if charset == UTF8 and len(data) <= _PIECE:
                return data.decode("utf-8", "replace").strip(_JAVASCRIPT_SPACE)
            return "".join(_rstripped(_lstripped(_decoded(data, charset))))
        # A cut may fall within a character, whose remains would read as garbage that the command never wrote.
        head, tail = b"".join(self.head), b"".join(self.tail)
        behind = in_the_middle(charset, head)
        head = head[: len(head) - _cut_character(head, charset)]
        tail = tail[_first_character(tail, self.total - len(tail), behind) :]
        marker = self._marker(head, tail, translate)
        return "".join((*_lstripped(_decoded(head, charset)), marker, *_rstripped(_decoded(tail, behind))))

    def raw(self, translate: Translate = english) -> bytes:
        """The output as it came, not trimmed. A line stands for what was cut."""
        head, tail = b"".join(self.head), b"".join(self.tail)
        return head + self._marker(head, tail, translate).encode() + tail if self.truncated else head + tail

    def _marker(self, head: bytes, tail: bytes, translate: Translate) -> str:
        gone = self.total - len(head) - len(tail)
        return f"\n{Text('[relayd: {bytes} bytes cut here]', bytes=f'{gone:,}').within(translate)}\n"


#: What most commands write to stderr.
_NOTHING: Final = Output((), (), 0, 0, False)


def _add(chunks: list[bytes | bytearray] | deque[bytes | bytearray], data: bytes) -> None:
    if len(data) >= _SMALL:
        chunks.append(data)
    elif chunks and isinstance(last := chunks[-1], bytearray) and len(last) < _SMALL:
        last += data
    elif data:
        chunks.append(bytearray(data))


class OutputBuffer:
    """
    Collects one stream.

    :param limit: bytes to keep: half of them from the beginning, half from the end.
    :ivar total: bytes seen.
    """

    __slots__ = ("_head", "_head_room", "_limit", "_tail", "_tail_size", "total")

    def __init__(self, limit: int) -> None:
        self.total = 0
        self._limit = limit
        self._head: list[bytes | bytearray] = []
        self._head_room = limit - limit // 2
        self._tail: deque[bytes | bytearray] = deque()
        self._tail_size = 0

    def append(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        self.total += len(data)
        if self._head_room:
            if len(data) <= self._head_room:
                self._head_room -= len(data)
                _add(self._head, data)
                return
            _add(self._head, data[: self._head_room])
            data = data[self._head_room :]
            self._head_room = 0
        tail = self._tail
        _add(tail, data)
        self._tail_size += len(data)
        room = self._limit // 2
        # Whole chunks only: what remains too much is cut once, at the end.
        while tail and self._tail_size - len(tail[0]) >= room:
            self._tail_size -= len(tail.popleft())

    @property
    def truncated(self) -> bool:
        """Whether bytes were cut."""
        return self.total > self._limit

    @property
    def kept(self) -> int:
        """The most bytes that there can be of it."""
        return min(self.total, self._limit)

    def taken(self) -> Output:
        """What was kept so far."""
        if not self.total:
            return _NOTHING
        # Chunks to which more may be added are copied; there are few, and they are small.
        head = tuple(map(bytes, self._head))
        tail = [*map(bytes, self._tail)]
        if self.truncated and tail:
            tail[0] = tail[0][self._tail_size - self._limit // 2 :]
        return Output(head, tuple(tail), self.kept, self.total, self.truncated)

    def text(self) -> str:
        """See `Output.text`."""
        return self.taken().text()

    def raw(self) -> bytes:
        """See `Output.raw`."""
        return self.taken().raw()


def _decoded(data: bytes, charset: str) -> Iterator[str]:
    if charset == UTF8 and len(data) <= _PIECE:
        yield data.decode("utf-8", "replace")
        return
    decoder = Decoder(charset)
    for at in range(0, len(data), _PIECE):
        yield decoder.decode(data[at : at + _PIECE])
    yield decoder.decode(b"", final=True)


def _lstripped(pieces: Iterator[str]) -> Iterator[str]:
    """The pieces of a text without white space at its beginning."""
    for piece in pieces:
        rest = piece.lstrip(_JAVASCRIPT_SPACE)
        if rest:
            yield rest
            break
    yield from pieces


def _rstripped(pieces: Iterator[str]) -> list[str]:
    """The pieces of a text without white space at its end."""
    kept = list(pieces)
    while kept:
        kept[-1] = kept[-1].rstrip(_JAVASCRIPT_SPACE)
        if kept[-1]:
            break
        kept.pop()
    return kept


def _cut_character(data: bytes, charset: str) -> int:
    """How many bytes at the end of *data* are the beginning of a character that is not complete."""
    if charset == UTF8:
        data = data[-4:]
    decoder = Decoder(charset)
    for at in range(0, len(data), _PIECE):
        decoder.decode(data[at : at + _PIECE])
    return decoder.pending


def _first_character(data: bytes, offset: int, charset: str) -> int:
    """
    Where in *data*, which begins *offset* bytes after the beginning of a stream, the first whole character begins.

    In character sets with shifts, where bytes of ASCII can mean something else, that is after the next end of a line.
    """
    if charset == UTF8:
        return next((at for at in range(min(4, len(data))) if data[at] & 0xC0 != 0x80), 0)
    if charset.startswith("utf-16"):
        at = -offset % 2
        high = data[at : at + 1] if charset.endswith("be") else data[at + 1 : at + 2]
        return at + 2 if b"\xdc" <= high <= b"\xdf" else at  # the second half of a character of two words
    if charset.startswith("utf-32"):
        return -offset % 4
    if is_single_byte(charset):
        return 0
    if has_shifts(charset):
        return data.find(b"\n", 0, _FAR) + 1
    return first_character(data, charset)
