"""
The text for cmd.exe, as OpenSSH for Windows hands it over: ``cmd.exe /c "TEXT"``.

cmd.exe replaces ``%NAME%`` in a whole line before it runs any of it, and has no way to quote a percent sign.  So the
line is for a second cmd.exe with delayed expansion: there, ``!NAME!`` is replaced last, and nothing reads the result
again.  Values, directory and command stand in it as text in quotes, with four characters as such variables.  The
command itself is read by a third one, which has its directory and variables, and reads it as the first would have.

What cmd.exe does in which order: https://stackoverflow.com/a/4095133 and ``cmd /?``.  No I/O here.
"""

from __future__ import annotations

import re
import secrets
from typing import Final

from relayd.language.texts import Text
from relayd.ssh.channels.surroundings import Progress
from relayd.ssh.errors import (
    CommandLineTooLong,
    DirectoryUnusable,
    ShellUnsuitable,
    SSHError,
    UnfitForShell,
    VariablesRefused,
)
from relayd.ssh.shells.prepared import Order, Prepared, code_page

#: Characters in a line of cmd.exe (Microsoft, "Command prompt line string limitation").
MOST: Final = 8191
#: What the server puts around a text.
_AROUND: Final = len('"C:\\Windows\\system32\\cmd.exe" /c ""')

#: What is never itself within a quoted text: a variable stands in its place. For each, how the variable is set.
_SPECIAL: Final = {"%": 'set "{name}=%"', '"': 'set {name}=^"', "^": 'set "{name}=^"', "!": 'set "{name}=!"'}
#: What the first cmd.exe would take for its own.
_ACTIVE: Final = re.compile(r'(["&|<>()^])')
#: Characters that no text in a line can have.
_IMPOSSIBLE: Final = re.compile(r"[\0\r\n]")
#: Stops unless this is cmd.exe, with the settings that the text is made for.  Others cannot read it, and run nothing.
_GATE: Final = '(if "!!"=="" exit 1)&'
#: Follows what may fail.  ``&&`` will not do: whether a command failed is not the same as its ERRORLEVEL.
_STOP: Final = "(if errorlevel 1 exit 1)"


def prepare(order: Order, host: str, port: int) -> Prepared:
    """
    Make what is sent.

    :raises UnfitForShell: when cmd.exe cannot be given a part of it.
    :raises CommandLineTooLong: when the line would be too long.
    """
    _check(order, host, port)
    nonce = secrets.token_hex(8)
    text = _line(order, nonce)
    size = len(text.encode("utf-16-le")) // 2 + _AROUND
    if size > MOST:
        raise CommandLineTooLong(host=host, port=port, shell="cmd.exe", size=size, most=MOST)
    stages: list[type[SSHError]] = [ShellUnsuitable]
    if order.cwd:
        stages.append(DirectoryUnusable)
    if order.env:
        stages.append(VariablesRefused)
    stages.append(ShellUnsuitable)
    progress = Progress(f"relayd:{nonce}\r\n".encode("ascii"), stages)
    return Prepared(text=text.encode(), stdin=order.stdin, progress=progress, ended_by="windows", needle=nonce)


def _check(order: Order, host: str, port: int) -> None:
    where = {"host": host, "port": port, "shell": "cmd.exe"}
    if _IMPOSSIBLE.search(order.command.rstrip("\r\n")):
        raise UnfitForShell(**where, reason=Text("the command has several lines; join them with &"))
    for name, value in order.env:
        if _IMPOSSIBLE.search(value):
            raise UnfitForShell(**where, reason=Text("the variable {name} has a line end", name=name))
    if '"' in order.cwd:
        raise UnfitForShell(**where, reason=Text("cwd has a quotation mark, which no directory of Windows has"))


def _line(order: Order, nonce: str) -> str:
    page = code_page(order.charset)
    # In the home directory, which is the account's own: in another one cmd.exe would start what it finds there.
    pages = "" if page is None else f"%SystemRoot%\\system32\\chcp.com {page} >nul&"
    line = _Line(order)
    inner = _ACTIVE.sub(r"^\1", f'"{line.inner(nonce)}"')
    return f"{pages}{_GATE}{line.outer()}%ComSpec% /d /v:on /s /c {inner}"


class _Line:
    """What the first and the second cmd.exe are given."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._command = order.command.rstrip("\r\n")
        texts = [self._command, order.cwd, order.directory, *(value for _, value in order.env)]
        self._used = [char for char in _SPECIAL if any(char in text for text in texts)]
        # Names that none of the command's variables has.
        underscores = 1 + max((len(name) - len(name.lstrip("_")) for name, _ in order.env), default=0)
        self._shell, self._whole, *names = (f"{'_' * underscores}{number}" for number in range(6))
        self._names = dict(zip(_SPECIAL, names, strict=True))
        self._places = str.maketrans({char: f"!{name}!" for char, name in self._names.items()})

    def outer(self) -> str:
        """Before the second one is started: there, an exclamation mark is itself."""
        return f"{self._define('!')}&" if "!" in self._used else ""

    def _define(self, char: str) -> str:
        return _SPECIAL[char].format(name=self._names[char])

    def inner(self, nonce: str) -> str:
        order = self._order
        # A caret within: a host that repeats its input does not seem to have run it.
        tell = f"echo relayd:^{nonce}"
        parts = [f'set "{self._shell}=!ComSpec!"', *(self._define(char) for char in self._used if char != "!"), tell]
        if order.cwd:
            parts += [f'cd /d "{self._directory(order.cwd)}"', _STOP, tell]
        elif order.directory:
            parts.append(f'cd /d "{self._directory(order.directory)}"')
        if order.env:
            # An empty value removes a variable: Windows has no empty ones.
            parts += [*(f'set "{name}={self._written(value)}"' for name, value in order.env), tell]
        parts.append(f'set "{self._whole}={self._written(self._command)}"')
        parts += [f'set "{self._names[char]}="' for char in self._used]
        parts += [tell, f'!{self._shell}! /d /v:off /s /c "set {self._whole}=&set {self._shell}=&!{self._whole}!"']
        return "&".join(parts)

    def _directory(self, path: str) -> str:
        home = "!USERPROFILE!" if path == "~" or path.startswith(("~/", "~\\")) else ""
        return home + self._written((path[1:] if home else path).replace("/", "\\"))

    def _written(self, text: str) -> str:
        """A text as it stands between quotation marks."""
        return text.translate(self._places)
