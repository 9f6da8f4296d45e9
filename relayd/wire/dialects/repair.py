"""
JSON texts with faults that main servers send, made into JSON; and how costly a large text is, before it is decoded.

What a peer chooses to send must not hold up the event loop: nothing here looks at each character of a long string, and
what has more faults than a mistake makes stays as it is.
"""

from __future__ import annotations

import math
import re
from typing import Final

#: Quotes up to which the strings of a text are looked for one by one: a fifth of the time, where they are long.
_FEW_QUOTES: Final = 10_000
#: Characters up to which a text with more quotes is repaired.
_MOST_QUOTED: Final = 1 << 20
#: Surrogates, numbers that may be too large or none at all, and brackets of a text that is too deep, up to which it is
#: repaired: each takes up to a microsecond.
_MOST_SURROGATES: Final = 40_000
_MOST_NUMBERS: Final = 20_000
_MOST_BRACKETS: Final = 200_000

#: The depth of nested arrays and objects beyond which they are dropped, in a text that is too deep for Python.
_DEEPEST: Final = 256
#: The number in place of a larger one than a float can be: no field takes it.
_TOO_LARGE: Final = "1.7976931348623157e308"

_BRACKET: Final = re.compile(r"[][{}]")
#: What Python's json writes for what is no number. It may be a part of a word.
_NO_NUMBER: Final = re.compile(r"-?(?:NaN|Infinity)")
#: Whether there may be a number beyond the floats; and numbers, each of which may be one.
_MAY_BE_HUGE: Final = re.compile(r"[0-9.][eE]|[0-9]{300}")
_NUMBER: Final = re.compile(r"-?[0-9][-+.0-9eE]{4,}+")
_HUGE: Final = re.compile(r"[eE]\+?0*[3-9][0-9]{2}")
#: A part of a pair of surrogates, perhaps behind an escaped backslash; a whole pair; half of one.
_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")
_PAIR: Final = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}")
_HALF: Final = re.compile(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")


def outside_of_strings(text: str, most: int) -> str | None:
    """
    What of a JSON text is outside of its strings, with one of the two quotes of each string.

    :return: ``None``: that has more than *most* characters.
    """
    quotes = text.count('"')
    if quotes <= _FEW_QUOTES:
        outside = _split_at_each(text)[::2]
    else:
        if "\\" in text:
            text = _mask(text)
            quotes = text.count('"')
        if quotes > most:
            return None
        outside = text.split('"')[::2]
    return '"'.join(outside) if quotes // 2 + sum(map(len, outside)) <= most else None


def huge_numbers(outside: str) -> int:
    """How many numbers from 1e300 on there are in what a text has outside of its strings."""
    return len(_HUGE.findall(outside)) if "e" in outside or "E" in outside else 0


def repaired(text: str) -> str:
    """A JSON text without faults in its numbers and strings, as far as they can be repaired; or *text* itself."""
    pieces = _pieces(text)
    if not pieces:
        return text
    if _SURROGATE.search(text):
        if text.count("\\ud") + text.count("\\uD") > _MOST_SURROGATES:
            return text
        pieces[1::2] = [_without_halves(piece) if "\\" in piece else piece for piece in pieces[1::2]]
    outside = '"'.join(pieces[::2])
    none = outside.count("NaN") + outside.count("Infinity")
    huge = len(_NUMBER.findall(outside)) if _MAY_BE_HUGE.search(outside) else 0
    if none + huge > _MOST_NUMBERS:
        return text
    if none:
        outside = _NO_NUMBER.sub(_written, outside)
    if huge:
        outside = _NUMBER.sub(_finite, outside)
    pieces[::2] = outside.split('"')
    return '"'.join(pieces)


def shallow(text: str) -> str:
    """A JSON text with ``null`` in place of what nests too deeply; or an empty one, if that has no end."""
    pieces = _pieces(text)
    if sum(piece.count(bracket) for piece in pieces[::2] for bracket in "[]{}") > _MOST_BRACKETS:
        return ""
    parts: list[str] = []
    depth = begin = kept = 0
    for index, piece in enumerate(pieces):
        if index % 2 == 0:
            for bracket in _BRACKET.finditer(piece):
                if bracket[0] in ("[", "{"):
                    depth += 1
                    if depth == _DEEPEST:
                        parts.append(text[kept : begin + bracket.start()])
                else:
                    if depth == _DEEPEST:
                        parts.append("null")
                        kept = begin + bracket.end()
                    depth -= 1
        begin += len(piece) + 1
    return "" if depth >= _DEEPEST else "".join(parts) + text[kept:]


def _pieces(text: str) -> list[str]:
    """
    A JSON text without the quotes around its strings: what is before the first one, that, what is before the next one.

    :return: nothing for a text that is not worth it.
    """
    if text.count('"') <= _FEW_QUOTES:
        return _split_at_each(text)
    if len(text) > _MOST_QUOTED:
        return []
    if "\\" not in text:
        return text.split('"')
    pieces: list[str] = []
    begin = 0
    for masked in _mask(text).split('"'):
        pieces.append(text[begin : begin + len(masked)])
        begin += len(masked) + 1
    return pieces


def _split_at_each(text: str) -> list[str]:
    pieces: list[str] = []
    begin = at = 0
    while (quote := text.find('"', at)) >= 0:
        at = quote + 1
        if len(pieces) % 2:
            before = text[begin:quote]
            if (len(before) - len(before.rstrip("\\"))) % 2:  # the quote is escaped
                continue
        pieces.append(text[begin:quote])
        begin = at
    pieces.append(text[begin:])
    return pieces


def _mask(text: str) -> str:
    """A JSON text of the same length, in which each quote begins or ends a string."""
    return text.replace("\\\\", "__").replace('\\"', "__")


def _written(number: re.Match[str]) -> str:
    """As JavaScript writes NaN, and an infinity as no field takes it."""
    text = number[0]
    return "null" if text.endswith("NaN") else text.replace("Infinity", _TOO_LARGE)


def _finite(number: re.Match[str]) -> str:
    text = number[0]
    try:
        finite = math.isfinite(float(text))
    except ValueError:
        return text
    if finite:
        return text
    return f"-{_TOO_LARGE}" if text.startswith("-") else _TOO_LARGE


def _without_halves(string: str) -> str:
    """The inside of a JSON string with U+FFFD in place of each half of a surrogate pair."""
    parts: list[str] = []
    kept = at = 0  # at: the end of an escape, or of what is before one
    for found in _SURROGATE.finditer(string):
        begin = found.start()
        if begin < at:  # the second half of a pair
            continue
        before = string[at:begin]
        if (len(before) - len(before.rstrip("\\"))) % 2:  # the backslash is escaped
            at = begin + 1
        elif _PAIR.match(string, begin):
            at = begin + 12
        elif _HALF.match(string, begin):
            parts += (string[kept:begin], r"\ufffd")
            kept = at = begin + 6
    return "".join(parts) + string[kept:]
