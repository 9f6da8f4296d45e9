"""
What a request line names: path segments and query parameters, decoded once and strictly (RFC 3986, RFC 9112).
"""

from __future__ import annotations

import re
from typing import Final, TypeVar
from urllib.parse import unquote_to_bytes

import msgspec
from msgspec import Struct

from relayd.hub.api.mistakes import reason_of
from relayd.hub.api.problems import InvalidQuery, MalformedRequest
from relayd.language.texts import Text, printable
from relayd.wire.type_errors import explain_type

T = TypeVar("T")

#: Parameters of a query.
MAX_PARAMETERS: Final = 32
_ABSOLUTE: Final = re.compile(rb"https?://([^/?#]*)([/?].*)?", re.IGNORECASE | re.DOTALL)
_ESCAPES: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class Target(Struct, frozen=True):
    """
    :ivar segments: the path's, decoded each on its own, so that ``%2F`` is no border.
    :ivar query: what follows ``?``, not decoded.
    :ivar authority: host and port of a target in absolute form; empty otherwise.
    """

    segments: tuple[str, ...]
    query: bytes
    authority: str = ""


def parse_target(raw: bytes) -> Target:
    """
    :raises MalformedRequest: when it is no path, or one of which two programs could think differently.
    """
    authority = b""
    if (absolute := _ABSOLUTE.fullmatch(raw)) is not None:
        authority, raw = absolute[1], absolute[2] or b"/"
    path, _, query = raw.partition(b"?")
    if not path.startswith(b"/") or b"#" in raw:
        raise MalformedRequest(reason=Text("its target is not a path"))
    segments = tuple(_decoded(each, Text("its path")) for each in path[1:].split(b"/"))
    if any(each in (".", "..") for each in segments):
        raise MalformedRequest(reason=Text("its path has a segment . or .."))
    if any(_CONTROLS.search(each) for each in segments):
        raise MalformedRequest(reason=Text("its path has control characters"))
    return Target(segments, query, authority.decode("latin-1"))


def parse_query(raw: bytes, kind: type[T]) -> T:
    """
    The parameters as a *kind*, a struct that forbids unknown fields and has texts, numbers and booleans.

    :raises InvalidQuery: when they are not, or one is there twice.
    """
    found: dict[str, str] = {}
    parts = [part for part in raw.split(b"&") if part]
    if len(parts) > MAX_PARAMETERS:
        raise MalformedRequest(reason=Text("its query has more than {limit} parameters", limit=MAX_PARAMETERS))
    for part in parts:
        name, _, value = (_decoded(each, Text("its query")) for each in part.replace(b"+", b" ").partition(b"="))
        if name in found:
            raise InvalidQuery(parameter=printable(name, 60), reason=Text("is there twice"))
        if "\0" in value:
            raise InvalidQuery(parameter=printable(name, 60), reason=Text("holds a NUL character"))
        found[name] = value
    mistake = None
    try:
        return msgspec.convert(found, kind, strict=False)
    except msgspec.ValidationError as error:
        mistake = _mistake_of(error)
    raise InvalidQuery(parameter=mistake[0], reason=mistake[1])


def _mistake_of(error: msgspec.ValidationError) -> tuple[str, str]:
    text = str(error)
    if text.startswith("Object contains unknown field `"):
        return printable(text.removeprefix("Object contains unknown field `")[:-1], 60), str(Text("is not known here"))
    return explain_type(error)[0], reason_of(error)


def _decoded(raw: bytes, what: Text) -> str:
    if _ESCAPES.search(raw):
        raise MalformedRequest(reason=Text("{what} has a % that no two hexadecimal digits follow", what=what))
    try:
        return unquote_to_bytes(raw).decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedRequest(reason=Text("{what} is not UTF-8", what=what)) from None
