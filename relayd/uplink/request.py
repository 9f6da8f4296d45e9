"""
HTTP requests to the main server: for a WebSocket (RFC 6455, section 4.1), or ordinary ones; and interim responses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from msgspec import Struct

from relayd.uplink.headers import SUBPROTOCOL, Headers

#: Interim responses that are skipped before the final one.
MAX_INTERIM: Final = 16

#: The beginning of an interim response (RFC 9110, section 15.2). 101 is not one, although it begins with 1.
_INTERIM: Final = re.compile(rb"HTTP/1\.[0-9] 1(?!01)[0-9]{2}\b")


class Request(Struct, frozen=True, kw_only=True):
    """
    One request.

    :ivar resource: path and query, which has the key: do not log it.
    :ivar host: the ``Host`` header.
    :ivar headers: more headers, which may hold secrets; a ``User-Agent`` takes the place of relayd's.
    """

    resource: str
    host: str
    user_agent: str
    headers: Headers = ()

    def __repr__(self) -> str:
        return f"<Request to {self.host}>"

    def to_wire(self, key: bytes) -> bytes:
        """
        The bytes of the request for a WebSocket.

        :param key: of the handshake, in Base64.
        """
        lines = [
            f"GET {self.resource} HTTP/1.1",
            f"Host: {self.host}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Pragma: no-cache",
            "Cache-Control: no-cache",
            f"Sec-WebSocket-Key: {key.decode()}",
            "Sec-WebSocket-Version: 13",
        ]
        return self._with_headers(lines)

    def to_plain(self, method: str) -> bytes:
        """The head of an ordinary request for the same resource."""
        lines = [
            f"{method} {self.resource} HTTP/1.1",
            f"Host: {self.host}",
            "Accept-Encoding: identity",
        ]
        return self._with_headers(lines, SUBPROTOCOL)

    def _with_headers(self, lines: list[str], without: str = "") -> bytes:
        own = [f"{name}: {value}" for name, value in self.headers if name.lower() != without]
        if not any(name.lower() == "user-agent" for name, _ in self.headers):
            own.append(f"User-Agent: {self.user_agent}")
        return "\r\n".join([*lines, *own, "", ""]).encode()


#: Makes a request, with the API key, and with the parameters and headers of a session.
MakeRequest = Callable[[Mapping[str, str], Mapping[str, str]], Request]


def skip_interim(data: bytes) -> tuple[bytes, int]:
    """
    *data* without the complete interim responses (100, 102, 103 …) at its beginning, and how many there were.
    """
    skipped = 0
    while skipped < MAX_INTERIM and _INTERIM.match(data):
        _, found, rest = data.partition(b"\r\n\r\n")
        if not found:
            break
        data, skipped = rest, skipped + 1
    return data, skipped
