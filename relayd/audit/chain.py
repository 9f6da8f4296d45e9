"""
The files of the audit log: appending to the chain, across restarts, crashes, full disks and rotation.
Every method blocks, and belongs into a thread of its own.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

from relayd.audit.lines import GENESIS, MAX_LINE, Line, decode, encode, torn_digest

#: One event: seconds since the epoch, its name, its fields.
Record = tuple[float, str, Mapping[str, Any]]

_HEAD = re.compile(rb"([0-9]{20}) ([0-9a-f]{64})\n")
_MODE: Final = 0o600


class Chain:
    """
    The log that is being written, and the *head* beside it: number and hash of the last line, ``PATH.head``.

    What could not be written stays in a buffer and is what the next call begins with, from the very byte where the
    disk was full: a line is never written twice or in halves while the process lives.

    :param max_size: bytes from which a file is moved aside, as ``PATH.`` and the number of its last line; 0: never.
    :param keep: how many of those stay; 0: all.
    :param common: fields of every line.
    """

    def __init__(self, path: str, max_size: int, keep: int, common: Mapping[str, object]) -> None:
        self.path = path
        self._max_size = max_size
        self._keep = keep
        self._common = common
        self._buffer = bytearray()
        self._unsynced = False
        self._file = self._head = -1
        self._seq = 0
        self._hash = GENESIS

    @property
    def unwritten(self) -> int:
        """How many lines are in the buffer, whole or the rest of one."""
        return self._buffer.count(b"\n")

    def open(self, version: str) -> None:
        """
        Find out where the chain ends, and have it go on with a ``start`` line, which the next `prepare` writes.

        :raises OSError: when the log cannot be written, or another process writes it.
        """
        head = os.open(head_path(self.path), os.O_RDWR | os.O_CREAT, _MODE)
        try:
            _lock(head)
            self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, _MODE)
        except OSError:
            os.close(head)
            raise
        self._head = head
        last, rest, finished = _read_end(self._file)
        if last is not None:
            self._seq, self._hash = last.seq, last.hash
        noted = parse_head(os.pread(head, 100, 0))
        # A head behind the log: the process died between the two.  A head ahead of it, or beside it: somebody removed
        # or changed lines; going on from the head leaves the gap for everybody to see.
        if noted is not None and noted[0] >= self._seq:
            self._seq, self._hash = noted
        more: dict[str, object] = {"torn": torn_digest(rest)} if rest else {}
        if not finished:
            self._buffer += b"\n"
        if last is None:
            self._encode((time.time(), "file", more))
            more = {}
        self._encode((time.time(), "start", {"version": version} | more))

    def prepare(self) -> None:
        """
        Write what an earlier call could not, and see to it that the file is the right one.

        :raises OSError: nothing more should be appended now; call it again later.
        """
        self._flush()
        if self._max_size and os.fstat(self._file).st_size >= self._max_size:
            rotated = rotated_files(self.path)
            for old in rotated[: max(0, len(rotated) - self._keep + 1)] if self._keep else ():
                os.unlink(old)
            os.rename(self.path, f"{self.path}.{self._seq:012d}")
        if self._replaced():
            self._reopen()

    def append(self, records: Iterable[Record]) -> None:
        """
        Write *records*; they are on the disk when this returns.

        :raises OSError: they are not, all of them, and will be after the next call that succeeds.
        """
        for record in records:
            self._encode(record)
        self._flush()

    def close(self) -> None:
        """Let go of the files."""
        os.close(self._file)
        os.close(self._head)

    def _encode(self, record: Record) -> None:
        seconds, event, fields = record
        line, digest = encode(self._seq + 1, seconds, event, {**self._common, **fields}, self._hash)
        self._buffer += line
        self._seq, self._hash = self._seq + 1, digest

    def _flush(self) -> None:
        while self._buffer:
            written = os.write(self._file, self._buffer)
            del self._buffer[:written]
            self._unsynced = True
        if self._unsynced:
            os.fsync(self._file)
            # After the log, so that it is never ahead of it.  In place: these few bytes are in one sector.
            os.pwrite(self._head, b"%020d %s\n" % (self._seq, self._hash.encode()), 0)
            self._unsynced = False

    def _replaced(self) -> bool:
        """Whether the file was moved aside, by us or by logrotate, or emptied after it was copied."""
        try:
            there = os.stat(self.path)
        except FileNotFoundError:
            return True
        return there.st_size == 0 or not os.path.samestat(there, os.fstat(self._file))

    def _reopen(self) -> None:
        file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, _MODE)
        os.close(self._file)
        self._file = file
        _sync_directory(self.path)
        size = os.fstat(file).st_size
        if size and os.pread(file, 1, size - 1) != b"\n":
            self._buffer += b"\n"
        self._encode((time.time(), "file", {}))


def head_path(path: str) -> str:
    """The file of a log's head."""
    return path + ".head"


def parse_head(content: bytes) -> tuple[int, str] | None:
    """Number and hash of the last line, as the file of the head tells them; ``None`` if it tells nothing."""
    match = _HEAD.fullmatch(content)
    return None if match is None else (int(match[1]), match[2].decode())


def rotated_files(path: str) -> list[str]:
    """The files that were moved aside by us, the oldest first."""
    directory, name = os.path.split(path)
    pattern = re.compile(re.escape(name) + r"\.([0-9]{12,})")
    found = [match for match in map(pattern.fullmatch, os.listdir(directory or ".")) if match]
    return [os.path.join(directory, match[0]) for match in sorted(found, key=lambda match: int(match[1]))]


def _lock(descriptor: int) -> None:
    """Two processes that write one chain would break it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OSError(errno.EBUSY, "another relay writes it") from None


def _read_end(file: int) -> tuple[Line | None, bytes, bool]:
    """
    The last line that was written as a whole, what a crash left of the next, and whether a line's end is at the end.
    """
    size = os.fstat(file).st_size
    start = max(0, size - 2 * MAX_LINE)
    content = os.pread(file, size - start, start)
    finished = not content or content.endswith(b"\n")
    content = content.removesuffix(b"\n")
    end = len(content)
    while end > 0:
        begin = content.rfind(b"\n", 0, end) + 1
        if (line := decode(content[begin:end])) is not None:
            return line, content[end + 1 :], finished
        end = begin - 1
    return None, content, finished


def _sync_directory(path: str) -> None:
    """A new file outlasts a power cut only if its directory does."""
    directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
