"""
Makes what another side said fit to be quoted: bounded, printable, and without relayd's secrets, which it may echo.
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
#: Characters that are read for one.
MAX_SOURCE: Final = 4096
#: Characters of the shortest secret to look for: a shorter one is in many texts by chance.
LEAST: Final = 4
#: Characters from which on a value in a query, or a part of a header, may be a secret.
LONG: Final = 8

_BETWEEN: Final = re.compile(r"[\s;,=\"]+")

_REDACTED: Final = "[redacted]"
#: The key as a parameter or a member, in any spelling.
_NAMED: Final = re.compile(
    r"""(apikey["']?\s*(?:=|:|%3d|&#61;)\s*["']?)(?!\[redacted\])[^\s&"'<>,;}]+""", re.IGNORECASE
)


class Quoting:
    """
    Quotes texts: call it with one.

    :param secrets: what must not appear.
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
        """*text* without the beginning of a secret at its end, in which it may have been cut."""
        for form in self._forms:
            for length in range(min(len(form) - 1, len(text)), LEAST - 1, -1):
                if text.endswith(form[:length]):
                    return text[:-length] + _REDACTED
        return text


def words_of_query(url: str) -> list[str]:
    """What must not appear of the query in an operator's URL: each parameter, and each value that may be a secret."""
    parameters = [each for each in urlsplit(url).query.split("&") if each]
    values = [unquote_plus(each.partition("=")[2]) for each in parameters]
    return [*parameters, *(unquote_plus(each) for each in parameters), *(each for each in values if len(each) >= LONG)]


def words_of_header(value: str) -> list[str]:
    """What must not appear of a header's value: the whole, and its parts, such as a token without ``Bearer``."""
    return [value, *(part for part in _BETWEEN.split(value) if len(part) >= LONG)]


def _forms(secret: str) -> set[str]:
    """The forms of a secret in a URL, a page and a JSON text."""
    return {secret, quote(secret, safe=""), quote_plus(secret), html.escape(secret), json.dumps(secret)[1:-1]}
