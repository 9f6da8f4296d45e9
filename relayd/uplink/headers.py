"""
The site's own headers in HTTP requests to the main server, for access proxies and for ``Origin`` rules.
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import Mapping
from typing import Final

from relayd.errors import UplinkError
from relayd.network.descriptors import words_of

#: Bytes and headers that the file may have.
MOST_BYTES: Final = 16 * 1024
MOST_HEADERS: Final = 32

SUBPROTOCOL: Final = "sec-websocket-protocol"

# RFC 9110, sections 5.1 and 5.5
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_VALUE: Final = re.compile(r"[\x20-\x7e]+")
#: Headers that relayd sets itself (`relayd.uplink.request`, `relayd.uplink.polling`), or that frame a message.
_RESERVED: Final = frozenset(
    [
        *("host", "connection", "upgrade", "pragma", "cache-control"),
        *("accept-encoding", "content-type", "content-length", "transfer-encoding", "te", "trailer", "expect"),
    ]
)

Headers = tuple[tuple[str, str], ...]


def read_headers(path: str | None) -> Headers:
    """
    The headers in a file: one ``Name: value`` on a line, with empty lines and comments (``#``) between them.

    :raises UplinkError: when the file cannot be used; the error quotes nothing of it, since it holds secrets.
    """
    if path is None:
        return ()
    try:
        with open(path, "rb") as file:
            raw = file.read(MOST_BYTES + 1)
        text = raw.removeprefix(BOM_UTF8).decode("ascii")  # some editors begin files with a signature
    except OSError as error:
        raise UplinkError(reason=f"--header-file {path} cannot be read: {words_of(error)}") from None
    except UnicodeDecodeError:
        raise UplinkError(reason=f"--header-file {path} is not ASCII text") from None
    if len(raw) > MOST_BYTES:
        raise UplinkError(reason=f"--header-file {path} has more than {MOST_BYTES} bytes")
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1)]
    found = [_header(path, number, line) for number, line in lines if line and not line.startswith("#")]
    names = [name.lower() for name, _ in found]
    if len(names) > len(set(names)):
        raise UplinkError(reason=f"--header-file {path} names a header twice: put its values on one line")
    if len(found) > MOST_HEADERS:
        raise UplinkError(reason=f"--header-file {path} has more than {MOST_HEADERS} headers")
    return tuple(found)


def _header(path: str, number: int, line: str) -> tuple[str, str]:
    name, colon, value = (part.strip() for part in line.partition(":"))
    if not colon or not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
        raise UplinkError(reason=f"--header-file {path}, line {number}, is not a header (Name: value)")
    lower = name.lower()
    if lower in _RESERVED or (lower.startswith("sec-websocket-") and lower != SUBPROTOCOL):
        raise UplinkError(reason=f"--header-file {path}, line {number}, sets a header that relayd sets itself")
    if lower == SUBPROTOCOL and not _is_offer([each.strip() for each in value.split(",")]):
        raise UplinkError(reason=f"--header-file {path}, line {number}, is not a list of distinct subprotocols")
    return name, value


def _is_offer(names: list[str]) -> bool:
    """Whether *names* are distinct tokens (RFC 6455, section 4.1): main servers refuse anything else."""
    return all(map(_NAME.fullmatch, names)) and len(names) == len(set(names))


def subprotocols(headers: Headers) -> list[str]:
    """The WebSocket subprotocols from which the main server may choose."""
    found = (value.split(",") for name, value in headers if name.lower() == SUBPROTOCOL)
    return [each.strip() for values in found for each in values]


def with_session(headers: Headers, more: Mapping[str, str]) -> Headers:
    """*headers* and *more*, those of a session; both may have cookies, which share a header (RFC 6265, section 5.4)."""
    cookie = more.get("Cookie")
    if cookie is None or not any(name.lower() == "cookie" for name, _ in headers):
        return (*headers, *more.items())
    joined = tuple((name, f"{value}; {cookie}" if name.lower() == "cookie" else value) for name, value in headers)
    return (*joined, *((name, value) for name, value in more.items() if name != "Cookie"))
