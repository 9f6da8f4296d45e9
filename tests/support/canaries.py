"""
Marked secrets, and the search for them: in texts and files, and in the memory of a process.
"""

from __future__ import annotations

import secrets
from base64 import b64encode
from collections.abc import Iterable
from pathlib import Path


class Canaries:
    """Makes marks, and finds them again, in whatever form."""

    def __init__(self) -> None:
        self._marks: dict[str, str] = {}

    def mark(self, name: str) -> str:
        """A secret that has not been before; *name* says what it is, for whoever reads that it was found."""
        mark = "Kanari" + secrets.token_hex(10)
        self._marks[name] = mark
        return mark

    def add(self, name: str, text: str) -> None:
        """A secret that was made elsewhere."""
        self._marks[name] = text

    def found_in(self, data: bytes, names: Iterable[str] = ()) -> list[str]:
        """
        Which secrets are in *data*, as they are, in base64 or in hexadecimal; letters and digits need no escapes in
        URLs, JSON or Python, so that these forms are their own.
        """
        wanted = set(names) or set(self._marks)
        lower = data.lower()
        return [
            name
            for name, mark in self._marks.items()
            if name in wanted
            and (
                mark.encode() in data
                or mark.encode().hex().encode() in lower
                or any(form in data for form in _in_base64(mark))
            )
        ]


def _in_base64(mark: str) -> list[bytes]:
    """What is the same in base64 whatever stands before and after, for each of three offsets."""
    return [b64encode(bytes(shift) + mark.encode())[(shift and 4) : -4] for shift in range(3)]


def memory_of(pid: int) -> bytes:
    """What a process has written to its memory; only root may look."""
    parts = []
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, rights = line.split()[:2]
            if rights.startswith("rw"):
                start, end = (int(number, 16) for number in span.split("-"))
                memory.seek(start)
                try:
                    parts.append(memory.read(end - start))
                except OSError:  # what the kernel keeps there for itself
                    continue
    return b"\0".join(parts)
