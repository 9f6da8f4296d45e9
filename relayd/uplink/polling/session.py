"""
What the requests of one polling session have in common.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from itertools import count

from relayd.uplink.polling.cookies import Cookies
from relayd.uplink.request import MakeRequest
from relayd.uplink.wire import NOBODY, SessionListener
from relayd.wire.dialects.codec import NO_LIMIT
from relayd.wire.dialects.engineio import DEFAULT_MAX_PAYLOAD, POLLING, OpenPacket


class SessionLost(Exception):
    """The main server has ended the session, in the words given."""


class PollingSession:
    """
    One polling session: whether it is open, suspended or over, and what each of its requests says.

    :param make_request: makes an HTTP request, with the API key.
    :param on_over: is called once, when the session is over.
    :ivar listener: hears what happens to the session.
    :ivar cookies: those that the main server, or a load balancer in front of it, has set.
    :ivar opened: the open packet; ``None`` until it has come.
    :ivar suspended: whether no new request may begin, since the session is about to move to a WebSocket.
    :ivar over: why the session is over; ``None`` while it is not over.
    """

    def __init__(self, make_request: MakeRequest, on_over: Callable[[], None]) -> None:
        self.listener: SessionListener = NOBODY
        self.cookies = Cookies()
        self.opened: OpenPacket | None = None
        self.suspended = False
        self.over: BaseException | None = None
        self._make_request = make_request
        self._on_over = on_over
        self._stamp = secrets.token_hex(4)
        self._stamps = count()

    @property
    def may_request(self) -> bool:
        """Whether a request may begin now, other than the first one."""
        return self.over is None and self.opened is not None and not self.suspended

    @property
    def max_payload(self) -> int:
        """Bytes that the body of a POST may have."""
        most = DEFAULT_MAX_PAYLOAD if self.opened is None else self.opened.max_payload
        return int(min(most, NO_LIMIT)) if most and most > 0 else DEFAULT_MAX_PAYLOAD

    def head(self, method: str, extra: Mapping[str, str]) -> bytes:
        """The head of a request, with *extra* headers."""
        parameters = {"transport": POLLING, "t": f"{self._stamp}{next(self._stamps):x}"}  # so that no cache answers
        if self.opened is not None:
            parameters["sid"] = self.opened.sid
        return self._make_request(parameters, {**self.cookies.header(), **extra}).to_plain(method)

    def end(self, error: BaseException) -> None:
        """End the session because of *error*, unless it is over already."""
        if self.over is None:
            self.over = error
            self._on_over()
