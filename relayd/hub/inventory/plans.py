"""
What an import would change: the hosts that a file plans, held against those that there are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final, Literal

from msgspec import Struct
from msgspec.structs import replace

from relayd.hub.inventory.checks import ATTRIBUTES, FIELDS, HostMistake, checked_host
from relayd.hub.store.host_records import Host, StoredHost
from relayd.language.texts import Text

#: Characters of the longest text that is read, and hosts that one may plan.
MAX_TEXT: Final = 8 * 2**20
MAX_HOSTS: Final = 20_000
#: Most remarks that are kept, so that a file of another kind does not give one for each of its lines.
MAX_REMARKS: Final = 1000


class Remark(Struct, frozen=True, rename="camel"):
    """
    Something to say about a text that is imported.

    :ivar kind: an ``error`` keeps the whole text from being imported; after a ``warning`` the text is imported, and not
        all that it says is taken.
    :ivar line: from 1; ``None``: it is not about one line.
    :ivar host: the name of the host that it is about; empty: it is about several, or none.
    """

    kind: Literal["error", "warning"]
    line: int | None
    text: str
    host: str = ""


class PlannedHost(Struct, frozen=True):
    """
    A host as a text has it.

    :ivar given: the fields that the text says; the others keep what they have where the host is there already.
    :ivar line: where it stands first, from 1.
    """

    host: Host
    given: frozenset[str]
    line: int


class Parsed(Struct, frozen=True):
    """What a text says, in its order."""

    hosts: list[PlannedHost]
    remarks: list[Remark]

    @property
    def errors(self) -> list[Remark]:
        """The remarks that keep it from being imported."""
        return [remark for remark in self.remarks if remark.kind == "error"]


class Defaults(Struct, frozen=True, kw_only=True):
    """
    What new hosts get where a text does not say: most inventories name no relays.

    :ivar user: who logs in.
    :ivar relays: names of relays.
    :ivar credential: the name of a credential.
    """

    user: str = ""
    relays: tuple[str, ...] = ()
    credential: str | None = None


class FieldChange(Struct, frozen=True):
    """One field of a host that is there already."""

    field: str
    old: Any
    new: Any


class HostChange(Struct, frozen=True):
    """What changes of a host that is there already."""

    name: str
    fields: list[FieldChange]


class Plan(Struct, frozen=True):
    """
    What an import changes.

    :ivar add: hosts that are new.
    :ivar change: what changes of hosts that are there.
    :ivar unchanged: how many hosts of the text are there as it says.
    :ivar remove: names of hosts that are there and not in the text, where they are to be removed.
    """

    add: list[Host]
    change: list[HostChange]
    unchanged: int
    remove: list[str]


class Collector:
    """Gathers the hosts of a text, each once, and what is to be said about them."""

    def __init__(self, defaults: Defaults) -> None:
        self._defaults = defaults
        self._hosts: dict[str, PlannedHost] = {}
        self._remarks: dict[Remark, None] = {}

    def warn(self, line: int | None, text: Text, host: str = "") -> None:
        """Note a warning; the same one about the same line is noted once."""
        self._remark(Remark("warning", line, text, host))

    def error(self, line: int | None, text: Text, host: str = "") -> None:
        """Note what keeps the text from being imported."""
        self._remark(Remark("error", line, text, host))

    def add(self, given: Mapping[str, Any], line: int, where: Callable[[str], int] | None = None) -> None:
        """
        Add a host.

        :param given: its fields that the text says.
        :param where: gives the line of a field.
        """
        name = given.get("name")
        shown = name if isinstance(name, str) and len(name) <= 255 and name.isprintable() else ""
        if len(self._hosts) >= MAX_HOSTS:
            self.error(line, Text("there are more than {most} hosts", most=MAX_HOSTS))
            return
        try:
            host = checked_host(self._with_defaults(given))
        except HostMistake as mistake:
            at = line if where is None else where(mistake.field)
            self.error(at, Text("{field} {reason}", field=mistake.field, reason=mistake.text), host=shown)
            return
        if host.name in self._hosts:
            first = self._hosts[host.name].line
            self.error(
                line, Text("{name} is here twice; it is in line {first} first", name=host.name, first=first), shown
            )
            return
        self._hosts[host.name] = PlannedHost(host, frozenset(given), line)

    def parsed(self) -> Parsed:
        """All of it."""
        return Parsed(list(self._hosts.values()), list(self._remarks))

    def _with_defaults(self, given: Mapping[str, Any]) -> dict[str, Any]:
        standing = {
            "user": self._defaults.user,
            "relays": self._defaults.relays,
            "credential": self._defaults.credential,
        }
        return {**given, **{name: value for name, value in standing.items() if value and not given.get(name)}}

    def _remark(self, remark: Remark) -> None:
        if len(self._remarks) < MAX_REMARKS:
            self._remarks[remark] = None


def compare(planned: Iterable[PlannedHost], present: Sequence[StoredHost], *, remove_missing: bool = False) -> Plan:
    """
    What has to change so that the hosts of a text are there as it says.

    :param remove_missing: whether hosts that the text does not have are removed.
    """
    there = {host.name: host for host in present}
    add: list[Host] = []
    change: list[HostChange] = []
    names: set[str] = set()
    unchanged = 0
    for each in planned:
        names.add(each.host.name)
        old = there.get(each.host.name)
        if old is None:
            add.append(each.host)
            continue
        changes = [
            FieldChange(field, before, after)
            for field in FIELDS
            if field in each.given
            and (before := getattr(old, ATTRIBUTES[field])) != (after := getattr(each.host, ATTRIBUTES[field]))
        ]
        if changes:
            change.append(HostChange(old.name, changes))
        else:
            unchanged += 1
    remove = [name for name in there if name not in names] if remove_missing else []
    return Plan(add, change, unchanged, remove)


def changed(host: StoredHost, change: HostChange) -> StoredHost:
    """The host with what changes."""
    return replace(host, **{ATTRIBUTES[each.field]: each.new for each in change.fields})


def unknown_names(
    planned: Iterable[PlannedHost], relays: Collection[str], credentials: Collection[str]
) -> list[Remark]:
    """An error for each relay and credential that hosts name and that is not there."""
    found: dict[Remark, None] = {}
    named: set[tuple[str, str]] = set()
    for each in planned:
        for name in each.host.relays:
            if name not in relays and ("relay", name) not in named:
                named.add(("relay", name))
                text = Text("there is no relay {name}; add it first, or leave it out", name=name)
                found[Remark("error", each.line, text, each.host.name)] = None
        name_of = each.host.credential
        if name_of is not None and name_of not in credentials and ("credential", name_of) not in named:
            named.add(("credential", name_of))
            text = Text("there is no credential {name}; add it first, or leave it out", name=name_of)
            found[Remark("error", each.line, text, each.host.name)] = None
    return list(found)
