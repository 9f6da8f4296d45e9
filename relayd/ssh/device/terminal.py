"""
The terminal of a device with its silences: a prompt or a question is the last line, and nothing follows it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Final, Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from relayd.ssh.device.families import PAGE
from relayd.ssh.device.screen import Screen


class Pause(enum.Enum):
    """For how many seconds nothing has come."""

    SHORT = 0.05  # enough for a prompt that is known
    LONG = 1.0  # enough for a question
    VERY_LONG = 4.0  # the device may wait for a key


_PAUSES: Final = tuple(Pause)


class Listener(Protocol):
    """What a device writes is for this."""

    def line(self, line: bytes) -> None:
        """A line has ended."""

    def fed(self) -> None:
        """All that came was handed on, for now."""

    def pause(self, line: bytes, pause: Pause) -> None:
        """
        Nothing has come for a while.

        :param line: the last line, which has not ended; empty where nothing at all has come since something was sent:
            then there is no other pause than the longest.
        """


class Terminal:
    """
    Hands on what a device writes: clean lines, and pauses. Pages are turned here.

    :param write: sends bytes to the device.
    :ivar listener: what is told; it may be another one from time to time.
    """

    def __init__(self, clock: IReactorTime, write: Callable[[bytes], None], listener: Listener) -> None:
        self.listener = listener
        self._clock = clock
        self._write = write
        self._screen = Screen()
        self._stage = 0
        self._answered = False
        self._call: IDelayedCall | None = None
        self._wait()

    @property
    def last_line(self) -> bytes:
        """The line that has not ended."""
        return bytes(self._screen.line)

    def send(self, data: bytes) -> None:
        """Send *data*; the pause begins anew."""
        self._answered = False
        self._stage = 0
        self._wait()
        self._write(data)

    def received(self, data: bytes) -> None:
        """Take what the device writes."""
        ended = self._screen.feed(data)
        self._answered = True
        self._stage = 0
        self._wait()
        for line in ended:
            if self._call is None:  # stopped meanwhile
                return
            self.listener.line(line)
        self.listener.fed()

    def stop(self) -> None:
        """Nothing more is handed on."""
        call, self._call = self._call, None
        if call is not None and call.active():
            call.cancel()

    def _wait(self) -> None:
        before = _PAUSES[self._stage - 1].value if self._stage else 0.0
        after = _PAUSES[self._stage].value - before
        if self._call is not None and self._call.active():
            self._call.reset(after)
        else:
            self._call = self._clock.callLater(after, self._silent)

    def _silent(self) -> None:
        pause = _PAUSES[self._stage]
        if self._stage + 1 < len(_PAUSES):
            self._stage += 1
            self._wait()
        if not self._answered:
            # What stands there is from before: it says nothing of what was sent.
            if pause is Pause.VERY_LONG:
                self.listener.pause(b"", pause)
            return
        line = self.last_line
        if PAGE.match(line):
            self._screen.clear_line()
            self.send(b" ")
        else:
            self.listener.pause(line, pause)
