"""
The ``[[servers]]`` tables of the TOML file: several main servers, each with what it needs for itself alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from msgspec import Struct

from relayd.config import values
from relayd.config.sources import Given
from relayd.config.tables import Table, place

#: The kind of table.
SERVERS: Final = "servers"
_URL: Final = "url"
_FILES: Final = ("api-key-file", "tls-ca", "tls-cert", "tls-key", "http-proxy-password-file", "header-file")
_OTHERS: Final[dict[str, Callable[[str], Any]]] = {
    "dialect": values.Choice("auto", "socketio", "native"),
    "native-path": values.url_path,
    "http-proxy": values.proxy_url,
}
#: Every key of a table. All but the first are options, too, and mean the same there for the others.
KEYS: Final = (_URL, *_FILES, *_OTHERS)
#: Keys that belong together: where a table has one of them, the options of the others do not hold for it.
_TOGETHER: Final = (("tls-cert", "tls-key"), ("http-proxy", "http-proxy-password-file"))


class ServerRule(Struct, frozen=True, kw_only=True):
    """
    What one table says; ``None``: the option of that name says it.

    :ivar url: of the main server.
    """

    url: str
    api_key_file: str | None = None
    dialect: str | None = None
    native_path: str | None = None
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    http_proxy: str | None = None
    http_proxy_password_file: str | None = None
    header_file: str | None = None

    def __repr__(self) -> str:  # both URLs may hold a secret
        return f"<ServerRule {values.without_query(self.url)}>"

    @property
    def fixed(self) -> tuple[str | None, ...]:
        """What takes effect after a restart only."""
        return self.url, self.dialect, self.native_path

    def instead(self) -> dict[str, Any]:
        """What holds for this main server in the place of the options, by their names in Python."""
        said = {name: getattr(self, name) for name in map(_attribute, (*_FILES, *_OTHERS))}
        found = {name: value for name, value in said.items() if value is not None}
        for group in _TOGETHER:
            names = [_attribute(each) for each in group]
            if any(name in found for name in names):
                found |= {name: said[name] for name in names}
        return found


def read_server(table: Table) -> ServerRule:
    """
    The rule of one ``[[servers]]`` table.

    :raises ConfigError: for the first mistake.
    """
    table.check_keys(KEYS)
    if _URL not in table.content:
        table.refuse(_URL, "missing; give the URL of a main server, such as wss://main.example.com")
    # No value is quoted: URLs, and what stands in the place of a path, may hold secrets.
    said = {
        _attribute(key): table.path(key, table.value(key, values.text, secret=True))
        for key in _FILES
        if key in table.content
    }
    said |= {
        _attribute(key): table.value(key, parse, secret=True) for key, parse in _OTHERS.items() if key in table.content
    }
    return ServerRule(url=table.value(_URL, values.server_url, secret=True), **said)


def given_in(number: int, rule: ServerRule, path: str) -> Iterator[tuple[str, Given]]:
    """
    The settings of a table as if they were set as options, to name their place in messages.

    :param number: of the table, from 1.
    :param path: of the file.
    """
    where = place(SERVERS, number, path)
    for key in KEYS:
        value = getattr(rule, _attribute(key))
        if value is not None:
            yield "server" if key == _URL else key, Given(value, f"{key} of {where}", "/")


def _attribute(key: str) -> str:
    return key.replace("-", "_")
