"""
What another side said, made fit to be quoted: bounded, printable, and without our own secrets, which it may echo.
"""

from __future__ import annotations

import html
import json
import re
from typing import Final
from urllib.parse import quote, quote_plus, unquote_plus, urlsplit

from relayd.language.texts import printable

#: Characters of a quotation.
LIMIT: Final = 200
#: Characters that are looked at for one.
MAX_SOURCE: Final = 4096
#: The shortest secret that is looked for: the letters of a shorter one are in any text.
LEAST: Final = 4
#: Characters of a value in a query, and of a part of a header, that may be a secret.
LONG: Final = 8

_BETWEEN: Final = re.compile(r"[\s;,=\"]+")

_REDACTED: Final = "[redacted]"
#: The key as a parameter or a member, however it is written.
_NAMED: Final = re.compile(
    r"""(apikey["']?\s*(?:=|:|%3d|&#61;)\s*["']?)(?!\[redacted\])[^\s&"'<>,;}]+""", re.IGNORECASE
)


class Quoting:
    """
    Call it to quote a text.

    :param secrets: what may not appear.
    """

    def __init__(self, *secrets: str) -> None:
        forms = {form for secret in secrets if len(secret) >= LEAST for form in _forms(secret)}
        self._forms = sorted(forms, key=len, reverse=True)

    def __repr__(self) -> str:
        return f"<Quoting without {len(self._forms)} words>"

    def __call__(self, text: str, limit: int = LIMIT) -> str:
        """*text* on one line, without secrets, of at most *limit* characters."""
        text = text[:MAX_SOURCE]
        for form in self._forms:
            text = text.replace(form, _REDACTED)
        text = _NAMED.sub(rf"\1{_REDACTED}", self._without_tail(text))
        return printable(" ".join(text.split()), limit)

    def _without_tail(self, text: str) -> str:
        """Where *text* was cut within a secret, the beginning of that is left out as well."""
        for form in self._forms:
            for length in range(min(len(form) - 1, len(text)), LEAST - 1, -1):
                if text.endswith(form[:length]):
                    return text[:-length] + _REDACTED
        return text


def words_of_query(url: str) -> list[str]:
    """What may not appear of the query in an operator's URL: each parameter, and values that are no mere words."""
    parameters = [each for each in urlsplit(url).query.split("&") if each]
    values = [unquote_plus(each.partition("=")[2]) for each in parameters]
    return [*parameters, *(unquote_plus(each) for each in parameters), *(each for each in values if len(each) >= LONG)]


def words_of_header(value: str) -> list[str]:
    """What may not appear of a header's value: the whole, and its parts, such as a token without ``Bearer``."""
    return [value, *(part for part in _BETWEEN.split(value) if len(part) >= LONG)]


def _forms(secret: str) -> set[str]:
    """A secret as it stands in a URL, a page and a JSON text."""
    return {secret, quote(secret, safe=""), quote_plus(secret), html.escape(secret), json.dumps(secret)[1:-1]}
