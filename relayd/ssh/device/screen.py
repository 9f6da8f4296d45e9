"""
Makes plain lines of what a device writes to its terminal: without control sequences, and with what it wrote over.

Works on bytes, as the character set is not its business.  Source: ECMA-48.
"""

from __future__ import annotations

import re
from typing import Final

#: Bytes of a line beyond which it is taken as if it had ended: devices write shorter ones.
LONGEST: Final = 256 * 1024
#: Columns of the terminal that devices are told of: the cursor goes no further by itself.
WIDTH: Final = 511
#: Bytes of a control sequence that may be incomplete at the end of what came.
_MOST_HELD: Final = 256

_TOKENS: Final = re.compile(
    rb"[^\x00-\x1f\x7f]+"  # text
    rb"|\x1b\[([0-?]*)[ -/]*([@-~])"  # control sequences
    rb"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"  # titles of windows
    rb"|\x1b[ -/]+[0-~]|\x1b[0-Z\\^-~]"  # other escapes
    rb"|[\x00-\x1f\x7f]"
)
#: A sequence that has begun, at the end of what came.
_BEGUN: Final = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*|\][^\x07\x1b]*\x1b?|[ -/]*)$")


class Screen:
    """
    The terminal of one device.

    :ivar line: the last line, which has not ended.
    """

    def __init__(self) -> None:
        self.line = bytearray()
        self._column = 0
        self._held = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Take what the device writes; gives the lines that ended, without their ends."""
        data, self._held = self._held + data, b""
        begun = _BEGUN.search(data, max(0, len(data) - _MOST_HELD))
        if begun is not None:
            data, self._held = data[: begun.start()], data[begun.start() :]
        ended: list[bytes] = []
        for token in _TOKENS.finditer(data):
            text = token[0]
            if text[0] >= 0x20 and text != b"\x7f":
                self._write(text)
                if len(self.line) > LONGEST:
                    ended.append(self._end_line())
            elif text == b"\n":
                ended.append(self._end_line())
            elif text == b"\r":
                self._column = 0
            elif text == b"\b":
                self._column = max(0, self._column - 1)
            elif text == b"\t":
                self._write(b"\t")
            elif token[2] is not None:
                self._control(token[1], token[2])
        return ended

    def clear_line(self) -> None:
        """Forget the last line."""
        self.line.clear()
        self._column = 0

    def _end_line(self) -> bytes:
        line = bytes(self.line).rstrip(b" ")
        self.clear_line()
        return line

    def _write(self, text: bytes) -> None:
        if self._column > len(self.line):
            self.line += b" " * (self._column - len(self.line))
        self.line[self._column : self._column + len(text)] = text
        self._column += len(text)

    def _control(self, parameters: bytes, final: bytes) -> None:
        first = parameters.split(b";")[0]
        count = int(first) if first.isdigit() and len(first) < 6 else 0
        if final == b"D":
            self._column = max(0, self._column - max(1, count))
        elif final == b"C":
            self._column = max(self._column, min(WIDTH, self._column + max(1, count)))
        elif final == b"G":
            self._column = min(WIDTH, max(1, count) - 1)
        elif final == b"P":
            del self.line[self._column : self._column + max(1, count)]
        elif final == b"K" and count == 0:
            del self.line[self._column :]
        elif final in (b"K", b"J") and count == 2:
            self.line.clear()
        elif final == b"J" and count == 0:
            del self.line[self._column :]
