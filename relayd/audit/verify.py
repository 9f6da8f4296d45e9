"""
Reads the audit log to find what somebody did to it: any size, in constant memory.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator
from math import inf
from typing import BinaryIO, Final, cast

from msgspec import Struct

from relayd.audit.lines import GENESIS, MAX_LINE, Line, decode_line
from relayd.audit.seal import Seal
from relayd.audit.tail import MAX_TORN, ForeignLines

_CHANGED: Final = "was changed or inserted: it is not as relayd wrote it"
_FORGED: Final = "was not written by this relay: its seal is wrong"
_TORN: Final = "is torn: relayd or its machine died while it wrote"


class AuditFault(Struct, frozen=True):
    """
    A line that is not as relayd wrote it, or not where.

    :ivar number: number of the line in its file, from 1.
    :ivar harmless: whether a crash explains it, and the log says so itself.
    """

    path: str
    number: int
    text: str
    harmless: bool = False


class Checked(Struct, frozen=True):
    """
    One file that was read.

    :ivar count: how many lines it has.
    :ivar first: its first line of the relay's own; ``None``: it has none.
    :ivar last: its last line of the relay's own.
    """

    path: str
    count: int
    first: Line | None
    last: Line | None


class Verifier:
    """
    Follows a chain from line to line, through one file after another.

    :param wanted: hashes of lines that must be there: heads that were noted.
    :param seal: tells the relay's lines from those of others; ``None``: only the hashes are checked.
    :ivar found: in which file, and under which number, each of them was found.
    :ivar last: the last line of the chain.
    """

    def __init__(self, wanted: Iterable[str] = (), seal: Seal | None = None) -> None:
        self._wanted = frozenset(wanted)
        self._seal = seal
        self.found: dict[str, tuple[str, int]] = {}
        self.last: Line | None = None
        self._stray: Line | None = None
        self._spoilt = 0  # lines since `last` that are not as they were written, so that their numbers are not known
        # The lines since `last` that are not the relay's: their faults, as long as a crash may explain them, and all.
        self._undecided: list[AuditFault] = []
        self._rest = ForeignLines()

    def check_file(self, path: str) -> Iterator[AuditFault | Checked]:
        """
        Check one file: its faults, and then a summary of it.

        :raises OSError: when the file cannot be read.
        """
        number, first, last = 0, None, None
        with _open(path) as file:
            for number, raw in enumerate(iter(lambda: file.readline(2 * MAX_LINE), b""), 1):
                content = raw.removesuffix(b"\n")
                line = decode_line(content)
                forged = line is not None and self._seal is not None and not self._seal.holds(content, line)
                if line is None or forged:
                    yield from self._put_off(AuditFault(path, number, _FORGED if forged else _CHANGED), content)
                    continue
                yield from self._settle(line)
                if first is None:
                    first = line
                    if line.event != "file":
                        yield AuditFault(path, number, "is not the first of a file: what stood before it was removed")
                last = line
                if line.hash in self._wanted:
                    self.found[line.hash] = path, number
                yield from self._follow(line, path, number)
        if self._undecided and not raw.endswith(b"\n"):
            fault = self._undecided.pop()
            yield AuditFault(path, fault.number, "is unfinished: a crash, or it is being written now", harmless=True)
        yield from self._settle(None)
        yield Checked(path, number, first, last)

    def _put_off(self, fault: AuditFault, content: bytes) -> Iterator[AuditFault]:
        """Keep the fault of a line until the next line of the relay's own decides what it means."""
        self._rest.add_line(content)
        self._undecided.append(fault)
        if len(self._undecided) > MAX_TORN:
            self._spoilt += 1
            yield self._undecided.pop(0)

    def _settle(self, line: Line | None) -> Iterator[AuditFault]:
        """Decide what the lines that are not the relay's mean, now that *line* is there."""
        undecided, rest = self._undecided, self._rest
        if not undecided:
            return
        self._undecided, self._rest = [], ForeignLines()
        known = line is not None and line.torn == rest.digest
        if known and line is not None and not line.foreign:
            for fault in undecided:
                yield AuditFault(fault.path, fault.number, _TORN, harmless=True)
            return
        if known:  # they are there in addition to lines, and in the place of none
            self._spoilt = 0
        else:
            self._spoilt += len(undecided)
        yield from undecided

    def _follow(self, line: Line, path: str, number: int) -> Iterator[AuditFault]:
        last, spoilt, stray = self.last, self._spoilt, self._stray
        goes_on = last is not None and line.seq == last.seq + 1 and line.prev == last.hash
        if stray is not None and not goes_on and line.seq == stray.seq + 1 and line.prev == stray.hash:
            self._stray = line  # told once, for all that follow it
            return
        self._stray = None
        if last is None:
            pass  # it is not known what it follows
        elif line.seq == 1 and line.prev == GENESIS and line.event == "file":
            yield AuditFault(path, number, "begins another chain")
        elif line.seq <= last.seq and line.foreign and self._seal is None:
            text = f"says that somebody else wrote lines before it, from number {line.seq} on: the seal tells which"
            yield AuditFault(path, number, text)
        elif line.seq <= last.seq:
            yield AuditFault(path, number, f"is out of order: number {line.seq} after {last.seq}")
            self._stray = line
            return
        elif line.seq > last.seq + 1 + spoilt:
            missing = f"{last.seq + 1 + spoilt}–{line.seq - 1}"
            yield AuditFault(path, number, f"comes after lines that are missing: {missing}")
        elif line.seq == last.seq + 1 and line.prev != last.hash:
            text = "does not follow the line before: that one was changed, or is of another chain"
            yield AuditFault(path, number, text)
        self.last = line
        self._spoilt = 0


def in_order(paths: Iterable[str]) -> list[str]:
    """
    The files of *paths* in the order of their lines, whatever their names.

    :raises OSError: when one of them cannot be read.
    """
    return sorted(paths, key=_first_seq)


def _first_seq(path: str) -> float:
    with _open(path) as file:
        for _ in range(3):  # a torn line may be the first
            line = decode_line(file.readline(2 * MAX_LINE).removesuffix(b"\n"))
            if line is not None:
                return line.seq
    return inf


def _open(path: str) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path)) if path.endswith(".gz") else open(path, "rb")
