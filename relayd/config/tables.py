"""
The tables of the TOML file of which there may be several, such as ``[[hosts]]``: whom each is for, and how a mistake in
one is told. Each mistake becomes one `ConfigError` that names the table by its number, and the key.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, NoReturn, TypeVar

from msgspec import Struct

from relayd.config import values
from relayd.config.paths import Paths
from relayd.config.sources import text_of_toml
from relayd.errors import ConfigError
from relayd.network.patterns import check_host_pattern, check_user_pattern
from relayd.network.private_files import is_open_to_others

_HOMES: Final = ("/home/", "/root/", "/run/user/")
_PASS_ON: Final = "let systemd pass it on (LoadCredential= in the unit), or put it where this user can read it"
_HOSTS: Final = '["db-*.internal", "10.1.0.0/16"]'
_USERS: Final = '["deploy", "app-*"]'

T = TypeVar("T")


class Surroundings(Struct, frozen=True):
    """
    What the tables of one file have in common.

    :ivar path: the path of the file; paths in it are relative to its folder.
    :ivar environ: the relay's environment.
    :ivar paths: says where paths lead.
    :ivar options: names of options, which in TOML belong to a table when they stand below its heading.
    :ivar settings: the keys that only ``[[hosts]]`` tables have.
    """

    path: str
    environ: Mapping[str, str]
    paths: Paths
    options: Collection[str] = ()
    settings: Collection[str] = ()


def heading(kind: str) -> str:
    """How a table of some *kind* begins."""
    return f"[[{kind}]]"


def place(kind: str, number: int, path: str) -> str:
    """The words by which an operator finds a table; its *number* counts from 1."""
    return f"{heading(kind)} number {number} in {path}"


def read_tables(
    kind: str,
    found: object,
    surroundings: Surroundings,
    read: Callable[[Table], T],
    refuse: Callable[[ConfigError], object],
) -> tuple[T, ...]:
    """
    What the tables of one kind say, in their order.

    :param found: what the TOML file has under *kind*.
    :param read: reads one of them; raises `ConfigError` for a mistake.
    :param refuse: called with the first mistake of each table.
    """
    if not isinstance(found, list) or not all(isinstance(content, dict) for content in found):
        reason = f"expected tables that each begin with {heading(kind)}"
        refuse(ConfigError(option=f"{kind} in {surroundings.path}", reason=reason))
        return ()
    rows = []
    for number, content in enumerate(found, 1):
        try:
            rows.append(read(Table(kind, content, number, surroundings)))
        except ConfigError as mistake:
            refuse(mistake)
    return tuple(rows)


class Table:
    """
    One table.

    :ivar content: its keys and values.
    :ivar place: the words by which an operator finds it.
    """

    def __init__(self, kind: str, content: dict[str, Any], number: int, surroundings: Surroundings) -> None:
        self.content = content
        self.place = place(kind, number, surroundings.path)
        self.environ = surroundings.environ
        self._heading = heading(kind)
        self._options = surroundings.options
        self._settings = surroundings.settings
        self._paths = surroundings.paths
        self._directory = os.path.dirname(os.path.abspath(surroundings.path))
        self._keys: Collection[str] = ()

    def check_keys(self, keys: Collection[str]) -> None:
        """Refuse a key that is not one of *keys*, those that such a table can have."""
        self._keys = keys
        for key in self.content:
            if key in keys:
                continue
            option, setting = key in self._options, key in self._settings
            if option and setting:
                self.refuse(
                    key, "is an option, and a key of [[hosts]] tables; move it above all tables, or into such one"
                )
            if option:
                self.refuse(key, f"is an option; move it above the first {self._heading}")
            if setting:
                self.refuse(key, "is a key of [[hosts]] tables; move it into such one")
            meant = values.near(key, keys)
            self.refuse(key, "no such key" + (f"; did you mean {meant}?" if meant else ""))

    def refuse(self, key: str, reason: str) -> NoReturn:
        """Raise the `ConfigError` for a mistake in the value of *key*, or for the key itself."""
        name = key if key in self._keys else values.shown(key, "a key")
        raise ConfigError(option=f"{name} of {self.place}", reason=reason)

    def value(self, key: str, parse: Callable[[str], T], *, secret: bool = False) -> T:
        """
        The value of a key that the table has, as the option of such a value is read.

        :param secret: whether it may hold a secret; it is not quoted then.
        """
        try:
            text = text_of_toml(self.content[key])
        except ValueError:
            self.refuse(key, "expected one value")
        try:
            return parse(text)
        except ValueError as error:
            self.refuse(key, f"expected {error.args[0]}" + ("" if secret else f", not {values.shown(text)}"))

    def hosts(self) -> tuple[str, ...]:
        """The patterns of hosts."""
        if "hosts" not in self.content:
            self.refuse("hosts", f"missing; give a list of names, patterns and networks, such as {_HOSTS}")
        return self._patterns("hosts", _HOSTS, check_host_pattern)

    def users(self) -> tuple[str, ...]:
        """The patterns of users."""
        return self._patterns("users", _USERS, check_user_pattern) if "users" in self.content else ("*",)

    def _patterns(self, key: str, example: str, check: Callable[[str], None]) -> tuple[str, ...]:
        found = self.content[key]
        if not isinstance(found, list) or not found or not all(is_text(each) for each in found):
            self.refuse(key, f"expected a list of texts, such as {example}")
        patterns = tuple(each.strip() for each in found)
        for pattern in patterns:
            try:
                check(pattern.removeprefix("!"))
            except ValueError as error:
                self.refuse(key, f"expected {error.args[0]}, not {values.shown(pattern)}")
        if all(pattern.startswith("!") for pattern in patterns):
            self.refuse(key, 'expected at least one pattern without !, such as "*"; otherwise nothing matches')
        return patterns

    def file(self, key: str, *, secret: bool) -> str | None:
        """
        The path of a file that is there and can be read; ``None``: the table names none.

        :param secret: whether it holds a secret. The path is not shown then: it may be the secret itself, by mistake.
        """
        if key not in self.content:
            return None
        text = self.content[key]
        if not is_text(text):
            self.refuse(key, "expected the path of a file")
        path = self.path(key, text)
        if self._paths.is_unseen(path):
            return path
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            self.refuse(key, f"expected the path of a file; {self._missing(path, secret)}")
        if not stat.S_ISREG(status.st_mode):
            self.refuse(key, "expected the path of a regular file")
        if not os.access(path, os.R_OK):
            self.refuse(key, f"this user cannot read the file; {_PASS_ON}")
        if secret and is_open_to_others(status):
            self.refuse(key, "other users can read the file: chmod 600 it")
        return path

    def path(self, key: str, text: str) -> str:
        """An absolute path."""
        try:
            return self._paths.resolve(text, self._directory)
        except ValueError as error:
            self.refuse(key, str(error))

    def _missing(self, path: str, secret: bool) -> str:
        if origin := self._paths.origin(path):
            return f"there is none; {origin}"
        if path.startswith(_HOMES):
            return f"there is none that this process sees (ProtectHome= of a unit hides it); {_PASS_ON}"
        return f"there is none (paths are relative to {self._directory})" if secret else f"there is none at {path}"


def is_text(value: object) -> bool:
    """Whether a value is a single line of text that is not blank."""
    return isinstance(value, str) and bool(value.strip()) and value.isprintable()
