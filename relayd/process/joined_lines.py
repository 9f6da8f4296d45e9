"""
The lines of the log, written together that one turn of the event loop says: each write is a system call.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable
from contextlib import suppress
from threading import RLock, get_ident
from typing import Any

#: Calls a function at the end of this turn of the event loop. It returns whether it does: not while the loop does not
#: run, and not in another thread.
AtEndOfTurn = Callable[[Callable[[], None]], bool]


class JoinedLines:
    """
    Takes the place of the file of a log.

    Where there is no turn, lines are written at once, after those that wait. What waits when Python exits is written
    then. So only a process that is killed loses lines, and only those of one turn.

    :param file: what the lines go to; it takes either text or bytes.
    """

    def __init__(self, file: Any, at_end_of_turn: AtEndOfTurn) -> None:
        self._file = file
        self._at_end_of_turn = at_end_of_turn
        self._lock = RLock()
        self._waiting: list[Any] = []
        #: The thread that writes what waits.
        self._writer = 0
        atexit.register(self.write_waiting)

    def write(self, text: Any) -> None:
        """Write *text*, which is whole lines, together with the rest of this turn."""
        with self._lock:
            joined = bool(self._waiting) and self._writer == get_ident()
            self._waiting.append(text)
            if joined:
                return
            if self._at_end_of_turn(self.write_waiting):
                self._writer = get_ident()
            else:
                self._write()

    def flush(self) -> None:
        """Do nothing: Twisted calls this after each line."""

    def write_waiting(self) -> None:
        """Write what waits. Lines that cannot be written are lost."""
        with self._lock:
            try:
                self._write()
            except (OSError, ValueError):
                return  # there is no log to say so

    def _write(self) -> None:
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        try:
            self._file.write(waiting[0] if len(waiting) == 1 else waiting[0][:0].join(waiting))
        except UnicodeError:  # a terminal without the characters of one of them
            if len(waiting) == 1:
                raise
            for text in waiting:
                with suppress(UnicodeError):
                    self._file.write(text)
        self._file.flush()
