"""
Texts that can be translated later: each is its English, and remembers the template and the fields that filled it.
Also functions that make texts of others fit to be quoted.

The catalogues are in `relayd.language.catalogues`; this module has only what errors need, so that they can be used
without the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from inspect import cleandoc

#: Gives the template of another language for an English one; an unknown one stays English.
Translate = Callable[[str], str]


def english(template: str) -> str:
    """The template itself, untranslated."""
    return template


class Text(str):
    """
    A text for people.  It is a `str` in English, which logs and programs can use as such; `within` translates it.

    :param template: in English; a format string if there are fields.  ``make messages`` finds it where it is a literal.
    :param fields: those that are texts themselves are translated too.
    """

    __slots__ = ("fields", "template")
    template: str
    fields: dict[str, object]

    def __new__(cls, template: str, /, **fields: object) -> Text:
        text = super().__new__(cls, template.format_map(fields) if fields else template)
        text.template = template
        text.fields = fields
        return text

    def within(self, translate: Translate) -> str:
        """The text, translated by *translate*."""
        template = translate(self.template)
        if not self.fields:
            return template
        return template.format_map(
            {name: value.within(translate) if isinstance(value, Text) else value for name, value in self.fields.items()}
        )


class Fault(Exception):
    """Something is wrong; the only argument is a `Text` that says what."""

    def __init__(self, template: str, /, **fields: object) -> None:
        super().__init__(template if isinstance(template, Text) else Text(template, **fields))

    @property
    def text(self) -> Text:
        """What is wrong."""
        text: Text = self.args[0]
        return text


def joined(texts: Iterable[str], separator: str) -> Text:
    """One text of one or more *texts*; a translation translates each of them, and the separator."""
    fields: dict[str, object] = {f"part{number}": text for number, text in enumerate(texts)}
    return Text("{separator}".join(f"{{{name}}}" for name in fields), separator=separator, **fields)


def tally(counts: Mapping[str, int]) -> str:
    """How often there was each of some codes, as ``3 forbidden-host, 1 overloaded``: the most frequent first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} {code}" for code, count in ordered)


def span(seconds: float) -> Text:
    """
    A length of time in its two largest units: ``15 ms``, ``0.5 s``, ``40 s``, ``5 min 6 s``, ``1 h 30 min``, ``3 d``;
    below a millisecond it is ``less than 1 ms``.  Every text of relayd that names a length of time uses this.
    """
    if seconds <= 0:
        return Text("{number} s", number=0)
    if seconds < 0.0005:
        return Text("less than 1 ms")
    if seconds < 0.1:
        return Text("{number} ms", number=round(seconds * 1000))
    if seconds < 100:
        return Text("{number} s", number=f"{seconds:.3g}")
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 3599.5:
        number, rest = divmod(round(seconds), 60)
        both, one = Text("{number} min {rest} s", number=number, rest=rest), Text("{number} min", number=number)
    elif minutes < 24 * 60:
        number, rest = divmod(minutes, 60)
        both, one = Text("{number} h {rest} min", number=number, rest=rest), Text("{number} h", number=number)
    else:
        number, rest = divmod(hours, 24)
        both, one = Text("{number} d {rest} h", number=number, rest=rest), Text("{number} d", number=number)
    return both if rest else one


def message_template(docstring: str) -> str:
    """The message of an error, which is its docstring, as one line."""
    return " ".join(cleandoc(docstring).split())


def printable(text: str, limit: int) -> str:
    """*text*, from a peer, made fit for a log line: without control characters, and with at most *limit* characters."""
    clean = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text[: limit + 1])
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


def without_surrogates(text: str) -> str:
    """*text* with ``?`` for each half of a surrogate pair, which UTF-8, and so JSON, cannot hold."""
    return text.encode("utf-8", "replace").decode()


def printable_bytes(text: bytes, limit: int = 200) -> str:
    """At most *limit* bytes of *text*, with ``?`` for what does not print."""
    return "".join(char if char.isprintable() else "?" for char in text[:limit].decode("utf-8", "replace"))


def last_lines(text: bytes, lines: int = 4, limit: int = 300) -> str:
    """The last *lines* lines of *text* that are not blank, as one printable line of at most *limit* characters."""
    shown = [printable_bytes(b" ".join(line.split()), len(line)) for line in text.splitlines()]
    words = " / ".join([line for line in shown if line][-lines:])
    return words if len(words) <= limit else f"…{words[1 - limit :]}"
