"""
The findings of ``relayctl check``: one line each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from msgspec import Struct

Level = Literal["ok", "warning", "fault", "skipped"]


class Finding(Struct, frozen=True):
    """
    One finding.

    :ivar level: how bad it is; with a ``fault``, a relay would not start or not work.
    :ivar what: what was checked.
    :ivar text: the state it is in, and what to do about it; never a secret.
    """

    level: Level
    what: str
    text: str

    def __str__(self) -> str:
        return f"{self.level:<7}  {self.what:<16}  {self.text}"


#: Takes findings as they come.
Report = Callable[[Level, str, str], None]


def counted(count: int, word: str) -> str:
    """How many findings there are, in words."""
    return f"{count or 'no'} {word}{'' if count == 1 else 's'}"
