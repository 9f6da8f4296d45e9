"""
The rules of the fields ``files`` and ``fetch``; as `relayd.wire.fields`.
"""

from __future__ import annotations

import re
from typing import Final

from relayd.wire.fields import MAX_CWD, Invalid, absent, encoded_or_text, number, plain, text
from relayd.wire.files import DEFAULT_FETCH, DEFAULT_MODE, Fetch, File

#: Most files that a command brings, and most that it wants.
MAX_FILES: Final = 100
#: Most bytes of one file that are fetched.
MAX_FETCH: Final = 64 << 20

_MODE = re.compile(r"0?[0-7]{3}")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_ON_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


def files(value: object) -> tuple[File, ...]:
    """The files that are written before a command."""
    found = tuple(_file(f"files[{index}]", each) for index, each in enumerate(_members("files", value)))
    _check_twice("files", [each.path for each in found])
    return found


def fetch(value: object) -> tuple[Fetch, ...]:
    """The files that are read after a command."""
    return tuple(_fetch(f"fetch[{index}]", each) for index, each in enumerate(_members("fetch", value)))


def path(field: str, value: object) -> str:
    """
    The path of a file: absolute, also as Windows has it, or ``~/`` and what follows the home directory.

    :return: without what means nothing: rules of the site see the same as the host.
    """
    given = text(field, value, single_line=False, most=MAX_CWD)
    if "\n" in given or "\r" in given:
        raise Invalid(field, "contains a line break")
    if len(given.encode()) > MAX_CWD:
        raise Invalid(field, "is longer than {most} bytes", most=MAX_CWD)
    if _ON_DRIVE.match(given):
        given = given.replace("\\", "/")
    elif not given.startswith(("/", "~/")):
        raise Invalid(field, "is neither an absolute path nor one that begins with ~/")
    root, *names = given.split("/")
    if ".." in names:
        raise Invalid(field, "has .. in it; write the path without it")
    if not names or names[-1] in ("", "."):
        raise Invalid(field, "names a directory; what is wanted is the path of a file")
    return "/".join((root, *(name for name in names if name not in ("", "."))))


def _members(field: str, value: object) -> list[object]:
    if absent(value):
        return []
    value = plain(field, value)
    if not isinstance(value, list):
        raise Invalid(field, "is not an array of objects")
    if len(value) > MAX_FILES:
        raise Invalid(field, "has more than {most} members", most=MAX_FILES)
    return value


def _object(field: str, value: object, known: tuple[str, ...]) -> dict[str, object]:
    value = plain(field, value)
    if not isinstance(value, dict):
        raise Invalid(field, "is not an object")
    if not set(value) <= set(known):
        raise Invalid(field, "has members other than {known}", known=", ".join(known))
    return value


def _file(field: str, value: object) -> File:
    given = _object(field, value, ("path", "content", "mode", "sha256"))
    content, is_text = encoded_or_text(f"{field}.content", given.get("content"))
    return File(
        path=path(f"{field}.path", given.get("path")),
        content=content,
        content_is_text=is_text,
        mode=_mode(f"{field}.mode", given.get("mode")),
        sha256=_sha256(f"{field}.sha256", given.get("sha256")),
    )


def _mode(field: str, value: object) -> int:
    if absent(value):
        return DEFAULT_MODE
    # A number is no mode: 644 and 0o644 look alike in JSON, and are not.
    written = text(field, value, most=8)
    if not _MODE.fullmatch(written):
        raise Invalid(field, 'is not a string of three octal digits, such as "0644"')
    return int(written, 8)


def _sha256(field: str, value: object) -> str | None:
    if absent(value):
        return None
    written = text(field, value, most=128)
    if not _SHA256.fullmatch(written):
        raise Invalid(field, "is not a SHA-256 in 64 hexadecimal digits")
    return written.lower()


def _fetch(field: str, value: object) -> Fetch:
    given = _object(field, value, ("path", "maxBytes"))
    most = number(f"{field}.maxBytes", given.get("maxBytes"))
    if most is not None and (most != int(most) or not 1 <= most <= MAX_FETCH):
        raise Invalid(f"{field}.maxBytes", "is not a whole number from 1 to {most}", most=MAX_FETCH)
    return Fetch(path=path(f"{field}.path", given.get("path")), max_bytes=DEFAULT_FETCH if most is None else int(most))


def _check_twice(field: str, paths: list[str]) -> None:
    seen: set[str] = set()
    for index, each in enumerate(paths):
        if each in seen:
            raise Invalid(f"{field}[{index}].path", "is that of another member, too")
        seen.add(each)
