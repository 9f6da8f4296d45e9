"""
The ``[[credentials]]`` tables of the TOML file: what this site itself can log in with, where, and through which hosts.
They hold paths and no secrets; every mistake is one `ConfigError` that names the table by its number, and the key.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Final, NoReturn
from urllib.parse import urlsplit

from msgspec import Struct

from relayd import fields, values
from relayd.errors import ConfigError

_HOST = re.compile(r"[^\s,@!/\[\]]+")
_ADDRESS_LIKE = re.compile(r"[0-9.*?]*[0-9][0-9.*?]*")
#: Files whose key may by mistake hold the secret itself: what stands there is never shown.
_SECRET_FILES: Final = ("key-file", "passphrase-file", "password-file")
_KEYS: Final = ("hosts", "users", *_SECRET_FILES, "certificate-file", "agent", "via")


class HostPattern(Struct, frozen=True):
    """
    Hosts that a row is for: a name or address, one with ``*`` and ``?``, or a network; with ``!`` before it, hosts that
    it is not for.

    :ivar text: as it was written, lower case, without the ``!``.
    """

    text: str
    negated: bool = False

    def matches(self, host: str) -> bool:
        """
        Whether *host* is one of them, as it is written: no name is looked up.

        A pattern that looks like an address matches addresses only: ``10.1.*`` is not meant for ``10.1.example.com``.
        """
        name = host.lower().rstrip(".")
        address = _address(name)
        if address is not None and (network := _network(self.text)) is not None:
            return address in network
        if address is None and _ADDRESS_LIKE.fullmatch(self.text):
            return False
        glob = re.escape(self.text).replace(r"\*", ".*").replace(r"\?", ".")
        return re.fullmatch(glob, name if address is None else str(address)) is not None


class SiteHop(Struct, frozen=True):
    """
    A jump host.

    :ivar username: ``None``: that of the command.
    """

    host: str
    port: int = 22
    username: str | None = None


class SiteCredential(Struct, frozen=True, kw_only=True):
    """
    One row of the table.  All paths are absolute.

    :ivar users: whom it is for; empty: everybody.
    :ivar key_file: of a private key; ``passphrase_file`` decrypts it, ``certificate_file`` certifies it.
    :ivar agent: the socket of an ssh-agent.
    :ivar via: jump hosts, in the order in which they are passed.
    """

    hosts: tuple[HostPattern, ...]
    users: tuple[str, ...] = ()
    key_file: str | None = None
    passphrase_file: str | None = None
    certificate_file: str | None = None
    password_file: str | None = None
    agent: str | None = None
    via: tuple[SiteHop, ...] = ()

    @property
    def has_credential(self) -> bool:
        """Whether one can log in with it; otherwise it only tells the way."""
        return self.key_file is not None or self.password_file is not None or self.agent is not None

    def covers(self, host: str, username: str) -> bool:
        """Whether this row is for that user on that host."""
        if self.users and username not in self.users:
            return False
        hits = [pattern.negated for pattern in self.hosts if pattern.matches(host)]
        return bool(hits) and not any(hits)


def read_credentials(tables: object, path: str, environ: Mapping[str, str]) -> tuple[SiteCredential, ...]:
    """
    The rows, in their order.

    :param tables: what the TOML file has under ``credentials``.
    :param path: of that file: paths are relative to its folder.
    :raises ConfigError: for the first mistake found.
    """
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ConfigError(option=f"credentials in {path}", reason="expected tables, each begun by [[credentials]]")
    return tuple(_Row(table, number, path, environ).read() for number, table in enumerate(tables, 1))


class _Row:
    """Reads one table."""

    def __init__(self, table: dict[str, Any], number: int, path: str, environ: Mapping[str, str]) -> None:
        self._table = table
        self._row = f"[[credentials]] number {number} in {path}"
        self._directory = os.path.dirname(os.path.abspath(path))
        self._environ = environ

    def read(self) -> SiteCredential:
        for key in self._table:
            if key not in _KEYS:
                meant = values.near(key, _KEYS)
                self._refuse(key, "there is no such key" + (f"; did you mean {meant}?" if meant else ""))
        row = SiteCredential(
            hosts=self._hosts(),
            users=self._texts("users", '["deploy"]') if "users" in self._table else (),
            key_file=self._file("key-file"),
            passphrase_file=self._file("passphrase-file"),
            certificate_file=self._file("certificate-file"),
            password_file=self._file("password-file"),
            agent=self._agent(),
            via=self._via(),
        )
        if not row.has_credential and not row.via:
            raise ConfigError(option=self._row, reason="expected one of key-file, password-file, agent and via")
        if row.passphrase_file is not None and row.key_file is None:
            self._refuse("passphrase-file", "needs key-file beside it")
        if row.certificate_file is not None and row.key_file is None and row.agent is None:
            self._refuse("certificate-file", "needs key-file or agent beside it")
        return row

    def _refuse(self, key: str, reason: str) -> NoReturn:
        name = key if key in _KEYS else values.shown(key)
        raise ConfigError(option=f"{name} of {self._row}", reason=reason)

    def _texts(self, key: str, example: str) -> tuple[str, ...]:
        found = self._table[key]
        if not isinstance(found, list) or not found or not all(_is_text(each) for each in found):
            self._refuse(key, f"expected a list of texts, like {example}")
        return tuple(each.strip() for each in found)

    def _hosts(self) -> tuple[HostPattern, ...]:
        example = '["db-*.internal", "10.1.0.0/16"]'
        if "hosts" not in self._table:
            self._refuse("hosts", f"missing; give a list of names, patterns and networks, like {example}")
        patterns = []
        for text in self._texts("hosts", example):
            pattern = HostPattern(text.removeprefix("!").strip().lower().rstrip("."), text.startswith("!"))
            if "/" in pattern.text:
                if _network(pattern.text) is None:
                    self._refuse("hosts", f"expected a network like 10.1.0.0/16, not {values.shown(text)}")
            elif not _HOST.fullmatch(pattern.text):
                self._refuse("hosts", f"expected a name, a pattern or a network, not {values.shown(text)}")
            patterns.append(pattern)
        if all(pattern.negated for pattern in patterns):
            self._refuse("hosts", 'expected a host without ! too, like "*": as it is, no host matches')
        return tuple(patterns)

    def _file(self, key: str) -> str | None:
        if key not in self._table:
            return None
        text = self._table[key]
        if not _is_text(text):
            self._refuse(key, "expected the path of a file")
        path = self._path(text)
        missing = (
            f"and there is none (paths are relative to {self._directory})"
            if key in _SECRET_FILES
            else f"and there is none at {path}"
        )
        try:
            mode = os.stat(path).st_mode
        except (OSError, ValueError):
            self._refuse(key, f"expected the path of a file, {missing}")
        if not stat.S_ISREG(mode):
            self._refuse(key, "expected the path of a file, and this is none")
        if not os.access(path, os.R_OK):
            self._refuse(key, "this user cannot read the file")
        if key in _SECRET_FILES and stat.S_IMODE(mode) & 0o077 and not self._is_systemds(path):
            self._refuse(key, "other users can read the file: chmod 600 it")
        return path

    def _is_systemds(self, path: str) -> bool:
        """systemd's credentials are safe whatever their mode looks like."""
        directory = self._environ.get("CREDENTIALS_DIRECTORY")
        return bool(directory) and os.path.dirname(path) == os.path.abspath(str(directory))

    def _agent(self) -> str | None:
        agent = self._table.get("agent", False)
        if agent is True:
            path = self._environ.get("SSH_AUTH_SOCK")
            if not path:
                self._refuse("agent", "is true, but SSH_AUTH_SOCK is not in the environment; name the socket instead")
            return os.path.abspath(path)
        if agent is False:
            return None
        if not _is_text(agent):
            self._refuse("agent", "expected true (for $SSH_AUTH_SOCK), or the path of an agent's socket")
        return self._path(agent)

    def _path(self, text: str) -> str:
        return os.path.abspath(os.path.join(self._directory, os.path.expanduser(text.strip())))

    def _via(self) -> tuple[SiteHop, ...]:
        if "via" not in self._table:
            return ()
        text = self._table["via"]
        hops = [_hop(part.strip()) for part in text.split(",")] if _is_text(text) else [None]
        if None in hops:
            self._refuse("via", "expected jump hosts, the nearest first, like jump@bastion:2222,second")
        if len(hops) > fields.MAX_HOPS:
            self._refuse("via", f"expected at most {fields.MAX_HOPS} jump hosts")
        return tuple(hop for hop in hops if hop is not None)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip()) and value.isprintable()


def _hop(text: str) -> SiteHop | None:
    """``[user@]host[:port]``, as ``ssh -J`` has it; ``None``: this is none."""
    user, at, place = text.rpartition("@")
    try:
        parts = urlsplit(f"//{place}")
        host = fields.host("via", parts.hostname or "")
        port = 22 if parts.port is None else parts.port
    except (ValueError, fields.Invalid):  # a port beyond 65535, half an IPv6 address, a name with blanks
        return None
    if port == 0 or parts.netloc != place or place.endswith(":") or (at and not user):
        return None
    return SiteHop(host, port, user or None)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return (address.ipv4_mapped if isinstance(address, IPv6Address) else None) or address


def _network(text: str) -> Any:
    """A network, or one address as a network of its own; ``None``: this is none."""
    try:
        network = ip_network(text)
    except ValueError:
        return None
    if isinstance(network, IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ip_network(f"{mapped}/{network.prefixlen - 96}")
    return network
