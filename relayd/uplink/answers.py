"""
Answers to the HTTP request that open no WebSocket: what the main server, or something before it, means by them.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct

from relayd.errors import DialectMismatch, RelayError, UplinkBusy, UplinkRefused, UplinkUnreachable
from relayd.uplink.retry import seconds_of

#: Bytes of a body that are read, and seconds that are waited for them.
MAX_BODY: Final = 2048
BODY_TIMEOUT: Final = 2.0

# RFC 9110, section 15, and RFC 6585
_UNAUTHORIZED, _FORBIDDEN, _TOO_MANY, _UNAVAILABLE = 401, 403, 429, 503
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_SERVER_ERRORS: Final = range(500, 600)

#: What a status usually means here, besides what the error says in which it stands.
_MEANINGS: Final = {
    200: "an ordinary page; nothing there knows WebSocket, or something in between drops the Upgrade header",
    403: "which a proxy or firewall before the main server may say as well",
    405: "nothing there knows WebSocket",
    407: "a proxy in between wants a login; see --http-proxy",
    414: "the address with proxyId and key is too long for it, or for something in between",
    426: "it wants another protocol or version, or something in between drops the Upgrade header",
    502: "a proxy before it does not reach it",
    504: "a proxy before it gets no answer from it",
    505: "it, or something in between, takes another version of HTTP only",
}

#: Of what a login by HTTP is asked (RFC 9110, section 11): relayd's key is none of these.
_LOGINS: Final = re.compile(r"(?:basic|digest|negotiate|ntlm)\b", re.IGNORECASE)
_TLS: Final = (b"\x15\x03", b"\x16\x03")  # RFC 8446, section 5.1: what a TLS server says to HTTP
_HTTP1: Final = b"HTTP/1."
NO_HTTP: Final = "an answer that is no HTTP"
#: Bytes that tell what is spoken.
ENOUGH: Final = 16
#: How deep in a JSON text a message is looked for.
_DEPTH: Final = 4

_LENGTH: Final = re.compile(r"[0-9]{1,9}")
_CHUNK: Final = re.compile(rb"([0-9a-fA-F]{1,6})[^\r\n]*\r\n")
_SCHEME: Final = re.compile(r"(?:^|,)\s*([A-Za-z][A-Za-z0-9-]{0,29})(?=\s|,|$)(?!\s*=)")
_TITLE: Final = re.compile(r"<title[^>]*>([^<]*)", re.IGNORECASE)
_HIDDEN: Final = re.compile(r"<(script|style|head)\b.*?(?:</\1\s*>|$)|<[^>]*(?:>|$)", re.IGNORECASE | re.DOTALL)


class Answer(Struct, frozen=True):
    """
    :ivar status: 0 where there is none to be read.
    :ivar reason: what is wrong with it, where that is not the status.
    :ivar headers: by their names in lower case.
    :ivar body: as far as it was read.
    """

    status: int
    reason: str
    headers: Mapping[str, str] = {}
    body: bytes = b""


def other_protocol(data: bytes, *, whole: bool = False) -> str | None:
    """
    What is spoken by a peer whose answer begins with *data*; ``None``: HTTP/1, or that cannot be told yet.

    :param whole: nothing more will come.
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
    The body that begins *data*, as far as it is there, and whether more of it is worth waiting for.

    A body that ends with the connection is not waited for: a peer that leaves it open would have us wait for nothing.
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


def words_of(answer: Answer) -> str:
    """What a body says to a person: its message, a page's title or text, or all of it; not yet fit to be shown."""
    text = answer.body.decode("utf-8", "replace").strip()
    if text.startswith("{"):
        try:
            members = json.loads(text)
        except (ValueError, RecursionError):  # cut, or no JSON
            return text
        return _message_in(members) or text
    if "html" in answer.headers.get("content-type", "") or text.startswith("<"):
        title = _TITLE.search(text)
        return html.unescape(title[1] if title and title[1].strip() else _HIDDEN.sub(" ", text))
    return text


def _message_in(said: object, depth: int = _DEPTH) -> str:
    """The message in a JSON text, also in the object ``error``, or as a list of several."""
    if isinstance(said, str):
        return said
    if isinstance(said, list) and depth:
        return "; ".join(filter(None, [_message_in(each, depth - 1) for each in said[:_DEPTH]]))
    if isinstance(said, dict) and depth:
        found = (_message_in(said.get(name), depth - 1) for name in ("message", "error", "errors", "detail", "reason"))
        return next(filter(None, found), "")
    return ""


def schemes_of(header: str) -> str:
    """The schemes that a ``WWW-Authenticate`` or ``Proxy-Authenticate`` asks for (RFC 9110, section 11.6.1)."""
    return " or ".join(_SCHEME.findall(header[:1000])[:4])


def error_of(answer: Answer, quote: Callable[[str], str], *, server: str, dialect: str, path: str) -> RelayError:
    """The error for *answer* to the request for *path*."""
    status, reason, seconds = answer.status, _reason(answer, quote), seconds_of(answer.headers)
    if status in (_UNAUTHORIZED, _FORBIDDEN):
        return UplinkRefused(server=server, reason=reason)
    if status in (_TOO_MANY, _UNAVAILABLE) and seconds is not None:
        return UplinkBusy(server=server, status=status, reason=reason, seconds=seconds)
    if status in _SERVER_ERRORS or status == _TOO_MANY:
        return UplinkUnreachable(server=server, reason=f"it answers {reason}", status=status)
    return DialectMismatch(server=server, dialect=dialect, path=path, reason=reason)


def _reason(answer: Answer, quote: Callable[[str], str]) -> str:
    if not answer.status:
        return quote(answer.reason)
    parts = [f"HTTP {answer.status}" if not answer.reason else quote(answer.reason)]
    if meaning := _MEANINGS.get(answer.status):
        parts.append(meaning)
    if answer.status in _REDIRECTS:
        to = _without_query(answer.headers.get("location", ""))
        parts.append("a redirect" + (f" to {quote(to)}" if to else "") + ", which is not followed; look at --server")
    for name in ("www-authenticate", "proxy-authenticate"):
        if schemes := schemes_of(answer.headers.get(name, "")):
            parts.append(f"which asks for {quote(schemes)}")
            if answer.status == _UNAUTHORIZED and _LOGINS.match(schemes):
                parts.append("a login that a proxy before the main server may want; see --header-file")
    for name in ("upgrade", "sec-websocket-version"):
        if answer.status == 426 and (wanted := answer.headers.get(name)):
            parts.append(f"{name}: {quote(wanted)}")
    if said := quote(words_of(answer)):
        parts.append(f'it says "{said}"')
    return ", ".join(parts)


def _without_query(location: str) -> str:
    try:
        return urlsplit(location)._replace(query="", fragment="").geturl()
    except ValueError:
        return ""
