"""
HTTP responses that open no WebSocket: what the main server, or something in front of it, means by them.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct
from msgspec.structs import replace
from twisted.internet.interfaces import IReactorTime

from relayd.errors import DialectMismatch, RelayError, UplinkBusy, UplinkRefused, UplinkUnreachable
from relayd.uplink.retry import seconds_of

#: Bytes of a body that are read, and seconds to wait for them.
MAX_BODY: Final = 2048
BODY_TIMEOUT: Final = 2.0

# RFC 9110, section 15, and RFC 6585
_BAD_REQUEST, _UNAUTHORIZED, _FORBIDDEN, _TOO_MANY, _UNAVAILABLE = 400, 401, 403, 429, 503
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_SERVER_ERRORS: Final = range(500, 600)

#: What a status usually means here; the error around it says the rest.
_MEANINGS: Final = {
    200: "an ordinary page; nothing there knows WebSocket, or something in between drops the Upgrade header",
    403: "which a proxy or firewall in front of the main server may also say",
    404: "nothing is at that path; look at --server, which usually has no path of its own, like wss://HOST",
    405: "nothing there knows WebSocket",
    407: "a proxy in between wants a login; see --http-proxy",
    414: "the address with proxyId and key is too long for it, or for something in between",
    426: "it wants another protocol or version, or something in between drops the Upgrade header",
    502: "a proxy in front of it does not reach it",
    504: "a proxy in front of it gets no answer from it",
    505: "it, or something in between, takes only another version of HTTP",
}

#: What to do about texts with which web servers answer a client whose TLS is not what they want.
_TLS_HINTS: Final = (
    (re.compile(r"No required SSL certificate", re.IGNORECASE), "a client certificate; see --tls-cert and --tls-key"),
    (re.compile(r"SSL certificate error", re.IGNORECASE), "another client certificate than that of --tls-cert"),
    (
        re.compile(r"HTTP request (?:was sent )?to (?:an )?HTTPS|plain HTTP to an SSL", re.IGNORECASE),
        "TLS, so that --server needs https:// or wss://",
    ),
)

#: Schemes of an HTTP login (RFC 9110, section 11): none of them takes relayd's key.
_LOGINS: Final = re.compile(r"(?:basic|digest|negotiate|ntlm)\b", re.IGNORECASE)
_TLS: Final = (b"\x15\x03", b"\x16\x03")  # RFC 8446, section 5.1: what a TLS server says to HTTP
_HTTP1: Final = b"HTTP/1."
NO_HTTP: Final = "an answer that is not HTTP"
#: Bytes that are enough to recognise a protocol.
ENOUGH: Final = 16
#: How deep in a JSON text to look for a message.
_DEPTH: Final = 4

_LENGTH: Final = re.compile(r"[0-9]{1,9}")
_CHUNK: Final = re.compile(rb"([0-9a-fA-F]{1,6})[^\r\n]*\r\n")
_SCHEME: Final = re.compile(r"(?:^|,)\s*([A-Za-z][A-Za-z0-9-]{0,29})(?=\s|,|$)(?!\s*=)")
_TITLE: Final = re.compile(r"<title[^>]*>([^<]*)", re.IGNORECASE)
_HIDDEN: Final = re.compile(r"<(script|style|head)\b.*?(?:</\1\s*>|$)|<[^>]*(?:>|$)", re.IGNORECASE | re.DOTALL)


class HttpResponse(Struct, frozen=True):
    """
    A response that opens no WebSocket and no tunnel.

    :ivar status: 0 where it could not be read.
    :ivar reason: what is wrong with the response, where that is not its status.
    :ivar headers: by their names in lower case.
    :ivar body: as far as it was read.
    """

    status: int
    reason: str
    headers: Mapping[str, str] = {}
    body: bytes = b""


def other_protocol(data: bytes, *, whole: bool = False) -> str | None:
    """
    The protocol of a peer whose answer begins with *data*; ``None``: HTTP/1, or too little has come to tell.

    :param whole: whether nothing more will come.
    """
    if data.startswith(_TLS):
        return "it speaks TLS there, so that --server needs https:// or wss://"
    if _HTTP1.startswith(data[: len(_HTTP1)]) or not (whole or b"\n" in data or len(data) >= ENOUGH):
        return None
    if data.startswith(b"\0") and data[3:9] == b"\4\0\0\0\0\0":  # RFC 9113, section 3.4: settings come first
        return "it speaks HTTP/2 there, and not HTTP/1.1"
    return NO_HTTP


def body_of(headers: Mapping[str, str], data: bytes) -> tuple[bytes, bool]:
    """
    The body at the beginning of *data*, as far as it has come, and whether more of it is worth waiting for.

    A body that ends with the connection is not: a peer may leave the connection open.
    """
    if headers.get("content-encoding", "identity").lower() != "identity":
        return b"", False
    if "chunked" in headers.get("transfer-encoding", "").lower():
        return _unchunked(data)
    length = headers.get("content-length", "").strip()
    if not _LENGTH.fullmatch(length):
        return data[:MAX_BODY], False
    wanted = min(int(length), MAX_BODY)
    return data[:wanted], len(data) < wanted


def _unchunked(data: bytes) -> tuple[bytes, bool]:
    body = b""
    while len(body) < MAX_BODY:
        head = _CHUNK.match(data)
        if head is None:
            return body, len(data) < MAX_BODY
        size = int(head[1], 16)
        body += data[head.end() : head.end() + size]
        if not size:
            return body, False
        if len(data) < head.end() + size + 2:
            break
        data = data[head.end() + size + 2 :]
    return body[:MAX_BODY], len(body) < MAX_BODY


def words_of(response: HttpResponse) -> str:
    """What the body says to a person: its message, a page's title or text, or all of it. Quote it before showing it."""
    text = response.body.decode("utf-8", "replace").strip()
    if text.startswith("{"):
        try:
            members = json.loads(text)
        except (ValueError, RecursionError):  # cut, or no JSON
            return text
        return _message_in(members) or text
    if "html" in response.headers.get("content-type", "") or text.startswith("<"):
        title = _TITLE.search(text)
        return html.unescape(title[1] if title and title[1].strip() else _HIDDEN.sub(" ", text))
    return text


def _message_in(said: object, depth: int = _DEPTH) -> str:
    """The message in a JSON text, also within an object ``error``, or a list of messages."""
    if isinstance(said, str):
        return said
    if isinstance(said, list) and depth:
        return "; ".join(filter(None, [_message_in(each, depth - 1) for each in said[:_DEPTH]]))
    if isinstance(said, dict) and depth:
        found = (_message_in(said.get(name), depth - 1) for name in ("message", "error", "errors", "detail", "reason"))
        return next(filter(None, found), "")
    return ""


class RefusalReader:
    """
    Reads the body of a response that refuses, as far as it comes in time (`BODY_TIMEOUT`).

    :param head: the response without its body.
    :param most: bytes to read at most, with those that frame the body.
    :param on_read: is called once, with the response and what has come of its body.
    """

    def __init__(
        self, clock: IReactorTime, head: HttpResponse, most: int, on_read: Callable[[HttpResponse], None]
    ) -> None:
        self._response = head
        self._most = most
        self._on_read = on_read
        self._received = b""
        self._over = False
        self._deadline = clock.callLater(BODY_TIMEOUT, self.finish)

    def receive(self, data: bytes) -> None:
        """Take what came after the head."""
        if self._over:
            return
        self._received += data
        body, more = body_of(self._response.headers, self._received)
        self._response = replace(self._response, body=body)
        if not more or len(self._received) > self._most:
            self.finish()

    def finish(self) -> None:
        """Nothing more will come, or is waited for."""
        if self._over:
            return
        self._over = True
        if self._deadline.active():
            self._deadline.cancel()
        self._on_read(self._response)


def schemes_of(header: str) -> str:
    """The schemes that a ``WWW-Authenticate`` or ``Proxy-Authenticate`` asks for (RFC 9110, section 11.6.1)."""
    return " or ".join(_SCHEME.findall(header[:1000])[:4])


def error_of(
    response: HttpResponse, quote: Callable[[str], str], *, server: str, dialect: str, path: str
) -> RelayError:
    """The error for *response* to the request for *path*."""
    status, reason, seconds = response.status, _reason(response, quote), seconds_of(response.headers)
    if status == _BAD_REQUEST and _wants_other_tls(response):  # whatever was asked for
        return UplinkUnreachable(server=server, reason=f"it answers {reason}", status=status)
    if status in (_UNAUTHORIZED, _FORBIDDEN):
        return UplinkRefused(server=server, reason=reason)
    if status in (_TOO_MANY, _UNAVAILABLE) and seconds is not None:
        return UplinkBusy(server=server, status=status, reason=reason, seconds=seconds)
    if status in _SERVER_ERRORS or status == _TOO_MANY:
        return UplinkUnreachable(server=server, reason=f"it answers {reason}", status=status)
    return DialectMismatch(server=server, dialect=dialect, path=path, reason=reason)


def _reason(response: HttpResponse, quote: Callable[[str], str]) -> str:
    if not response.status:
        return quote(response.reason)
    parts = [f"HTTP {response.status}" if not response.reason else quote(response.reason)]
    if meaning := _MEANINGS.get(response.status):
        parts.append(meaning)
    if response.status in _REDIRECTS:
        to = _without_query(response.headers.get("location", ""))
        target = f" to {quote(to)}" if to else ""
        parts.append(f"a redirect{target}, which relayd does not follow; look at --server")
    for name in ("www-authenticate", "proxy-authenticate"):
        if schemes := schemes_of(response.headers.get(name, "")):
            parts.append(f"which asks for {quote(schemes)}")
            if response.status == _UNAUTHORIZED and _LOGINS.match(schemes):
                parts.append("a login that a proxy in front of the main server may want; see --header-file")
    for name in ("upgrade", "sec-websocket-version"):
        if response.status == 426 and (wanted := response.headers.get(name)):
            parts.append(f"{name}: {quote(wanted)}")
    if said := quote(words_of(response)):
        parts.append(f'it says "{said}"')
        parts += [f"it wants {wanted}" for wanted in _wants_other_tls(response)]
    return ", ".join(parts)


def _wants_other_tls(response: HttpResponse) -> list[str]:
    said = words_of(response)
    return [wanted for text, wanted in _TLS_HINTS if text.search(said)]


def _without_query(location: str) -> str:
    try:
        return urlsplit(location)._replace(query="", fragment="").geturl()
    except ValueError:
        return ""
