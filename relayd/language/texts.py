"""
Texts that can be said in another language later: each is its English, and remembers the template and what filled it.
Also what others said, made fit to stand in one.

The catalogues are in `relayd.language.catalogues`; here is only what errors need, so that they can be used without the
rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from inspect import cleandoc

#: From an English template to that of a language; one that it does not know stays English.
Translate = Callable[[str], str]


def english(template: str) -> str:
    """No translation."""
    return template


class Text(str):
    """
    A text for people.  It is a `str` in English, so that logs and programs need not know; `within` gives it in a
    language.

    :param template: in English, a format string where there are fields; ``make messages`` finds it where it stands as a
        literal.
    :param fields: those that are texts too are translated with it.
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
        """The text in the language of *translate*."""
        template = translate(self.template)
        if not self.fields:
            return template
        return template.format_map(
            {name: value.within(translate) if isinstance(value, Text) else value for name, value in self.fields.items()}
        )


class Fault(Exception):
    """What is wrong, in words: its only argument is a `Text`."""

    def __init__(self, template: str, /, **fields: object) -> None:
        super().__init__(template if isinstance(template, Text) else Text(template, **fields))

    @property
    def text(self) -> Text:
        """The words."""
        text: Text = self.args[0]
        return text


def joined(texts: Iterable[str], separator: str = " ") -> Text:
    """The *texts*, which are some, each in the language in which all of it is said."""
    fields: dict[str, object] = {f"part{number}": text for number, text in enumerate(texts)}
    return Text("{separator}".join(f"{{{name}}}" for name in fields), separator=separator, **fields)


def span(seconds: float) -> Text:
    """
    A time as people say it, by its two largest units: ``15 ms``, ``0.5 s``, ``40 s``, ``5 min 6 s``, ``1 h 30 min``,
    ``3 d``; what is below a millisecond is only that. All that relayd says of a length of time comes from here.
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
    """The docstring of an error as one line."""
    return " ".join(cleandoc(docstring).split())


def printable(text: str, limit: int) -> str:
    """A remote text made fit for a log line: no control characters, at most *limit* characters."""
    clean = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text[: limit + 1])
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


def without_surrogates(text: str) -> str:
    """*text* with ``?`` for each half of a surrogate pair, which UTF-8, and so JSON, cannot hold."""
    return text.encode("utf-8", "replace").decode()


def printable_bytes(text: bytes, limit: int = 200) -> str:
    """At most *limit* bytes of *text*, with ``?`` for what does not print."""
    return "".join(char if char.isprintable() else "?" for char in text[:limit].decode("utf-8", "replace"))


def last_lines(text: bytes, lines: int = 4, limit: int = 300) -> str:
    """The last *lines* lines of *text* that show something, as one of at most *limit* characters, fit to be shown."""
    shown = [printable_bytes(b" ".join(line.split()), len(line)) for line in text.splitlines()]
    words = " / ".join([line for line in shown if line][-lines:])
    return words if len(words) <= limit else f"…{words[1 - limit :]}"
