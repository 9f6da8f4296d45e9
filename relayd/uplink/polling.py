"""
Engine.IO over HTTP long-polling: for main servers that offer nothing else, and where something in between breaks
WebSockets. To a connection it is a wire like the WebSocket of `relayd.uplink.protocol`.

Source: the Engine.IO protocol document, revision 4.  One GET waits for what the main server sends; what we send goes
out in POSTs, one at a time.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import count
from typing import Any, Final, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from relayd.dialects.base import NO_LIMIT
from relayd.dialects.socketio import DEFAULT_MAX_PAYLOAD, POLLING, Open, read_open
from relayd.errors import ProtocolError
from relayd.flow import PIECE, Flow
from relayd.texts import span
from relayd.uplink.answers import Answer, words_of
from relayd.uplink.cookies import Cookies
from relayd.uplink.exchange import Exchange
from relayd.uplink.payload import SEPARATOR, Splitter, take_payload
from relayd.uplink.protocol import LEAST_PROGRESS, WebSocketListener
from relayd.uplink.request import Request

#: Seconds in which the main server has to take some of a POST, or to answer it.
POST_TIMEOUT: Final = 60.0
#: Seconds for which an idle connection is used again: Node.js closes one after 5 s, and what is sent then is lost.
KEEP_IDLE: Final = 3.0
#: Seconds after a poll that brought nothing.
EMPTY_PAUSE: Final = 1.0
#: Bytes of an answer that is none to be glad of, and of one to a POST, that are read.
_MAX_REFUSAL: Final = 2000
_MAX_POST_ANSWER: Final = 64 * 1024

_OK, _TOO_LARGE = 200, 413
_CLOSE, _NOOP = b"1", "6"


class SessionLost(Exception):
    """The main server has ended the session: with which words."""


class PollingListener(WebSocketListener, Protocol):
    """Whom a polling session tells what happens to it."""

    def on_too_large(self, reason: str) -> None:
        """What was sent was too large for the main server, which says *reason*; the session is of no more use."""

    def rewire(self, wire: Wire) -> None:
        """The session goes on over another wire."""


class Wire(Protocol):
    """What a session may go on over."""

    flow: Flow

    def send_text(self, payload: bytes) -> None: ...
    def ping(self, payload: bytes = b"") -> None: ...
    def hold(self, on: bool) -> None: ...
    def close(self, code: int) -> None: ...
    def abort(self) -> None: ...


#: Builds requests, with the API key; the parameters of the session are added to the query, and headers.
MakeRequest = Callable[[Mapping[str, str], Mapping[str, str]], Request]


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
        on_open: Callable[[PollingClient, Open], Callable[[], None] | None],
    ) -> None:
        self.flow = Flow(self._write, self)
        self.cookies = Cookies()
        self._clock = clock
        self._listener: Any = listener
        self._make_request = make_request
        self._quote = quote
        self._endpoint = endpoint
        self._tls_host = tls_host
        self._max_frame = max_frame
        self._on_open = on_open
        self._stop_upgrade: Callable[[], None] | None = None
        self._splitter = Splitter(max_frame)
        self._connections: set[Exchange] = set()
        self._idle: list[tuple[float, Exchange]] = []
        self._dials: set[Deferred[Any]] = set()
        self._open: Open | None = None
        self._stamp = secrets.token_hex(4)
        self._stamps = count()
        #: Why it is over, and why a certificate was refused.
        self._over: tuple[BaseException, str] | None = None
        # Receiving
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
        # Sending
        self._partial: list[bytes] = []
        self._packets: deque[bytes] = deque()
        self._waiting = 0
        self._posting = 0
        self._posted_by: Exchange | None = None
        self._post_status = 0
        self._post_answer = 0
        self._post_deadline: IDelayedCall | None = None
        self._closing = False
        #: Bytes that were to be sent so far, and that were read; and pings, each with how many have to be read for it.
        self._given = self._read = 0
        self._pings: deque[tuple[int, bytes]] = deque()

    def factory(self, attach: Callable[[], None]) -> Factory:
        """
        What the first connection is made with.

        :param attach: is called when TCP is connected.
        """
        make = self._make(self._ask_for_session)

        def first() -> Exchange:
            attach()
            return make()

        return _ExchangeFactory(first)

    # What a connection asks of it (relayd.uplink.connection.Wire)

    def send_text(self, payload: bytes) -> None:
        """Send one text message, where the session still takes any."""
        if self._over is None and not self._closing:
            self._given += len(payload) + 1
            self.flow.send(payload + SEPARATOR)

    def ping(self, payload: bytes = b"") -> None:
        """`WebSocketListener.on_pong` tells when all that was given so far was read: the answer to a POST says so."""
        self._pings.append((self._given, payload))
        self._answer_pings()

    def hold(self, on: bool) -> None:
        """Read nothing more for now, or go on."""
        self._held = on
        self._read_or_not()

    def close(self, code: int) -> None:
        """Close politely: what waits is sent, and then that we go."""
        if self._open is None:
            self._end(ConnectionDone())
        elif not self._closing and self._over is None:
            self._closing = True
            self._packets.append(_CLOSE)
            self._post_next()

    def abort(self) -> None:
        """Drop the session."""
        self._end(ConnectionDone())

    # For an upgrade to WebSocket

    def when_quiet(self, call: Callable[[], None]) -> None:
        """Begin no poll and no POST from now on, and *call* when none is under way any more."""
        self._quiet = call
        self._tell_quiet()

    def resume(self) -> None:
        """Poll and post again."""
        self._quiet = None
        self._post_next()
        self._poll_next()

    def hand_over(self, wire: Wire) -> None:
        """The session goes on over *wire*, which gets what is still to be sent. This end of it says no more."""
        for message in self._packets:
            wire.send_text(message)
        for _, payload in self._pings:
            wire.ping(payload)
        if self._held:
            wire.hold(True)
        listener, self._listener = self._listener, _Nobody()
        listener.rewire(wire)
        self._stop_upgrade = None
        self._end(ConnectionDone())

    def _tell_quiet(self) -> None:
        if self._quiet is not None and not self._polling and not self._posting and not self._partial:
            self._quiet()

    # What the flow tells us

    def on_full(self) -> None:
        """See `relayd.flow.FlowOwner`."""
        self._listener.on_full()

    def on_taken(self) -> None:
        """See `relayd.flow.FlowOwner`."""
        self._listener.on_taken()

    def on_behind(self, on: bool) -> None:
        """See `relayd.flow.FlowOwner`."""
        self._behind = on
        self._read_or_not()
        self._listener.on_deaf(on)

    def _read_or_not(self) -> None:
        if self._getting is not None and self._getting.busy:
            self._getting.hold(self._held or self._behind)
        self._poll_next()

    # Connections

    def _make(self, use: Callable[[Exchange], None]) -> Callable[[], Exchange]:
        def make() -> Exchange:
            exchange = Exchange(self, use, tls_host=self._tls_host)
            self._connections.add(exchange)
            return exchange

        return make

    def _with_connection(self, use: Callable[[Exchange], None]) -> None:
        """Have *use* called with a connection on which a request may be made."""
        while self._idle:
            since, exchange = self._idle.pop()
            if self._clock.seconds() - since < KEEP_IDLE:
                use(exchange)
                return
            exchange.leave()
        dial: Deferred[Any] = self._endpoint.connect(_ExchangeFactory(self._make(use)))
        self._dials.add(dial)
        dial.addBoth(self._dialled, dial)

    def _dialled(self, result: object, dial: Deferred[Any]) -> None:
        self._dials.discard(dial)
        if isinstance(result, Failure) and not result.check(CancelledError):
            self._end(result.value or ConnectionDone())

    # What connections tell (relayd.uplink.exchange.ExchangeOwner)

    def on_up(self, exchange: Exchange) -> None:
        if self._over is None:
            exchange.use(exchange)

    def on_sent(self, exchange: Exchange) -> None:
        if self._over is None and exchange is self._posted_by:
            self._await_post()
            self._listener.on_taken()

    def on_head(self, exchange: Exchange, status: int, headers: Mapping[str, str], cookies: list[str]) -> None:
        if self._over is not None:
            return
        self.cookies.take(cookies)
        if exchange is self._posted_by:
            self._post_status, self._post_answer = status, 0
            return
        self._status, self._headers = status, headers
        self._refusal.clear()
        if status == _OK and self._open is None:
            self._listener.on_upgraded()

    def on_body(self, exchange: Exchange, data: bytes) -> None:
        if self._over is not None:
            return
        if exchange is self._posted_by:
            self._post_answer += len(data)
            if self._post_answer > _MAX_POST_ANSWER:
                self._end(SessionLost("it answers a POST without end"))
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
        if exchange.reusable and self._over is None:
            self._idle.append((self._clock.seconds(), exchange))
        else:
            exchange.leave()
        if self._over is not None:
            return
        if exchange is self._posted_by:
            self._posted_by = None
            self._posted()
        elif self._status != _OK:
            self._refused()
        else:
            self._alive()
            if not self._broken:
                self._deliver(self._splitter.finish())
            self._polled()

    def on_lost(self, exchange: Exchange, error: BaseException, verify_error: str) -> None:
        self._connections.discard(exchange)
        idle = any(each is exchange for _, each in self._idle)
        self._idle = [(since, each) for since, each in self._idle if each is not exchange]
        if self._over is not None:
            self._tell_over()
        elif not (idle or exchange.left):
            self._end(error, verify_error)

    # Receiving

    def _ask_for_session(self, exchange: Exchange) -> None:
        self._listener.on_secured()
        self._get(exchange)

    def _get(self, exchange: Exchange) -> None:
        self._polling, self._getting, self._brought = True, exchange, False
        exchange.request(self._head("GET"))
        if self._held or self._behind:
            exchange.hold(True)

    def _head(self, method: str, extra: Mapping[str, str] | None = None) -> bytes:
        session = {"transport": POLLING, "t": f"{self._stamp}{next(self._stamps):x}"}  # so that no cache answers
        if self._open is not None:
            session["sid"] = self._open.sid
        return self._make_request(session, {**self.cookies.header(), **(extra or {})}).to_plain(method)

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
            self._with_connection(self._get)

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
                opened = None if self._open is not None else read_open(packet)
                self._listener.on_text(packet)
                if opened is not None and self._over is None:
                    self._opened(opened)
        except ProtocolError as error:
            self._broken = True
            self._listener.on_broken(error)

    def _opened(self, opened: Open) -> None:
        self._open = opened
        self._post_next()
        self._stop_upgrade = self._on_open(self, opened)

    def _polled(self) -> None:
        self._polling, self._getting = False, None
        if self._open is None:
            self._end(SessionLost("it answered with nothing"))
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
            self._end(ConnectionDone())
        else:
            said = self._quote(words_of(answer))
            words = f"it ended the session and answers HTTP {self._status}"
            self._end(SessionLost(f'{words}, it says "{said}"' if said else words))

    # Sending

    def _write(self, data: bytes) -> None:
        self._waiting += len(data)
        if data.endswith(SEPARATOR):
            self._packets.append(b"".join((*self._partial, data[:-1])))
            self._partial = []
            self._post_next()
        else:
            self._partial.append(data)
        if self._posting and self._waiting >= PIECE:
            self.flow.pauseProducing()

    @property
    def _largest(self) -> int:
        most = DEFAULT_MAX_PAYLOAD if self._open is None else self._open.max_payload
        return int(min(most, NO_LIMIT)) if most and most > 0 else DEFAULT_MAX_PAYLOAD

    def _post_next(self) -> None:
        if self._over is not None or self._open is None or self._posting or not self._packets:
            return
        if self._quiet is not None:
            return
        body = take_payload(self._packets, self._largest)
        self._posting = len(body) + 1
        self._waiting -= self._posting
        self._await_post()
        self._with_connection(partial(self._post, body))

    def _post(self, body: bytes, exchange: Exchange) -> None:
        self._posted_by, self._post_status = exchange, 0
        extra = {"Content-Type": "text/plain;charset=UTF-8", "Content-Length": str(len(body))}
        exchange.request(self._head("POST", extra), body)

    def _await_post(self) -> None:
        if self._post_deadline is not None and self._post_deadline.active():
            self._post_deadline.reset(POST_TIMEOUT)
        else:
            self._post_deadline = self._clock.callLater(
                POST_TIMEOUT, self._end, SessionLost(f"it took nothing of a POST for {span(POST_TIMEOUT)}")
            )

    def _posted(self) -> None:
        if self._post_deadline is not None and self._post_deadline.active():
            self._post_deadline.cancel()
        if self._post_status == _TOO_LARGE:
            self._listener.on_too_large(f"HTTP {self._post_status}")
            self._end(SessionLost("it does not take what was sent"))
            return
        if self._post_status // 100 != 2:
            self._end(SessionLost(f"it answers HTTP {self._post_status} to what was sent"))
            return
        self._read += self._posting
        self._posting = 0
        if self._closing and not self._packets:
            self._end(ConnectionDone())
            return
        self._post_next()
        self.flow.resumeProducing()
        self._answer_pings()
        self._tell_quiet()

    def _answer_pings(self) -> None:
        while self._pings and self._pings[0][0] <= self._read:
            self._listener.on_pong(self._pings.popleft()[1])

    # The end

    def _end(self, error: BaseException, verify_error: str = "") -> None:
        if self._over is not None:
            return
        self._over = error, verify_error
        if self._stop_upgrade is not None:
            self._stop_upgrade()
        for call in (self._pause, self._post_deadline):
            if call is not None and call.active():
                call.cancel()
        for dial in list(self._dials):
            dial.cancel()
        for exchange in list(self._connections):
            exchange.abort()
        self.flow.stopProducing()
        self._clock.callLater(0, self._tell_over)

    def _tell_over(self) -> None:
        if self._over is not None and not self._connections:
            listener, self._listener = self._listener, _Nobody()
            listener.on_closed(*self._over)


class _Nobody:
    """Whom a session tells what happens to it once nobody wants to know."""

    def __getattr__(self, name: str) -> Any:
        return self._drop

    @staticmethod
    def _drop(*args: object) -> None:
        """It means nothing any more."""


class _ExchangeFactory(Factory):
    """Makes one connection."""

    noisy = False

    def __init__(self, make: Callable[[], Exchange]) -> None:
        self._make = make

    def buildProtocol(self, addr: IAddress | None) -> Exchange:
        return self._make()
