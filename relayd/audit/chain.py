"""
The files of the audit log: appending to the chain, across restarts, crashes, full disks and rotation.
Every method blocks, and is called in a thread of its own.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterable, Mapping
from typing import Final

from msgspec import Struct

from relayd.audit.events import Record
from relayd.audit.heads import Head, format_head, format_own_head, head_path, own_head_path, read_heads
from relayd.audit.keeping import Keeping, moved_files, superfluous
from relayd.audit.lines import GENESIS, encode_line
from relayd.audit.seal import Seal, make_seal, read_seal, seal_file
from relayd.audit.tail import Tail, read_tail
from relayd.process.whole_files import sync_directory

_MODE: Final = 0o600


class Findings(Struct, frozen=True, kw_only=True):
    """
    What a start finds wrong with the log.

    :ivar last: number of the relay's own last line in it.
    :ivar foreign: how many lines after that somebody else appended.
    :ivar missing: how many lines that relayd wrote after that are gone.
    :ivar unsealed: how many lines are older than the seal, which is new: it cannot show who wrote them.
    """

    last: int = 0
    foreign: int = 0
    missing: int = 0
    unsealed: int = 0


class Chain:
    """
    The log that is being written, and the *head* beside it: number and hash of the last line, ``PATH.head``.

    What could not be written stays in a buffer, and the next call goes on with it from the byte where the disk was
    full: while the process lives, a line is never written twice or in halves.

    :param state_dir: folder of the seal, and of a second head.
    :param common: fields of every line.
    """

    def __init__(self, path: str, state_dir: str, keeping: Keeping, common: Mapping[str, object]) -> None:
        self.path = path
        self._state_dir = state_dir
        self._keeping = keeping
        self._common = common
        self._buffer = bytearray()
        self._unsynced = False
        self._file = self._head = self._own_head = -1
        self._seal = Seal(b"")
        self._seq = 0
        self._hash = GENESIS

    @property
    def unwritten(self) -> int:
        """How many lines are in the buffer, the rest of a line included."""
        return self._buffer.count(b"\n")

    def open(self, version: str) -> Findings:
        """
        Find out where the chain ends, and continue it with a ``start`` line, which the next `prepare` writes.

        What somebody else appended stays where it is, for everybody to see; the line after it says so.

        :raises OSError: when the log cannot be written, or another process is writing it.
        :raises ValueError: when the file of the seal holds no seal.
        """
        self._head = os.open(head_path(self.path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE)
        try:
            _lock(self._head)
            self._file = self._open_file()
            self._own_head = os.open(own_head_path(self._state_dir), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE)
            return self._begin(version)
        except BaseException:
            self.close()
            raise

    def _begin(self, version: str) -> Findings:
        beside, own = read_heads(self.path, self._state_dir)
        noted = own or beside
        sealed = read_seal(seal_file(self._state_dir))
        tail = read_tail(self._file, sealed, noted)
        # A head behind the log: the process died after it had written the log and before it wrote the head.  A head
        # ahead of the log: somebody removed lines; to go on from the head leaves the gap for everybody to see.
        self._seq, self._hash = tail.seq, tail.hash
        self._seal = sealed or make_seal(seal_file(self._state_dir), tail.seq, tail.hash)
        more: dict[str, object] = {} if tail.torn is None else {"torn": tail.torn}
        if tail.foreign:
            more["foreign"] = tail.foreign
        if not tail.finished:
            self._buffer += b"\n"
        if tail.own is None:
            self._encode((time.time(), "file", more))
            more = {}
        self._encode((time.time(), "start", {"version": version} | more))
        return _findings(tail, noted, new=sealed is None)

    def prepare(self) -> None:
        """
        Write what an earlier call could not write, and begin a new file if it is time for one.

        :raises OSError: nothing more should be appended now; call it again later.
        """
        self._flush()
        max_size = self._keeping.max_size
        # Where the new file could not be made the last time, the old one was moved aside already.
        if max_size and os.fstat(self._file).st_size >= max_size and not self._replaced():
            os.rename(self.path, f"{self.path}.{self._seq:012d}")
        if self._replaced():
            self._reopen()
            if max_size:
                self._remove_old()
            self._flush()

    def append(self, records: Iterable[Record]) -> None:
        """
        Write *records*; they are on the disk when this returns.

        :raises OSError: some of them are not on the disk; they will be after the next call that succeeds.
        """
        for record in records:
            self._encode(record)
        self._flush()

    def close(self) -> None:
        """Close the files."""
        for descriptor in (self._file, self._own_head, self._head):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._own_head = self._head = -1

    def _encode(self, record: Record) -> None:
        seconds, event, fields = record
        common = {**self._common, **fields}
        line, digest = encode_line(self._seq + 1, seconds, event, common, self._hash, self._seal.key)
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
            head = Head(self._seq, self._hash, os.fstat(self._file).st_size)
            os.pwrite(self._own_head, format_own_head(head, self.path), 0)
            os.pwrite(self._head, format_head(head), 0)
            self._unsynced = False

    def _replaced(self) -> bool:
        """Whether the file was moved aside, by relayd or by logrotate, or emptied after it was copied."""
        try:
            there = os.stat(self.path)
        except FileNotFoundError:
            return True
        return there.st_size == 0 or not os.path.samestat(there, os.fstat(self._file))

    def _reopen(self) -> None:
        file = self._open_file()
        os.close(self._file)
        self._file = file
        sync_directory(self.path)
        size = os.fstat(file).st_size
        if size and os.pread(file, 1, size - 1) != b"\n":
            self._buffer += b"\n"
        self._encode((time.time(), "file", {}))

    def _remove_old(self) -> None:
        now = time.time()
        for old in superfluous(moved_files(self.path), self._keeping, now):
            os.unlink(old.path)
            self._encode((now, "removed", {"through": old.seq}))

    def _open_file(self) -> int:
        return os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, _MODE)


def _findings(tail: Tail, noted: Head | None, *, new: bool) -> Findings:
    """What is wrong with a log whose end is *tail*."""
    gone = 0 if noted is None or tail.own is None else max(0, noted.seq - tail.own)
    return Findings(last=tail.own or 0, foreign=tail.foreign, missing=gone, unsealed=tail.seq if new else 0)


def _lock(descriptor: int) -> None:
    """Two processes that write one chain would break it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OSError(errno.EBUSY, "another process is writing it") from None
