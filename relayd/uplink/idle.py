"""
Finds out whether something between relay and main server closes idle connections, and after how long.
"""

from __future__ import annotations

from typing import Final

#: Connections in a row that end after the same silence.
ALIKE: Final = 3
#: Seconds of silence from which on it may be the reason for the end of a connection.
LEAST: Final = 4.0
#: Seconds by which two silences may differ and still count as the same.
SPREAD: Final = 1.0


class IdleWatch:
    """
    Compares how long connections were idle when they ended.

    :ivar seconds: of silence after which connections are closed; ``None``: no such limit is known.
    """

    def __init__(self) -> None:
        self.seconds: float | None = None
        self._silences: list[float] = []

    def note_end(self, silence: float | None) -> bool:
        """
        A connection has ended.

        :param silence: seconds since the last sign of life; ``None``: the connection was not simply cut.
        :return: whether *seconds* is known from this one.
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
