"""
Lines for a terminal: pieces of text with colours, cut to the columns that they take.
"""

from __future__ import annotations

import os
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Final, NamedTuple, TextIO
from unicodedata import category, east_asian_width

from relayd.language.texts import printable

#: The most characters of one piece.
_MAX_TEXT: Final = 10_000


class Mood(Enum):
    """What a colour says of a text. The value is the parameter of ECMA-48's SGR."""

    PLAIN = ""
    HEAD = "1"
    GOOD = "32"
    FAIR = "33"
    BAD = "31"


class Piece(NamedTuple):
    """A text in one colour."""

    text: str
    mood: Mood = Mood.PLAIN


Line = Sequence[Piece]


def columns(text: str) -> int:
    """The columns of a terminal that *text* takes: ideographs take two, and marks on other characters none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if category(char) in ("Mn", "Me") else 2 if east_asian_width(char) in ("W", "F") else 1 for char in text
    )


def cut(text: str, width: int) -> str:
    """*text*, or as much of it as fits into *width* columns with a mark after it."""
    if columns(text) <= width:
        return text
    kept, room = "", width - 1
    for char in text:
        room -= columns(char)
        if room < 0:
            break
        kept += char
    return kept + "…" if width > 0 else ""


def padded(text: str, width: int) -> str:
    """*text* in exactly *width* columns."""
    text = cut(text, width)
    return text + " " * (width - columns(text))


def wrap(text: str, width: int) -> list[str]:
    """*text* in lines of at most *width* columns, broken between words where that is possible."""
    # textwrap counts characters: what takes a second column gets a second character meanwhile.
    filled = text if text.isascii() else "".join(char + "\0" * (columns(char) - 1) for char in text)
    return [line.replace("\0", "") for line in _Wrapper(width, break_on_hyphens=False).wrap(filled)]


class _Wrapper(textwrap.TextWrapper):
    """Breaks long words, but never between a character and what stands for its second column."""

    def _handle_long_word(self, reversed_chunks: list[str], cur_line: list[str], cur_len: int, width: int) -> None:
        room = width - cur_len
        if width > 1 and reversed_chunks[-1][room : room + 1] == "\0":
            width -= 1
        super()._handle_long_word(reversed_chunks, cur_line, cur_len, width)


def render(line: Line, width: int, *, coloured: bool) -> str:
    """*line* in at most *width* columns, with or without its colours, and without any other control characters."""
    shown = ""
    for text, mood in line:
        part = cut(printable(text, _MAX_TEXT), width)
        width -= columns(part)
        shown += f"\x1b[{mood.value}m{part}\x1b[m" if coloured and part and mood is not Mood.PLAIN else part
    return shown.rstrip(" ")


def has_colours(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether to write colours to *stream*: to a terminal that has them, unless ``NO_COLOR`` is set (no-color.org)."""
    return is_terminal(stream, environ) and not environ.get("NO_COLOR")


def is_terminal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether *stream* is a terminal that understands more than lines."""
    return stream.isatty() and environ.get("TERM", "dumb") != "dumb"


def size_of(stream: TextIO) -> os.terminal_size:
    """The columns and lines of the terminal behind *stream*; 100 columns and 24 lines where it does not say."""
    usual = shutil.get_terminal_size((100, 24))
    try:
        columns, lines = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):  # no terminal, or no file at all
        return usual
    return os.terminal_size((columns or usual.columns, lines or usual.lines))
