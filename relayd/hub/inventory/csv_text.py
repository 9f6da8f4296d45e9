"""
Inventories as CSV (RFC 4180): one host a line, below a line that names the fields.

A cell that a spreadsheet would take for a formula is written with an apostrophe before it, which is taken off again
when it is read (OWASP ASVS 5.0, 1.2.10).
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from typing import Any, Final

from relayd.hub.inventory.checks import ATTRIBUTES, FIELDS
from relayd.hub.inventory.plans import Collector, Defaults, Parsed
from relayd.hub.store.host_records import Host
from relayd.language.texts import Text, printable

#: What spreadsheets take for the beginning of a formula, also in full width; and the apostrophe itself.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\0", "'", "＝", "＋", "－", "＠")
#: One label, up to what separates it from the next.
_LABEL: Final = re.compile(r'((?:[^;,"]|"[^"]*")*)(?:[;,]|$)')
#: Fields by their names without capitals and without what stands between words.
_FIELDS: Final = {field.lower(): field for field in FIELDS}


def read_csv(text: str, defaults: Defaults) -> Parsed:
    """The hosts of a CSV text; cells are separated by a comma, a semicolon or a tab, as the first line has them."""
    collector = Collector(defaults)
    text = text.removeprefix("\ufeff")
    separator = max(",;\t", key=text.lstrip().partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    columns: list[str] | None = None
    try:
        line = 1
        for row in reader:
            if any(cell.strip() for cell in row):
                if columns is None:
                    columns = _columns(row, line, collector)
                else:
                    _read_row(row, columns, line, collector)
            line = reader.line_num + 1
    except csv.Error as error:
        collector.error(reader.line_num or None, Text("is not CSV: {reason}", reason=str(error)))
    if columns is None and not collector.parsed().remarks:
        collector.error(
            None, Text("the text is empty; its first line names the fields, such as name,address,relays,labels")
        )
    return collector.parsed()


def write_csv(hosts: Iterable[Host]) -> str:
    """Hosts as CSV, which `read_csv` reads back."""
    written = io.StringIO()
    writer = csv.writer(written)
    writer.writerow(FIELDS)
    for host in hosts:
        writer.writerow([_escaped(_cell(host, field)) for field in FIELDS])
    return written.getvalue()


def _columns(row: list[str], line: int, collector: Collector) -> list[str]:
    """The field of each column; empty: its cells are left out."""
    columns: list[str] = []
    for cell in row:
        field = _FIELDS.get(re.sub(r"[\s_-]", "", cell).lower(), "")
        if field and field in columns:
            collector.error(line, Text("the field {field} has two columns", field=field))
        if not field and cell.strip():
            collector.warn(
                line,
                Text(
                    'the column "{name}" is left out: it is not a field of a host; there are {names}',
                    name=printable(cell.strip(), 60),
                    names=", ".join(FIELDS),
                ),
            )
        columns.append(field)
    if "name" not in columns:
        collector.error(line, Text("no column is named name; the first line has to name the fields"))
    return columns


def _read_row(row: list[str], columns: list[str], line: int, collector: Collector) -> None:
    if "name" not in columns:
        return
    if len(row) > len(columns) and any(cell.strip() for cell in row[len(columns) :]):
        collector.error(
            line, Text("has {count} cells, and the first line has {columns}", count=len(row), columns=len(columns))
        )
        return
    given: dict[str, Any] = {}
    for field, cell in zip(columns, row, strict=False):
        value = _unescaped(cell.strip())
        if not field or (field == "address" and not value):
            continue
        if field == "relays":
            given[field] = [name for each in re.split("[,;]", value) if (name := each.strip())]
        elif field == "labels":
            labels = read_labels(value)
            if labels is None:
                collector.error(line, Text('labels are not written as env=prod; web; note="a, b"'))
                return
            given[field] = labels
        else:
            given[field] = value
    collector.add(given, line)


def read_labels(text: str) -> dict[str, str] | None:
    """Labels such as ``env=prod; web; note="a, b"``; ``None``: the text is of another form."""
    found: dict[str, str] = {}
    at = 0
    while at < len(text):
        match = _LABEL.match(text, at)
        if match is None:
            return None
        at = match.end()
        key, _, value = (part.strip() for part in match[1].partition("="))
        if len(value) > 1 and value[0] == value[-1] == '"':
            value = value[1:-1]
        if '"' in key or '"' in value or key in found:
            return None
        if key or value:
            found[key] = value
    return found


def write_labels(labels: dict[str, str]) -> str:
    """Labels as `read_labels` reads them."""
    return "; ".join(
        key if not value else f'{key}="{value}"' if re.search("[;,]", value) else f"{key}={value}"
        for key, value in labels.items()
    )


def _cell(host: Host, field: str) -> str:
    value = getattr(host, ATTRIBUTES[field])
    if field == "labels":
        return write_labels(value)
    if field == "relays":
        return "; ".join(value)
    return "" if value is None else str(value)


def _escaped(cell: str) -> str:
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


def _unescaped(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_FORMULA) else cell
