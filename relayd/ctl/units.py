"""
What systemd knows of a unit, asked over D-Bus with busctl(1), which answers in JSON. ``systemctl show`` joins the words
of a command line, and some versions of it do not print credentials.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from relayd.language.texts import printable

#: There is this folder wherever systemd runs (sd_booted(3)).
RUNS: Final = "/run/systemd/system"
#: Seconds that systemd has to answer.
PATIENCE: Final = 10.0
#: The most characters that are shown of what it says.
_MOST_SAID: Final = 300
_SYSTEMD: Final = "org.freedesktop.systemd1"
_MANAGER: Final = (_SYSTEMD, "/org/freedesktop/systemd1", f"{_SYSTEMD}.Manager")
_NOBODY: Final = 0xFFFFFFFF


class NoUnit(Exception):
    """systemd cannot say anything about a unit; the text says why, and what to do."""


class UnusableUnit(NoUnit):
    """The unit is there, and systemd cannot start it."""


class Unit(Struct, frozen=True, kw_only=True):
    """
    A service, as systemd has read it from its files, with specifiers such as ``%i`` filled in.

    :ivar name: its name, with ``.service``.
    :ivar files: the paths of its files, its drop-ins last.
    :ivar active: ``active``, ``inactive``, ``failed``, ``activating`` …
    :ivar result: why it failed, such as ``exit-code``; ``success``.
    :ivar status: the exit status of its last process.
    :ivar said: the status line that its relay gave last.
    :ivar enabled: ``enabled``, ``disabled``, or other words for whether it starts at boot.
    :ivar pid: the process id of its main process; 0: it does not run.
    :ivar outdated: whether its files have changed since systemd read them.
    :ivar argv: its ``ExecStart``, before variables are filled in.
    :ivar environment: its ``Environment``, as ``NAME=VALUE``.
    :ivar environment_files: its ``EnvironmentFile``, and whether each may be missing.
    :ivar credentials: its ``LoadCredential``: the path of the file for each name.
    :ivar opaque: names of credentials that only systemd can read, such as encrypted ones, and that are not empty.
    :ivar user: its ``User``; empty: root.
    :ivar uid: the id of that user while the unit runs; ``None``: it is not known.
    :ivar group: its ``Group``.
    :ivar groups: its ``SupplementaryGroups``.
    :ivar dynamic: whether the user exists only while it runs.
    :ivar directories: the folders that systemd makes for it, by the variable that tells it of them.
    :ivar working_directory: its ``WorkingDirectory``; empty: ``/``.
    :ivar protect_home: its ``ProtectHome``.
    :ivar protect_system: its ``ProtectSystem``.
    :ivar private_tmp: its ``PrivateTmp``.
    :ivar writable: its ``ReadWritePaths``.
    """

    name: str
    files: tuple[str, ...] = ()
    active: str = "inactive"
    result: str = "success"
    status: int = 0
    said: str = ""
    enabled: str = ""
    pid: int = 0
    outdated: bool = False
    argv: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    environment_files: tuple[tuple[str, bool], ...] = ()
    credentials: Mapping[str, str] = {}
    opaque: tuple[str, ...] = ()
    user: str = ""
    uid: int | None = None
    group: str = ""
    groups: tuple[str, ...] = ()
    dynamic: bool = False
    directories: Mapping[str, tuple[str, ...]] = {}
    working_directory: str = ""
    protect_home: str = "no"
    protect_system: str = "no"
    private_tmp: bool = False
    writable: tuple[str, ...] = ()


#: Calls a method over D-Bus, given as words for ``busctl call``; returns the answer in JSON, or raises `NoUnit`.
Ask = Callable[[Sequence[str]], bytes]

#: By variable: the setting whose folders it names, and where systemd makes these.
_ROOTS: Final = {
    "STATE_DIRECTORY": ("StateDirectory", "/var/lib"),
    "LOGS_DIRECTORY": ("LogsDirectory", "/var/log"),
    "RUNTIME_DIRECTORY": ("RuntimeDirectory", "/run"),
    "CACHE_DIRECTORY": ("CacheDirectory", "/var/cache"),
    "CONFIGURATION_DIRECTORY": ("ConfigurationDirectory", "/etc"),
}


def ask_systemd(words: Sequence[str]) -> bytes:
    """
    Call busctl, which needs no rights.

    :raises NoUnit: when systemd does not run, or does not answer.
    """
    if not os.path.isdir(RUNS):
        raise NoUnit("systemd does not run here")
    try:
        done = subprocess.run(
            ["busctl", "--system", "--json=short", "call", "--", *words],
            capture_output=True,
            check=False,
            timeout=PATIENCE,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoUnit(f"systemd cannot be asked: busctl does not answer ({type(error).__name__})") from None
    if done.returncode:
        said = printable(done.stderr.decode("utf-8", "replace").strip().replace("\n", "; "), _MOST_SAID)
        answer = said.removeprefix("Call failed: ")  # busctl's words for an answer that is an error
        raise NoUnit(f"systemd says: {answer.rstrip('.')}" if answer != said else f"systemd does not answer: {said}")
    return done.stdout


def full_name(name: str) -> str:
    """``relayd.service`` for ``relayd``."""
    return name if name.endswith(".service") else f"{name}.service"


def read_unit(name: str, ask: Ask = ask_systemd) -> Unit:
    """
    What systemd knows of a unit.

    :param name: its name, with or without ``.service``.
    :raises UnusableUnit: when systemd cannot start it.
    :raises NoUnit: when there is no such unit, or systemd cannot be asked.
    """
    name = full_name(name)
    path = _data(ask((*_MANAGER, "LoadUnit", "s", name)))
    answer = _data(ask((_SYSTEMD, path, "org.freedesktop.DBus.Properties", "GetAll", "s", "")))
    found = {key: value["data"] for key, value in answer.items()}
    if found["LoadState"] == "not-found":
        raise NoUnit(f"systemd has no unit {name}")
    if found["LoadState"] != "loaded":
        reason = (found.get("LoadError") or ["", ""])[1]
        reason = reason or f"it is {found['LoadState']}"
        advice = f"systemctl unmask {name}" if found["LoadState"] == "masked" else f"see systemctl status {name}"
        raise UnusableUnit(f"systemd cannot start {name}: {reason}; {advice}")
    return _unit(name, found)


def running_units(pattern: str, ask: Ask = ask_systemd) -> list[str]:
    """
    The names of the units like *pattern* that run, or were meant to: those that systemd has in memory.

    :raises NoUnit: when systemd cannot be asked.
    """
    found = _data(ask((*_MANAGER, "ListUnitsByPatterns", "asas", "0", "1", pattern)))
    return sorted(row[0] for row in found if row[2] == "loaded" and row[3] != "inactive")


def _data(answer: bytes) -> Any:
    try:
        [value] = msgspec.json.decode(answer)["data"]
        return value
    except (msgspec.DecodeError, KeyError, TypeError, ValueError):
        raise NoUnit("systemd gave an answer that is not understood") from None


def _unit(name: str, found: Mapping[str, Any]) -> Unit:
    start = found.get("ExecStart") or [["", []]]
    fixed = ("SetCredentialEncrypted", "LoadCredentialEncrypted")
    # A blank one only stands in for a file that is missing.
    filled = [each[0] for each in found.get("SetCredential", ()) if bytes(each[1]).strip()]
    encrypted = [each[0] for key in fixed for each in found.get(key, ())]
    loaded = {each[0]: each[1] for each in found.get("LoadCredential", ())}
    return Unit(
        name=name,
        files=tuple(filter(None, (found.get("FragmentPath", ""), *found.get("DropInPaths", ())))),
        active=found.get("ActiveState", ""),
        result=found.get("Result", ""),
        status=found.get("ExecMainStatus", 0),
        said=found.get("StatusText", ""),
        enabled=found.get("UnitFileState", ""),
        pid=found.get("MainPID", 0),
        outdated=found.get("NeedDaemonReload", False),
        argv=tuple(start[0][1]),
        environment=tuple(found.get("Environment", ())),
        environment_files=tuple((path, optional) for path, optional in found.get("EnvironmentFiles", ())),
        credentials=loaded,
        opaque=tuple(name for name in (*filled, *encrypted) if name not in loaded),
        user=found.get("User", ""),
        uid=None if found.get("UID", _NOBODY) == _NOBODY else found["UID"],
        group=found.get("Group", ""),
        groups=tuple(found.get("SupplementaryGroups", ())),
        dynamic=found.get("DynamicUser", False),
        directories={
            variable: tuple(f"{root}/{each.partition(':')[0]}" for each in found.get(key, ()))
            for variable, (key, root) in _ROOTS.items()
            if found.get(key)
        },
        working_directory=found.get("WorkingDirectory", "").removeprefix("!"),
        protect_home=found.get("ProtectHome", "no"),
        protect_system=found.get("ProtectSystem", "no"),
        private_tmp=found.get("PrivateTmp", False),
        writable=tuple(found.get("ReadWritePaths", ())),
    )
