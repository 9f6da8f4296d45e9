"""
The pseudo-terminal of a session: the request for it, and what a keyboard would send at the end of the input.

Source: RFC 4254, sections 6.2 and 8.
"""

from __future__ import annotations

import struct
from typing import Final

from msgspec import Struct
from twisted.conch.ssh.common import NS

_UINT32_4 = struct.Struct(">LLLL")
#: Opcodes of terminal modes: the terminal does not repeat its input; it leaves the output as it is.
_ECHO: Final = 53
_OPOST: Final = 70
_END_OF_MODES: Final = b"\0"
#: What the terminal takes for the end of the input (VEOF): alone it ends it, after an unfinished line it ends the line.
_END: Final = b"\x04"
#: How often the input ends: a reader gets an end of its own, and a command may have several readers, one after another.
_READERS: Final = 8


class Terminal(Struct, frozen=True):
    """
    A pseudo-terminal.

    :ivar term: the value of ``TERM``.
    :ivar plain: whether it leaves the output as it is, and makes no CR LF of a line feed.
    """

    term: str = "vt100"
    columns: int = 80
    rows: int = 24
    plain: bool = False

    def request(self) -> bytes:
        """A ``pty-req`` request with a reply, without the channel number."""
        # The input is none of the output, and may hold a secret.
        off = (_ECHO, _OPOST) if self.plain else (_ECHO,)
        modes = b"".join(struct.pack(">BL", opcode, 0) for opcode in off) + _END_OF_MODES
        size = _UINT32_4.pack(self.columns, self.rows, 0, 0)
        return NS(b"pty-req") + b"\1" + NS(self.term.encode("ascii")) + size + NS(modes)


def typed_to_the_end(data: bytes) -> bytes:
    """*data* as it is typed at a terminal, with the end of the input after it."""
    unfinished = bool(data) and not data.endswith((b"\n", _END))
    return data + _END * (_READERS + unfinished)
