"""
Groups, hosts and variables as Ansible joins them, whichever format they come from.

Source: "How variables are merged" in Ansible's guide of inventories; `tests.peers.test_ansible` compares with
``ansible-inventory``.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from typing import Any, Final

from msgspec import Struct, field

from relayd.hub.inventory.plans import MAX_HOSTS
from relayd.language.texts import Fault, printable

ALL: Final = "all"
UNGROUPED: Final = "ungrouped"
#: The variable that puts a group before others of its depth.
PRIORITY: Final = "ansible_group_priority"

# Ansible's names and addresses, with ranges such as [01:20:2] in them.
_LABEL_RANGE: Final = r"\[(?:[a-z]:[a-z]|[0-9]+:[0-9]+)(?::[0-9]+)?\]"
_LABEL: Final = rf"(?:\w|{_LABEL_RANGE})(?:[\w-]|{_LABEL_RANGE})*(?<![_-])"
_HOSTNAME: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*", re.IGNORECASE)
_OCTET: Final = r"(?:[01]?[0-9]{1,2}|2[0-4][0-9]|25[0-5]|\[[0-9]+:[0-9]+(?::[0-9]+)?\])"
_VERSION_4: Final = re.compile(rf"(?:{_OCTET}\.){{3}}{_OCTET}")
_VERSION_6: Final = re.compile(r"(?=.*:.*:)(?:[0-9a-f:.]|\[[0-9a-f]+:[0-9a-f]+(?::[0-9]+)?\])+", re.IGNORECASE)
_BRACKETED: Final = re.compile(r"\[(.+)\]:([0-9]+)")
_WITH_PORT: Final = re.compile(r"((?:[^:\[\]]|\[[^\]]*\])*):([0-9]+)")
_RANGE: Final = re.compile(r"\[([^\[\]]*:[^\[\]]*)\]")
#: Characters of the longest pattern of hosts.
_MAX_PATTERN: Final = 1000


class BadPattern(Fault):
    """A pattern of hosts cannot be read; the argument says why."""


class Variable(Struct, frozen=True):
    """The value of a variable, and the line where it is set, from 1."""

    value: Any
    line: int


class Group(Struct):
    """
    A group.

    :ivar line: where it is named first, from 1.
    """

    name: str
    line: int
    variables: dict[str, Variable] = field(default_factory=dict)
    children: list[str] = field(default_factory=list)
    parents: list[str] = field(default_factory=list)
    priority: int = 1


class Member(Struct):
    """
    A host.

    :ivar groups: those that name it.
    :ivar line: where it is named first, from 1.
    """

    name: str
    line: int
    variables: dict[str, Variable] = field(default_factory=dict)
    groups: list[str] = field(default_factory=list)


class Circle(Fault):
    """Groups are children of each other; the argument names them."""


class Groups:
    """
    An inventory while it is read, and afterwards.

    :ivar groups: by name, in the order in which they are named.
    :ivar hosts: the same of hosts.
    """

    def __init__(self) -> None:
        self.groups: dict[str, Group] = {}
        self.hosts: dict[str, Member] = {}
        for name in (ALL, UNGROUPED):
            self.group(name, 1)
        self.add_child(ALL, UNGROUPED)
        self._depths: dict[str, int] | None = None
        self._joined: dict[tuple[str, ...], tuple[tuple[str, ...], dict[str, Variable]]] = {}

    def group(self, name: str, line: int) -> Group:
        """The group of that name, which is made if need be."""
        found = self.groups.get(name)
        if found is None:
            found = self.groups[name] = Group(name, line)
        return found

    def host(self, name: str, group: str, port: int | None, line: int) -> Member:
        """
        The host of that name, which is made if need be, as a member of a group.

        :param port: from its pattern; as with Ansible, it is used where the host is named first.
        """
        found = self.hosts.get(name)
        if found is None:
            found = self.hosts[name] = Member(name, line)
            if port:
                found.variables["ansible_port"] = Variable(port, line)
        if group not in found.groups:
            found.groups.append(group)
        return found

    def assign(self, group: Group, name: str, variable: Variable) -> None:
        """
        Set a variable of a group.

        :raises ValueError: when it is the group's priority, and no number.
        """
        if name == PRIORITY:
            group.priority = int(variable.value)
        else:
            group.variables[name] = variable

    def add_child(self, parent: str, child: str) -> None:
        """
        Make a group the child of another.

        :raises Circle: when it is among that one's parents already.
        """
        if child in self.groups[parent].children:
            return
        if parent == child or child in self._above([parent]):
            raise Circle("the group {child} is a child of {parent}, and above it, too", child=child, parent=parent)
        self.groups[parent].children.append(child)
        self.groups[child].parents.append(parent)

    def joined(self, host: Member) -> tuple[tuple[str, ...], dict[str, Variable]]:
        """
        The groups of a host with those above them, without *all* and *ungrouped*, and its variables: those of the host
        come before those of groups, and those of a child before those of its parent.
        """
        key = tuple(sorted(host.groups))
        known = self._joined.get(key)
        if known is None:
            groups = self._above(host.groups) | set(host.groups) | {ALL}
            if groups - {ALL, UNGROUPED}:
                groups.discard(UNGROUPED)  # a host that another group has, too, is taken out of it
            else:
                groups.add(UNGROUPED)
            depths = self._all_depths()
            order = sorted(groups, key=lambda name: (depths.get(name, 1), self.groups[name].priority, name))
            variables: dict[str, Variable] = {}
            for name in order:
                variables |= self.groups[name].variables
            known = self._joined[key] = tuple(name for name in order if name not in (ALL, UNGROUPED)), variables
        return known[0], known[1] | host.variables

    def _above(self, names: list[str]) -> set[str]:
        """All groups above these."""
        found: set[str] = set()
        waiting = list(names)
        while waiting:
            for parent in self.groups[waiting.pop()].parents:
                if parent not in found:
                    found.add(parent)
                    waiting.append(parent)
        return found

    def _all_depths(self) -> dict[str, int]:
        """How many steps each group is below *all*, by the longest way."""
        if self._depths is None:
            left = {name: len(group.parents) for name, group in self.groups.items()}
            depths = {name: 0 if name == ALL else 1 for name in self.groups}
            ready = [name for name, count in left.items() if not count]
            while ready:
                name = ready.pop()
                for child in self.groups[name].children:
                    depths[child] = max(depths[child], depths[name] + 1)
                    left[child] -= 1
                    if not left[child]:
                        ready.append(child)
            self._depths = depths
        return self._depths


def expand(pattern: str) -> tuple[list[str], int | None]:
    """
    The names that a pattern such as ``web[01:50].example.com:2222`` stands for, and its port.

    :raises BadPattern: when a range is not valid, or there are too many.
    """
    if len(pattern) > _MAX_PATTERN:
        raise BadPattern("is longer than {most} characters", most=_MAX_PATTERN)
    address, port = pattern, None
    for form in (_BRACKETED, _WITH_PORT):
        found = form.fullmatch(address)
        if found is not None:
            address, port = found[1], int(found[2])
    if not any(form.fullmatch(address) for form in (_HOSTNAME, _VERSION_4, _VERSION_6)):
        address, port = pattern, None  # Ansible takes it as it is
    return list(_expanded(address)), port


def _expanded(pattern: str) -> Iterator[str]:
    pieces: list[list[str]] = []
    at, count = 0, 1
    for found in _RANGE.finditer(pattern):
        values = _values(found[1], pattern)
        count *= len(values)
        if count > MAX_HOSTS:
            raise BadPattern("stands for more than {most} hosts", most=MAX_HOSTS)
        pieces += [[pattern[at : found.start()]], values]
        at = found.end()
    pieces.append([pattern[at:]])
    names = [""]
    for piece in pieces:
        names = [name + value for name in names for value in piece]
    yield from names


def _values(inside: str, pattern: str) -> list[str]:
    """What ``01:20:2`` or ``a:f`` stands for."""
    bounds = inside.split(":")
    shown = printable(pattern, 100)
    if len(bounds) not in (2, 3):
        raise BadPattern('the range in "{pattern}" is not of the form [begin:end] or [begin:end:step]', pattern=shown)
    first, last = bounds[0] or "0", bounds[1]
    try:
        step = int(bounds[2]) if len(bounds) == 3 else 1
        if len(first) > 1 and first[0] == "0" and len(first) != len(last):
            raise BadPattern(
                'the range in "{pattern}" begins with 0, so that both of its ends need the same length', pattern=shown
            )
        if first in string.ascii_letters and last in string.ascii_letters and len(first) == len(last) == 1:
            letters = string.ascii_letters
            values: Any = letters[letters.index(first) : letters.index(last) + 1 : step]
        else:
            values = range(int(first), int(last) + 1, step)
    except ValueError:
        raise BadPattern(
            'the range in "{pattern}" has an end that is neither a number nor a letter', pattern=shown
        ) from None
    if not values:
        raise BadPattern('the range in "{pattern}" ends before it begins', pattern=shown)
    if len(values) > MAX_HOSTS:
        raise BadPattern("stands for more than {most} hosts", most=MAX_HOSTS)
    width = len(first) if len(first) > 1 and first[0] == "0" else 0
    return [str(value).zfill(width) for value in values]
