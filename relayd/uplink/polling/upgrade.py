"""
The upgrade of a polling session to a WebSocket, as the Engine.IO protocol document has it: a probe on the new
transport, and then the session moves there, or stays where it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IDelayedCall, IReactorTime, IStreamClientEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from relayd.errors import ProtocolError
from relayd.language.texts import span
from relayd.uplink.answers import Answer
from relayd.uplink.endpoint import describe
from relayd.uplink.polling.client import PollingClient
from relayd.uplink.websocket import WebSocketClient, WebSocketFactory, WebSocketListener

#: Seconds for all of it: npm's socket.io gives it up after 10.
UPGRADE_TIMEOUT: Final = 9.0

_PROBE, _PROBED, _UPGRADE = b"2probe", "3probe", b"5"


class Upgrade:
    """
    One attempt. It listens to the WebSocket until the session is there; a failure changes nothing.

    :param polling: where the session is.
    :param listener: whom the WebSocket tells what happens to it once the session is there.
    :param build: makes the WebSocket, which asks for the session, for a listener.
    """

    _log = Logger("relayd.uplink")

    def __init__(
        self,
        clock: IReactorTime,
        polling: PollingClient,
        listener: WebSocketListener,
        endpoint: IStreamClientEndpoint,
        build: Callable[[WebSocketListener], WebSocketClient],
        max_frame: int,
        protocols: list[str],
    ) -> None:
        self._clock = clock
        self._polling = polling
        self._listener = listener
        self._build = build
        self._client: WebSocketClient | None = None
        self._over = False
        self._deadline: IDelayedCall = clock.callLater(
            UPGRADE_TIMEOUT, self._fail, f"no answer within {span(UPGRADE_TIMEOUT)}"
        )
        self._dial: Deferred[Any] = endpoint.connect(WebSocketFactory(clock, self._connected, max_frame, protocols))
        self._dial.addErrback(self._not_connected)

    def stop(self) -> None:
        """The session is over."""
        if not self._over:
            self._over = True
            self._deadline.cancel()
            self._dial.cancel()
            if self._client is not None:
                self._client.abort()

    def _connected(self) -> WebSocketClient:
        self._client = self._build(self)
        return self._client

    def _not_connected(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self._fail(describe(failure.value or ConnectionLost()))

    def _fail(self, reason: str) -> None:
        if self._over:
            return
        self._log.debug("No upgrade to a WebSocket ({reason}): the session stays with HTTP long-polling", reason=reason)
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
        client.tell(self._listener)
        self._polling.hand_over(client)

    # What the WebSocket tells (relayd.uplink.websocket.WebSocketListener)

    def on_secured(self) -> None:
        """Its deadline is that of all."""

    def on_upgraded(self) -> None:
        if self._client is not None:
            self._client.send_text(_PROBE)

    def on_text(self, text: str) -> None:
        if text == _PROBED:
            self._polling.when_quiet(self._switch)
        else:
            self._fail("another answer to the probe")

    def on_upgrade_refused(self, answer: Answer) -> None:
        self._fail(f"HTTP {answer.status}")

    def on_binary(self, data: bytes) -> None:
        self._fail("another answer to the probe")

    def on_broken(self, error: ProtocolError) -> None:
        self._fail(str(error))

    def on_close_received(self, code: int | None, reason: str) -> None:
        self._fail("it was closed")

    def on_closed(self, error: BaseException, verify_error: str) -> None:
        self._fail("the connection was lost")

    def on_heard(self) -> None:
        """The deadline does not move."""

    def on_pong(self, payload: bytes) -> None:
        """No ping was sent."""

    def on_full(self) -> None:
        """What is sent is a few bytes."""

    def on_taken(self) -> None:
        """So it is taken at once."""

    def on_deaf(self, on: bool) -> None:
        """The deadline ends what comes of it."""
