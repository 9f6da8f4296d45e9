"""
What a polling session sends: packets, in the bodies of POSTs, one at a time.  The answer to a POST shows that the main
server has read it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from relayd.language.texts import span
from relayd.network.flow import PIECE, Flow
from relayd.uplink.polling.exchange import Exchange
from relayd.uplink.polling.payload import SEPARATOR, take_payload
from relayd.uplink.polling.reuse import Connections
from relayd.uplink.polling.session import PollingSession, SessionLost
from relayd.uplink.wire import ReadPause
from relayd.wire.dialects.engineio import CLOSE

#: Seconds in which the main server has to take some of a POST, or to answer it.
POST_TIMEOUT: Final = 60.0
#: Bytes that are read of the answer to a POST.
_MAX_ANSWER: Final = 64 * 1024

_TOO_LARGE: Final = 413


class Posting:
    """
    The POSTs of one session, and the packets that wait for one.

    :param reading: pauses while the main server does not take its answers.
    :param on_posted: is called when a POST has been read; the next one may have begun.
    :ivar flow: tells whether more can be sent.
    """

    def __init__(
        self,
        clock: IReactorTime,
        session: PollingSession,
        connections: Connections,
        reading: ReadPause,
        on_posted: Callable[[], None],
    ) -> None:
        self.flow = Flow(self._write, self)
        self._clock = clock
        self._session = session
        self._connections = connections
        self._reading = reading
        self._on_posted = on_posted
        #: Pieces of a packet that the flow has not given completely yet.
        self._partial: list[bytes] = []
        self._packets: deque[bytes] = deque()
        #: Bytes that wait here, and bytes in the POST that is under way; 0: there is none.
        self._waiting = 0
        self._posting = 0
        self._exchange: Exchange | None = None
        self._status = 0
        self._answer = 0
        self._deadline: IDelayedCall | None = None
        self._closing = False
        #: Bytes that were given so far, and bytes that the main server has read.
        self._given = 0
        self._read = 0
        #: Each ping with the number of bytes that have to be read for it.
        self._pings: deque[tuple[int, bytes]] = deque()

    @property
    def quiet(self) -> bool:
        """Whether no POST is under way, and no packet is given in part."""
        return not self._posting and not self._partial

    def send_packet(self, packet: bytes) -> None:
        """Send one packet, unless the session is closing."""
        if not self._closing:
            self._given += len(packet) + 1
            self.flow.send(packet + SEPARATOR)

    def ping(self, payload: bytes) -> None:
        """Report a pong with *payload* once all packets so far have been read."""
        self._pings.append((self._given, payload))
        self._answer_pings()

    def close(self) -> None:
        """Send what waits and then Engine.IO's close packet, and end the session."""
        if not self._closing:
            self._closing = True
            self._packets.append(CLOSE.encode())
            self.begin_post()

    def unsent(self) -> tuple[list[bytes], list[bytes]]:
        """The packets that are still to be sent, and the payloads of pings without an answer."""
        return list(self._packets), [payload for _, payload in self._pings]

    def begin_post(self) -> None:
        """Begin a POST, if packets wait and one may begin."""
        if self._posting or not self._packets or not self._session.may_request:
            return
        body = take_payload(self._packets, self._session.max_payload)
        self._posting = len(body) + 1
        self._waiting -= self._posting
        self._restart_deadline()
        self._connections.with_connection(partial(self._post, body))

    def stop(self) -> None:
        """Send nothing more: the session is over."""
        self._cancel_deadline()
        self.flow.stopProducing()

    # From the flow (relayd.network.flow.FlowOwner)

    def on_full(self) -> None:
        """See `FlowOwner.on_full`."""
        self._session.listener.on_full()

    def on_taken(self) -> None:
        """See `FlowOwner.on_taken`."""
        self._session.listener.on_taken()

    def on_behind(self, on: bool) -> None:
        """See `FlowOwner.on_behind`."""
        self._reading.fall_behind(on)
        self._session.listener.on_deaf(on)

    def _write(self, data: bytes) -> None:
        self._waiting += len(data)
        if data.endswith(SEPARATOR):
            self._packets.append(b"".join((*self._partial, data[:-1])))
            self._partial = []
            self.begin_post()
        else:
            self._partial.append(data)
        if self._posting and self._waiting >= PIECE:
            self.flow.pauseProducing()

    # The POST

    def _post(self, body: bytes, exchange: Exchange) -> None:
        self._exchange, self._status, self._answer = exchange, 0, 0
        extra = {"Content-Type": "text/plain;charset=UTF-8", "Content-Length": str(len(body))}
        exchange.request(self._session.head("POST", extra), body)

    def _restart_deadline(self) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.reset(POST_TIMEOUT)
        else:
            error = SessionLost(f"it took nothing of a POST for {span(POST_TIMEOUT)}")
            self._deadline = self._clock.callLater(POST_TIMEOUT, self._session.end, error)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()

    # From the connection of the POST (relayd.uplink.polling.exchange.ExchangeOwner), by way of the client

    def is_on(self, exchange: Exchange) -> bool:
        """Whether the POST is under way on *exchange*."""
        return exchange is self._exchange

    def on_sent(self) -> None:
        """The main server has taken some of the POST."""
        self._restart_deadline()
        self._session.listener.on_taken()

    def on_head(self, status: int) -> None:
        """The response begins."""
        self._status = status

    def on_body(self, data: bytes) -> None:
        """Some of its body came, which means nothing, but has to end."""
        self._answer += len(data)
        if self._answer > _MAX_ANSWER:
            self._session.end(SessionLost("it answers a POST without end"))

    def on_done(self) -> None:
        """The response is complete."""
        self._exchange = None
        self._cancel_deadline()
        if self._status == _TOO_LARGE:
            self._session.listener.on_too_large(f"HTTP {self._status}")
            self._session.end(SessionLost("it does not take what was sent"))
        elif self._status // 100 != 2:
            self._session.end(SessionLost(f"it answers HTTP {self._status} to what was sent"))
        else:
            self._on_read()

    def _on_read(self) -> None:
        self._read += self._posting
        self._posting = 0
        if self._closing and not self._packets:
            self._session.end(ConnectionDone())
            return
        self.begin_post()
        self.flow.resumeProducing()
        self._answer_pings()
        self._on_posted()

    def _answer_pings(self) -> None:
        while self._pings and self._pings[0][0] <= self._read:
            self._session.listener.on_pong(self._pings.popleft()[1])
