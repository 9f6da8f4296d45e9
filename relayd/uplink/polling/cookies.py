"""
The cookies of one session: a balancer in front of several main servers finds the right one by them (RFC 6265).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

#: Cookies that are kept, and characters of one.
MOST: Final = 20
LONGEST: Final = 4096

_COOKIE: Final = re.compile(r"\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+)=([!-:<-~]*)\s*(?:;.*)?", re.DOTALL)


class Cookies:
    """All requests of a session go to one place: where a cookie belongs to, and for how long, need not be looked at."""

    def __init__(self) -> None:
        self._cookies: dict[str, str] = {}

    def take(self, values: Iterable[str]) -> None:
        """
        :param values: of the ``Set-Cookie`` headers of an answer; what is no cookie, too long or too many is left out.
        """
        for value in values:
            found = _COOKIE.fullmatch(value[:LONGEST])
            if found is None:
                continue
            if not found[2]:
                self._cookies.pop(found[1], None)
            elif found[1] in self._cookies or len(self._cookies) < MOST:
                self._cookies[found[1]] = found[2]

    def header(self) -> dict[str, str]:
        """The header that brings them back, where there are any."""
        pairs = "; ".join(f"{name}={value}" for name, value in self._cookies.items())
        return {"Cookie": pairs} if pairs else {}
