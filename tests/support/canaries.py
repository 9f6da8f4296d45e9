"""
Marked secrets, and the search for them: in texts and files, and in what a process holds.
"""

from __future__ import annotations

import secrets
from base64 import b64encode
from collections.abc import Iterable


class Canaries:
    """Makes marks, and finds them again, in whatever form."""

    def __init__(self) -> None:
        self._marks: dict[str, bytes] = {}

    def mark(self, name: str) -> str:
        """A secret that has not been before; *name* says what it is, for whoever reads that it was found."""
        mark = "Kanari" + secrets.token_hex(10)
        self._marks[name] = mark.encode()
        return mark

    def add(self, name: str, secret: str | bytes) -> None:
        """A secret that was made elsewhere."""
        self._marks[name] = secret.encode() if isinstance(secret, str) else secret

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
            and (mark in data or mark.hex().encode() in lower or any(form in data for form in _in_base64(mark)))
        ]


def _in_base64(mark: bytes) -> list[bytes]:
    """What is the same in base64 whatever stands before and after, for each of three offsets."""
    return [b64encode(bytes(shift) + mark)[(shift and 4) : -4] for shift in range(3)]
