"""
The rules of the fields that say how a command runs: ``pty``, ``become`` and ``script``; as `relayd.wire.fields`.
"""

from __future__ import annotations

import re
from typing import Final

from relayd.wire.fields import (
    MAX_CWD,
    MAX_ENVIRONMENT,
    MAX_PASSWORD,
    Invalid,
    absent,
    flag,
    number,
    optional_text,
    plain,
    text,
    username,
)
from relayd.wire.running import Become, BecomeMethod, Pty, Script
from relayd.wire.secret import Secret

#: Longest kind of a terminal that is taken, in characters, and most columns and rows.
MAX_TERM: Final = 64
MAX_SIZE: Final = 9999
#: Most arguments of a script.
MAX_ARGS: Final = 256
METHODS: Final[dict[str, BecomeMethod]] = {"sudo": "sudo", "su": "su"}

_TERM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


def pty(value: object) -> Pty | bool | None:
    """The terminal of a command; ``False``: it has none, whatever the relay's tables say; ``None``: as they say."""
    if absent(value):
        return None
    value = plain("pty", value)
    if not isinstance(value, dict):
        try:
            return Pty() if flag("pty", value) else False
        except Invalid:
            raise Invalid("pty", "is neither true nor false nor an object of term, cols and rows") from None
    _check_names("pty", value, ("term", "cols", "rows"))
    plainly = Pty()
    term = value.get("term")
    kind = plainly.term if absent(term) else text("pty.term", term, most=MAX_TERM)
    if not _TERM.fullmatch(kind):
        raise Invalid("pty.term", "is not the name of a kind of terminals, such as vt100 or xterm-256color")
    cols, rows = (_size(f"pty.{name}", value.get(name), getattr(plainly, name)) for name in ("cols", "rows"))
    return Pty(term=kind, cols=cols, rows=rows)


def _size(field: str, value: object, otherwise: int) -> int:
    chosen = number(field, value)
    if chosen is None:
        return otherwise
    if chosen != int(chosen) or not 1 <= chosen <= MAX_SIZE:
        raise Invalid(field, "is not a whole number from 1 to {most}", most=MAX_SIZE)
    return int(chosen)


def become(value: object) -> Become | bool | None:
    """As whom a command runs; ``False``: as who logs in, whatever the relay's tables say; ``None``: as they say."""
    if absent(value):
        return None
    value = plain("become", value)
    if not isinstance(value, dict):
        try:
            return Become() if flag("become", value) else False
        except Invalid:
            raise Invalid("become", "is neither true nor false nor an object of method, user and password") from None
    _check_names("become", value, ("method", "user", "password"))
    given = value.get("method")
    method = METHODS.get("sudo" if absent(given) else text("become.method", given, most=16))
    if method is None:
        raise Invalid("become.method", "is neither sudo nor su")
    given = value.get("user")
    user = "root" if absent(given) else username("become.user", given)
    # sudo reads a number after "#", and both read options after "-": names that rules for users do not know.
    if not (user[0].isalnum() or user[0] == "_"):
        raise Invalid("become.user", "does not begin with a letter, a digit or _")
    password = optional_text("become.password", value.get("password"), MAX_PASSWORD)
    if password is not None and not password.isprintable():
        raise Invalid("become.password", "contains a control character, which nobody can type at a prompt")
    return Become(method=method, user=user, password=None if password is None else Secret(password))


def script(command: object, written: object, interpreter: object, args: object) -> tuple[str, Script | None]:
    """
    The text of a command, or of a script with what runs it.

    :param written: the field ``script``.
    """
    if absent(written):
        for name, value in (("interpreter", interpreter), ("args", args)):
            if not absent(value):
                raise Invalid(name, "is for a script, and there is none")
        return text("command", command, single_line=False), None
    if not absent(command):
        raise Invalid("script", "comes together with command; send one of them")
    usual = Script()
    program = usual.interpreter if absent(interpreter) else text("interpreter", interpreter, most=MAX_CWD)
    return text("script", written, single_line=False), Script(interpreter=program, args=_args(args))


def _args(value: object) -> tuple[str, ...]:
    if absent(value):
        return ()
    value = plain("args", value)
    if not isinstance(value, list):
        raise Invalid("args", "is not an array of strings")
    if len(value) > MAX_ARGS:
        raise Invalid("args", "has more than {most} members", most=MAX_ARGS)
    args = tuple(_arg(f"args[{number}]", each) for number, each in enumerate(value))
    if sum(len(arg.encode()) for arg in args) > MAX_ENVIRONMENT // 2:
        raise Invalid("args", "takes more than {most} KiB", most=MAX_ENVIRONMENT // 2048)
    return args


def _arg(field: str, value: object) -> str:
    if value == "":
        return ""
    if not isinstance(value, str | bytes | dict):
        raise Invalid(field, "is not a string")
    arg = optional_text(field, value, MAX_ENVIRONMENT) or ""
    if "\n" in arg or "\r" in arg:
        raise Invalid(field, "contains a line break")
    return arg


def _check_names(field: str, value: dict[object, object], known: tuple[str, ...]) -> None:
    """A name that is not known is a mistake here: it may be what makes a command run as somebody else."""
    if not set(value) <= set(known):
        raise Invalid(field, "has members other than {known}", known=", ".join(known))
