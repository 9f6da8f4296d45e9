"""
A screen of its own in a terminal, for what is shown again and again: what was there before is there again afterwards.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Final, NoReturn

# The alternate screen, without a cursor, and without going on in the next line where one is too long (xterm's control
# sequences, DEC private modes 1049, 25 and 7).
_ENTER: Final = b"\x1b[?1049h\x1b[?25l\x1b[?7l"
_LEAVE: Final = b"\x1b[?7h\x1b[?25h\x1b[?1049l"
_ENDING: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_HANDLED: Final = (*_ENDING, signal.SIGINT, signal.SIGTSTP, signal.SIGWINCH)


class Screen:
    """
    The terminal while `alternate_screen` lasts.

    :param descriptor: the terminal's.
    :param encoding: of its characters.
    """

    def __init__(self, descriptor: int, encoding: str) -> None:
        self._descriptor = descriptor
        self._encoding = encoding
        self._woken, self._waker = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(self._waker, False)

    def show(self, lines: Sequence[str]) -> None:
        """Show *lines*, no more than there is room for, in place of those before."""
        # Each line is erased before it is written: at the end of a full one, its last character would be erased.
        shown = "\r\n".join(f"\x1b[2K{line}" for line in lines)
        self._write(f"\x1b[H{shown}\x1b[J".encode(self._encoding, "replace"))

    def wait(self, seconds: float) -> None:
        """Wait, but only until the terminal has another size, or the process was stopped and goes on."""
        select.select([self._woken], [], [], seconds)
        with suppress(BlockingIOError):
            os.read(self._woken, 1000)

    def _write(self, data: bytes) -> None:
        # Not by way of a stream: a handler of a signal may write in the middle of it.
        left = memoryview(data)
        while left:
            left = left[os.write(self._descriptor, left) :]

    def _begin(self) -> None:
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        handlers: dict[int, Any] = {**dict.fromkeys(_ENDING, _end), signal.SIGTSTP: self._stop}
        for number, handler in handlers.items():
            if signal.getsignal(number) != signal.SIG_IGN:  # as with nohup
                signal.signal(number, handler)
        signal.signal(signal.SIGWINCH, lambda *_: None)
        self._write(_ENTER)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        """Ctrl-Z: leave the terminal to the shell until the process goes on."""
        self._write(_LEAVE)
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, self._stop)
        self._write(_ENTER)

    def _finish(self, handlers: Sequence[Any]) -> None:
        for number in _HANDLED:
            signal.signal(number, signal.SIG_IGN)  # this must not be interrupted
        signal.set_wakeup_fd(-1)
        with suppress(OSError):  # the terminal is gone
            self._write(_LEAVE)
        os.close(self._woken)
        os.close(self._waker)
        for number, handler in zip(_HANDLED, handlers, strict=True):
            signal.signal(number, handler)


@contextmanager
def alternate_screen(descriptor: int, encoding: str) -> Iterator[Screen]:
    """
    A `Screen` for the time of the ``with`` block. The terminal is as it was before when that ends, for whatever reason:
    Ctrl-C, an exception, or a signal, which raises `SystemExit` in it.

    :param descriptor: the terminal's.
    :param encoding: of its characters.
    """
    handlers = [signal.getsignal(number) for number in _HANDLED]
    screen = Screen(descriptor, encoding)
    try:
        screen._begin()
        yield screen
    finally:
        screen._finish(handlers)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
