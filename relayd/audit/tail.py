"""
The end of an audit log as the next process finds it: which lines are the relay's own, what a crash left of a line, and
what somebody else appended.
"""

from __future__ import annotations

import os
from hashlib import sha256
from typing import Final

import msgspec
from msgspec import Struct

from relayd.audit.heads import Head
from relayd.audit.lines import GENESIS, MAX_LINE, decode_line
from relayd.audit.seal import Seal

#: Unfinished lines that crashes may leave one after the other: each process ends the one before it with its first byte.
MAX_TORN: Final = 8


class Tail(Struct, frozen=True):
    """
    What the end of a log is like.

    :ivar seq: number of the last line of the chain, by the log or by the head, whichever is further on.
    :ivar hash: hash of that line.
    :ivar own: number of the last line in the file that is the relay's own; ``None``: there is none.
    :ivar torn: digest of all that stands after that; ``None``: there is nothing.
    :ivar foreign: how many of these lines no crash explains: somebody else wrote them.
    :ivar finished: whether the end of the file is the end of a line.
    """

    seq: int
    hash: str
    own: int | None
    torn: str | None
    foreign: int
    finished: bool


class ForeignLines:
    """Lines that are not the relay's own and follow one another: their number, and one digest of them all."""

    def __init__(self) -> None:
        self.count = 0
        self._digest = sha256()

    def add_line(self, content: bytes) -> None:
        """Add a line, given without its end."""
        if self.count:
            self._digest.update(b"\n")
        self._digest.update(content)
        self.count += 1

    @property
    def digest(self) -> str:
        """The digest that the next line of the relay's has of them, so that nobody can change them either."""
        return self._digest.hexdigest()


def read_tail(file: int, seal: Seal | None, noted: Head | None) -> Tail:
    """
    Look at the end of the log in the descriptor *file*, in constant memory.

    A line of the relay's own has the relay's seal, and a higher number than the lines before it, which a copy of an
    earlier line has not. So the lines that a process wrote after it noted the head, and before it was killed, are told
    from forged ones.

    :param seal: ``None``: there was no seal yet, and every line that is as it was written is taken for the relay's.
    :param noted: the head that was noted last.
    :raises OSError: when the log cannot be read.
    """
    size = os.fstat(file).st_size
    begin = None if noted is None else _after(file, size, noted)
    own = noted.seq if noted is not None and begin is not None else None
    seq, last = (0, GENESIS) if noted is None else (noted.seq, noted.hash)
    rest, foreign = ForeignLines(), 0
    finished = not begin or os.pread(file, 1, begin - 1) == b"\n"
    with os.fdopen(os.dup(file), "rb") as reader:
        reader.seek(begin or 0)
        for raw in iter(lambda: reader.readline(2 * MAX_LINE), b""):
            finished = raw.endswith(b"\n")
            content = raw.removesuffix(b"\n")
            line = decode_line(content)
            if line is not None and line.seq > (own or 0) and (seal is None or seal.holds(content, line)):
                own, rest, foreign = line.seq, ForeignLines(), 0
                if own >= seq:
                    seq, last = own, line.hash
            else:
                rest.add_line(content)
                if not _is_torn(content, seq + 1):
                    foreign += 1
    if rest.count > MAX_TORN:
        foreign = max(foreign, rest.count - MAX_TORN)
    return Tail(seq, last, own, rest.digest if rest.count else None, foreign, finished)


def _after(file: int, size: int, head: Head) -> int | None:
    """The byte after the line of *head*; ``None``: that is not in the file, or not as it was."""
    end = b'"hash":"%s"}' % head.hash.encode()
    at = head.end - 1
    if not len(end) <= at < size or os.pread(file, len(end) + 1, at - len(end)) != end + b"\n":
        at = _find(file, end)
    begin = max(0, at - MAX_LINE)
    content = os.pread(file, at - begin, begin)
    if decode_line(content[content.rfind(b"\n") + 1 :]) is None:
        return None
    return at + (os.pread(file, 1, at) == b"\n")


def _find(file: int, end: bytes) -> int:
    """The byte after the first *end* in the file, as somebody may have appended a copy; 0: it is not there."""
    at, kept = 0, b""
    while chunk := os.pread(file, MAX_LINE, at):
        found = (kept + chunk).find(end)
        if found >= 0:
            return at - len(kept) + found + len(end)
        at += len(chunk)
        kept = (kept + chunk)[-len(end) :]
    return 0


def _is_torn(content: bytes, seq: int) -> bool:
    """
    Whether a crash may have left *content* of line number *seq*: the beginning of the line, or blocks that were never
    written, but never a whole line.
    """
    begin = b'{"seq":%d,"time":"' % seq
    if b"\0" not in content and not content.startswith(begin) and not begin.startswith(content):
        return False
    try:
        msgspec.json.decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return True
    return False
