"""
Conditional requests (RFC 9110, section 13): entity tags, ``If-Match``, ``If-None-Match``.
"""

from __future__ import annotations

import re
from typing import Final

from relayd.hub.api.problems import Changed, ConditionMissing, InvalidHeader

_TAG: Final = re.compile(r'\s*(?:(W/)?("[\x21\x23-\x7e\x80-\xff]*"))\s*(?:,|$)')


def entity_tag(version: int | str) -> str:
    """The strong tag of a row of that version."""
    return f'"{version}"'


def parse_tags(header: str, value: str) -> list[tuple[bool, str]] | None:
    """
    The tags of a header, each with whether it is weak; ``None`` for ``*``.

    :raises InvalidHeader: when it is written otherwise.
    """
    if value.strip() == "*":
        return None
    tags, at = [], 0
    while at < len(value):
        found = _TAG.match(value, at)
        if found is None:
            break
        tags.append((found[1] is not None, found[2]))
        at = found.end()
    if at < len(value) or not tags:
        raise InvalidHeader(header=header, reason='is not a list of entity tags, such as "7", or *')
    return tags


def expected_version(if_match: str | None) -> int | None:
    """
    The version that a change is for, to be compared where it is written; ``None`` for ``*``: whichever is there.

    :raises ConditionMissing: without the header.
    :raises Changed: when it names none of our versions.
    """
    if if_match is None:
        raise ConditionMissing
    tags = parse_tags("If-Match", if_match)
    if tags is None:
        return None
    strong = [tag.strip('"') for weak, tag in tags if not weak]
    versions = [tag for tag in strong if tag.isascii() and tag.isdigit() and len(tag) < 19]
    if len(versions) != 1:
        raise Changed
    return int(versions[0])


def is_same(if_none_match: str | None, tag: str) -> bool:
    """Whether the client has what it asks for already (weak comparison)."""
    if if_none_match is None:
        return False
    tags = parse_tags("If-None-Match", if_none_match)
    return tags is None or any(each.removeprefix("W/") == tag.removeprefix("W/") for _, each in tags)
