"""
``relayctl inventory``: imports hosts into the hub's inventory, and exports them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final

from relayd.ctl.client.options import add_hub_options, hub_of
from relayd.errors import ConfigError

_FORMATS: Final = ("csv", "json", "ansible-ini", "ansible-yaml")
_WRITTEN: Final = ("csv", "json", "ansible-yaml")
#: By the end of a file's name.
_BY_NAME: Final = {
    ".csv": "csv",
    ".json": "json",
    ".ini": "ansible-ini",
    ".yml": "ansible-yaml",
    ".yaml": "ansible-yaml",
}
#: Lines of changes that are shown.
_MOST_SHOWN: Final = 200


def configure(parser: argparse.ArgumentParser) -> None:
    """Add its own subcommands."""
    below = parser.add_subparsers(title="subcommands", metavar="SUBCOMMAND", required=True)
    text = "add the hosts of a file, and change those that are there"
    imports = below.add_parser("import", help=text, description=text, allow_abbrev=False)
    imports.add_argument("file", metavar="FILE", help="CSV, JSON, or an inventory of Ansible; - reads standard input")
    imports.add_argument("--format", choices=_FORMATS, help="format of the file [by its name]")
    imports.add_argument("--relays", metavar="NAME,…", help="relays that reach hosts of which the file names none")
    imports.add_argument("--user", metavar="NAME", help="user for hosts of which the file names none")
    imports.add_argument("--credential", metavar="NAME", help="credential for hosts of which the file names none")
    imports.add_argument("--remove-missing", action="store_true", help="remove hosts that the file does not have")
    imports.add_argument("--dry-run", action="store_true", help="show what would change, and change nothing")
    imports.set_defaults(act=_import)
    add_hub_options(imports)
    text = "print all hosts"
    exports = below.add_parser("export", help=text, description=text, allow_abbrev=False)
    exports.add_argument("--format", choices=_WRITTEN, default="json", help="[%(default)s]")
    exports.set_defaults(act=_export)
    add_hub_options(exports)


def run(arguments: argparse.Namespace) -> int:
    """Do it; 1 when the file has mistakes."""
    return int(arguments.act(arguments))


def _import(arguments: argparse.Namespace) -> int:
    format = arguments.format or next(
        (format for end, format in _BY_NAME.items() if arguments.file.lower().endswith(end)), None
    )
    if format is None:
        reason = f"the file's name does not say it; give one of {', '.join(_FORMATS)}"
        raise ConfigError(option="--format", reason=reason)
    try:
        with open(0 if arguments.file == "-" else arguments.file, "rb", closefd=arguments.file != "-") as file:
            text = file.read()
    except OSError as error:
        raise ConfigError(option="FILE", reason=f"{arguments.file} cannot be read: {error.strerror}") from None
    query: dict[str, str | int | None] = {"format": format}
    query |= {name: getattr(arguments, name) for name in ("relays", "user", "credential")}
    query |= {"dryRun": "true" if arguments.dry_run else None}
    query |= {"removeMissing": "true" if arguments.remove_missing else None}
    headers = {"Content-Type": "text/plain; charset=utf-8"}
    found = hub_of(arguments).call("POST", "/inventory/import", text, query=query, headers=headers)
    return _tell(found or {}, arguments.dry_run)


def _tell(found: Mapping[str, Any], dry_run: bool) -> int:
    from relayd.ctl.client.tables import cell

    remarks = found.get("remarks") or []
    for each in remarks:
        where = f"line {each['line']}: " if each.get("line") else ""
        print(f"{cell(each.get('kind'), 20)}: {where}{cell(each.get('text'), 500)}", file=sys.stderr)
    lines = list(_changes(found))
    for line in lines[:_MOST_SHOWN]:
        print(line)
    if len(lines) > _MOST_SHOWN:
        print(f"… and {len(lines) - _MOST_SHOWN} more")
    failed = any(each.get("kind") == "error" for each in remarks)
    outcome = "nothing was changed" if failed or dry_run else "done"
    print(f"{len(lines)} changes; {outcome}", file=sys.stderr)
    return 1 if failed else 0


def _changes(found: Mapping[str, Any]) -> Iterator[str]:
    from relayd.ctl.client.tables import cell

    for name in found.get("add") or ():
        yield f"add {cell(name)}"
    for host in found.get("change") or ():
        fields = (
            f"{cell(each.get('field'))}: {cell(each.get('old'))} -> {cell(each.get('new'))}" for each in host["fields"]
        )
        yield f"change {cell(host.get('name'))}: {'; '.join(fields)}"
    for name in found.get("remove") or ():
        yield f"remove {cell(name)}"


def _export(arguments: argparse.Namespace) -> int:
    import json

    found = hub_of(arguments).get("/inventory/export", {"format": arguments.format})
    if isinstance(found, bytes):
        print(found.decode("utf-8", "replace"), end="")
    else:
        print(json.dumps(found, ensure_ascii=False, indent=2))
    return 0
