"""
What a polling session sends: packets, which go out in POSTs, one at a time.  The answer to one tells that the main
server has read what it brought.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, Protocol

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from relayd.language.texts import span
from relayd.network.flow import PIECE, Flow, FlowOwner
from relayd.uplink.polling.exchange import Exchange
from relayd.uplink.polling.payload import SEPARATOR, take_payload

#: Seconds in which the main server has to take some of a POST, or to answer it.
POST_TIMEOUT: Final = 60.0
#: Bytes of an answer to a POST that are read.
_MAX_ANSWER: Final = 64 * 1024

_TOO_LARGE = 413
_CLOSE = b"1"


class SessionLost(Exception):
    """The main server has ended the session: with which words."""


class PostingSession(FlowOwner, Protocol):
    """The session that is posted to."""

    @property
    def may_post(self) -> bool:
        """Whether a POST may be begun now."""

    @property
    def largest(self) -> int:
        """Bytes that a POST may have."""

    def with_connection(self, use: Callable[[Exchange], None]) -> None:
        """Have *use* called with a connection on which a request may be made."""

    def head(self, method: str, extra: Mapping[str, str]) -> bytes:
        """The head of a request, with *extra* headers."""

    def on_read(self, payload: bytes) -> None:
        """All that was given before the ping of *payload* was read."""

    def on_post_too_large(self, reason: str) -> None:
        """What was sent is too large for the main server."""

    def on_posted(self) -> None:
        """A POST was read, and another one may have begun."""

    def end(self, error: BaseException) -> None:
        """The session is over."""


class Posting:
    """
    The sending of one session.

    :ivar flow: whether more can be sent.
    """

    def __init__(self, clock: IReactorTime, session: PostingSession) -> None:
        self.flow = Flow(self._write, session)
        self._clock = clock
        self._session = session
        self._partial: list[bytes] = []
        self._packets: deque[bytes] = deque()
        self._waiting = 0
        self._posting = 0
        self._posted_by: Exchange | None = None
        self._status = 0
        self._answer = 0
        self._deadline: IDelayedCall | None = None
        self._closing = False
        #: Bytes that were to be sent so far, and that were read; and pings, each with how many have to be read for it.
        self._given = self._read = 0
        self._pings: deque[tuple[int, bytes]] = deque()

    @property
    def quiet(self) -> bool:
        """Whether no POST is under way, and no packet is half given."""
        return not self._posting and not self._partial

    def send(self, packet: bytes) -> None:
        """Send one packet, unless it is closing."""
        if not self._closing:
            self._given += len(packet) + 1
            self.flow.send(packet + SEPARATOR)

    def ping(self, payload: bytes) -> None:
        """See `PostingSession.on_read`."""
        self._pings.append((self._given, payload))
        self._answer_pings()

    def close(self) -> None:
        """Send what waits, then that we go, and end the session."""
        if not self._closing:
            self._closing = True
            self._packets.append(_CLOSE)
            self.next()

    def unsent(self) -> tuple[list[bytes], list[bytes]]:
        """The packets that are still to be sent, and the pings without an answer."""
        return list(self._packets), [payload for _, payload in self._pings]

    def next(self) -> None:
        """Begin a POST, where there is something to be sent."""
        if self._posting or not self._packets or not self._session.may_post:
            return
        body = take_payload(self._packets, self._session.largest)
        self._posting = len(body) + 1
        self._waiting -= self._posting
        self._await()
        self._session.with_connection(partial(self._post, body))

    def stop(self) -> None:
        """The session is over."""
        self._await_no_more()
        self.flow.stopProducing()

    # What the flow has for the transport

    def _write(self, data: bytes) -> None:
        self._waiting += len(data)
        if data.endswith(SEPARATOR):
            self._packets.append(b"".join((*self._partial, data[:-1])))
            self._partial = []
            self.next()
        else:
            self._partial.append(data)
        if self._posting and self._waiting >= PIECE:
            self.flow.pauseProducing()

    def _post(self, body: bytes, exchange: Exchange) -> None:
        self._posted_by, self._status, self._answer = exchange, 0, 0
        extra = {"Content-Type": "text/plain;charset=UTF-8", "Content-Length": str(len(body))}
        exchange.request(self._session.head("POST", extra), body)

    def _await(self) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.reset(POST_TIMEOUT)
        else:
            error = SessionLost(f"it took nothing of a POST for {span(POST_TIMEOUT)}")
            self._deadline = self._clock.callLater(POST_TIMEOUT, self._session.end, error)

    def _await_no_more(self) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()

    # What the connection tells that it has

    def is_on(self, exchange: Exchange) -> bool:
        """Whether the POST is under way on *exchange*."""
        return exchange is self._posted_by

    def on_sent(self) -> None:
        """The main server has taken some of it."""
        self._await()

    def on_head(self, status: int) -> None:
        """It is answered."""
        self._status = status

    def on_body(self, data: bytes) -> None:
        """The answer means nothing, but has to end."""
        self._answer += len(data)
        if self._answer > _MAX_ANSWER:
            self._session.end(SessionLost("it answers a POST without end"))

    def on_done(self) -> None:
        """The answer is complete."""
        self._posted_by = None
        self._await_no_more()
        if self._status == _TOO_LARGE:
            self._session.on_post_too_large(f"HTTP {self._status}")
            self._session.end(SessionLost("it does not take what was sent"))
            return
        if self._status // 100 != 2:
            self._session.end(SessionLost(f"it answers HTTP {self._status} to what was sent"))
            return
        self._read += self._posting
        self._posting = 0
        if self._closing and not self._packets:
            self._session.end(ConnectionDone())
            return
        self.next()
        self.flow.resumeProducing()
        self._answer_pings()
        self._session.on_posted()

    def _answer_pings(self) -> None:
        while self._pings and self._pings[0][0] <= self._read:
            self._session.on_read(self._pings.popleft()[1])
