"""
Reading the hub's audit log page by page, the newest first, and exporting it whole.  Everything here blocks, and is
called in a thread.

Only lines with the hub's seal are shown: what somebody else wrote into the files is not told as if the hub had said it.
Whoever can write to the files can still keep lines from being shown, by removing them or by copies of others.
``relayctl audit verify`` finds all of that, also in an export, which has the bytes as they are.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any, BinaryIO, Final

from msgspec import Struct

from relayd.audit.keeping import moved_files
from relayd.audit.lines import MAX_LINE, decode_line
from relayd.audit.seal import Seal, read_seal, seal_file

#: Events of a page: at most, and where nobody says.
MOST: Final = 1000
USUAL: Final = 100
#: Bytes of the log that are looked through for one page: a filter that few lines pass gives short pages, in good time.
MOST_READ: Final = 4 << 20
#: Bytes that are read at once.
_BLOCK: Final = 64 << 10


class AuditPage(Struct, frozen=True):
    """
    Some events, the newest first.

    :ivar events: the fields of each, as they are in the log.
    :ivar next_before: give this as *before* to read on; ``None``: there is nothing older. It may be there although
        *events* is empty: then more is to be looked through.
    """

    events: list[dict[str, Any]]
    next_before: int | None


#: Whether an event is wanted.
Filter = Callable[[Mapping[str, Any]], bool]


def read_page(
    path: str, state_dir: str, *, before: int | None = None, limit: int = USUAL, wanted: Filter = lambda event: True
) -> AuditPage:
    """
    Read the log at *path* backwards.

    :param before: the number (``seq``) of the line at which to stop; ``None``: begin with the newest.
    :param limit: events at most.
    :raises OSError: when a file cannot be read.
    :raises ValueError: when the file of the seal holds no seal.
    """
    seal = read_seal(seal_file(state_dir))
    limit = max(1, min(limit, MOST))
    events: list[dict[str, Any]] = []
    read, last = 0, None
    for file_path in _files_before(path, before):
        try:
            file = open(file_path, "rb")  # noqa: SIM115
        except FileNotFoundError:  # it was removed, or moved, just now
            continue
        with file:
            end = os.fstat(file.fileno()).st_size if before is None else _place_of(file, before, seal)
            for content in _lines_backwards(file, end):
                read += len(content) + 1
                event = _event(content, seal)
                # Nothing moves the cursor but lines of the hub's own, in the order of their numbers.
                if event is None or (last is not None and event["seq"] >= last):
                    pass
                elif before is None or event["seq"] < before:
                    last = event["seq"]
                    if wanted(event):
                        events.append(event)
                if last is not None and (len(events) == limit or read >= MOST_READ):
                    return AuditPage(events, last if last > 1 else None)
    return AuditPage(events, None)


def export(path: str) -> Iterator[bytes]:
    """
    All lines that are in the log now, the oldest first, in pieces.

    Pieces are the bytes as they are, so that an export can be verified.  It may be read slowly: files that are moved
    aside meanwhile stay open.

    :raises OSError: when a file cannot be read.
    """
    with ExitStack() as stack:
        current = stack.enter_context(open(path, "rb"))
        size = os.fstat(current.fileno()).st_size
        opened: list[tuple[BinaryIO, int]] = []
        for moved in moved_files(path):
            try:
                file = stack.enter_context(open(moved.path, "rb"))
            except FileNotFoundError:  # it was removed just now
                continue
            if not os.path.sameopenfile(file.fileno(), current.fileno()):  # it was moved just now
                opened.append((file, os.fstat(file.fileno()).st_size))
        for file, length in (*opened, (current, size)):
            left = length
            while left and (piece := file.read(min(_BLOCK, left))):
                left -= len(piece)
                yield piece


def _files_before(path: str, before: int | None) -> Iterator[str]:
    """The files with lines below number *before*, the newest first."""
    yield path
    moved = moved_files(path)  # after that was opened: what is moved meanwhile is read twice, and not left out
    for index in range(len(moved) - 1, -1, -1):
        # The first line of a file follows the last of the file before it.
        if before is None or index == 0 or moved[index - 1].seq + 1 < before:
            yield moved[index].path


def _place_of(file: BinaryIO, seq: int, seal: Seal | None) -> int:
    """A byte of the file, the end of a line, before which are all lines with smaller numbers than *seq*."""
    low, high = 0, os.fstat(file.fileno()).st_size
    end = high
    while high - low > _BLOCK:
        middle = (low + high) // 2
        file.seek(middle)
        file.readline(2 * MAX_LINE)  # what is left of a line
        number: int | None = None
        at = file.tell()
        while at < high and number is None:
            line = file.readline(2 * MAX_LINE)
            if not line:
                break
            event = _event(line.removesuffix(b"\n"), seal)
            number, at = (None if event is None else event["seq"]), file.tell()
        if number is None or number >= seq:
            high = middle
            end = at if number is not None else end
        else:
            low = middle
    return end


def _lines_backwards(file: BinaryIO, end: int) -> Iterator[bytes]:
    """The lines before byte *end*, the last first, without their ends; those that are too long are left out."""
    rest, skipping = b"", False
    while end > 0:
        begin = max(0, end - _BLOCK)
        file.seek(begin)
        lines = (file.read(end - begin) + rest).split(b"\n")
        rest, end = lines[0], begin
        for line in reversed(lines[1:]):
            if not skipping and line:
                yield line
            skipping = False
        if len(rest) > MAX_LINE:
            rest, skipping = b"", True
    if rest and not skipping:
        yield rest


def _event(content: bytes, seal: Seal | None) -> dict[str, Any] | None:
    """The fields of a line; ``None`` when it is not the hub's."""
    line = decode_line(content)
    if line is None or (seal is not None and not seal.holds(content, line)):
        return None
    decoded: dict[str, Any] = json.loads(content)
    return decoded
