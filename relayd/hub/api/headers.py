"""
Headers that every answer has, and how those of requests are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from twisted.web.http_headers import Headers

from relayd.hub.api.problems import InvalidHeader, MalformedRequest
from relayd.language.texts import Text

#: No answer of the API is a page: should a browser take one for it, it runs and loads nothing.
_ALWAYS: Final = (
    ("Cache-Control", "no-store"),
    (
        "Content-Security-Policy",
        "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox",
    ),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("Server", "relayd-hub"),
    ("X-Content-Type-Options", "nosniff"),
)
#: A year. Not of subdomains: those of the name may be those of others.
_STRICT: Final = ("Strict-Transport-Security", "max-age=31536000")
#: Those that a request may have once at most: with two of them, two programs could each see another one.
_ONCE: Final = (
    "authorization",
    "content-encoding",
    "content-type",
    "host",
    "idempotency-key",
    "last-event-id",
    "origin",
    "range",
    "sec-fetch-site",
    "x-csrf-token",
    "x-forwarded-proto",
)


def response_headers(date: str) -> list[tuple[str, str]]:
    """Those of every answer."""
    return [*_ALWAYS, ("Date", date)]


def secure_headers(secure: bool) -> list[tuple[str, str]]:
    """Those of answers over TLS."""
    return [_STRICT] if secure else []


def read_headers(raw: Headers) -> Mapping[str, str]:
    """
    A request's headers, by name in lower case.

    :raises MalformedRequest: without ``Host``, or with several.
    :raises InvalidHeader: when one that may be there once is there twice, or holds what no header may.
    """
    found: dict[str, str] = {}
    for name, values in raw.getAllRawHeaders():
        key = name.decode("ascii").lower()
        if key in _ONCE and len(values) > 1:
            if key == "host":
                raise MalformedRequest(reason=Text("it has more than one header Host"))
            raise InvalidHeader(header=name.decode("ascii"), reason=Text("is there twice"))
        separator = "; " if key == "cookie" else ", "
        found[key] = separator.join(value.decode("latin-1") for value in values)
    return found
