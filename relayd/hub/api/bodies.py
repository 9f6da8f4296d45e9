"""
Reads the body of a request: JSON into a type, with bounds on what nobody needs.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

import msgspec

from relayd.hub.api.mistakes import escaped, mistake_of
from relayd.hub.api.problems import InvalidRequest, Mistake, NotJson
from relayd.language.texts import Text
from relayd.wire.secret import Secret

T = TypeVar("T")

#: Levels of arrays and objects in one another.
MAX_DEPTH: Final = 32


def read_json(data: bytes, kind: type[T]) -> T:
    """
    The body as a *kind*, which a struct that forbids unknown fields is.

    :raises NotJson: when it is not JSON.
    :raises InvalidRequest: when it is not a *kind*, or no database could hold its texts.
    """
    document = _decode(data)
    if (mistake := _oddity_of(document)) is not None:
        raise InvalidRequest([mistake])
    return convert(document, kind)


def convert(document: object, kind: type[T]) -> T:
    """
    :raises InvalidRequest: when *document* is not a *kind*.
    """
    mistake = None
    try:
        return msgspec.convert(document, kind, dec_hook=_hook)
    except msgspec.ValidationError as error:
        mistake = mistake_of(error)
    raise InvalidRequest([mistake])


def _decode(data: bytes) -> object:
    """Without a cause or context in what it raises: msgspec's errors may show a part of the body."""
    reason = ""
    try:
        return msgspec.json.decode(data)
    except RecursionError:
        reason = str(Text("it has too many levels"))
    except UnicodeDecodeError:
        reason = str(Text("it is not UTF-8"))
    except msgspec.MsgspecError as error:
        reason = str(error).removeprefix("JSON is malformed: ")
    raise NotJson(reason=reason)


def _oddity_of(document: object) -> Mistake | None:
    """What no field may have: a NUL, which PostgreSQL keeps in no text, and more levels than `MAX_DEPTH`."""
    waiting: list[tuple[object, str, int]] = [(document, "", 0)]
    while waiting:
        value, pointer, depth = waiting.pop()
        if depth > MAX_DEPTH:
            return Mistake(str(Text("has too many levels")), pointer)
        if isinstance(value, str) and "\0" in value:
            return Mistake(str(Text("holds a NUL character")), pointer)
        if isinstance(value, list):
            waiting += [(each, f"{pointer}/{index}", depth + 1) for index, each in enumerate(value)]
        elif isinstance(value, dict):
            for name, each in value.items():
                if "\0" in name:
                    return Mistake(str(Text("has a name with a NUL character")), pointer)
                waiting.append((each, f"{pointer}/{escaped(name)}", depth + 1))
    return None


def _hook(kind: type[Any], value: object) -> object:
    """What JSON does not know of."""
    if kind is Secret:
        if not isinstance(value, str):
            raise ValueError(str(Text("is not a string")))
        return Secret(value)
    raise NotImplementedError(kind)
