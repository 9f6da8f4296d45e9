"""
Output of hosts for people: whole lines, each with its host before it, and nothing in them that a terminal obeys.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable
from typing import Final

from relayd.language.texts import printable

#: Characters of a line that is shown as one.
_LONGEST: Final = 64 * 1024
#: How a line that is too long goes on.
_MORE: Final = "…"

#: Writes a line of a stream (``stdout`` or ``stderr``).
Write = Callable[[str, str], None]


def harmless(line: str) -> str:
    """A line of a host's output without anything that a terminal obeys."""
    return printable(line.rstrip("\r").expandtabs(), _LONGEST + 8)


class HostLines:
    """
    Makes lines of the pieces of output that arrive from many hosts.

    :param raw: leave everything in them that the host wrote.
    """

    def __init__(self, write: Write, *, raw: bool = False) -> None:
        self._write = write
        self._clean = (lambda line: line) if raw else harmless
        #: By invocation and stream: what belongs to a line that has not ended, and a character that has not.
        self._begun: dict[tuple[str, str], str] = {}
        self._decoders: dict[tuple[str, str], codecs.IncrementalDecoder] = {}

    def add(self, invocation: str, host: str, stream: str, data: bytes) -> None:
        """A piece of output."""
        key = (invocation, stream)
        if key not in self._decoders:
            self._decoders[key] = codecs.getincrementaldecoder("utf-8")("replace")
        *lines, rest = (self._begun.pop(key, "") + self._decoders[key].decode(data)).split("\n")
        for line in lines:
            self._put(host, stream, line)
        while len(rest) > _LONGEST:
            self._put(host, stream, rest[:_LONGEST] + _MORE)
            rest = rest[_LONGEST:]
        if rest:
            self._begun[key] = rest

    def end(self, invocation: str, host: str) -> None:
        """Nothing more comes of an invocation: the last line may have no end."""
        for stream in ("stdout", "stderr"):
            decoder = self._decoders.pop((invocation, stream), None)
            rest = self._begun.pop((invocation, stream), "") + ("" if decoder is None else decoder.decode(b"", True))
            if rest:
                self._put(host, stream, rest)

    def _put(self, host: str, stream: str, line: str) -> None:
        self._write(stream, f"{printable(host, 100)}: {self._clean(line)}")
