"""
Ansible's inventories in the INI format, read as Ansible reads them.

Source: the documentation of Ansible's inventory plugin ``ini``.
"""

from __future__ import annotations

import ast
import re
import shlex
import warnings
from typing import Any, Final

from msgspec import Struct, field

from relayd.hub.inventory.ansible_groups import BadPattern, Circle, Groups, Variable, expand
from relayd.hub.inventory.plans import MAX_HOSTS, Collector
from relayd.language.texts import Text, printable

#: Characters of the longest line.
MAX_LINE: Final = 64 * 1024
_SECTION: Final = re.compile(r"\[([^:\]\s]+)(?::(\w+))?\]\s*(?:#.*)?")
_GROUP: Final = re.compile(r"([^:\]\s]+)\s*(?:#.*)?")


class _Promised(Struct):
    """A group that is used before its own section: where it was first, as what, and below which groups."""

    line: int
    kind: str
    parents: list[str] = field(default_factory=list)


class IniReader:
    """
    Reads a text line by line.

    :param collector: gets what is wrong with it.
    """

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self.groups = Groups()
        self._group = self.groups.groups["ungrouped"]
        self._kind = "hosts"
        self._promised: dict[str, _Promised] = {}
        self._line = 0

    def read(self, text: str) -> Groups:
        """The groups and hosts of the text, as far as it can be read."""
        for self._line, line in enumerate(text.removeprefix("\ufeff").splitlines(), start=1):
            line = line.strip()  # noqa: PLW2901
            if len(line) > MAX_LINE:
                self._error(Text("is longer than {most} characters", most=MAX_LINE))
            elif line and line[0] not in "#;":
                self._read_line(line)
        for name, promised in self._promised.items():
            self._line = promised.line
            if promised.kind == "vars":
                self._error(Text("[{name}:vars] is for a group that no section names", name=printable(name, 60)))
            else:
                self._error(Text("no section names the group {name}", name=printable(name, 60)))
        return self.groups

    def _read_line(self, line: str) -> None:
        section = _SECTION.fullmatch(line)
        if section is not None:
            self._begin(section[1], section[2] or "hosts")
        elif line.startswith("[") and line.endswith("]") and ":" not in line[: line.find("]")]:
            self._error(Text("is not a section: [group], [group:vars] or [group:children], without blanks"))
        elif line == "---":
            self._error(Text("is how YAML begins: import it as an Ansible inventory in YAML"))
        elif self._kind == "hosts":
            self._read_host(line)
        elif self._kind == "vars":
            self._read_variable(line)
        elif self._kind == "children":
            self._read_child(line)

    def _begin(self, name: str, kind: str) -> None:
        if kind not in ("hosts", "vars", "children"):
            self._error(Text("[{name}:{kind}] is neither :vars nor :children", name=printable(name, 60), kind=kind))
            self._kind = "unknown"
            return
        if name not in self.groups.groups and kind == "vars" and name not in self._promised:
            self._promised[name] = _Promised(self._line, "vars")
        self._group = self.groups.group(name, self._line)
        self._kind = kind
        promised = self._promised.get(name)
        if promised is not None and kind != "vars":
            del self._promised[name]
            for parent in promised.parents:
                self._add_child(parent, name)

    def _read_child(self, line: str) -> None:
        found = _GROUP.fullmatch(line)
        if found is None:
            self._error(Text('"{name}" is not the name of a group', name=printable(line, 60)))
        elif found[1] in self.groups.groups and found[1] not in self._promised:
            self._add_child(self._group.name, found[1])
        else:
            promised = self._promised.setdefault(found[1], _Promised(self._line, "children"))
            promised.kind = "children"
            promised.parents.append(self._group.name)

    def _add_child(self, parent: str, child: str) -> None:
        try:
            self.groups.add_child(parent, child)
        except Circle as fault:
            self._error(fault.text)

    def _read_variable(self, line: str) -> None:
        name, equals, value = (part.strip() for part in line.partition("="))
        if not equals:
            self._error(Text("name=value is expected below [{name}:vars]", name=printable(self._group.name, 60)))
            return
        try:
            self.groups.assign(self._group, name, Variable(_value(value), self._line))
        except (TypeError, ValueError):
            self._error(Text("{name} is not a number", name=name))

    def _read_host(self, line: str) -> None:
        try:
            first, *rest = shlex.split(line, comments=True)
        except ValueError:
            self._error(Text("a quotation mark or a backslash has no counterpart"))
            return
        variables = {}
        for word in rest:
            name, equals, value = word.partition("=")
            if not equals:
                # Not quoted: it may be a part of a password with a blank in it.
                self._error(Text("name=value is expected after the host; a value with a blank needs quotation marks"))
                return
            variables[name] = Variable(_value(value), self._line)
        try:
            names, port = expand(first)
        except BadPattern as fault:
            self._error(fault.text)
            return
        if first.endswith(":"):
            self._error(Text('"{name}" ends with a colon and has no port', name=printable(first, 60)))
            return
        if len(self.groups.hosts) + len(names) > 2 * MAX_HOSTS:
            self._error(Text("there are more than {most} hosts", most=MAX_HOSTS))
            return
        for name in names:
            self.groups.host(name, self._group.name, port, self._line).variables.update(variables)

    def _error(self, text: Text) -> None:
        self._collector.error(self._line, text)


def _value(text: str) -> Any:
    """A value as Python's literals are written; any other text is itself."""
    if len(text) > 10_000:
        return text
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return text
