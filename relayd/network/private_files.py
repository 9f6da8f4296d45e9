"""
Files that hold secrets: whether other users may use them, and their content where none may.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from relayd.language.texts import Fault, Text
from relayd.network.descriptors import words_of


class UnusableFile(Fault):
    """A file cannot be used; the argument says why, and shows nothing of what is in it."""


def is_open_to_others(status: os.stat_result) -> bool:
    """
    Whether other users may use a file of this user.

    As in OpenSSH, the owner of a file decides who reads it: root may let the group of this user read one.
    """
    return status.st_uid == os.geteuid() and bool(status.st_mode & 0o077)


def fault_of_mode(status: os.stat_result) -> Text | None:
    """What to do about a file that other users may use; ``None``: none may."""
    if not is_open_to_others(status):
        return None
    mode = stat.S_IMODE(status.st_mode)
    return Text("other users may access it (mode {mode}); chmod it to 0600", mode=f"{mode:04o}")


def read_file(path: str, most: int, fault: Callable[[os.stat_result], Text | None] | None = None) -> bytes:
    """
    The content of a file that is not empty.

    :param most: bytes that it may have.
    :param fault: what is wrong with the file's owner or mode, if anything.
    :raises UnusableFile: when it cannot be read or must not be used.
    """
    try:
        # Without waiting: the path may be that of a pipe that nobody writes to.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise UnusableFile("it is not a file")
            if fault is not None and (reason := fault(status)) is not None:
                raise UnusableFile(reason)
            with open(descriptor, "rb", closefd=False) as file:
                content = file.read(most + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UnusableFile(words_of(error)) from None
    except ValueError:  # a path with NUL
        raise UnusableFile("there is no such file") from None
    if len(content) > most:
        raise UnusableFile("it is too large")
    if not content.strip():
        raise UnusableFile("it is empty")
    return content
