"""
``relayctl hosts``: what the settings come to for one host and user, and which table or option says so.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import asdict

from relayd.config.host_tables import HOSTS, SETTINGS
from relayd.config.options import BY_NAME, Config
from relayd.config.reading import Reading, read
from relayd.config.tables import heading
from relayd.config.values import spell_duration
from relayd.ctl.settings import Place, add_options, find_place
from relayd.errors import ConfigError
from relayd.network.host_rules import Become, HostTable
from relayd.network.patterns import covers_host, means_addresses, split_port
from relayd.network.spelling import canonical_host, read_address, read_destination

#: What applies where neither a table nor an option says anything.
_OTHERWISE: Final[dict[str, Any]] = {
    "commands-per-connection": None,
    "no-exit-status": None,
    "shell": None,
    "family": "generic",
    "pty": False,
    "become": None,
    "credential": None,
    "via": None,
}
#: What means nothing, by the shell of a host; "" is for any other.
_UNUSED: Final[dict[str, frozenset[str]]] = {
    "device": frozenset({"max-sessions", "working-directory", "no-exit-status", "pty"}),
    "none": frozenset({"working-directory", "family"}),
    "": frozenset({"family"}),
}
#: What applies in place of an option, by the shell of a host: the option is for others.
_INSTEAD: Final[dict[str, dict[str, Any]]] = {
    "device": {"max-connections": 1},
    "cmd": {"working-directory": ""},
    "powershell": {"working-directory": ""},
}
#: The words for that.
_WORDS: Final = {
    "commands-per-connection": "no limit",
    "no-exit-status": "an error",
    "shell": "found out",
    "become": "no",
    "credential": "that of the command",
    "via": "directly",
}


class Setting(Struct, frozen=True, kw_only=True):
    """
    One setting of a host.

    :ivar value: the setting, as JSON has it.
    :ivar source: ``table``, ``option`` or ``default``; ``shell``: with the shell of the host it means nothing.
    :ivar where: the words by which an operator finds it; empty for a default.
    :ivar table: the number of the table, from 1.
    :ivar table_name: the name of the table, if it has one.
    """

    value: Any
    source: str
    where: str = ""
    table: int | None = None
    table_name: str = ""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add its own subcommands."""
    below = parser.add_subparsers(title="subcommands", metavar="SUBCOMMAND", required=True)
    text = "show each setting of a host, and where it comes from"
    explain = below.add_parser("explain", help=text, description=text, allow_abbrev=False)
    explain.add_argument("destination", metavar="[USER@]HOST[:PORT]", help="host, as commands name it")
    explain.add_argument("--user", help="user who logs in there")
    explain.add_argument("--json", action="store_true", help="print JSON")
    add_options(explain)


def run(arguments: argparse.Namespace) -> int:
    """
    Show what applies.

    :raises ConfigError: when the settings or the destination have a mistake.
    """
    place = find_place(arguments.unit, {"config": arguments.config, "state-dir": arguments.state_dir})
    reading = read(place.options, os.environ, complete=False, directory=place.directory, elsewhere=place.elsewhere)
    if reading.config is None or reading.mistakes:
        raise reading.mistakes[0]
    host, port, user = _destination(arguments)
    found = dict(explain(reading, reading.config, host, port, user or ""))
    notes = [*([place.note] if place.note else ()), *_notes(reading.config, host, port, user)]
    show = _show_json if arguments.json else _show_text
    show(found, notes, {"host": host, "port": port, "user": user}, _names(place))
    return 0


def _destination(arguments: argparse.Namespace) -> tuple[str, int, str | None]:
    try:
        destination = read_destination(arguments.destination)
    except ValueError:
        reason = "expected a host as commands name it, like db-1.internal, 10.1.2.3:2222 or [fd00::1]:22"
        raise ConfigError(option="hosts explain", reason=reason) from None
    return canonical_host(destination.host), destination.port, arguments.user or destination.username


def _names(place: Place) -> Mapping[str, str]:
    """Files as the relay names them, and not as those that systemd makes credentials from."""
    return {source: credential for credential, source in place.elsewhere.sources.items()}


def explain(reading: Reading, config: Config, host: str, port: int, user: str) -> Iterator[tuple[str, Setting]]:
    """
    Every setting of one host and user, by its name.

    :param host: in its canonical spelling.
    """
    found = dict(_said(reading, config, host, port, user))
    shell = found["shell"]
    kind = shell.value or ""
    for name, each in found.items():
        if name in _UNUSED.get(kind, _UNUSED[""]) and (shell.where or each.where):
            where = f"shell of {shell.where}" if shell.where else ""
            yield name, Setting(value=None, source="shell", where=where)
        elif each.source != "table" and name in _INSTEAD.get(kind, ()):
            yield name, Setting(value=_INSTEAD[kind][name], source="default")
        else:
            yield name, each
    yield from _login(config, host, port, user)


def _said(reading: Reading, config: Config, host: str, port: int, user: str) -> Iterator[tuple[str, Setting]]:
    """What tables and options say."""
    decided = HostTable(config.hosts).deciding(host, port, user)
    for name in SETTINGS:
        attribute = name.replace("-", "_")
        if attribute in decided:
            number = decided[attribute]
            rule = config.hosts[number]
            value = getattr(rule.settings, attribute)
            yield (
                name,
                _of_table(config, HOSTS, number + 1, asdict(value) if isinstance(value, Become) else value, rule.name),
            )
        elif name in BY_NAME:
            value = getattr(config, attribute)
            given = reading.given.get(name)
            yield (
                name,
                Setting(
                    value=value,
                    source="default" if given is None else "option",
                    where="" if given is None else given.where,
                ),
            )
        else:
            yield name, _otherwise(reading, config, name, host, port)


def _otherwise(reading: Reading, config: Config, name: str, host: str, port: int) -> Setting:
    patterns = config.no_exit_status_hosts or ()
    if name == "no-exit-status" and covers_host(patterns, host, port):
        return Setting(value=0, source="option", where=reading.given["no-exit-status-hosts"].where)
    return Setting(value=_OTHERWISE[name], source="default")


def _login(config: Config, host: str, port: int, user: str) -> Iterator[tuple[str, Setting]]:
    """The credential and the way, which two kinds of tables may say."""
    from relayd.settings import credentials_of  # here, since it takes half a second

    covering = [login for login in config.logins if login[2].covers(host, port, user)]
    for name in ("credential", "via"):
        kind, number, rule = next((login for login in covering if name in login[2].says), ("", 0, None))
        if rule is None:
            yield name, Setting(value=_OTHERWISE[name], source="default")
            continue
        value: Any
        if name == "via":  # a rule for a network often covers its jump host, too
            value = ",".join(map(str, credentials_of(config).hops(host, port, user))) or None
        else:
            parts = asdict(rule)
            value = {
                key.replace("_", "-"): parts[key]
                for key in parts
                if parts[key] and key not in ("hosts", "users", "via")
            }
        yield name, _of_table(config, kind, number, value, config.hosts[number - 1].name if kind == HOSTS else "")


def _of_table(config: Config, kind: str, number: int, value: Any, name: str) -> Setting:
    where = f"{heading(kind)} number {number}" + (f' "{name}"' if name else "") + f" in {config.config}"
    return Setting(value=value, source="table", where=where, table=number, table_name=name)


def _notes(config: Config, host: str, port: int, user: str | None) -> Iterator[str]:
    """What people might not expect."""
    tables = [
        *((f"[[hosts]] number {number}", each.hosts, each.users) for number, each in enumerate(config.hosts, 1)),
        *((f"[[credentials]] number {number}", each.hosts, each.users)
          for number, each in enumerate(config.credentials, 1)),
    ]  # fmt: skip
    if user is None:
        some = [name for name, hosts, users in tables if users != ("*",) and covers_host(hosts, host, port)]
        if some:
            yield f"{', '.join(some)}: for some users only; --user shows what applies to one"
    if read_address(host) is None:
        some = [name for name, hosts, _ in tables if any(map(_is_for_addresses, hosts))]
        if some:
            yield f"{', '.join(some)}: for addresses; a command's host is not looked up before its tables are found"


def _is_for_addresses(pattern: str) -> bool:
    pattern = pattern.removeprefix("!")
    return means_addresses(pattern) and split_port(pattern)[0] != "*"


def _show_json(
    found: Mapping[str, Setting], notes: list[str], subject: Mapping[str, Any], names: Mapping[str, str]
) -> None:
    settings = {
        name: {
            "value": _named(each.value, names),
            "source": each.source,
            "where": each.where or None,
            "table": each.table,
            "tableName": each.table_name or None,
        }
        for name, each in found.items()
    }
    json.dump({**subject, "settings": settings, "notes": notes}, sys.stdout, ensure_ascii=False, indent=2)
    print()


def _show_text(
    found: Mapping[str, Setting], notes: list[str], subject: Mapping[str, Any], names: Mapping[str, str]
) -> None:
    for note in notes:
        print(f"# {note}")
    print(f"{'SETTING':<24}  {'VALUE':<24}  FROM")
    for name, each in found.items():
        value = "not used" if each.source == "shell" else _words(name, _named(each.value, names))
        print(f"{name:<24}  {value:<24}  {each.where or each.source}")


def _named(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key.replace("_", "-"): _named(each, names) for key, each in value.items()}
    return names.get(value, value) if isinstance(value, str) else value


def _words(name: str, value: Any) -> str:
    if value is None:
        return _WORDS[name]
    if isinstance(value, dict):
        return ", ".join(f"{key} {each}" for key, each in value.items() if each)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return spell_duration(value)
    return str(value) or '""'
