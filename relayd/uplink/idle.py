"""
Whether something between relay and main server closes connections on which nothing is said for a while.
"""

from __future__ import annotations

from typing import Final

#: Connections in a row that end after the same silence.
ALIKE: Final = 3
#: Seconds of silence from which on an end may be due to it, and by which two that are the same may differ.
LEAST: Final = 4.0
SPREAD: Final = 1.0


class IdleWatch:
    """
    :ivar seconds: of silence after which connections are closed; ``None``: as far as is known, they are not.
    """

    def __init__(self) -> None:
        self.seconds: float | None = None
        self._silences: list[float] = []

    def ended(self, silence: float | None) -> bool:
        """
        A connection has ended.

        :param silence: seconds since the main server was last heard; ``None``: it was not simply cut.
        :return: whether this one tells what the silence may be.
        """
        if silence is None or silence < LEAST:
            self._silences.clear()
            return False
        self._silences = [*self._silences, silence][-ALIKE:]
        if len(self._silences) < ALIKE or max(self._silences) - min(self._silences) > SPREAD:
            return False
        self.seconds = min(self._silences)
        self._silences.clear()
        return True

    @property
    def ping_interval(self) -> float | None:
        """Seconds between two pings that keep connections alive."""
        return None if self.seconds is None else self.seconds / 2
