"""
What msgspec says of data of a wrong type, in words for people.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from relayd.language.texts import Text

# Two kinds of errors of msgspec's: what was expected, perhaps with a bound, or null in its place; what is missing.
_EXPECTED = re.compile(r"Expected `([a-z]+)(?: \| null)?`( of | [<>])?")
_MISSING = re.compile(r"Object missing required field `(\w+)`")

#: The types of JSON by the names that msgspec has for them.
_TYPES: Final = {
    "str": Text("is not a string"),
    "int": Text("is not a whole number"),
    "float": Text("is not a number"),
    "bool": Text("is neither true nor false"),
    "object": Text("is not an object"),
    "array": Text("is not an array"),
}


def explain_type(error: msgspec.ValidationError) -> tuple[str, Text]:
    """msgspec's ``Expected `str`, got `int` - at `$.host``` as field and reason, in words for people."""
    text, found, path = str(error).rpartition(" - at ")
    if not found:
        text, path = path, ""
    field = path.strip("`").removeprefix("$.").removeprefix("$") or "the data"
    if text.startswith("Invalid enum value"):  # the one error of msgspec's that shows the value
        return field, Text("is not one of the words that are allowed there")
    if missing := _MISSING.fullmatch(text):
        return (field + "." if found else "") + missing[1], Text("is missing")
    if expected := _EXPECTED.match(text):
        if expected[2]:
            return field, Text("is too long, or out of range")
        return field, _TYPES.get(expected[1], Text("is of the wrong type"))
    return field, Text("is of the wrong type")
