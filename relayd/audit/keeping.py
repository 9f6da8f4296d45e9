"""
Which files of the audit log stay when there are many: the newest, and those that are not old enough to go, as far as
there is room for them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from msgspec import Struct


class Keeping(Struct, frozen=True, kw_only=True):
    """
    What the site chose about files that were moved aside.

    :ivar max_size: bytes from which a file is moved aside, to ``PATH.`` and the number of its last line; 0: never.
    :ivar keep: how many files stay, whatever their age and size; 0: all.
    :ivar keep_for: seconds for which further files stay.
    :ivar max_total: bytes that all of them may take with those; 0: any number.
    """

    max_size: int = 0
    keep: int = 0
    keep_for: float = 0.0
    max_total: int = 0


class Moved(Struct, frozen=True):
    """
    A file that was moved aside.

    :ivar seq: number of its last line.
    :ivar size: bytes in it.
    :ivar written: when it was last written, in seconds since the epoch.
    """

    path: str
    seq: int
    size: int
    written: float


def moved_files(path: str) -> list[Moved]:
    """
    The files that relayd moved aside, the oldest first.

    :raises OSError: when they cannot be looked at.
    """
    directory, name = os.path.split(path)
    pattern = re.compile(re.escape(name) + r"\.([0-9]{12,})")
    found = []
    for match in map(pattern.fullmatch, os.listdir(directory or ".")):
        if match is not None:
            each = os.path.join(directory, match[0])
            status = os.stat(each)
            found.append(Moved(each, int(match[1]), status.st_size, status.st_mtime))
    return sorted(found, key=lambda moved: moved.seq)


def superfluous(files: Sequence[Moved], keeping: Keeping, now: float) -> list[Moved]:
    """
    Those of *files* that have to go; both the oldest first.

    :param now: seconds since the epoch.
    """
    if not keeping.keep:
        return []
    total = sum(each.size for each in files)
    going = []
    for each in files[: max(0, len(files) - keeping.keep)]:
        young = now - each.written < keeping.keep_for
        if young and (not keeping.max_total or total <= keeping.max_total):
            break  # so are those after it
        going.append(each)
        total -= each.size
    return going
