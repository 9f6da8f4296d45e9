"""
Runs a command as a systemd unit would confine it, where systemd itself does not run: with the unit's system calls,
address families and ban on memory that is both writable and executable.  The rest of a unit is files and namespaces.

    python confined.py UNIT COMMAND...
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_ALLOW: Final = 0x7FFF0000  # seccomp.h: SCMP_ACT_ALLOW
_REFUSE: Final = 0x00050001  # SCMP_ACT_ERRNO(EPERM)
_EQUAL: Final = 4  # SCMP_CMP_EQ
_SET_NO_NEW_PRIVS, _SET_MDWE, _GET_MDWE = 38, 65, 66  # prctl(2)


class _Comparison(ctypes.Structure):
    """``struct scmp_arg_cmp`` of libseccomp."""

    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("value", ctypes.c_uint64),
        ("mask", ctypes.c_uint64),
    )


def settings_of(unit: Path) -> dict[str, list[str]]:
    """The settings of a unit: all values of each, in order."""
    settings: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        if not line.startswith(("#", "[")) and line:
            name, _, value = line.partition("=")
            settings.setdefault(name, []).append(value)
    return settings


def system_calls(filters: list[str]) -> set[str]:
    """The calls that a list of ``SystemCallFilter=`` values leaves."""
    listed = subprocess.run(["systemd-analyze", "syscall-filter"], capture_output=True, text=True, check=True).stdout
    sets: dict[str, list[str]] = {}
    for line in listed.splitlines():
        if line.startswith("@"):
            sets[line] = []
        elif line.startswith("    ") and not line.strip().startswith("#"):
            list(sets.values())[-1].append(line.strip())

    def expand(name: str) -> Iterator[str]:
        if not name.startswith("@"):
            yield name
            return
        for each in sets[name]:
            yield from expand(each)

    allowed: set[str] = set()
    for value in filters:
        calls = {call for name in value.removeprefix("~").split() for call in expand(name)}
        allowed = allowed - calls if value.startswith("~") else allowed | calls
    return allowed


def confine(unit: Path) -> None:
    """Confine this process, and those that it becomes."""
    settings = settings_of(unit)
    libc = ctypes.CDLL(None, use_errno=True)
    if settings.get("MemoryDenyWriteExecute") == ["yes"]:  # since Linux 6.3; before, systemd uses seccomp for this too
        libc.prctl(_SET_MDWE, 1, 0, 0, 0)
    libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(_REFUSE)))
    for name in system_calls(settings["SystemCallFilter"]):
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number < 0:
            continue  # of another architecture
        families = settings["RestrictAddressFamilies"][0].split() if name == "socket" else [None]
        for family in families:
            rule = (_Comparison * 1)()
            if family is not None:
                rule[0] = _Comparison(0, _EQUAL, getattr(socket, family), 0)
            count = ctypes.c_uint(family is not None)
            if library.seccomp_rule_add_array(context, ctypes.c_uint32(_ALLOW), number, count, rule):
                raise OSError(f"no rule for {name}")
    if library.seccomp_load(context):
        raise OSError("the filter could not be loaded")


if __name__ == "__main__":
    confine(Path(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])
