"""
How a command runs on its host, besides its text: with a terminal, and as another user; and how long that took.
"""

from __future__ import annotations

from typing import Any, Final, Literal, TypedDict

from msgspec import Struct
from msgspec.structs import force_setattr

from relayd.wire.secret import Secret, as_secret

#: How a command becomes another user.
BecomeMethod = Literal["sudo", "su"]


class Pty(Struct, frozen=True, kw_only=True):
    """
    A pseudo-terminal.

    :ivar term: its kind: the value of ``TERM``.
    :ivar cols: its width in characters.
    :ivar rows: its height in lines.
    """

    term: str = "vt100"
    cols: int = 80
    rows: int = 24

    def to_wire(self) -> bool | dict[str, Any]:
        """Its value on the wire."""
        return True if self == DEFAULT_PTY else {"term": self.term, "cols": self.cols, "rows": self.rows}


class Become(Struct, frozen=True, kw_only=True):
    """
    As whom a command runs, where that is another user than the one who logs in.

    :ivar password: for sudo that of the user who logs in, for su that of *user*; ``None``: none is needed, or the relay
        has it. A `str` becomes a `Secret`.
    """

    method: BecomeMethod = "sudo"
    user: str = "root"
    password: Secret | None = None

    def __post_init__(self) -> None:
        if self.password is not None:
            force_setattr(self, "password", as_secret("password", self.password))

    def to_wire(self) -> dict[str, Any]:
        """Its object on the wire, the password revealed."""
        wire = {"method": self.method, "user": self.user}
        return wire if self.password is None else wire | {"password": self.password.reveal()}


class Script(Struct, frozen=True, kw_only=True):
    """
    What runs a script.

    :ivar interpreter: a program of the host; its first argument is the script's file.
    :ivar args: further arguments, one line each.
    """

    interpreter: str = "/bin/sh"
    args: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not all(isinstance(arg, str) for arg in self.args):
            raise TypeError("args has to be a tuple of str")


class Timings(TypedDict, total=False):
    """
    Seconds that the phases of a command took; the names are those on the wire.

    ``wait`` is the time from the command's turn until the host had it.  ``connect``, ``keyExchange`` and ``login`` are
    parts of it, and there only if a connection was opened for the command.  ``run`` comes after it. ``files`` is the
    time before all of these in which files were written, ``fetch`` the time after them in which files were read.
    """

    wait: float
    connect: float
    keyExchange: float
    login: float
    run: float
    files: float
    fetch: float


DEFAULT_PTY: Final = Pty()
