"""
What msgspec finds wrong with a request's data, in words for people and as places in it (JSON Pointer, RFC 6901).
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from relayd.hub.api.problems import Mistake
from relayd.language.texts import Text
from relayd.wire.type_errors import explain_type

_UNKNOWN: Final = re.compile(r"Object contains unknown field `(.+)`", re.DOTALL)
_MISSING: Final = re.compile(r"Object missing required field `(\w+)`")
_BOUND: Final = re.compile(r"Expected `[a-z]+` (of length )?(<=|>=|<|>|==) ([-+.e0-9]+)")
_PATTERN: Final = re.compile(r"Expected `str` matching regex")
_STEP: Final = re.compile(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]")
_WORDS: Final = {
    (False, "<="): Text("is more than {bound}"),
    (False, ">="): Text("is less than {bound}"),
    (False, "<"): Text("has to be less than {bound}"),
    (False, ">"): Text("has to be more than {bound}"),
    (True, "<="): Text("is longer than {bound}"),
    (True, ">="): Text("is shorter than {bound}"),
    (True, "=="): Text("has to have the length {bound}"),
}


def mistake_of(error: msgspec.ValidationError) -> Mistake:
    """The place and the words for one error of `msgspec.convert`."""
    text, found, path = str(error).rpartition(" - at ")
    if not found:
        text, path = str(error), ""
    pointer = pointer_of(path.strip("`"))
    if unknown := _UNKNOWN.fullmatch(text):
        return Mistake(str(Text("is not known here")), f"{pointer}/{escaped(unknown[1])}")
    if missing := _MISSING.fullmatch(text):
        return Mistake(str(Text("is missing")), f"{pointer}/{escaped(missing[1])}")
    return Mistake(reason_of(error), pointer)


def reason_of(error: msgspec.ValidationError) -> str:
    """The words alone, to follow the name of what is wrong."""
    text = str(error).rpartition(" - at ")[0] or str(error)
    if bound := _BOUND.match(text):
        words = _WORDS[bound[1] is not None, bound[2]]
        return str(Text(words.template, bound=bound[3]))
    if _PATTERN.match(text):
        return str(Text("is not written as it has to be"))
    if not text.startswith(("Expected", "Invalid", "Object")):  # a text of ours, from a hook
        return text
    return str(explain_type(error)[1])


def pointer_of(path: str) -> str:
    """``$.hosts[1].name`` as ``/hosts/1/name``; msgspec does not say which value of a mapping: ``[...]`` ends it."""
    parts = []
    for step in _STEP.finditer(path.removeprefix("key in ").strip("`")):
        if step[2] == "...":
            break
        parts.append(escaped(step[1] or step[2]))
    return "".join(f"/{part}" for part in parts)


def escaped(name: str) -> str:
    """A name as a part of a JSON Pointer."""
    return name.replace("~", "~0").replace("/", "~1")
