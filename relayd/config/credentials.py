"""
The ``[[credentials]]`` tables of the TOML file: what this site itself can log in with, where, and through which hosts.
They hold paths, not secrets. Each mistake becomes one `ConfigError` that names the table by its number, and the key.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, NoReturn

from relayd.config import values
from relayd.config.paths import Paths
from relayd.errors import ConfigError
from relayd.network.credential_rules import CredentialRule, parse_via
from relayd.network.patterns import check_host_pattern, check_user_pattern
from relayd.network.private_files import is_open_to_others
from relayd.wire import fields

#: Keys that may hold the secret itself by mistake: their values are never shown.
_SECRET_FILES: Final = ("key-file", "passphrase-file", "password-file")
_HOMES: Final = ("/home/", "/root/", "/run/user/")
_PASS_ON: Final = "let systemd pass it on (LoadCredential= in the unit), or put it where this user can read it"
_HOSTS: Final = '["db-*.internal", "10.1.0.0/16"]'
_USERS: Final = '["deploy", "app-*"]'
#: Every key of a table.
KEYS: Final = ("hosts", "users", *_SECRET_FILES, "certificate-file", "agent", "via")


def read_credentials(
    tables: object,
    path: str,
    environ: Mapping[str, str],
    options: Collection[str],
    refuse: Callable[[ConfigError], object],
    paths: Paths,
) -> tuple[CredentialRule, ...]:
    """
    The rules of the tables, in their order.

    :param tables: what the TOML file has under ``credentials``.
    :param path: the path of that file; paths in it are relative to its folder.
    :param options: names of options, which in TOML belong to a table when they stand below its heading.
    :param refuse: called with the first mistake of each table.
    :param paths: says where paths lead.
    """
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        reason = "expected tables that each begin with [[credentials]]"
        refuse(ConfigError(option=f"credentials in {path}", reason=reason))
        return ()
    rows = []
    for number, table in enumerate(tables, 1):
        try:
            rows.append(_Row(table, number, path, environ, paths).read(options))
        except ConfigError as mistake:
            refuse(mistake)
    return tuple(rows)


class _Row:
    """Reads one table into a `CredentialRule`."""

    def __init__(self, table: dict[str, Any], number: int, path: str, environ: Mapping[str, str], paths: Paths) -> None:
        self._table = table
        self._row = f"[[credentials]] number {number} in {path}"
        self._directory = os.path.dirname(os.path.abspath(path))
        self._environ = environ
        self._paths = paths

    def read(self, options: Collection[str]) -> CredentialRule:
        for key in self._table:
            if key in options:
                self._refuse(key, "is an option; move it above the first [[credentials]]")
            if key not in KEYS:
                meant = values.near(key, KEYS)
                self._refuse(key, "no such key" + (f"; did you mean {meant}?" if meant else ""))
        row = CredentialRule(
            hosts=self._hosts(),
            users=self._patterns("users", _USERS, check_user_pattern) if "users" in self._table else ("*",),
            key_file=self._file("key-file"),
            passphrase_file=self._file("passphrase-file"),
            certificate_file=self._file("certificate-file"),
            password_file=self._file("password-file"),
            agent=self._agent(),
            via=self._via(),
        )
        if row.key_file is row.password_file is row.agent is row.via is None:
            raise ConfigError(option=self._row, reason="needs at least one of key-file, password-file, agent and via")
        if row.passphrase_file is not None and row.key_file is None:
            self._refuse("passphrase-file", "needs key-file too")
        if row.certificate_file is not None and row.key_file is None and row.agent is None:
            self._refuse("certificate-file", "needs key-file or agent too")
        return row

    def _refuse(self, key: str, reason: str) -> NoReturn:
        name = key if key in KEYS else values.shown(key, "a key")
        raise ConfigError(option=f"{name} of {self._row}", reason=reason)

    def _patterns(self, key: str, example: str, check: Callable[[str], None]) -> tuple[str, ...]:
        found = self._table[key]
        if not isinstance(found, list) or not found or not all(_is_text(each) for each in found):
            self._refuse(key, f"expected a list of texts, such as {example}")
        patterns = tuple(each.strip() for each in found)
        for pattern in patterns:
            try:
                check(pattern.removeprefix("!"))
            except ValueError as error:
                self._refuse(key, f"expected {error.args[0]}, not {values.shown(pattern)}")
        if all(pattern.startswith("!") for pattern in patterns):
            self._refuse(key, 'expected at least one pattern without !, such as "*"; otherwise nothing matches')
        return patterns

    def _hosts(self) -> tuple[str, ...]:
        if "hosts" not in self._table:
            self._refuse("hosts", f"missing; give a list of names, patterns and networks, such as {_HOSTS}")
        return self._patterns("hosts", _HOSTS, check_host_pattern)

    def _file(self, key: str) -> str | None:
        if key not in self._table:
            return None
        text = self._table[key]
        if not _is_text(text):
            self._refuse(key, "expected the path of a file")
        path = self._path(key, text)
        if self._paths.is_unseen(path):
            return path
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            self._refuse(key, f"expected the path of a file; {self._missing(key, path)}")
        if not stat.S_ISREG(status.st_mode):
            self._refuse(key, "expected the path of a regular file")
        if not os.access(path, os.R_OK):
            self._refuse(key, f"this user cannot read the file; {_PASS_ON}")
        if key in _SECRET_FILES and is_open_to_others(status):
            self._refuse(key, "other users can read the file: chmod 600 it")
        return path

    def _missing(self, key: str, path: str) -> str:
        if origin := self._paths.origin(path):
            return f"there is none; {origin}"
        if path.startswith(_HOMES):
            return f"there is none that this process sees (ProtectHome= of a unit hides it); {_PASS_ON}"
        return (
            f"there is none (paths are relative to {self._directory})"
            if key in _SECRET_FILES
            else f"there is none at {path}"
        )

    def _agent(self) -> str | None:
        agent = self._table.get("agent", False)
        if agent is True:
            path = self._environ.get("SSH_AUTH_SOCK")
            if not path:
                self._refuse("agent", "is true, but SSH_AUTH_SOCK is not set; give the path of the socket instead")
            return os.path.abspath(path)
        if agent is False:
            return None
        if not _is_text(agent):
            self._refuse("agent", "expected true (for $SSH_AUTH_SOCK), or the path of an agent's socket")
        return self._path("agent", agent)

    def _path(self, key: str, text: str) -> str:
        try:
            return self._paths.resolve(text, self._directory)
        except ValueError as error:
            self._refuse(key, str(error))

    def _via(self) -> str | None:
        if "via" not in self._table:
            return None
        text = self._table["via"]
        try:
            hops = parse_via(text) if _is_text(text) else ()
        except ValueError:
            hops = ()
        if not hops:
            self._refuse("via", "expected jump hosts, the nearest first, like jump@bastion:2222,second")
        if len(hops) > fields.MAX_HOPS:
            self._refuse("via", f"expected at most {fields.MAX_HOPS} jump hosts")
        return ",".join(part.strip() for part in text.split(","))


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip()) and value.isprintable()
