"""
Files that are there whole or not at all, whenever the disk is full or the power fails.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress


def write_whole(path: str, content: bytes) -> None:
    """
    Write a file for this user alone, in the place of one that may be there.

    :raises OSError: when that cannot be done; nothing is left of it then.
    """
    descriptor, new = tempfile.mkstemp(prefix=os.path.basename(path) + ".", dir=os.path.dirname(path) or ".")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(new)
        raise
    sync_directory(path)


def sync_directory(path: str) -> None:
    """A new file outlasts a power cut only if its directory does."""
    directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
