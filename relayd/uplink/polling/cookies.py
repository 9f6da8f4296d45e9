"""
The cookies of one session (RFC 6265), by which a load balancer finds the right one of several main servers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

#: Cookies that are kept, and characters that one may have.
MOST: Final = 20
LONGEST: Final = 4096

_COOKIE: Final = re.compile(r"\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+)=([!-:<-~]*)\s*(?:;.*)?", re.DOTALL)


class Cookies:
    """
    The cookies that a main server has set in one session.

    All requests of a session go to one URL, so domain, path and lifetime of a cookie do not matter.
    """

    def __init__(self) -> None:
        self._cookies: dict[str, str] = {}

    def take_from(self, values: Iterable[str]) -> None:
        """
        Keep the cookies of a response.

        :param values: of its ``Set-Cookie`` headers; malformed, long or surplus ones are left out.
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
        """The ``Cookie`` header, where there are cookies."""
        pairs = "; ".join(f"{name}={value}" for name, value in self._cookies.items())
        return {"Cookie": pairs} if pairs else {}
