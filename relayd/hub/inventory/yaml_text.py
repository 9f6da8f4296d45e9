"""
YAML as plain values that know their lines, read by PyYAML's parser and safe types, with bounds on what a text may cost.

An alias stands for the same value and not for a copy, so that a small text cannot become a large one, and whoever walks
through the values counts what is visited.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import yaml
from yaml.constructor import ConstructorError, SafeConstructor
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from yaml.nodes import ScalarNode
from yaml.resolver import Resolver

from relayd.language.texts import Fault, Text

#: How deep a text may nest, and how many values it may have; a merge (``<<``) counts for each key.
MAX_DEPTH: Final = 64
MAX_VALUES: Final = 1_000_000
_LOADER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MERGE: Final = "tag:yaml.org,2002:merge"
_SAFE: Final = "tag:yaml.org,2002:"


class BadYAML(Fault):
    """
    A text cannot be read; the argument says why.

    :ivar line: from 1.
    """

    def __init__(self, line: int, template: str, /, **fields: object) -> None:
        super().__init__(template, **fields)
        self.line = line


class Lines(dict[Any, Any]):
    """
    A mapping.

    :ivar lines: the line of each key, from 1.
    :ivar twice: the keys that are there twice, with the line of the second; as in Ansible, the last one wins.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lines: dict[Any, int] = {}
        self.twice: list[tuple[Any, int]] = []

    def put(self, key: Any, value: Any, line: int) -> None:
        """Add an entry of the text."""
        if key in self:
            self.twice.append((key, line))
        self[key] = value
        self.lines[key] = line


class Tagged:
    """A value with a tag that only Ansible knows, such as ``!vault``; its text is not kept."""

    def __init__(self, tag: str) -> None:
        self.tag = tag

    def __repr__(self) -> str:
        return f"<Tagged {self.tag}>"


class Raw(str):
    """A text with the tag ``!unsafe``: in Ansible, it is no template whatever is in it."""

    __slots__ = ()


class _Open:
    """A collection whose end has not come."""

    def __init__(self, value: Lines | list[Any], anchor: str | None) -> None:
        self.value = value
        self.anchor = anchor
        self.key: Any = None
        self.key_line = 0
        self.has_key = False
        #: Mappings that ``<<`` names; what the mapping itself says comes before them.
        self.merged: list[tuple[Any, int]] = []


class _MergeKey:
    """Stands for ``<<``."""


_MERGE_KEY: Final = _MergeKey()


def read_yaml(text: str) -> Any:
    """
    The value of a text of one document: `Lines`, lists, and scalars as YAML 1.1 has them; ``None``: it is empty.

    :raises BadYAML: when it cannot be read.
    """
    return _Composer().compose(text)


class _Composer:
    """Makes values of the parser's events."""

    def __init__(self) -> None:
        self._open: list[_Open] = []
        self._anchors: dict[str, Any] = {}
        self._resolver = Resolver()
        self._constructor = SafeConstructor()
        self._count = 0
        self._root: Any = None
        self._documents = 0

    def compose(self, text: str) -> Any:
        for event in _events(text):
            self._take(event)
        return self._root

    def _take(self, event: Event) -> None:
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise BadYAML(line, "a second document begins; an inventory has one")
        elif isinstance(event, (MappingStartEvent, SequenceStartEvent)):
            if len(self._open) >= MAX_DEPTH:
                raise BadYAML(line, "it nests more than {most} deep", most=MAX_DEPTH)
            self._spend(1, line)
            self._check_key(line)
            self._open.append(_Open(Lines() if isinstance(event, MappingStartEvent) else [], event.anchor))
        elif isinstance(event, (MappingEndEvent, SequenceEndEvent)):
            done = self._open.pop()
            self._merge(done)
            self._put(done.value, done.anchor, line)
        elif isinstance(event, ScalarEvent):
            self._spend(1, line)
            self._put(self._scalar(event, line), event.anchor, line)
        elif isinstance(event, AliasEvent):
            if event.anchor not in self._anchors:
                raise BadYAML(line, "an alias stands for something that has not ended, or is not there")
            self._spend(1, line)
            self._put(self._anchors[event.anchor], None, line)

    def _put(self, value: Any, anchor: str | None, line: int) -> None:
        if anchor is not None:
            self._anchors[anchor] = value
        if not self._open:
            self._root = value
            return
        parent = self._open[-1]
        if isinstance(parent.value, list):
            parent.value.append(value)
        elif not parent.has_key:
            if isinstance(value, (list, dict, Tagged)):
                raise BadYAML(line, "a key is not a text")
            parent.key, parent.key_line, parent.has_key = value, line, True
        else:
            parent.has_key = False
            if parent.key is _MERGE_KEY:
                parent.merged.append((value, parent.key_line))
            else:
                parent.value.put(parent.key, value, parent.key_line)

    def _check_key(self, line: int) -> None:
        """A collection begins: it must not be a key."""
        if self._open and isinstance(self._open[-1].value, dict) and not self._open[-1].has_key:
            raise BadYAML(line, "a key is not a text")

    def _merge(self, done: _Open) -> None:
        for value, line in done.merged:
            sources = value if isinstance(value, list) else [value]
            for source in sources:
                if not isinstance(source, Lines) or isinstance(done.value, list):
                    raise BadYAML(line, "<< needs a mapping, or a list of mappings")
                self._spend(len(source), line)
                for key, content in source.items():
                    if key not in done.value:
                        done.value[key] = content
                        done.value.lines[key] = source.lines[key]

    def _scalar(self, event: ScalarEvent, line: int) -> Any:
        tag = event.tag
        if tag is None or tag == "!":
            tag = self._resolver.resolve(ScalarNode, event.value, event.implicit)
        if tag == _MERGE:
            return _MERGE_KEY
        if tag == "!unsafe":
            return Raw(event.value)
        if not tag.startswith(_SAFE):
            return Tagged(tag)
        try:
            value = self._constructor.construct_object(ScalarNode(tag, event.value))
        except (ConstructorError, ValueError, OverflowError, KeyError, AttributeError):
            raise BadYAML(line, "a value is not of the type that its tag or its form says") from None
        self._constructor.constructed_objects.clear()
        return value

    def _spend(self, count: int, line: int) -> None:
        self._count += count
        if self._count > MAX_VALUES:
            raise BadYAML(line, "it has more than {most} values", most=MAX_VALUES)


def _events(text: str) -> Iterator[Event]:
    try:
        yield from yaml.parse(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        # The library's words quote at most one character of the text.
        raise BadYAML(
            mark.line + 1 if mark else 1, "is not YAML: {problem}", problem=Text(error.problem or "")
        ) from None
    except yaml.YAMLError:
        raise BadYAML(1, "is not YAML: it has characters that YAML does not allow") from None
    except RecursionError:
        raise BadYAML(1, "it nests too deeply") from None
