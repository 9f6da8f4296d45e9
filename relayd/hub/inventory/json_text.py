"""
Inventories as JSON: ``{"hosts": [{"name": …}, …]}`` with the fields of the API, or the list alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, Final, NoReturn

import msgspec

from relayd.hub.inventory.checks import ATTRIBUTES, FIELDS
from relayd.hub.inventory.plans import Collector, Defaults, Parsed
from relayd.hub.store.host_records import Host
from relayd.language.texts import Text

_BLANKS: Final = " \t\r\n"


class _NotJSON(Exception):
    """What is wrong, and where: the arguments are a text and a position."""


def read_json(text: str, defaults: Defaults) -> Parsed:
    """The hosts of a JSON text."""
    collector = Collector(defaults)
    try:
        counted, line = 0, 1
        for start, entry in _entries(text):
            line += text.count("\n", counted, start)
            counted = start
            if isinstance(entry, dict):
                collector.add(entry, line)
            else:
                collector.error(line, Text("is not an object with the fields of a host"))
    except _NotJSON as error:
        reason, at = error.args
        collector.error(text.count("\n", 0, at) + 1, Text("is not an inventory in JSON: {reason}", reason=reason))
    except RecursionError:
        collector.error(None, Text("is not an inventory in JSON: it nests too deeply"))
    return collector.parsed()


def write_json(hosts: Iterable[Host]) -> str:
    """Hosts as JSON, which `read_json` reads back."""
    found = [{field: getattr(host, ATTRIBUTES[field]) for field in FIELDS} for host in hosts]
    return msgspec.json.format(msgspec.json.encode({"hosts": found}), indent=2).decode() + "\n"


def _refuse(name: str) -> NoReturn:
    raise _NotJSON(f"{name} is not JSON", 0)


class _Reader:
    """Reads values one after the other, with the places where they stand, which the library does not tell."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 1 if text.startswith("\ufeff") else 0
        self._decoder = json.JSONDecoder(parse_constant=_refuse)

    def value(self) -> Any:
        try:
            found, self.at = self._decoder.raw_decode(self.text, self.skip())
        except json.JSONDecodeError as error:
            raise _NotJSON(error.msg, error.pos) from None
        except ValueError:  # Python refuses more than 4,300
            raise _NotJSON("a number has too many digits", self.at) from None
        except _NotJSON as error:
            raise _NotJSON(error.args[0], self.at) from None
        return found

    def skip(self) -> int:
        while self.at < len(self.text) and self.text[self.at] in _BLANKS:
            self.at += 1
        return self.at

    def take(self, char: str) -> bool:
        found = self.text.startswith(char, self.skip())
        self.at += found
        return found

    def need(self, char: str) -> None:
        if not self.take(char):
            raise _NotJSON(f"{char} is missing", self.at)


def _entries(text: str) -> Iterator[tuple[int, Any]]:
    """Each entry of the list of hosts, with the place where it begins."""
    reader = _Reader(text)
    found = False
    if reader.take("{"):
        more = not reader.take("}")
        while more:
            reader.skip()
            key = reader.value()
            reader.need(":")
            if key == "hosts":
                if found:
                    raise _NotJSON("hosts is there twice", reader.at)
                found = True
                yield from _items(reader)
            else:
                reader.value()
            more = reader.take(",")
            if not more:
                reader.need("}")
        if not found:
            raise _NotJSON('there is no list "hosts"', 0)
    else:
        yield from _items(reader)
    if reader.skip() < len(text):
        raise _NotJSON("something follows its end", reader.at)


def _items(reader: _Reader) -> Iterator[tuple[int, Any]]:
    reader.need("[")
    if reader.take("]"):
        return
    while True:
        start = reader.skip()
        yield start, reader.value()
        if not reader.take(","):
            reader.need("]")
            return
