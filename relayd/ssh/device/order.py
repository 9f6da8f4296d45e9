"""
Has a device carry out lines, one by one: each goes when the prompt is there, or when it answers a question.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence

from msgspec import Struct

from relayd.language.texts import last_lines
from relayd.ssh.device.families import OPEN_LINE, QUESTION, Family, Prompt
from relayd.ssh.device.greeting import ENTER
from relayd.ssh.device.terminal import Pause, Terminal


class End(enum.Enum):
    """How it ended."""

    DONE = enum.auto()  # all lines were carried out
    REFUSED = enum.auto()  # the device refused one, and those after it were not sent
    ASKED = enum.auto()  # the device asks a question, and there is no line to answer it


class Carried(Struct, frozen=True):
    """
    What became of the lines.

    :ivar sent: how many of them were sent.
    :ivar words: the question that the device asks, or what it said of the line that it refused.
    :ivar at_base: whether the device is in the mode that it began with.
    """

    end: End
    sent: int
    words: str
    at_base: bool


class LineOrder:
    """
    The lines of one command; see `relayd.ssh.device.terminal.Listener`.

    :param on_output: called with whole lines of output.
    :param on_end: called once.
    """

    def __init__(
        self,
        terminal: Terminal,
        family: Family,
        prompt: Prompt,
        lines: Sequence[bytes],
        on_output: Callable[[bytes], None],
        on_end: Callable[[Carried], None],
    ) -> None:
        self._terminal = terminal
        self._family = family
        self._prompt = prompt
        self._lines = lines
        self._on_output = on_output
        self._on_end = on_end
        self._sent = 0
        #: What stood in the last line when it was sent, which the echo follows.
        self._before = b""
        self._echo: bytes | None = None
        self._echoed = False
        self._output = bytearray()
        self._refused = ""
        self._over = False

    def begin(self) -> None:
        """Send the first line."""
        self._send()

    def line(self, line: bytes) -> None:
        """See `relayd.ssh.device.terminal.Listener`, for this and the following methods."""
        if self._over:
            return
        if self._echo is not None:
            rest = line.removeprefix(self._before) if self._before else line
            if (rest.strip() == self._echo and not self._echoed) or self._is_redrawn(line):
                self._echoed = True
                return
            # No echo, or no more of it: the prompt may stand before the first line of output.
            self._echo, line = None, rest
        if not self._refused and self._family.refused.match(line):
            self._refused = last_lines(line)
        self._output += line + b"\n"

    def fed(self) -> None:
        output, self._output = bytes(self._output), bytearray()
        if output:
            self._on_output(output)

    def pause(self, line: bytes, pause: Pause) -> None:
        if self._over:
            return
        if self._prompt.matches(line):
            self._prompted(line)
        elif pause is Pause.LONG and line != self._before and (QUESTION.search(line) or OPEN_LINE.search(line)):
            self._asked(line)

    def _prompted(self, line: bytes) -> None:
        if self._refused or self._sent == len(self._lines):
            self._end(End.REFUSED if self._refused else End.DONE, self._refused, line)
        else:
            self._send()

    def _asked(self, line: bytes) -> None:
        self._output += line + b"\n"
        self.fed()
        if self._sent == len(self._lines):
            self._end(End.ASKED, last_lines(line), line)
        else:
            self._send()

    def _is_redrawn(self, line: bytes) -> bool:
        """Whether a line is prompt and echo once more, as a line editor draws them."""
        assert self._echo is not None
        words = line.strip()
        return words.endswith(self._echo) and self._prompt.matches(words[: -len(self._echo)])

    def _send(self) -> None:
        line = self._lines[self._sent]
        self._sent += 1
        self._before = self._terminal.last_line
        self._echo, self._echoed = line.strip() or None, False
        self._terminal.send(line + ENTER)

    def _end(self, end: End, words: str, line: bytes) -> None:
        self._over = True
        self._on_end(Carried(end, self._sent, words, self._prompt.is_base(line)))
