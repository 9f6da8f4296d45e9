"""
Engine.IO over HTTP long-polling: for main servers that offer nothing else, and where something in between breaks
WebSockets. To a connection it is a wire like the WebSocket of `relayd.uplink.websocket`.

Source: the Engine.IO protocol document, revision 4.  One GET waits for what the main server sends; what we send goes
out in POSTs, one at a time.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from typing import Any, Final, Protocol

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory

from relayd.errors import ProtocolError
from relayd.uplink.answers import Answer, words_of
from relayd.uplink.connection import Wire
from relayd.uplink.polling.cookies import Cookies
from relayd.uplink.polling.exchange import Exchange
from relayd.uplink.polling.payload import Splitter
from relayd.uplink.polling.posting import Posting, SessionLost
from relayd.uplink.polling.reuse import Connections, ExchangeFactory
from relayd.uplink.request import MakeRequest
from relayd.uplink.websocket import LEAST_PROGRESS, WebSocketListener
from relayd.wire.dialects.codec import NO_LIMIT
from relayd.wire.dialects.engineio import DEFAULT_MAX_PAYLOAD, POLLING, OpenPacket, read_open_packet

#: Seconds after a poll that brought nothing.
EMPTY_PAUSE: Final = 1.0
#: Bytes of an answer that is none to be glad of that are read.
_MAX_REFUSAL: Final = 2000

_OK = 200
_NOOP = "6"


class PollingListener(WebSocketListener, Protocol):
    """Whom a polling session tells what happens to it."""

    def on_too_large(self, reason: str) -> None:
        """What was sent was too large for the main server, which says *reason*; the session is of no more use."""

    def rewire(self, wire: Wire) -> None:
        """The session goes on over another wire."""


class PollingClient:
    """
    One session.

    :param quote: makes what the main server says fit to be quoted.
    :param endpoint: connects to the main server.
    :param tls_host: who has to be at the other end of TLS; ``None``: there is no TLS.
    :param max_frame: bytes in the largest message that we take.
    :param on_open: is called when the session is open, with the open packet; it may begin an upgrade, and returns what
        ends that.
    :ivar flow: whether more can be sent.
    :ivar cookies: what the main server or a balancer in front of it wants to hear again.
    """

    def __init__(
        self,
        clock: IReactorTime,
        listener: PollingListener,
        make_request: MakeRequest,
        quote: Callable[[str], str],
        endpoint: IStreamClientEndpoint,
        *,
        tls_host: str | None,
        max_frame: int,
        on_open: Callable[[PollingClient, OpenPacket], Callable[[], None] | None],
    ) -> None:
        self._posting = Posting(clock, self)
        self.flow = self._posting.flow
        self.cookies = Cookies()
        self._clock = clock
        self._listener: Any = listener
        self._make_request = make_request
        self._quote = quote
        self._on_open = on_open
        self._stop_upgrade: Callable[[], None] | None = None
        self._splitter = Splitter(max_frame)
        self._connections = Connections(clock, self, endpoint, tls_host, self.end)
        self._open: OpenPacket | None = None
        self._stamp = secrets.token_hex(4)
        self._stamps = count()
        #: Why it is over, and why a certificate was refused.
        self._over: tuple[BaseException, str] | None = None
        self._getting: Exchange | None = None
        self._polling = False
        self._pause: IDelayedCall | None = None
        self._status = 0
        self._headers: Mapping[str, str] = {}
        self._refusal = bytearray()
        self._brought = self._broken = False
        self._progress = 0
        self._held = self._behind = False
        #: Is called when no poll is under way: then none is begun.
        self._quiet: Callable[[], None] | None = None

    def factory(self, attach: Callable[[], None]) -> Factory:
        """
        What the first connection is made with.

        :param attach: is called when TCP is connected.
        """

        def first() -> Exchange:
            attach()
            return self._connections.make(self._ask_for_session)

        return ExchangeFactory(first)

    # What a connection asks of it (relayd.uplink.connection.Wire)

    def send_text(self, payload: bytes) -> None:
        """Send one text message, where the session still takes any."""
        if self._over is None:
            self._posting.send(payload)

    def ping(self, payload: bytes = b"") -> None:
        """`WebSocketListener.on_pong` tells when all that was given so far was read: the answer to a POST says so."""
        self._posting.ping(payload)

    def hold(self, on: bool) -> None:
        """Read nothing more for now, or go on."""
        self._held = on
        self._read_or_not()

    def close(self, code: int) -> None:
        """Close politely: what waits is sent, and then that we go."""
        if self._open is None:
            self.end(ConnectionDone())
        elif self._over is None:
            self._posting.close()

    def abort(self) -> None:
        """Drop the session."""
        self.end(ConnectionDone())

    # For an upgrade to WebSocket

    def when_quiet(self, call: Callable[[], None]) -> None:
        """Begin no poll and no POST from now on, and *call* when none is under way any more."""
        self._quiet = call
        self._tell_quiet()

    def resume(self) -> None:
        """Poll and post again."""
        self._quiet = None
        self._posting.next()
        self._poll_next()

    def hand_over(self, wire: Wire) -> None:
        """The session goes on over *wire*, which gets what is still to be sent. This end of it says no more."""
        packets, pings = self._posting.unsent()
        for packet in packets:
            wire.send_text(packet)
        for payload in pings:
            wire.ping(payload)
        if self._held:
            wire.hold(True)
        listener, self._listener = self._listener, _Nobody()
        listener.rewire(wire)
        self._stop_upgrade = None
        self.end(ConnectionDone())

    def _tell_quiet(self) -> None:
        if self._quiet is not None and not self._polling and self._posting.quiet:
            self._quiet()

    # What the flow tells us

    def on_full(self) -> None:
        """See `relayd.network.flow.FlowOwner`."""
        self._listener.on_full()

    def on_taken(self) -> None:
        """See `relayd.network.flow.FlowOwner`."""
        self._listener.on_taken()

    def on_behind(self, on: bool) -> None:
        """See `relayd.network.flow.FlowOwner`."""
        self._behind = on
        self._read_or_not()
        self._listener.on_deaf(on)

    def _read_or_not(self) -> None:
        if self._getting is not None and self._getting.busy:
            self._getting.hold(self._held or self._behind)
        self._poll_next()

    # What connections tell (relayd.uplink.polling.exchange.ExchangeOwner)

    def on_up(self, exchange: Exchange) -> None:
        if self._over is None:
            exchange.use(exchange)

    def on_sent(self, exchange: Exchange) -> None:
        if self._over is None and self._posting.is_on(exchange):
            self._posting.on_sent()
            self._listener.on_taken()

    def on_head(self, exchange: Exchange, status: int, headers: Mapping[str, str], cookies: list[str]) -> None:
        if self._over is not None:
            return
        self.cookies.take(cookies)
        if self._posting.is_on(exchange):
            self._posting.on_head(status)
            return
        self._status, self._headers = status, headers
        self._refusal.clear()
        if status == _OK and self._open is None:
            self._listener.on_upgraded()

    def on_body(self, exchange: Exchange, data: bytes) -> None:
        if self._over is not None:
            return
        if self._posting.is_on(exchange):
            self._posting.on_body(data)
            return
        if self._status != _OK:
            self._refusal += data[: _MAX_REFUSAL - len(self._refusal)]
            if len(self._refusal) == _MAX_REFUSAL:
                self._refused()
            return
        self._progress += len(data)
        if self._progress >= LEAST_PROGRESS:
            self._alive()
        if not self._broken:
            self._deliver(self._splitter.feed(data))

    def on_done(self, exchange: Exchange) -> None:
        exchange.hold(False)
        self._connections.done(exchange)
        if self._over is not None:
            return
        if self._posting.is_on(exchange):
            self._posting.on_done()
        elif self._status != _OK:
            self._refused()
        else:
            self._alive()
            if not self._broken:
                self._deliver(self._splitter.finish())
            self._polled()

    def on_lost(self, exchange: Exchange, error: BaseException, verify_error: str) -> None:
        under_way = self._connections.lost(exchange)
        if self._over is not None:
            self._tell_over()
        elif under_way:
            self.end(error, verify_error)

    # Receiving

    def _ask_for_session(self, exchange: Exchange) -> None:
        self._listener.on_secured()
        self._get(exchange)

    def _get(self, exchange: Exchange) -> None:
        self._polling, self._getting, self._brought = True, exchange, False
        exchange.request(self.head("GET", {}))
        if self._held or self._behind:
            exchange.hold(True)

    def head(self, method: str, extra: Mapping[str, str]) -> bytes:
        """See `relayd.uplink.polling.posting.PostingSession`."""
        session = {"transport": POLLING, "t": f"{self._stamp}{next(self._stamps):x}"}  # so that no cache answers
        if self._open is not None:
            session["sid"] = self._open.sid
        return self._make_request(session, {**self.cookies.header(), **extra}).to_plain(method)

    def _poll_next(self) -> None:
        if (
            self._over is None
            and self._open is not None
            and not self._polling
            and self._pause is None
            and self._quiet is None
            and not (self._held or self._behind)
        ):
            self._polling = True
            self.with_connection(self._get)

    def _alive(self) -> None:
        self._progress = 0
        self._listener.on_heard()

    def _deliver(self, packets: Iterator[str | bytes]) -> None:
        try:
            for packet in packets:
                if self._over is not None:
                    return
                if packet == _NOOP:
                    continue
                self._brought = True
                self._alive()
                if isinstance(packet, bytes):
                    self._listener.on_binary(packet)
                    continue
                opened = None if self._open is not None else read_open_packet(packet)
                self._listener.on_text(packet)
                if opened is not None and self._over is None:
                    self._opened(opened)
        except ProtocolError as error:
            self._broken = True
            self._listener.on_broken(error)

    def _opened(self, opened: OpenPacket) -> None:
        self._open = opened
        self._posting.next()
        self._stop_upgrade = self._on_open(self, opened)

    def _polled(self) -> None:
        self._polling, self._getting = False, None
        if self._open is None:
            self.end(SessionLost("it answered with nothing"))
            return
        self._tell_quiet()
        if self._brought:
            self._poll_next()
        elif self._over is None and self._quiet is None:
            self._pause = self._clock.callLater(EMPTY_PAUSE, self._pause_over)

    def _pause_over(self) -> None:
        self._pause = None
        self._poll_next()

    def _refused(self) -> None:
        answer = Answer(self._status, "", self._headers, bytes(self._refusal))
        if self._open is None:
            self._listener.on_upgrade_refused(answer)
            self.end(ConnectionDone())
        else:
            said = self._quote(words_of(answer))
            words = f"it ended the session and answers HTTP {self._status}"
            self.end(SessionLost(f'{words}, it says "{said}"' if said else words))

    # What sending asks, and tells (relayd.uplink.polling.posting.PostingSession)

    @property
    def may_post(self) -> bool:
        return self._over is None and self._open is not None and self._quiet is None

    @property
    def largest(self) -> int:
        most = DEFAULT_MAX_PAYLOAD if self._open is None else self._open.max_payload
        return int(min(most, NO_LIMIT)) if most and most > 0 else DEFAULT_MAX_PAYLOAD

    def with_connection(self, use: Callable[[Exchange], None]) -> None:
        self._connections.with_one(use)

    def on_read(self, payload: bytes) -> None:
        self._listener.on_pong(payload)

    def on_post_too_large(self, reason: str) -> None:
        self._listener.on_too_large(reason)

    def on_posted(self) -> None:
        self._tell_quiet()

    # The end

    def end(self, error: BaseException, verify_error: str = "") -> None:
        """It is over, because of *error*."""
        if self._over is not None:
            return
        self._over = error, verify_error
        if self._stop_upgrade is not None:
            self._stop_upgrade()
        if self._pause is not None and self._pause.active():
            self._pause.cancel()
        self._connections.end()
        self._posting.stop()
        self._clock.callLater(0, self._tell_over)

    def _tell_over(self) -> None:
        if self._over is not None and self._connections.gone:
            listener, self._listener = self._listener, _Nobody()
            listener.on_closed(*self._over)


class _Nobody:
    """Whom a session tells what happens to it once nobody wants to know."""

    def __getattr__(self, name: str) -> Any:
        return self._drop

    @staticmethod
    def _drop(*args: object) -> None:
        """It means nothing any more."""
