"""
A file of lines that several processes add to, without a lock: anybody who may read a file could keep it locked.

A line is added by one write at the end of the file, which the system does as a whole. Afterwards the file shows which
line came first; one that came too late is made a comment.
"""

from __future__ import annotations

import os
import stat
from errno import ENOSPC

from msgspec import Struct

from relayd.language.texts import Fault

#: The largest file that is read, in bytes: more than 100,000 hosts have.
MAX_SIZE = 32 * 1024 * 1024
#: The largest file that lines are added to, in bytes: commands can name hosts without end, and must not make the file
#: too large to be read.
MAX_GROWN = MAX_SIZE // 2

#: Time, size and inode of a file: one of them changes with it.
Stamp = tuple[int, int, int]

# Without waiting: neither for a writer of a pipe, nor for somebody who has a lease on the file.
_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK


class NoFile(Fault):
    """There is no usable file at a path; the argument says why."""


class Added(Struct, frozen=True):
    """
    A line that was added.

    :ivar start: where it begins in the file, in bytes.
    :ivar before: the stamp of the file without the line.
    :ivar after: the stamp of the file with the line.
    :ivar alone: whether nothing else was added in between.
    """

    line: bytes
    start: int
    before: Stamp
    after: Stamp
    alone: bool


def stamp(path: str) -> Stamp:
    """
    The stamp of a file.

    :raises OSError: such as `FileNotFoundError`.
    """
    return _stamp(os.stat(path))


def read_lines(path: str) -> tuple[list[str], Stamp]:
    """
    The lines of a file, and its stamp.

    :raises NoFile: when it is a directory, a pipe or the like, or too large.
    :raises OSError: when it cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | _FLAGS)
    try:
        status = _checked(descriptor)
        with open(descriptor, encoding="utf-8", errors="replace", closefd=False) as file:
            return file.readlines(), _stamp(status)
    finally:
        os.close(descriptor)  # which `open` does not where it refuses, as a directory


def append(path: str, text: str) -> Added | None:
    """
    Add a line. Without a file, one is made for this user alone.

    :param text: the line, with its end.
    :return: ``None`` when the file was replaced meanwhile by another one, which does not have the line.
    :raises NoFile: see `read_lines`; also when the file is so large that nothing may be added.
    :raises OSError: when it cannot be written to. It then has no part of the line.
    """
    line = text.encode("utf-8")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | _FLAGS, 0o600)
    try:
        status = _checked(descriptor)
        size = status.st_size
        if size + len(line) > MAX_GROWN:
            raise NoFile(
                "it has grown to {size} MiB, and no more hosts are added; remove lines that are not needed",
                size=size // (1024 * 1024),
            )
        # The last line may have no end: somebody wrote it by hand.
        data = line if not size or os.pread(descriptor, 1, size - 1) == b"\n" else b"\n" + line
        written = os.write(descriptor, data)
        end = os.lseek(descriptor, 0, os.SEEK_CUR)
        start = end - written + len(data) - len(line)
        if written < len(data):
            strike(path, Added(line[: max(0, end - start)], start, _stamp(status), _stamp(status), alone=False))
            raise OSError(ENOSPC, os.strerror(ENOSPC))
        os.fsync(descriptor)
        now = os.fstat(descriptor)
        if os.stat(path).st_ino != now.st_ino:
            return None
        alone = now.st_size == size + len(data) and end == now.st_size
        return Added(line, start, _stamp(status), _stamp(now), alone)
    finally:
        os.close(descriptor)


def strike(path: str, added: Added) -> None:
    """
    Make an added line a comment, if it is still there.

    :raises OSError: when the file cannot be written to.
    """
    if not added.line:
        return
    # Not with O_APPEND, as `append` does: then every write goes to the end of the file.
    descriptor = os.open(path, os.O_RDWR | _FLAGS)
    try:
        if os.pread(descriptor, len(added.line), added.start) == added.line:
            os.pwrite(descriptor, b"#", added.start)
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
    # So that the size changes, too: its time may stay the same, as clocks of file systems are coarse.
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | _FLAGS)
    try:
        os.write(descriptor, b"\n")
    finally:
        os.close(descriptor)


def _checked(descriptor: int) -> os.stat_result:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise NoFile("it is not a file")
    if status.st_size > MAX_SIZE:
        raise NoFile("it is too large")
    return status


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_mtime_ns, status.st_size, status.st_ino
