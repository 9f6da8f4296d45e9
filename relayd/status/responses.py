"""
What the status server responds to each request.  Decisions only, no I/O.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.resources import files
from ipaddress import ip_address
from typing import Final

import msgspec
from msgspec import Struct
from prometheus_client import CONTENT_TYPE_LATEST

from relayd.language.texts import without_surrogates
from relayd.status.metrics import make_registry, render
from relayd.status.page import make_page
from relayd.status.sources import StatusSources
from relayd.status.summary import summarize

#: Seconds for which a response that takes work to make is used again, however many clients ask.
FRESH: Final = 0.5
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_TEXT: Final = "text/plain; charset=utf-8"
_HTML: Final = "text/html; charset=utf-8"
_FILES: Final = {"/status.css": "text/css; charset=utf-8", "/status.js": "text/javascript; charset=utf-8"}


class Response(Struct, frozen=True):
    """
    An HTTP response.

    :ivar more: headers besides those that every response has.
    """

    code: int
    content_type: str
    body: bytes
    more: dict[str, str] = {}

    def headers(self) -> dict[str, str]:
        """All headers of the response."""
        return {**_HEADERS, "Content-Type": self.content_type, "Content-Length": str(len(self.body)), **self.more}


class Responder:
    """
    Responds to requests about one relay.

    :param check_host: whether requests must name this machine by its address.  A foreign web page whose name was made
        to lead here (DNS rebinding) sends that name.
    """

    def __init__(self, sources: StatusSources, *, check_host: bool) -> None:
        self._sources = sources
        self._check_host = check_host
        self._registry = make_registry(sources)
        self._made: dict[str, tuple[float, list[str], bytes]] = {}

    def respond(self, method: str, target: str, hosts: list[str], accept: str) -> Response:
        """
        The response to one request.

        :param target: as the client wrote it; what follows ``?`` is ignored.
        :param hosts: every ``Host`` header.
        :param accept: the ``Accept`` header.
        """
        if self._check_host and not all(map(_is_address, hosts)):
            return Response(421, _TEXT, b"Name this machine by its address, or as localhost.\n")
        if method not in ("GET", "HEAD"):
            return Response(405, _TEXT, b"Only GET and HEAD are allowed.\n", {"Allow": "GET, HEAD"})
        path = target.partition("?")[0]
        if path == "/":
            return Response(302, _TEXT, b"See /status.\n", {"Location": "/status"})
        if path == "/healthz":
            return Response(200, _TEXT, b"ok\n")
        if path == "/readyz":
            return self._ready()
        if path == "/metrics":
            return Response(200, CONTENT_TYPE_LATEST, self._fresh(path, lambda: render(self._registry)))
        if path in _FILES:
            return Response(200, _FILES[path], _read(path))
        if path == "/status.html" or (path == "/status" and _wants_html(accept)):
            return Response(200, _HTML, self._fresh("html", self._html), {"Vary": "Accept"})
        if path in ("/status", "/status.json"):
            return Response(200, "application/json", self._fresh("json", self._json), {"Vary": "Accept"})
        return Response(404, _TEXT, b"Not found: there are /status, /metrics, /readyz and /healthz.\n")

    def _ready(self) -> Response:
        obstacles = self._sources.obstacles()
        if not obstacles:
            return Response(200, _TEXT, b"ready\n")
        return Response(503, _TEXT, "".join(f"not ready: {each}\n" for each in obstacles).encode("utf-8", "replace"))

    def _json(self) -> bytes:
        return _encode(summarize(self._sources))

    def _html(self) -> bytes:
        return make_page(summarize(self._sources)).encode("utf-8", "replace")

    def _fresh(self, what: str, make: Callable[[], bytes]) -> bytes:
        now, obstacles = self._sources.clock.seconds(), self._sources.obstacles()
        if (made := self._made.get(what)) is not None:
            at, then, body = made
            if now - at < FRESH and then == obstacles:  # the response must not contradict /readyz
                return body
        body = make()
        self._made[what] = (now, obstacles, body)
        return body


def _is_address(host: str) -> bool:
    """Whether a ``Host`` header holds a literal address or localhost, which nobody can make lead elsewhere."""
    name = host.strip()
    name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
    if name.lower() == "localhost":
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _wants_html(accept: str) -> bool:
    """Whether the client is a browser, which names HTML first.  One that names nothing, or ``*/*``, is a program."""
    kinds = [each.partition(";")[0].strip().lower() for each in accept.split(",")]
    html = next((kinds.index(kind) for kind in ("text/html", "application/xhtml+xml") if kind in kinds), None)
    return html is not None and "application/json" not in kinds[:html]


@cache
def _read(path: str) -> bytes:
    return files("relayd.status").joinpath(path.lstrip("/")).read_bytes()


def _encode(document: object) -> bytes:
    try:
        return msgspec.json.encode(document)
    except (UnicodeEncodeError, ValueError):  # half a surrogate pair
        return msgspec.json.encode(_clean(document))


def _clean(value: object) -> object:
    if isinstance(value, str):
        return without_surrogates(value)
    if isinstance(value, dict):
        return {_clean(key): _clean(each) for key, each in value.items()}
    return [_clean(each) for each in value] if isinstance(value, list) else value
