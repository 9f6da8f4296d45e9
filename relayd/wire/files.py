"""
The files that a command brings to its host, those that it brings back, and what came of the latter.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Any, Final, TypedDict

from msgspec import Struct

#: The mode of a file that names none: its user alone reads and writes it.
DEFAULT_MODE: Final = 0o600
#: Bytes of a file that are fetched where the command names no number.
DEFAULT_FETCH: Final = 1 << 20


class File(Struct, frozen=True, kw_only=True):
    """
    A file that is written before the command runs.

    :ivar path: absolute, or ``~/`` and what follows the home directory; without ``..``.
    :ivar content: may hold secrets.
    :ivar content_is_text: whether that is a text in UTF-8, which the host gets in the character set of the command.
    :ivar mode: its permissions.
    :ivar sha256: what the content must have, in 64 hexadecimal digits; ``None``: it is not checked.
    """

    path: str
    content: bytes = b""
    content_is_text: bool = False
    mode: int = DEFAULT_MODE
    sha256: str | None = None

    def __repr__(self) -> str:
        return f"<File {self.path!r}: {len(self.content)} bytes>"

    def to_wire(self) -> dict[str, Any]:
        """Its object in ``files``."""
        content = self.content.decode() if self.content_is_text else {"base64": b64encode(self.content).decode()}
        wire: dict[str, Any] = {"path": self.path, "content": content, "mode": f"{self.mode:04o}"}
        return wire if self.sha256 is None else wire | {"sha256": self.sha256}


class Fetch(Struct, frozen=True, kw_only=True):
    """
    A file that is read after the command has ended.

    :ivar path: as that of `File`.
    :ivar max_bytes: of it that are read.
    """

    path: str
    max_bytes: int = DEFAULT_FETCH

    def to_wire(self) -> dict[str, Any]:
        """Its object in ``fetch``."""
        return {"path": self.path, "maxBytes": self.max_bytes}


class FetchedContent(TypedDict):
    """``base64``: the bytes of a file."""

    base64: str


class Fetched(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """
    What was read of a file.

    :ivar path: as the command names it, without what means nothing (``//``, ``/./``).
    :ivar size: bytes of the file, as far as the host says or showed.
    :ivar sha256: of the whole file; missing where not all of it was read.
    :ivar content: its beginning, or all of it.
    :ivar truncated: whether ``content`` is not all of the file.
    :ivar error: why there is none, or not more.
    """

    path: str
    size: int | None = None
    sha256: str | None = None
    content: FetchedContent | None = None
    truncated: bool = False
    error: str | None = None

    def __repr__(self) -> str:  # the content may hold anything
        return f"<Fetched {self.path!r}>"

    @property
    def length(self) -> int:
        """Characters of its base64."""
        return 0 if self.content is None else len(self.content["base64"])


def length_of(fetched: tuple[Fetched, ...]) -> int:
    """Characters of the base64 of all."""
    return sum(each.length for each in fetched)
