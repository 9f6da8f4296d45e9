"""
The types of what a program puts into a message: a mistake shows where it is made, and not when the message is sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType
from typing import Any, Final

from relayd.wire.running import Become, Pty, Script

#: Types that a field may have.
Types = tuple[type, ...]

TEXT: Final = (str,)
MAYBE_TEXT: Final = (str, NoneType)
MAYBE_SECONDS: Final = (int, float, NoneType)

#: By field of what says where to log in, its secrets aside (`relayd.wire.messages.JumpHost`).
LOGIN: Final[Mapping[str, Types]] = {
    "port": (int,),
    **dict.fromkeys(("host", "username"), TEXT),
    **dict.fromkeys(("certificate", "host_key", "written"), MAYBE_TEXT),
}
#: By further field of a command (`relayd.wire.messages.ExecuteCommand`).
ORDER: Final[Mapping[str, Types]] = {
    "server_id": (int, float, str, NoneType),
    "timeout": MAYBE_SECONDS,
    "env": (tuple,),
    "stdin": (bytes,),
    **dict.fromkeys(("via", "files", "fetch"), (tuple,)),
    "pty": (Pty, bool, NoneType),
    "script": (Script, NoneType),
    "become": (Become, bool, NoneType),
    **dict.fromkeys(("command_id", "command"), TEXT),
    **dict.fromkeys(("cwd", "encoding"), MAYBE_TEXT),
    **dict.fromkeys(("numeric_id", "extended", "stdin_is_text", "stream"), (bool,)),
}
_WORDS: Final = {NoneType: "None"}


def check_type(name: str, value: object, types: Types) -> None:
    """
    Check one value.

    :raises TypeError: when it is of another type; it names the field, and does not show the value.
    """
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        expected = " or ".join(_WORDS.get(each, each.__name__) for each in types)
        raise TypeError(f"{name} has to be {expected}, not {type(value).__name__}")


def check_fields(message: object, fields: Mapping[str, Types]) -> None:
    """
    Check the fields of a message.

    :raises TypeError: as `check_type`.
    """
    for name, types in fields.items():
        check_type(name, getattr(message, name), types)


def check_contents(env: tuple[Any, ...], via: tuple[Any, ...], jump_host: type) -> None:
    """
    Check what is in ``env`` and in ``via`` of a command.

    :raises TypeError: as `check_type`.
    """
    for pair in env:
        if not (isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(each, str) for each in pair)):
            raise TypeError('env has to be a tuple of pairs of str, such as (("NAME", "VALUE"),)')
    check_members("via", via, jump_host)


def check_members(field: str, members: tuple[Any, ...], kind: type) -> None:
    """
    Check what is in a tuple of a command.

    :raises TypeError: as `check_type`.
    """
    for member in members:
        check_type(f"each of {field}", member, (kind,))
