"""
Requests to a hub's API over HTTP, one at a time. The certificate is always verified.
"""

from __future__ import annotations

import http.client
import json
import ssl
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

from relayd import __version__
from relayd.ctl.client.errors import Refused, Unreachable
from relayd.ctl.client.logins import Login
from relayd.language.texts import printable
from relayd.network.spelling import loopback_addresses

#: Seconds to wait for each part of an answer. A stream of events says something every 15 seconds.
TIMEOUT: Final = 45.0
#: Seconds before a request is sent again whose answer was lost.
_DELAYS: Final = (0.5, 1.0, 2.0, 4.0)
#: The most bytes of an answer that is no download.
_MOST_BYTES: Final = 64 * 1024 * 1024
#: Items that a page of a list should have.
_PAGE: Final = 500

Query = Mapping[str, str | int | None]


def read_url(text: str) -> str:
    """
    The URL of a hub, without path.

    :raises ValueError: says what was expected.
    """
    parts = urlsplit(text if "//" in text else f"https://{text}")
    try:
        usable = bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.scheme not in ("http", "https") or parts.username or not text.isprintable():
        raise ValueError("a URL like https://hub.example.com")
    if parts.path.strip("/") not in ("", "api/v1") or parts.query or parts.fragment:
        raise ValueError("the URL of the hub alone, like https://hub.example.com")
    if parts.scheme == "http" and not loopback_addresses(parts.hostname or ""):
        raise ValueError("https://, as the token would be sent unencrypted; http:// is for this machine alone")
    return f"{parts.scheme}://{parts.netloc}"


def segment(name: str) -> str:
    """A name as a part of a path."""
    return quote(name, safe="")


class Hub:
    """
    One hub's API.

    :param login: where it is, and the token.
    """

    def __init__(self, login: Login) -> None:
        self.login = login
        self._parts = urlsplit(login.url)
        self._tls: ssl.SSLContext | None = None
        self._connection: http.client.HTTPConnection | None = None

    def get(self, path: str, query: Query | None = None) -> Any:
        """What is at *path*, below ``/api/v1``. See `call`."""
        return self.call("GET", path, query=query)

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: Query | None = None,
        headers: Mapping[str, str] | None = None,
        again: bool | None = None,
    ) -> Any:
        """
        Send a request, and read its answer.

        :param body: becomes JSON; ``bytes`` are sent as they are.
        :param again: whether it may be sent again when its answer is lost; by default what only reads.
        :raises Refused: when the hub does not do it.
        :raises Unreachable: when there is no answer.
        """
        may_repeat = method == "GET" if again is None else again
        for delay in (*(_DELAYS if may_repeat else ()), None):
            try:
                response = self.send(method, path, body, query=query, headers=headers)
                content = response.read(_MOST_BYTES)
            except (OSError, http.client.HTTPException) as error:
                self.close()
                if delay is None or isinstance(error, ssl.SSLCertVerificationError):
                    raise Unreachable(url=self.login.url, reason=_words(error)) from None
                time.sleep(delay)
                continue
            if response.status in (502, 503, 504) and delay is not None:
                time.sleep(delay)
                continue
            return self._read(response, content)
        raise AssertionError("there is always a last attempt")

    def items(self, path: str, query: Query | None = None, most: int | None = None) -> Iterator[Any]:
        """The items of a list, page by page; at most *most*."""
        cursor: str | None = None
        while True:
            limit = _PAGE if most is None else min(_PAGE, most)
            page = self.get(path, {**(query or {}), "limit": limit, "cursor": cursor})
            found = page.get("items", [])
            yield from found
            cursor = page.get("next")
            most = None if most is None else most - len(found)
            if not cursor or not found or (most is not None and most <= 0):
                return

    def send(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: Query | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> http.client.HTTPResponse:
        """
        Send a request; its answer is still to be read.

        :raises OSError: when that fails, and `http.client.HTTPException`.
        """
        given = {name: value for name, value in (query or {}).items() if value is not None}
        target = f"/api/v1{path}" + (f"?{urlencode(given)}" if given else "")
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        sent = {"Accept": "*/*", "User-Agent": f"relayctl/{__version__}", **(headers or {})}
        if token := self.login.token.reveal():
            sent["Authorization"] = f"Bearer {token}"
        if data is not None:
            sent.setdefault("Content-Type", "application/json")
        connection = self._connect()
        connection.request(method, target, data, sent)
        return connection.getresponse()

    def open(self, method: str, path: str, body: object = None) -> http.client.HTTPResponse:
        """
        Send a request, and give its answer unread.

        :raises Refused: when the hub does not do it.
        :raises Unreachable: when there is no answer.
        """
        try:
            response = self.send(method, path, body)
            if 200 <= response.status < 300:
                return response
            content = response.read(_MOST_BYTES)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Unreachable(url=self.login.url, reason=_words(error)) from None
        raise self.refusal(response, content)

    def refusal(self, response: http.client.HTTPResponse, content: bytes) -> Refused:
        """The error for an answer that is none of success."""
        try:
            problem = json.loads(content)
        except ValueError:
            problem = None
        if not isinstance(problem, dict):
            reason = f"it answers {response.status} {printable(response.reason, 60)}, and is perhaps no hub of relayd"
            return Refused(status=response.status, kind="", reason=reason)
        said = str(problem.get("detail") or problem.get("title") or response.status)
        for each in problem.get("errors") or ():
            if isinstance(each, dict):
                where = each.get("pointer") or each.get("parameter") or ""
                said += f" {where}: {each.get('detail', '')}".rstrip()
        kind = str(problem.get("type", "")).rpartition(":")[2]
        return Refused(status=response.status, kind=kind, reason=printable(said, 2000))

    def close(self) -> None:
        """End the connection; the next request makes another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _read(self, response: http.client.HTTPResponse, content: bytes) -> Any:
        if not 200 <= response.status < 300:
            raise self.refusal(response, content)
        if not content:
            return None
        if "json" not in response.headers.get("Content-Type", ""):
            return content
        try:
            return json.loads(content)
        except ValueError:
            raise Unreachable(url=self.login.url, reason="its answer is not valid JSON") from None

    def _connect(self) -> http.client.HTTPConnection:
        if self._connection is None:
            host, port = str(self._parts.hostname), self._parts.port
            if self._parts.scheme == "https":
                self._connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT, context=self._context())
            else:
                self._connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT)
        return self._connection

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context(cafile=self.login.ca or None)
        return self._tls


def _words(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message}); for a CA of your own, give --ca FILE"
    if isinstance(error, TimeoutError):
        return "it does not answer in time"
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    return f"its answer is not valid HTTP ({type(error).__name__})"
