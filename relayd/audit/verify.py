"""
Reading the audit log to find what somebody did to it.  Any size, in constant memory.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator
from math import inf
from typing import BinaryIO, cast

from msgspec import Struct

from relayd.audit.lines import GENESIS, MAX_LINE, Line, decode, torn_digest


class Fault(Struct, frozen=True):
    """
    Something that is not as it was written.

    :ivar number: of the line, from 1; 0: the file as a whole.
    :ivar harmless: whether a crash explains it, and the log says so itself.
    """

    path: str
    number: int
    text: str
    harmless: bool = False


class Checked(Struct, frozen=True):
    """
    One file, looked through.

    :ivar first: its first whole line; ``last`` likewise; ``None``: it has none.
    """

    path: str
    count: int
    first: Line | None
    last: Line | None


class Verifier:
    """
    Follows a chain from line to line, through one file after another.

    :param wanted: hashes that must be those of lines: heads that were noted.
    :ivar found: in which file, and under which number, each was met.
    :ivar last: the last line of the chain.
    """

    def __init__(self, wanted: Iterable[str] = ()) -> None:
        self._wanted = frozenset(wanted)
        self.found: dict[str, tuple[str, int]] = {}
        self.last: Line | None = None
        self._stray: Line | None = None
        self._spoilt = 0  # lines since `last` that are not as they were written, so that their numbers are not known
        self._unread: tuple[Fault, str] | None = None  # the line before, if it cannot be read, and its digest

    def read(self, path: str) -> Iterator[Fault | Checked]:
        """
        Check one file: its faults, and then what it is.

        :raises OSError: when it cannot be read.
        """
        number, first, last = 0, None, None
        with _open(path) as file:
            for number, raw in enumerate(iter(lambda: file.readline(2 * MAX_LINE), b""), 1):
                line = decode(raw.removesuffix(b"\n"))
                if line is None:
                    yield from self._settle(None)
                    fault = Fault(path, number, "was changed or inserted: it is not as relayd wrote it")
                    self._unread = fault, torn_digest(raw.removesuffix(b"\n"))
                    continue
                yield from self._settle(line)
                if first is None:
                    first = line
                    if line.event != "file":
                        yield Fault(path, number, "is not the first of a file: what stood before it was removed")
                last = line
                if line.hash in self._wanted:
                    self.found[line.hash] = path, number
                yield from self._follow(line, path, number)
        if self._unread is not None and not raw.endswith(b"\n"):
            fault, _ = self._unread
            self._unread = None
            yield Fault(path, fault.number, "is unfinished: a crash, or it is being written now", harmless=True)
        yield from self._settle(None)
        yield Checked(path, number, first, last)

    def _settle(self, line: Line | None) -> Iterator[Fault]:
        """What to think of a line that cannot be read, now that the next is there."""
        if self._unread is None:
            return
        fault, digest = self._unread
        self._unread = None
        if line is not None and line.torn == digest:
            yield Fault(fault.path, fault.number, "is torn: relayd or its machine died while it wrote", harmless=True)
        else:
            self._spoilt += 1
            yield fault

    def _follow(self, line: Line, path: str, number: int) -> Iterator[Fault]:
        last, spoilt, stray = self.last, self._spoilt, self._stray
        if stray is not None and line.seq == stray.seq + 1 and line.prev == stray.hash:
            self._stray = line  # told once, for all that follow it
            return
        self._stray = None
        if last is None:
            pass  # whatever it follows is not at hand
        elif line.seq == 1 and line.prev == GENESIS and line.event == "file":
            yield Fault(path, number, "begins another chain")
        elif line.seq <= last.seq:
            yield Fault(path, number, f"is out of order: number {line.seq} after {last.seq}")
            self._stray = line
            return
        elif line.seq > last.seq + 1 + spoilt:
            missing = f"{last.seq + 1 + spoilt}–{line.seq - 1}"
            yield Fault(path, number, f"comes after lines that are missing: {missing}")
        elif line.seq == last.seq + 1 and line.prev != last.hash:
            yield Fault(path, number, "does not follow the line before: that one was changed, or is of another chain")
        self.last = line
        self._spoilt = 0


def in_order(paths: Iterable[str]) -> list[str]:
    """
    Files by their first line that can be read, whatever their names.

    :raises OSError: when one cannot be read.
    """
    return sorted(paths, key=_first_seq)


def _first_seq(path: str) -> float:
    with _open(path) as file:
        for _ in range(3):  # a torn line may be the first
            line = decode(file.readline(2 * MAX_LINE).removesuffix(b"\n"))
            if line is not None:
                return line.seq
    return inf


def _open(path: str) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path)) if path.endswith(".gz") else open(path, "rb")
