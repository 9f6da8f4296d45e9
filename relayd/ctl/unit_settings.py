"""
Where the relay of a systemd unit looks for its settings: its environment, its command line and its credentials.
"""

from __future__ import annotations

import argparse
import glob
import os
import pwd
import re
import shlex
import stat
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NoReturn

from msgspec import Struct

from relayd.config.option import GivenOptions
from relayd.config.options import OPTIONS
from relayd.config.paths import CREDENTIALS, CREDENTIALS_ROOT, Elsewhere
from relayd.ctl.units import Unit
from relayd.errors import ConfigError
from relayd.process.environment_files import variables_in

#: Where systemd looks for the file of a credential whose path is not absolute.
_STORES: Final = ("/etc/credstore", "/run/credstore", "/usr/local/lib/credstore", "/usr/lib/credstore")


class UnitSettings(Struct, frozen=True, kw_only=True):
    """
    What the relay of a unit would read its settings from if it started now.

    :ivar options: from the options of its command line to their texts, or to whether a flag was given.
    :ivar environ: its environment, as far as settings depend on it.
    :ivar directory: its working directory.
    :ivar elsewhere: what is different because it is read here.
    :ivar unreadable: what this user cannot read though the relay may: paths, each with the way out.
    :ivar unknown: files of variables among them, whose options are not known.
    """

    unit: Unit
    options: GivenOptions
    environ: Mapping[str, str]
    directory: str
    elsewhere: Elsewhere
    unreadable: tuple[str, ...]
    unknown: tuple[str, ...]


class _Reader:
    """Collects `UnitSettings`."""

    def __init__(self, unit: Unit) -> None:
        self.unit = unit
        self.environ: dict[str, str] = {}
        self.places: dict[str, str] = {}
        self.sources: dict[str, str] = {}
        self.unseen: list[str] = []
        self.unreadable: list[str] = []
        self.unknown: list[str] = []

    def read(self) -> UnitSettings:
        unit = self.unit
        home = self._home()
        self._set_folders(home)
        self._read_credentials(f"{CREDENTIALS_ROOT}/{unit.name}")
        self._read_environment()
        options = options_of_command(unit.argv, self.environ, f"ExecStart of {unit.name}")
        for name in options:
            self.places[f"--{name}"] = f"--{name} in ExecStart of {unit.name}"
        elsewhere = Elsewhere(sources=self.sources, unseen=tuple(self.unseen), places=self.places)
        return UnitSettings(
            unit=unit,
            options=options,
            environ=self.environ,
            directory=home if unit.working_directory == "~" else unit.working_directory or "/",
            elsewhere=elsewhere,
            unreadable=tuple(self.unreadable),
            unknown=tuple(self.unknown),
        )

    def _home(self) -> str:
        if not self.unit.user or self.unit.dynamic:
            return "/"
        entry = entry_of(self.unit.user)
        return "/" if entry is None else entry.pw_dir

    def _set_folders(self, home: str) -> None:
        unit = self.unit
        if unit.user:
            self.environ |= {"HOME": home, "USER": unit.user}
        for variable, folders in unit.directories.items():
            self.environ[variable] = ":".join(folders)
        for folder in unit.directories.get("STATE_DIRECTORY", ())[:1]:
            if is_closed(folder):
                self._leave_out(folder)
        if (
            unit.user and "STATE_DIRECTORY" not in self.environ
        ):  # the default of `--state-dir` of another user than ours
            self.environ["STATE_DIRECTORY"] = f"{home}/.local/state/relayd"

    def _leave_out(self, path: str) -> None:
        self.unseen.append(path)
        self.unreadable.append(f"this user cannot read {path}: run as root")

    def _read_credentials(self, folder: str) -> None:
        unit = self.unit
        if unit.credentials or unit.opaque:
            self.environ[CREDENTIALS] = folder
        for name, source in unit.credentials.items():
            path = source
            if not source.startswith("/"):
                path = next(
                    filter(os.path.exists, (f"{store}/{source}" for store in _STORES)), f"{_STORES[0]}/{source}"
                )
            for inner, file in files_of(name, path).items():
                self.sources[f"{folder}/{inner}"] = file
                if is_closed(file):
                    self._leave_out(file)
        for name in unit.opaque:
            path = f"{folder}/{name}"
            if not os.path.exists(path):
                self.unseen.append(path)
                text = f"only systemd can read the credential {name}, and only for a relay that runs"
                self.unreadable.append(f"{text}: start {unit.name}, and check as root")

    def _read_environment(self) -> None:
        for assignment in self.unit.environment:
            name, _, value = assignment.partition("=")
            self.environ[name] = value
            self.places[name] = f"{name} in Environment of {self.unit.name}"
        for pattern, _ in self.unit.environment_files:
            for path in sorted(glob.glob(pattern)):
                try:
                    with open(path, encoding="utf-8", errors="surrogateescape") as file:
                        found = variables_in(file.read())
                except PermissionError:
                    self._leave_out(path)
                    self.unknown.append(path)
                except OSError:  # it is gone
                    continue
                else:
                    self.environ |= found
                    self.places |= {name: f"{name} in {path}" for name in found}


def entry_of(user: str) -> pwd.struct_passwd | None:
    """What is known of a user, by name or number."""
    try:
        return pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
    except (KeyError, OverflowError):
        return None


def files_of(name: str, path: str) -> dict[str, str]:
    """
    The credentials that systemd makes for ``LoadCredential=name:path``, each with its file: of a folder, one for each
    file in it, whose name has ``_`` for each ``/`` (systemd.exec(5)).
    """
    if not os.path.isdir(path) or is_closed(path):
        return {name: path}
    found = sorted(os.path.join(folder, file) for folder, _, files in os.walk(path) for file in files)
    return {f"{name}_{os.path.relpath(file, path).replace('/', '_')}": file for file in found}


def is_closed(path: str) -> bool:
    """Whether this user cannot read a file or folder that is there, or cannot see whether it is."""
    try:
        how = os.R_OK | os.X_OK if stat.S_ISDIR(os.stat(path).st_mode) else os.R_OK
        return not os.access(path, how, effective_ids=True)
    except OSError as error:
        return isinstance(error, PermissionError)


def read_unit_settings(unit: Unit) -> UnitSettings:
    """
    Where the relay of a unit looks for its settings.

    :raises ConfigError: for a word of its command line that is not an option of relayd.
    """
    return _Reader(unit).read()


class _Options(argparse.ArgumentParser):
    """
    The options of a command line.

    :param where: says which one.
    """

    def __init__(self, where: str) -> None:
        super().__init__(add_help=False, allow_abbrev=False)
        self._where = where
        for option in OPTIONS:
            action = "store_true" if option.is_flag else "append" if option.several else "store"
            self.add_argument(option.flag_name, action=action)

    def error(self, message: str) -> NoReturn:
        """argparse names the option in its message, and a value only where there should be none."""
        raise ConfigError(option=self._where, reason=re.sub("ignored explicit argument .*", "takes no value", message))


def options_of_command(
    argv: Sequence[str], environ: Mapping[str, str], where: str
) -> dict[str, str | bool | list[str] | None]:
    """
    The options of relayd in a command line of systemd, such as ``twistd -n relayd --config FILE``.

    :raises ConfigError: for a word that is not one; begins with *where*.
    """
    words = list(_expanded(argv, environ))
    if words and os.path.basename(words[0]) == "relayd":
        words = words[1:]
    elif "relayd" in words:
        words = words[words.index("relayd") + 1 :]
    else:  # such as twistd -y relayd.tac, which takes none
        return {}
    found, rest = _Options(where).parse_known_args(words)
    if rest:
        name = rest[0].partition("=")[0] if rest[0].startswith("--") else "an argument"
        raise ConfigError(option=where, reason=f"{name} is not an option of relayd")
    given: dict[str, Any] = {option.name: getattr(found, option.attribute) for option in OPTIONS}
    return {name: value for name, value in given.items() if value is not None and value is not False}


def _expanded(argv: Sequence[str], environ: Mapping[str, str]) -> Iterator[str]:
    """Command line of systemd with its variables filled in (systemd.service(5), "Command lines")."""
    for word in argv:
        if alone := re.fullmatch(r"\$([A-Za-z_]\w*)", word):  # becomes as many words as it has
            yield from _words(environ.get(alone[1], ""))
        else:
            yield re.sub(
                r"\$(?:\{([A-Za-z_]\w*)\}|\$)",
                lambda match: environ.get(match[1], "") if match[1] else "$",
                word,
            )


def _words(text: str) -> list[str]:
    """The words of a variable: quotes keep blanks together."""
    try:
        return shlex.split(text)
    except ValueError:  # a quote that is not closed
        return text.split()
