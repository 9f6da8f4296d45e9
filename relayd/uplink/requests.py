"""
The requests of a polling session, made of those that open a WebSocket: the same URL, host and headers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from urllib.parse import quote

from autobahn.websocket.types import ConnectingRequest

from relayd.messages import Secret


class PollingRequests:
    """
    :param make: builds a request, with *key* in it.
    :param host: what the ``Host`` header says.
    """

    def __init__(self, make: Callable[[Mapping[str, str]], ConnectingRequest], host: str, key: Secret) -> None:
        self._make = make
        self._host = host
        self._key = key

    def head(self, method: str, session: Mapping[str, str], extra: Mapping[str, str]) -> bytes:
        """See `relayd.uplink.polling.Requests`."""
        request = self._make(session)
        fields = {"Host": self._host, "User-Agent": request.useragent or "", "Accept": "*/*"}
        fields |= {"Accept-Encoding": "identity"} | (request.headers or {}) | dict(extra)
        lines = [f"{method} {request.resource} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
        return "\r\n".join((*lines, "", "")).encode("latin-1")

    def hide(self, text: str) -> str:
        """See `relayd.uplink.polling.Requests`."""
        key = self._key.reveal()
        for form in {key, quote(key, safe=""), quote(key)} - {""}:
            text = text.replace(form, "…")
        return text
