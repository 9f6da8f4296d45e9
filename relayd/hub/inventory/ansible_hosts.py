"""
What the hub takes of an inventory of Ansible: how to reach each host, and its groups as labels.  Of what it does not
take, above all secrets, it says so, and never what they are.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Mapping
from typing import Any, Final

from relayd.hub.inventory.ansible_groups import Groups, Member, Variable
from relayd.hub.inventory.checks import HostMistake, checked_labels
from relayd.hub.inventory.csv_text import read_labels
from relayd.hub.inventory.plans import Collector
from relayd.hub.inventory.yaml_text import Raw, Tagged
from relayd.language.texts import Text, printable
from relayd.network.credential_rules import parse_via

#: Variables of a host's fields; of several that are set, Ansible's ssh uses the last one.
_FIELDS: Final = {
    "address": ("ansible_host", "ansible_ssh_host"),
    "port": ("ansible_port", "ansible_ssh_port"),
    "user": ("ansible_user", "ansible_ssh_user"),
    "relays": ("relayd_relays",),
    "via": ("relayd_via",),
    "hostKey": ("relayd_host_key",),
    "credential": ("relayd_credential",),
}
_PASSWORDS: Final = ("ansible_password", "ansible_ssh_pass", "ansible_ssh_password")
_KEY_FILES: Final = ("ansible_private_key_file", "ansible_ssh_private_key_file")
_KEYS: Final = (
    "ansible_private_key", "ansible_ssh_private_key",
    "ansible_private_key_passphrase", "ansible_ssh_private_key_passphrase",
)  # fmt: skip
_BECOME: Final = re.compile(r"ansible_(?:\w+_)?(?:become|sudo|su|enable)_pass(?:word)?|ansible_(?:sudo|su)_pass")
_ARGUMENTS: Final = ("ansible_ssh_args", "ansible_ssh_common_args", "ansible_ssh_extra_args")
_CONNECTIONS: Final = ("ssh", "paramiko", "paramiko_ssh", "smart", "libssh", "network_cli", "netconf")
#: A variable alone in a template; anything more is not evaluated.
_TEMPLATE: Final = re.compile(r"\{\{\s*([A-Za-z_]\w*)\s*\}\}")
_MAX_STEPS: Final = 8


def collect(groups: Groups, collector: Collector) -> None:
    """Add the hosts of an inventory."""
    for name in sorted(groups.hosts.keys() & groups.groups.keys()):
        collector.warn(groups.hosts[name].line, Text("{name} is the name of a host and of a group", name=name), name)
    for host in groups.hosts.values():
        names, variables = groups.joined(host)
        _Reader(host, names, variables, collector, groups).read()


class _Reader:
    """
    Reads one host.

    :param names: those of all groups that it is in.
    :param variables: its own, with those of its groups.
    """

    def __init__(
        self,
        host: Member,
        names: tuple[str, ...],
        variables: Mapping[str, Variable],
        collector: Collector,
        groups: Groups,
    ) -> None:
        self._host = host
        self._names = names
        self._groups = groups
        self._variables = variables
        self._collector = collector
        self._lines = {"name": host.line}

    def read(self) -> None:
        if not self._is_of_ssh():
            return
        given: dict[str, Any] = {"name": self._host.name, "address": self._host.name}
        for field, names in _FIELDS.items():
            variable = self._last(names)
            if variable is not None:
                self._lines[field] = variable.line
                value = self._plain(variable)
                if value is None:
                    return
                given[field] = value if field == "port" or isinstance(value, (list, tuple)) else str(value)
        if "relays" in given:
            given["relays"] = _names(given["relays"])
        via = self._jump_hosts()
        if via and "via" not in given:
            given["via"] = via
        labels = self._labels()
        if labels is None:
            return
        given["labels"] = labels
        self._say_what_is_left_out()
        self._collector.add(given, self._host.line, lambda field: self._lines.get(field, self._host.line))

    def _is_of_ssh(self) -> bool:
        variable = self._variables.get("ansible_connection")
        value = None if variable is None else str(variable.value).rpartition(".")[2]
        if variable is None or value in _CONNECTIONS:
            return True
        shown = printable(str(variable.value), 60)
        text = Text(
            "{host} is left out: ansible_connection is {value}, and relays reach hosts by SSH alone",
            host=self._shown,
            value=shown,
        )
        self._collector.warn(variable.line, text, self._shown)
        return False

    def _labels(self) -> dict[str, str] | None:
        """Its groups and ``relayd_labels``; ``None``: they are not valid, which was said."""
        labels: dict[str, str] = {}
        for name in self._names:
            try:
                labels |= checked_labels({name: ""})
            except HostMistake as mistake:
                shown = printable(name, 60)
                text = Text("the group {name} does not become a label: {reason}", name=shown, reason=mistake.text)
                self._collector.warn(self._groups.groups[name].line, text)
        variable = self._variables.get("relayd_labels")
        if variable is None:
            return labels
        self._lines["labels"] = variable.line
        value = variable.value
        if isinstance(value, str):
            value = _literal(value) if value.lstrip().startswith("{") else read_labels(value)
        if not isinstance(value, dict):
            self._error(variable.line, Text("relayd_labels is neither a mapping nor of the form env=prod; web"))
            return None
        return labels | {str(key): "" if each is None else _text(each) for key, each in value.items()}

    # Its way

    def _jump_hosts(self) -> str:
        """The jump hosts in what ssh gets as arguments."""
        found = ""
        for name in _ARGUMENTS:
            variable = self._variables.get(name)
            if variable is None or variable.value in (None, ""):
                continue
            via, others = _arguments(str(variable.value))
            if via:
                self._lines["via"] = variable.line
                found = via
                text = Text("{name} has a jump host: {via} is taken as via", name=name, via=via)
            elif "proxyjump" in str(variable.value).lower():
                text = Text("{name} has a ProxyJump that is not taken: set relayd_via", name=name)
            elif others:
                text = Text(
                    "{name} is not taken: relays do not start ssh; for a ProxyCommand set relayd_via, or relayd_relays "
                    "with a relay that is nearer",
                    name=name,
                )
            else:
                continue
            self._collector.warn(variable.line, text)
        return found

    def _say_what_is_left_out(self) -> None:
        for name, variable in self._variables.items():
            if variable.value is None or variable.value == "":
                continue
            text = _left_out(name, variable.value)
            if text is not None:
                self._collector.warn(variable.line, text)

    # Values

    def _last(self, names: tuple[str, ...]) -> Variable | None:
        found = [self._variables[name] for name in names if name in self._variables]
        return next((each for each in reversed(found) if each.value is not None and each.value != ""), None)

    def _plain(self, variable: Variable) -> Any:
        """A value without templates; ``None``: it is of no use, which was said."""
        value = variable.value
        if isinstance(value, Raw):
            return str(value)
        for _ in range(_MAX_STEPS):
            if not isinstance(value, str) or "{{" not in value:
                break
            value = _TEMPLATE.sub(self._filled, value[:10_000])
            if value == variable.value:
                break
        if isinstance(value, Tagged):
            self._error(variable.line, Text("a value has the tag {tag}, which the hub cannot read", tag=value.tag))
            return None
        if isinstance(value, str) and ("{{" in value or "{%" in value):
            self._error(
                variable.line,
                Text(
                    'the hub does not evaluate the template "{value}": write what it stands for, or import what '
                    "ansible-inventory --list --yaml writes, with this value filled in",
                    value=printable(value, 100),
                ),
            )
            return None
        return value

    def _filled(self, match: re.Match[str]) -> str:
        name = match[1]
        if name == "inventory_hostname":
            return self._host.name
        if name == "inventory_hostname_short":
            return self._host.name.partition(".")[0]
        variable = self._variables.get(name)
        known = variable is not None and isinstance(variable.value, (str, int)) and name not in _PASSWORDS
        return str(variable.value)[:1000] if known and variable is not None else match[0]

    @property
    def _shown(self) -> str:
        return printable(self._host.name, 100)

    def _error(self, line: int, text: Text) -> None:
        self._collector.error(line, text, self._shown)


def _left_out(name: str, value: Any) -> Text | None:
    """What to say of a variable that is not taken; ``None``: nothing, as most are about other things than logins."""
    shown = printable(name, 60)
    if name in _PASSWORDS or name in _KEYS:
        return Text(
            "{name} is not taken: add the secret as a credential of the hub, and set relayd_credential", name=shown
        )
    if name in _KEY_FILES:
        return Text(
            "{name} is not taken: the hub reads no files of other machines; add the key as a credential of the hub, "
            "and set relayd_credential",
            name=shown,
        )
    if _BECOME.fullmatch(name):
        return Text("{name} is not taken: runs bring the password of become, or the site has it", name=shown)
    if isinstance(value, Tagged) and "vault" in value.tag:
        return Text("{name} is encrypted with Ansible Vault, and is not taken", name=shown)
    return None


def _names(value: Any) -> list[Any]:
    """A list of names, also written as ``paris-1, paris-2`` or as a literal."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = _literal(value)
    if isinstance(value, str):
        return [name for each in re.split("[,;]", value) if (name := each.strip())]
    return [_text(each) for each in value] if isinstance(value, (list, tuple)) else [_text(value)]


def _text(value: Any) -> Any:
    """Numbers and truth values as a text, as they are written without quotes."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, (int, float)) else value


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text.strip()[:10_000])
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None


def _arguments(text: str) -> tuple[str, bool]:
    """
    The jump hosts in arguments of ssh, and whether there is anything else that leads a connection elsewhere.

    Only a whole ``ProxyJump`` or ``-J`` of the form that the hub takes is one.
    """
    try:
        words = shlex.split(text)
    except ValueError:
        return "", True
    via, others = "", False
    for number, word in enumerate(words):
        following = words[number + 1] if number + 1 < len(words) else ""
        if word == "-J":
            via = following
        elif word.startswith("-J"):
            via = word[2:]
        elif word.startswith("-o"):
            name, _, value = re.sub(r"\s*[=\s]\s*", "=", (word[2:] or following).strip(), count=1).partition("=")
            if name.lower() == "proxyjump":
                via = value
            elif name.lower() == "proxycommand":
                others = True
    try:
        return (via, others) if parse_via(via) else ("", others)
    except ValueError:
        return "", True
