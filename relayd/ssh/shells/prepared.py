"""
What is sent to a host for one command, once it is known what reads the command's text there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from msgspec import Struct

from relayd.ssh.channels.surroundings import Progress

#: How a command is ended early: by a POSIX shell or by PowerShell in a second session, or by the server alone.
EndedBy = Literal["posix", "windows", "server"]
#: The shells that OpenSSH for Windows has.
WindowsShell = Literal["cmd", "powershell"]


class Prepared(Struct, frozen=True, kw_only=True):
    """
    What is sent.

    :ivar text: of the ``exec`` request.
    :ivar stdin: the standard input, before EOF.
    :ivar env: variables that are sent by the protocol.
    :ivar progress: watches how far the shell came.
    :ivar ended_by: how the command is ended early.
    :ivar needle: what only the arguments of this command's processes contain, for Windows.
    """

    text: bytes
    stdin: bytes = b""
    env: Sequence[tuple[str, bytes]] = ()
    progress: Progress | None = None
    ended_by: EndedBy = "posix"
    needle: str = ""

    def __repr__(self) -> str:
        return f"Prepared({len(self.text)} bytes)"  # text, input and variables may hold secrets


class Order(Struct, frozen=True, kw_only=True):
    """
    A command as it was ordered, for a shell of Windows.

    :ivar command: its text.
    :ivar cwd: where it runs, or not at all; empty: where the login leads.
    :ivar directory: without *cwd*, the directory of the site, where it runs if it can.
    :ivar env: its variables.
    :ivar stdin: its standard input.
    :ivar charset: the character set of its output, by Python's name.
    """

    command: str
    cwd: str = ""
    directory: str = ""
    env: Sequence[tuple[str, str]] = ()
    stdin: bytes = b""
    charset: str = "utf-8"

    def __repr__(self) -> str:
        return f"Order({len(self.command)} characters)"  # command, input and variables may hold secrets


#: The code pages of Windows for character sets, by Python's names, that are not ``cp`` and a number.
_CODE_PAGES: Final = {
    "utf-8": 65001, "utf-8-sig": 65001, "ascii": 20127, "gbk": 936, "gb2312": 936, "gb18030": 54936, "big5": 950,
    "shift_jis": 932, "euc_jp": 20932, "euc_kr": 51949, "koi8-r": 20866, "koi8-u": 21866,
}  # fmt: skip


def code_page(charset: str) -> int | None:
    """The number of a character set on Windows; ``None``: it has none there, and the host keeps its own."""
    known = _CODE_PAGES.get(charset)
    if known is not None:
        return known
    for prefix, base in (("cp", 0), ("iso8859-", 28590)):
        number = charset.removeprefix(prefix)
        if number != charset and number.isdigit():
            return base + int(number)
    return None
