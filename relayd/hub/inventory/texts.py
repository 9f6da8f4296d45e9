"""
Inventories as texts: each format that is read, and each that is written.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, get_args

from relayd.hub.inventory.ansible_hosts import collect
from relayd.hub.inventory.ansible_ini import IniReader
from relayd.hub.inventory.ansible_yaml import YamlReader, write_ansible_yaml
from relayd.hub.inventory.csv_text import read_csv, write_csv
from relayd.hub.inventory.json_text import read_json, write_json
from relayd.hub.inventory.plans import MAX_TEXT, Collector, Defaults, Parsed
from relayd.hub.store.host_records import Host
from relayd.language.texts import Text

#: The formats that are read, and those that are written.
ReadFormat = Literal["csv", "json", "ansible-ini", "ansible-yaml"]
WrittenFormat = Literal["csv", "json", "ansible-yaml"]
READ_FORMATS: Final[tuple[ReadFormat, ...]] = get_args(ReadFormat)
WRITTEN_FORMATS: Final[tuple[WrittenFormat, ...]] = get_args(WrittenFormat)
_VAULT: Final = "$ANSIBLE_VAULT;"
_WRITERS: Final = {"csv": write_csv, "json": write_json, "ansible-yaml": write_ansible_yaml}


def read_inventory(content: bytes | str, form: ReadFormat, defaults: Defaults = Defaults()) -> Parsed:  # noqa: B008
    """
    The hosts of a text, and what is to be said about it. A large one takes seconds: call this in a thread.

    :param defaults: what hosts get of which the text does not say.
    """
    collector = Collector(defaults)
    if len(content) > MAX_TEXT:
        collector.error(None, Text("the text is longer than {most} MiB", most=MAX_TEXT // 2**20))
        return collector.parsed()
    if isinstance(content, bytes):
        raw = content
        try:
            content = raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = raw.count(b"\n", 0, error.start) + 1
            collector.error(line, Text("the text is not in UTF-8; save it as UTF-8"))
            return collector.parsed()
    if "\0" in content:
        collector.error(content.count("\n", 0, content.index("\0")) + 1, Text("the text has a NUL character"))
        return collector.parsed()
    if content.lstrip("\ufeff \r\n").startswith(_VAULT):
        collector.error(1, Text("the text is encrypted with Ansible Vault: import what ansible-vault view shows of it"))
        return collector.parsed()
    if form == "csv":
        return read_csv(content, defaults)
    if form == "json":
        return read_json(content, defaults)
    groups = (IniReader if form == "ansible-ini" else YamlReader)(collector).read(content)
    collect(groups, collector)
    return collector.parsed()


def write_inventory(hosts: Iterable[Host], form: WrittenFormat) -> str:
    """Hosts as a text, which `read_inventory` reads back. No secret is in it: credentials are named."""
    return _WRITERS[form](hosts)


def guessed_format(name: str, content: str) -> ReadFormat | None:
    """The format of a file by its name, or else by how it begins; ``None``: it may be any."""
    lower = name.lower()
    if lower.endswith(".csv"):
        return "csv"
    if lower.endswith(".json"):
        return "json"
    if lower.endswith((".yml", ".yaml")):
        return "ansible-yaml"
    if lower.endswith((".ini", ".cfg")):
        return "ansible-ini"
    begin = next((line.strip() for line in content.splitlines() if line.strip() and line.strip()[0] not in "#;"), "")
    if begin == "---" or begin.endswith(":"):
        return "ansible-yaml"
    if begin.startswith("["):
        return "ansible-ini"
    return "json" if begin.startswith("{") else None
