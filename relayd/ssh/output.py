"""
What a command wrote, within bounds: when there is too much, the beginning and the end are kept.
"""

from __future__ import annotations

from collections import deque

#: What JavaScript's ``String.prototype.trim`` takes away (ECMA-262, "WhiteSpace" and "LineTerminator"): results must be
#: trimmed as the specification's example relay does; Python's own idea of white space differs.
_JAVASCRIPT_SPACE = (
    "\t\n\v\f\r \N{NO-BREAK SPACE}\N{OGHAM SPACE MARK}\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009"
    "\u200a\N{LINE SEPARATOR}\N{PARAGRAPH SEPARATOR}\N{NARROW NO-BREAK SPACE}\N{MEDIUM MATHEMATICAL SPACE}"
    "\N{IDEOGRAPHIC SPACE}\N{ZERO WIDTH NO-BREAK SPACE}"
)


#: Bytes below which chunks of the end are put together: each has a price of its own in memory.
_SMALL = 16384


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
        self._head = bytearray()
        self._head_room = limit - limit // 2
        self._tail: deque[bytes | bytearray] = deque()
        self._tail_size = 0

    def append(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        self.total += len(data)
        if self._head_room:
            if len(data) <= self._head_room:
                self._head_room -= len(data)
                self._head += data
                return
            self._head += data[: self._head_room]
            data = data[self._head_room :]
            self._head_room = 0
        tail = self._tail
        if len(data) >= _SMALL:
            tail.append(data)
        elif tail and isinstance(last := tail[-1], bytearray) and len(last) < _SMALL:
            last += data
        elif data:
            tail.append(bytearray(data))
        self._tail_size += len(data)
        room = self._limit // 2
        # Whole chunks only: what remains too much is cut once, at the end.
        while tail and self._tail_size - len(tail[0]) >= room:
            self._tail_size -= len(tail.popleft())

    @property
    def truncated(self) -> bool:
        """Whether bytes had to be given up."""
        return self.total > self._limit

    def text(self) -> str:
        """
        The output as UTF-8, trimmed at both ends; bytes that are not UTF-8 are replaced.  What was given up is named
        where it stood.
        """
        head, tail = self._ends()
        if not self.truncated:
            return (head + tail).decode("utf-8", "replace").strip(_JAVASCRIPT_SPACE)
        # A cut may fall within a character: its remains would read as garbage that the command never wrote.
        head = head[: len(head) - _cut_character(head)]
        start = next((at for at in range(min(4, len(tail))) if tail[at] & 0xC0 != 0x80), 0)
        tail = tail[start:]
        return (
            head.decode("utf-8", "replace").lstrip(_JAVASCRIPT_SPACE)
            + self._marker(head, tail)
            + tail.decode("utf-8", "replace").rstrip(_JAVASCRIPT_SPACE)
        )

    def raw(self) -> bytes:
        """The output as it came, not trimmed; what was given up is named where it stood."""
        head, tail = self._ends()
        return head + self._marker(head, tail).encode() + tail if self.truncated else head + tail

    def _ends(self) -> tuple[bytes, bytes]:
        tail = b"".join(self._tail)
        if self.truncated:
            tail = tail[len(tail) - self._limit // 2 :]
        return bytes(self._head), tail

    def _marker(self, head: bytes, tail: bytes) -> str:
        return f"\n[relayd: {self.total - len(head) - len(tail):,} bytes cut here]\n"


def _cut_character(data: bytes) -> int:
    """How many bytes at the end of *data* are the beginning of a character that is not complete."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 == 0x80:
            continue
        wanted = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
        return back if wanted > back else 0
    return 0
