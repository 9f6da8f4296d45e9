"""
Writes files whole or not at all, even when the disk is full or the power fails.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress


def write_whole(path: str, content: bytes, *, replace: bool = True) -> None:
    """
    Write a file that only this user can read, replacing one that exists.

    :param replace: ``False``: one that exists is an error.
    :raises OSError: when that fails; the old file is untouched then.
    """
    descriptor, new = tempfile.mkstemp(prefix=os.path.basename(path) + ".", dir=os.path.dirname(path) or ".")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            os.replace(new, path)
        else:
            os.link(new, path)
            os.unlink(new)
    except BaseException:
        with suppress(OSError):
            os.unlink(new)
        raise
    sync_directory(path)


def sync_directory(path: str) -> None:
    """Sync the directory of *path*: without that, a new file may not survive a loss of power."""
    directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
