"""
The upgrade of a polling session to a WebSocket: a probe on the new transport, and then the session moves there, or
stays where it is.

Source: the Engine.IO protocol document, revision 4, "Upgrade".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from relayd.errors import ProtocolError
from relayd.language.texts import span
from relayd.uplink.answers import HttpResponse
from relayd.uplink.endpoint import Route, describe
from relayd.uplink.polling.client import PollingClient
from relayd.uplink.request import Request
from relayd.uplink.websocket import WebSocketClient, WebSocketFactory
from relayd.wire.dialects.engineio import OpenPacket

_log = Logger("relayd.uplink")

#: Seconds for the whole upgrade: npm's socket.io gives up after 10.
UPGRADE_TIMEOUT: Final = 9.0

_PROBE, _PROBED, _UPGRADE = b"2probe", "3probe", b"5"


class Upgrade:
    """
    One attempt to move a session to a WebSocket, which it listens to until then; a failure changes nothing.

    :param polling: the session as it is now.
    :param route: the way to the main server.
    :param opened: the session's open packet.
    """

    def __init__(
        self,
        clock: IReactorTime,
        polling: PollingClient,
        route: Route,
        opened: OpenPacket,
    ) -> None:
        self._polling = polling
        self._route = route
        self._sid = opened.sid
        self._client: WebSocketClient | None = None
        self._over = False
        self._deadline: IDelayedCall = clock.callLater(
            UPGRADE_TIMEOUT, self._fail, f"no answer within {span(UPGRADE_TIMEOUT)}"
        )
        factory = WebSocketFactory(clock, self._connected, route.max_frame, route.subprotocols)
        self._dial: Deferred[Any] = route.endpoint.connect(factory)
        self._dial.addErrback(self._not_connected)

    def stop(self) -> None:
        """Give up: the session is over."""
        if not self._over:
            self._over = True
            self._deadline.cancel()
            self._dial.cancel()
            if self._client is not None:
                self._client.abort()

    def _connected(self) -> WebSocketClient:
        self._client = WebSocketClient(self._make_request, server_name=self._route.server_name)
        self._client.report_to(self)
        return self._client

    def _make_request(self) -> Request:
        return self._route.make_request({"sid": self._sid}, self._polling.cookies)

    def _not_connected(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self._fail(describe(failure.value or ConnectionLost()))

    def _fail(self, reason: str) -> None:
        if self._over:
            return
        _log.debug("No upgrade to a WebSocket ({reason}): the session stays with HTTP long-polling", reason=reason)
        if self._deadline.active():
            self._deadline.cancel()
        self._over = True
        self._dial.cancel()
        if self._client is not None:
            self._client.abort()
        self._polling.resume()

    def _switch(self) -> None:
        client = self._client
        if self._over or client is None:
            return
        self._over = True
        self._deadline.cancel()
        client.send_text(_UPGRADE)
        self._polling.hand_over(client)

    # From the WebSocket (relayd.uplink.wire.WireListener)

    def on_secured(self) -> None:
        """Nothing: one deadline covers the whole upgrade."""

    def on_upgraded(self) -> None:
        if self._client is not None:
            self._client.send_text(_PROBE)

    def on_text(self, text: str) -> None:
        if text == _PROBED:
            self._polling.suspend(self._switch)
        else:
            self._fail("another answer to the probe")

    def on_upgrade_refused(self, response: HttpResponse) -> None:
        self._fail(f"HTTP {response.status}")

    def on_binary(self, data: bytes) -> None:
        self._fail("another answer to the probe")

    def on_broken(self, error: ProtocolError) -> None:
        self._fail(str(error))

    def on_close_received(self, code: int | None, reason: str) -> None:
        self._fail("it was closed")

    def on_closed(self, error: BaseException) -> None:
        self._fail("the connection was lost")

    def on_heard(self) -> None:
        """Nothing: the deadline does not move."""

    def on_pong(self, payload: bytes) -> None:
        """Nothing: no ping was sent."""

    def on_full(self) -> None:
        """Nothing: the probe is a few bytes."""

    def on_taken(self) -> None:
        """Nothing, for the same reason."""

    def on_deaf(self, on: bool) -> None:
        """Nothing: the deadline ends the upgrade."""


def begin_upgrade(clock: IReactorTime, route: Route, polling: PollingClient, opened: OpenPacket) -> Callable[[], None]:
    """
    Begin to move the session of *polling* to a WebSocket.

    :return: stops the upgrade.
    """
    return Upgrade(clock, polling, route, opened).stop
