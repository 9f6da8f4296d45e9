"""
Turns option values as people write them (``5m``, ``8M``, URLs) into what the program uses.
A parser raises ValueError with the words that follow "expected": what would have been right, never the value itself.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection
from urllib.parse import SplitResult, unquote_plus, urlsplit

from relayd.language import charsets
from relayd.network.spelling import loopback_addresses

_TIME_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "": 1.0}
_SIZE_UNITS = {"": 1, "B": 1, "K": 1024, "M": 1024**2, "G": 1024**3}
#: The most labels of one relay: all of them are one message to the main server.
MAX_LABELS = 32
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}=[^,]{0,128}")
#: The most main servers of one relay.
MAX_SERVERS = 16
#: What separates two URLs: a comma may also be part of one.
_NEXT_URL = re.compile(r",(?=\s*(?:ws|http)s?://)", re.IGNORECASE)
_YES = ("yes", "true", "on", "1")
_NO = ("no", "false", "off", "0")


def near(word: str, known: Collection[str], cutoff: float = 0.6) -> str | None:
    """The *known* word that *word* most likely means, whatever its case; ``None``: nothing is similar."""
    import difflib  # here, since only a mistake needs it

    spelt = {each.lower(): each for each in known}
    return next((spelt[each] for each in difflib.get_close_matches(word.lower(), spelt, 1, cutoff)), None)


def shown(value: str, otherwise: str = "the given value") -> str:
    """A word from a file, fit for a message of one line."""
    return f'"{value}"' if value.isprintable() and len(value) <= 100 else otherwise


def key(name: str) -> str:
    """The name of an unknown key, fit for a message of one line, and too short to be a secret."""
    return name if name.isprintable() and 0 < len(name) <= 32 else "a key"


def text(value: str) -> str:
    """A single line of text that is not blank."""
    if not value.strip() or not value.isprintable():
        raise ValueError("a single line of text")
    return value.strip()


def any_text(value: str) -> str:
    """A single line of text, which may be empty."""
    if not value.isprintable():
        raise ValueError("a single line of text")
    return value


def charset(value: str) -> str:
    """A character set that Python knows, by its canonical name."""
    found = charsets.charset(value)
    if found is None:
        raise ValueError("the name of a character set, such as utf-8, gbk or latin-1")
    return found


def flag(value: str) -> bool:
    """Yes or no."""
    if value.lower() not in _YES + _NO:
        raise ValueError("yes or no")
    return value.lower() in _YES


def labels(value: str) -> tuple[str, ...]:
    """Labels, ``KEY=VALUE`` each, separated by commas; no key twice."""
    found = tuple(each.strip() for each in value.split(","))
    keys = [each.partition("=")[0] for each in found]
    for label in found:
        if not _LABEL.fullmatch(label) or not label.isprintable():
            raise ValueError(
                "labels like site=berlin: a key of up to 63 letters, digits and . _ / -, and a value of up to 128 "
                "characters without a comma",
                label,
            )
    if len(found) > MAX_LABELS or len(set(keys)) < len(keys):
        raise ValueError(f"at most {MAX_LABELS} labels, each key once")
    return found


class Choice:
    """
    Reads one of *words*.

    :ivar words: the words, for those who show them.
    """

    def __init__(self, *words: str) -> None:
        self.words = words

    def __call__(self, value: str) -> str:
        """The word itself."""
        if value not in self.words:
            meant = near(value, self.words)
            raise ValueError(f"one of {', '.join(self.words)}" + (f" (did you mean {meant}?)" if meant else ""))
        return value


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """A whole number in the given range, bounds included."""

    def parse(value: str) -> int:
        if not (value.isascii() and value.isdigit() and len(value) <= 12 and least <= int(value) <= most):
            raise ValueError(f"a whole number from {least} to {most}")
        return int(value)

    return parse


def duration(least: float, most: float) -> Callable[[str], float]:
    """A span of time in the given range of seconds, bounds included: ``5``, ``5s``, ``2m``, ``1.5h``, ``1d``."""
    expected = f"a time from {spell_duration(least)} to {spell_duration(most)}, like 5s, 2m or 1h"

    def parse(value: str) -> float:
        number = value.rstrip("dhms")
        unit = _TIME_UNITS.get(value[len(number) :].strip())
        seconds = _number(number) * unit if unit is not None else math.nan
        if not least <= seconds <= most:  # true for nan as well
            raise ValueError(expected)
        return seconds

    return parse


def size(least: int, most: int) -> Callable[[str], int]:
    """A number of bytes in the given range, bounds included: ``65536``, ``512K``, ``8M``, ``1G``; K is 1024."""
    expected = f"a size from {spell_size(least)} to {spell_size(most)}, like 512K or 8M"

    def parse(value: str) -> int:
        number = value.rstrip("BKMG")
        unit = _SIZE_UNITS.get(value[len(number) :])
        count = _number(number) * unit if unit is not None else math.nan
        if not least <= count <= most:
            raise ValueError(expected)
        return int(count)

    return parse


def spell_duration(seconds: float) -> str:
    """Seconds in the largest unit that holds them in whole numbers, as `duration` reads them."""
    for unit in ("d", "h", "m", "s"):
        if seconds and seconds % _TIME_UNITS[unit] == 0:
            return f"{seconds / _TIME_UNITS[unit]:.0f}{unit}"
    return f"{seconds * 1000:g}ms" if 0 < seconds < 1 else f"{seconds:g}s"


def spell_size(count: int) -> str:
    """Bytes in the largest unit that holds them in whole numbers, as `size` reads them."""
    for unit in ("G", "M", "K"):
        if count and count % _SIZE_UNITS[unit] == 0:
            return f"{count // _SIZE_UNITS[unit]}{unit}"
    return f"{count}B"


def server_url(value: str) -> str:
    """
    The URL of the main server: ``wss://HOST[:PORT][/PATH][?QUERY]``, or the same with ``https``, ``ws``, ``http``.

    It holds no name and no key of the relay, which have options of their own: everybody could read the key in it. An
    ``@`` in its path or query is written as ``%40``.
    """
    parts = _split(value)
    if parts is None or parts.scheme not in ("ws", "wss", "http", "https"):
        raise ValueError("a URL like wss://HOST or https://HOST:PORT")
    # The rest of a password with a slash or a question mark in it looks like a path or a query.
    if "@" in value or "#" in value:
        raise ValueError(
            "a URL without user or fragment (a login for its server belongs in the file of --header-file), and %40 "
            "for an @"
        )
    names = {unquote_plus(each.partition("=")[0]).strip().lower() for each in re.split("[&;]", parts.query)}
    if names & {"proxyid", "apikey"}:
        raise ValueError("a URL without proxyId or apiKey, which have their own options")
    return value.strip()


def server_urls(value: str) -> tuple[str, ...]:
    """The URLs of main servers (`server_url`), separated by commas. They differ in more than their queries."""
    found = tuple(each.strip() for each in _NEXT_URL.split(value))
    for url in found:
        try:
            server_url(url)
        except ValueError as error:
            raise ValueError(error.args[0], *([url] if len(found) > 1 else [])) from None
    if len(found) > MAX_SERVERS or len(set(map(without_query, found))) < len(found):
        raise ValueError(f"at most {MAX_SERVERS} URLs, each of another main server: not only the query differs")
    return found


def without_query(url: str) -> str:
    """A `server_url` without its query, which may hold a secret, for logs."""
    return url.partition("?")[0]


def url_path(value: str) -> str:
    """The path of a URL, from its first ``/``."""
    value = value.strip()
    if not value.startswith("/") or set(value) & set("?# \\") or not value.isprintable():
        raise ValueError("a path like /relay/ws; a query belongs in --server")
    return value


def proxy_url(value: str) -> str:
    """The URL of an HTTP proxy: ``http://[USER[:PASSWORD]@]HOST:PORT``."""
    parts = _split(value)
    if parts is None or parts.scheme != "http" or parts.port is None or parts.path.strip("/") or set(value) & set("?#"):
        raise ValueError("a URL like http://PROXY:3128")
    return value.strip()


def user_of(url: str) -> tuple[str, str]:
    """User and password of a `proxy_url`, still percent-encoded; empty if it has none."""
    parts = urlsplit(url)
    return parts.username or "", parts.password or ""


def is_private(url: str, http_proxy: str | None) -> bool:
    """
    Whether nobody on the way to *url*, a `server_url`, can read what is sent: it is encrypted, or does not leave this
    machine. What goes through a proxy does leave it, and the proxy decides what ``localhost`` is.
    """
    parts = urlsplit(url)
    return parts.scheme in ("wss", "https") or (http_proxy is None and bool(loopback_addresses(parts.hostname or "")))


def _split(value: str) -> SplitResult | None:
    value = value.strip()
    try:
        parts = urlsplit(value)
        usable = bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port beyond 65535, half an IPv6 address
        return None
    return parts if usable and value.isprintable() and not set(value) & set(" \\") else None


def _number(value: str) -> float:
    """*value* as a number, ``nan`` if it is not one; ``1_000``, ``1e3`` and ``inf`` are not numbers here."""
    value = value.strip()
    if not value or len(value) > 24 or set(value) - set("0123456789."):
        return math.nan
    try:
        return float(value)
    except ValueError:
        return math.nan
