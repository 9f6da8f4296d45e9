"""
What ``relayctl check`` finds: one line each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from msgspec import Struct

Level = Literal["ok", "warning", "fault", "skipped"]


class Finding(Struct, frozen=True):
    """
    :ivar level: ``fault``: a relay would not start, or not do its work.
    :ivar what: was looked at.
    :ivar text: how it is, and what to do about it; no secret.
    """

    level: Level
    what: str
    text: str

    def __str__(self) -> str:
        return f"{self.level:<7}  {self.what:<16}  {self.text}"


#: Takes findings as they come.
Report = Callable[[Level, str, str], None]
