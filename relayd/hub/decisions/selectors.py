"""
Selectors: texts that say which hosts are meant, such as ``env=prod, role in (web, db)``.

All requirements of a selector must hold; ``,`` and ``and`` stand between them::

    all                     every host
    web-1                   the host of that name, or the hosts that have a label (or group) of that name
    web-*                   hosts by a pattern of their names (* and ?)
    !windows                hosts that are not so
    env=prod, env!=prod     hosts whose label has, or has not, that value (a host without the label has not)
    role in (web, db)       hosts whose label has one of the values; ``notin`` is the contrary

``name`` is a label that each host has.  A value with other characters stands in double quotes.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Final, Protocol, TypeVar

from msgspec import Struct

from relayd.language.texts import Fault, Text, printable

#: Characters of the longest selector that is read.
MAX_SELECTOR: Final = 4096
#: The label that each host has.
NAME: Final = "name"
_TOKENS: Final = re.compile(
    r'\s*(?:(?P<quoted>"[^"]*")|(?P<sign>!=|==|=|!|,|\(|\))|(?P<word>[^\s,()=!"]+)|(?P<wrong>\S))'
)
_KEYWORDS: Final = ("in", "notin", "and", "all")


class Selectable(Protocol):
    """A host as selectors see it; a group is a label with an empty value."""

    @property
    def name(self) -> str:
        """Its name in the inventory."""

    @property
    def labels(self) -> Mapping[str, str]:
        """Its labels."""


HostT = TypeVar("HostT", bound=Selectable)


class SelectorError(Fault):
    """
    A selector cannot be read, or no host matches it.

    :ivar typed: the selector.
    :ivar position: where in it the mistake is, in characters from 0.
    """

    def __init__(self, typed: str, position: int, template: str, /, **fields: object) -> None:
        super().__init__(template, **fields)
        self.typed = typed
        self.position = position


class NoHostSelected(SelectorError):
    """A selector can be read, and no host matches it."""


class _Requirement(Struct, frozen=True):
    """
    One part of a selector.

    :ivar key: of the label; empty: *values* has one word or pattern, for a name or a label's key.
    :ivar values: of which one must match; empty strings are values, too.
    :ivar wanted: whether it must match, or must not.
    :ivar start: where it begins in the selector.
    :ivar end: and where it ends.
    """

    key: str
    values: tuple[str, ...]
    wanted: bool
    start: int
    end: int

    def matches(self, host: Selectable) -> bool:
        return self._has(host) is self.wanted

    def _has(self, host: Selectable) -> bool:
        if self.key == NAME:
            return any(fnmatchcase(host.name, value) for value in self.values)
        if self.key:
            return host.labels.get(self.key) in self.values
        word = self.values[0]
        return word in host.labels or fnmatchcase(host.name, word)


class Selector:
    """
    Which hosts are meant; `parse` makes it.

    :ivar text: as it was written.
    """

    def __init__(self, text: str, requirements: Sequence[_Requirement]) -> None:
        self.text = text
        self._requirements = tuple(requirements)

    def __repr__(self) -> str:
        return f"<Selector {self.text!r}>"

    def matches(self, host: Selectable) -> bool:
        """Whether *host* is meant."""
        return all(requirement.matches(host) for requirement in self._requirements)

    def select(self, hosts: Sequence[HostT]) -> list[HostT]:
        """
        The hosts that are meant, in the order of *hosts*.

        :raises NoHostSelected: when there is none; it says which part of the selector no host matches.
        """
        selected = [host for host in hosts if self.matches(host)]
        if not selected:
            raise self._nothing(hosts)
        return selected

    def _nothing(self, hosts: Sequence[HostT]) -> NoHostSelected:
        if not hosts:
            return NoHostSelected(self.text, 0, "the inventory has no hosts that you may use")
        left: Sequence[HostT] = hosts
        for requirement in self._requirements:
            before, left = left, [host for host in left if requirement.matches(host)]
            if not left:
                return self._stopped_by(requirement, len(before), hosts)
        raise AssertionError("a selector without requirements matches all")

    def _stopped_by(self, requirement: _Requirement, before: int, hosts: Sequence[HostT]) -> NoHostSelected:
        part, position = self.text[requirement.start : requirement.end], requirement.start
        if any(requirement.matches(host) for host in hosts):
            if _names_all(self._requirements, hosts):
                return NoHostSelected(
                    self.text,
                    position,
                    'no host matches "{selector}": a comma means "and", and no host has two names; for several hosts '
                    "write {better}",
                    selector=_quoted(self.text),
                    better=f"{NAME} in ({', '.join(each.values[0] for each in self._requirements)})",
                )
            return NoHostSelected(
                self.text,
                position,
                'no host matches "{selector}": {count} of the inventory match what stands before "{part}", and none of '
                "them matches that",
                selector=_quoted(self.text),
                count=before,
                part=_quoted(part),
            )
        meant = _meant(requirement, hosts)
        if meant is None:
            return NoHostSelected(self.text, position, 'no host matches "{part}"', part=_quoted(part))
        return NoHostSelected(
            self.text,
            position,
            'no host matches "{part}"; did you mean "{meant}"?',
            part=_quoted(part),
            meant=_quoted(meant),
        )


def parse(text: str) -> Selector:
    """
    Read a selector.

    :raises SelectorError: when it is empty or cannot be read; it quotes what was typed, and says where.
    """
    if len(text) > MAX_SELECTOR:
        raise SelectorError(
            text[:MAX_SELECTOR],
            MAX_SELECTOR,
            "a selector may have {most} characters; this one has {length}",
            most=MAX_SELECTOR,
            length=len(text),
        )
    return Selector(text, _Reader(text).requirements())


class _Token(Struct, frozen=True):
    kind: str
    text: str
    start: int
    end: int


class _Reader:
    """Reads one selector from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = [self._token(match) for match in _TOKENS.finditer(text)]
        length = len(text.rstrip())
        self._tokens.append(_Token("end", "", length, length))
        self._at = 0

    def requirements(self) -> list[_Requirement]:
        if self._next.kind == "end":
            raise self._mistake(self._next, 'a selector is needed, such as "env=prod"; "all" means all hosts')
        found: list[_Requirement] = []
        while True:
            found += self._requirement()
            token = self._take()
            if token.kind == "end":
                return found
            if token.text not in (",", "and") or token.kind == "quoted":
                raise self._mistake(token, 'a comma or "and" is expected before {typed}', typed=_shown(token))

    def _requirement(self) -> list[_Requirement]:
        start = self._next.start
        wanted = not self._skip("!")
        token = self._word('a name, a label or "all"')
        if token.kind == "word" and token.text == "all":
            if not wanted:
                raise self._mistake(token, '"!all" would mean no host at all')
            return []
        sign = self._next
        if sign.kind == "sign" and sign.text in ("=", "==", "!="):
            self._only_a_word(wanted, token)
            self._take()
            values: tuple[str, ...] = (self._word("a value").text,)
            return [self._made(token.text, values, sign.text != "!=", start)]
        if sign.kind == "word" and sign.text in ("in", "notin"):
            self._only_a_word(wanted, token)
            self._take()
            return [self._made(token.text, self._values(), sign.text == "in", start)]
        if sign.kind == "word" and sign.text != "and":
            meant = difflib.get_close_matches(sign.text.lower(), _KEYWORDS[:3], 1)
            if meant:
                raise self._mistake(
                    sign, "{typed} is not known here; did you mean {meant}?", typed=_shown(sign), meant=meant[0]
                )
        return [self._made("", (token.text,), wanted, start)]

    def _only_a_word(self, wanted: bool, token: _Token) -> None:
        if not wanted:
            raise self._mistake(
                token, 'write {key}!=… or "{key} notin (…)": "!" stands only before a name or label', key=token.text
            )

    def _values(self) -> tuple[str, ...]:
        opening = self._take()
        if opening.text != "(" or opening.kind != "sign":
            raise self._mistake(opening, '"(" is expected before {typed}', typed=_shown(opening))
        values = [self._word("a value").text]
        while not self._skip(")"):
            if not self._skip(","):
                raise self._mistake(self._next, '"," or ")" is expected before {typed}', typed=_shown(self._next))
            values.append(self._word("a value").text)
        return tuple(values)

    def _word(self, what: str) -> _Token:
        token = self._take()
        if token.kind == "quoted":
            return _Token("quoted", token.text[1:-1], token.start, token.end)
        if token.kind != "word":
            raise self._mistake(token, "{what} is expected before {typed}", what=Text(what), typed=_shown(token))
        return token

    def _made(self, key: str, values: tuple[str, ...], wanted: bool, start: int) -> _Requirement:
        return _Requirement(key, values, wanted, start, self._tokens[self._at - 1].end)

    @property
    def _next(self) -> _Token:
        return self._tokens[self._at]

    def _take(self) -> _Token:
        token = self._next
        self._at = min(self._at + 1, len(self._tokens) - 1)
        return token

    def _skip(self, sign: str) -> bool:
        found = self._next.kind == "sign" and self._next.text == sign
        if found:
            self._take()
        return found

    @staticmethod
    def _token(match: re.Match[str]) -> _Token:
        kind = match.lastgroup or "wrong"
        return _Token(kind, match[kind], match.start(kind), match.end(kind))

    def _mistake(self, token: _Token, template: str, /, **fields: object) -> SelectorError:
        what = Text(template, **fields)
        if token.kind == "end" and not self._text.strip():
            return SelectorError(self._text, 0, template, **fields)
        return SelectorError(
            self._text,
            token.start,
            'in the selector "{selector}", at character {number}: {what}',
            selector=_quoted(self._text),
            number=token.start + 1,
            what=what,
        )


def _names_all(requirements: Iterable[_Requirement], hosts: Iterable[Selectable]) -> bool:
    """Whether each requirement is a host's name."""
    names = {host.name for host in hosts}
    return all(each.wanted and not each.key and each.values[0] in names for each in requirements)


def _meant(requirement: _Requirement, hosts: Sequence[Selectable]) -> str | None:
    """What of the inventory is near to what was typed."""
    if not requirement.wanted:
        return None
    names = {host.name for host in hosts}
    keys = {key for host in hosts for key in host.labels} | {NAME}
    if not requirement.key:
        return _near(requirement.values[0], names | keys)
    if requirement.key not in keys:
        key = _near(requirement.key, keys)
        return None if key is None else f"{key}={requirement.values[0]}"
    of_key = names if requirement.key == NAME else {host.labels.get(requirement.key, "") for host in hosts}
    value = next((near for each in requirement.values if (near := _near(each, of_key - {""}))), None)
    return None if value is None else f"{requirement.key}={value}"


def _near(word: str, known: Iterable[str]) -> str | None:
    spelt = {each.lower(): each for each in known}
    return next((spelt[each] for each in difflib.get_close_matches(word.lower(), spelt, 1)), None)


def _shown(token: _Token) -> str:
    return Text("the end") if token.kind == "end" else f'"{printable(token.text, 60)}"'


def _quoted(text: str) -> str:
    return printable(text, 200)
