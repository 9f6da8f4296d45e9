"""
``relayctl config``: the settings in effect, and where each one comes from.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from msgspec import Struct
from msgspec.structs import asdict

from relayd.config.credentials import CREDENTIALS
from relayd.config.host_tables import HOSTS, table_of_host
from relayd.config.option import Option, OptionTable
from relayd.config.options import RELAY_TABLE, Config
from relayd.config.server_tables import SERVERS
from relayd.config.sources import Given
from relayd.config.tables import heading
from relayd.config.values import server_urls, spell_duration
from relayd.ctl.settings import add_all_options, read_all
from relayd.hub.config.values import password_in, without_password
from relayd.network.host_rules import HostRule
from relayd.process.journald import is_journal, with_priority

#: Options of which a value may hold a password: whether it does.
_WITH_PASSWORDS: Final[Mapping[str, Callable[[Any], bool]]] = {
    "http-proxy": lambda config: "@" in config.http_proxy and config.http_proxy_password_file is None,
    "database": lambda config: password_in(config.database),
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--toml", action="store_true", help="print what is set as a TOML file for --config")
    how.add_argument("--quiet", action="store_true", help="print nothing but mistakes")
    add_all_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Show the settings; 1 when there are mistakes, which are shown too."""
    reading, place = read_all(arguments)
    mistakes = "".join(f"relayctl: {mistake}\n" for mistake in reading.mistakes)
    sys.stderr.write(with_priority(mistakes, "error") if is_journal(sys.stderr, os.environ) else mistakes)
    if reading.config is None:
        return 1
    if place.note and not arguments.quiet:
        print(f"# {place.note}")
    if arguments.quiet:
        return 1 if reading.mistakes else 0
    # As the relay names them, and not as the files that systemd makes credentials from.
    names = {source: credential for credential, source in place.elsewhere.sources.items()}
    show = _toml if arguments.toml else _table
    print("\n".join(show(reading.config, reading.given, names)))
    return 1 if reading.mistakes else 0


def _table(config: Config, given: Mapping[str, Given], names: Mapping[str, str]) -> Iterator[str]:
    yield from option_rows(RELAY_TABLE, config, given, names)
    for kind, rows in _tables(config):
        for number, row in enumerate(rows, 1):
            keys = ", ".join(f"{key} = {value}" for key, value in _keys_of(row, names))
            yield f"{heading(kind)} {number}: {keys}"


def option_rows(
    table: OptionTable, config: object, given: Mapping[str, Given], names: Mapping[str, str]
) -> Iterator[str]:
    """
    The options of a program, one a line.

    :param names: by path, what stands for it.
    """
    yield f"{'OPTION':<22}  {'VALUE':<32}  FROM"
    for option in table.options:
        value = _shown(option, getattr(config, option.attribute), names)
        where = given[option.name].where if option.name in given else "default"
        yield f"{option.name:<22}  {value:<32}  {'command line' if where == option.flag_name else where}"


def _shown(option: Option, value: Any, names: Mapping[str, str]) -> str:
    if value is None:
        return "not set"
    if option.is_path and value in names:
        return names[value]
    if option.name == "http-proxy":
        return _without_user(value)
    if option.name == "database":
        return without_password(value)
    if option.hidden and not os.path.exists(value):
        return "not shown: there is no such file"
    return option.spell(value) or '""'


def _without_user(url: str) -> str:
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    return f"http://{place}" + (" (user and password not shown)" if "@" in parts.netloc else "")


def _toml(config: Config, given: Mapping[str, Given], names: Mapping[str, str]) -> Iterator[str]:
    yield from option_toml(RELAY_TABLE, config, given, names)
    for kind, rows in _tables(config):
        for row in rows:
            yield f"\n{heading(kind)}"
            yield from (f"{key} = {value}" for key, value in _keys_of(row, names))


def option_toml(table: OptionTable, config: Any, given: Mapping[str, Given], names: Mapping[str, str]) -> Iterator[str]:
    """The options of a program that are set, as lines of a TOML file."""
    for option in table.options:
        if option.name not in given or option.name == "config":
            continue
        value = getattr(config, option.attribute)
        if option.name in _WITH_PASSWORDS and _WITH_PASSWORDS[option.name](config):
            yield f"# {option.name}: has a password, which is not shown here"
        elif option.is_path and value in names:
            yield f"{option.name} = {_text(names[value])}"
        elif option.hidden and option.is_path and not os.path.exists(value):
            yield f"# {option.name}: there is no such file"
        else:
            yield f"{option.name} = {toml_literal(option, value)}"


def _tables(config: Config) -> Iterator[tuple[str, Sequence[Struct]]]:
    yield HOSTS, config.hosts
    yield CREDENTIALS, config.credentials
    yield SERVERS, config.servers


def toml_literal(option: Option, value: Any) -> str:
    """A value as it stands in a TOML file."""
    if isinstance(value, bool) or (isinstance(value, int) and option.metavar == "N"):
        return str(value).lower()
    if option.parse is server_urls and len(value) == 1:  # as nearly all have it
        return _text(value[0])
    return _array(value) if isinstance(value, tuple) else _text(option.spell(value))


def _keys_of(row: Struct, names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    keys = table_of_host(row) if isinstance(row, HostRule) else asdict(row)
    for key, value in keys.items():
        if key == "http_proxy" and "@" in (value or ""):
            yield "# http-proxy", "has a user, which is not shown here"
        elif value is not None:
            yield key.replace("_", "-"), _literal(value, names)


def _literal(value: Any, names: Mapping[str, str]) -> str:
    if isinstance(value, tuple):
        return _array(value)
    if isinstance(value, float):
        return _text(spell_duration(value))
    return _text(names.get(value, value)) if isinstance(value, str) else str(value).lower()


def _array(values: tuple[str, ...]) -> str:
    return f"[{', '.join(map(_text, values))}]"


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)  # the same as a basic string of TOML, for printable text
