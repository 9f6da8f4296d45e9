"""
Ansible's inventories in YAML, read as Ansible reads them, and written so that Ansible and the hub can read them.

Source: the documentation of Ansible's inventory plugin ``yaml``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import yaml

from relayd.hub.inventory.ansible_groups import ALL, BadPattern, Circle, Group, Groups, Variable, expand
from relayd.hub.inventory.plans import MAX_HOSTS, Collector
from relayd.hub.inventory.yaml_text import BadYAML, Lines, read_yaml
from relayd.hub.store.host_records import Host
from relayd.language.texts import Text, printable

#: Groups that are looked at: one that an alias names in many places is looked at in each of them.
MAX_VISITS: Final = 50_000
_KEYS: Final = ("vars", "children", "hosts")


class YamlReader:
    """
    Reads the groups of a text.

    :param collector: gets what is wrong with it.
    """

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self.groups = Groups()
        self._visits = 0

    def read(self, text: str) -> Groups:
        """The groups and hosts of the text, as far as it can be read."""
        try:
            root = read_yaml(text)
        except BadYAML as fault:
            self._collector.error(fault.line, fault.text)
            return self.groups
        if not isinstance(root, Lines):
            self._collector.error(1, Text("is not an inventory: at its top there have to be groups, such as all:"))
        elif root.get("plugin"):
            line = root.lines.get("plugin", 1)
            self._collector.error(
                line,
                Text("is the configuration of a plugin; import what ansible-inventory --list --yaml writes"),
            )
        else:
            self._twice(root)
            for name, content in root.items():
                self._read_group(name, content, root.lines.get(name, 1))
        return self.groups

    def _read_group(self, name: Any, content: Any, line: int) -> str | None:
        """
        Read a group with those below it.

        :return: its name; ``None``: it is not one.
        """
        self._visits += 1
        if self._visits > MAX_VISITS:
            if self._visits == MAX_VISITS + 1:
                self._collector.error(line, Text("there are more than {most} groups", most=MAX_VISITS))
            return None
        if not isinstance(name, str) or not name:
            shown = printable(str(name), 60)
            self._collector.error(
                line, Text('the name of a group is not a text: "{name}"; put it in quotes', name=shown)
            )
            return None
        if content is not None and not isinstance(content, Lines):
            self._collector.warn(line, Text("{name} is left out: it is not a group", name=printable(name, 60)))
            return None
        group = self.groups.group(name, line)
        if content is not None:
            self._twice(content)
            for key, part in content.items():
                self._read_part(group, key, part, content.lines.get(key, line))
        return name

    def _read_part(self, group: Group, key: Any, part: Any, line: int) -> None:
        if isinstance(part, str) and key in _KEYS:
            entry = Lines()
            entry.put(part, None, line)
            part = entry
        if part is None:
            return
        if not isinstance(part, Lines) or key not in _KEYS:
            shown = printable(str(key), 60)
            if key in _KEYS:
                self._collector.error(
                    line, Text("{key} of the group {name} has to be a mapping", key=key, name=group.name)
                )
            else:
                self._collector.warn(
                    line,
                    Text(
                        "{key} of the group {name} is left out; a group has hosts, children and vars",
                        key=shown,
                        name=group.name,
                    ),
                )
            return
        self._twice(part)
        for name, content in part.items():
            at = part.lines.get(name, line)
            if key == "vars":
                self._set(group, name, content, at)
            elif key == "children":
                child = self._read_group(name, content, at)
                if child is not None:
                    self._add_child(group.name, child, at)
            else:
                self._read_host(group, name, content, at)

    def _read_host(self, group: Group, pattern: Any, content: Any, line: int) -> None:
        if not isinstance(pattern, str) or not pattern:
            shown = printable(str(pattern), 60)
            self._collector.error(
                line, Text('the name of a host is not a text: "{name}"; put it in quotes', name=shown)
            )
            return
        if content and not isinstance(content, Lines):
            shown = printable(pattern, 60)
            self._collector.error(
                line, Text("below the host {name} there has to be a mapping of variables", name=shown)
            )
            return
        try:
            names, port = expand(pattern)
        except BadPattern as fault:
            self._collector.error(line, fault.text)
            return
        if len(self.groups.hosts) + len(names) > 2 * MAX_HOSTS:
            self._collector.error(line, Text("there are more than {most} hosts", most=MAX_HOSTS))
            return
        variables: dict[str, Variable] = {}
        if isinstance(content, Lines):
            self._twice(content)
            variables = {str(key): Variable(value, content.lines[key]) for key, value in content.items()}
        for name in names:
            self.groups.host(name, group.name, port, line).variables.update(variables)

    def _set(self, group: Group, name: Any, value: Any, line: int) -> None:
        try:
            self.groups.assign(group, str(name), Variable(value, line))
        except (TypeError, ValueError):
            self._collector.error(line, Text("{name} is not a number", name=str(name)))

    def _add_child(self, parent: str, child: str, line: int) -> None:
        try:
            self.groups.add_child(parent, child)
        except Circle as fault:
            self._collector.error(line, fault.text)

    def _twice(self, part: Lines) -> None:
        for key, line in part.twice:
            shown = printable(str(key), 60)
            self._collector.warn(
                line, Text("{key} is here for the second time; as with Ansible, the last one wins", key=shown)
            )


def write_ansible_yaml(hosts: Iterable[Host]) -> str:
    """
    Hosts as an inventory of Ansible: labels without a value are groups, and what Ansible has no word for stands in
    variables that begin with ``relayd_``.  `relayd.hub.inventory.texts.read_inventory` reads it back.
    """
    written: dict[str, Any] = {}
    groups: dict[str, dict[str, Any]] = {}
    for host in hosts:
        written[host.name] = _variables(host) or None
        for key, value in host.labels.items():
            if not value and _is_group(key):
                groups.setdefault(key, {"hosts": {}})["hosts"][host.name] = None
    root: dict[str, Any] = {"hosts": written}
    if groups:
        root["children"] = groups
    options: dict[str, Any] = {"sort_keys": False, "allow_unicode": True, "default_flow_style": False, "width": 1000}
    written_text: str = yaml.dump({ALL: root}, Dumper=_Dumper, **options)
    return written_text


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Writes a text that looks like a template so that Ansible does not take it for one."""

    def represent_text(self, text: str) -> Any:
        if "{{" in text or "{%" in text:
            return self.represent_scalar("!unsafe", text)
        return self.represent_scalar("tag:yaml.org,2002:str", text)


_Dumper.add_representer(str, _Dumper.represent_text)


def _variables(host: Host) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if host.address != host.name:
        values["ansible_host"] = host.address
    values["ansible_port"] = host.port
    if host.user:
        values["ansible_user"] = host.user
    labels = {key: value for key, value in host.labels.items() if value or not _is_group(key)}
    more: dict[str, Any] = {
        "relayd_relays": list(host.relays),
        "relayd_labels": labels,
        "relayd_via": host.via,
        "relayd_host_key": host.host_key,
        "relayd_credential": host.credential,
    }
    return values | {name: value for name, value in more.items() if value}


def _is_group(key: str) -> bool:
    """Whether Ansible's groups may have that name; it only warns of others."""
    return key not in (ALL, "ungrouped")
