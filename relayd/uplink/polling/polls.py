"""
What a polling session receives: packets, in the answers to GETs.  One GET at a time waits for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from relayd.errors import ProtocolError
from relayd.uplink.answers import HttpResponse
from relayd.uplink.polling.exchange import Exchange
from relayd.uplink.polling.payload import Splitter
from relayd.uplink.polling.reuse import Connections
from relayd.uplink.polling.session import PollingSession
from relayd.uplink.websocket import LEAST_PROGRESS
from relayd.uplink.wire import ReadPause
from relayd.wire.dialects.engineio import NOOP

#: Seconds of pause after a poll that brought nothing.
EMPTY_PAUSE: Final = 1.0
#: Bytes that are read of the body of a refusal.
_MAX_REFUSAL: Final = 2000

_OK: Final = 200


class Polls:
    """
    The GETs of one session: each begins when the one before it has been answered.

    :param max_frame: bytes in the largest packet that relayd takes.
    :param on_packet: is called with each packet, a text or the bytes of a binary one; raises `ProtocolError` where the
        packet breaks the rules.
    :param on_refused: is called with a response that ends the session, or does not begin it.
    :param on_polled: is called when a GET has been answered to its end.
    :ivar reading: whether answers are read.
    """

    def __init__(
        self,
        clock: IReactorTime,
        session: PollingSession,
        connections: Connections,
        max_frame: int,
        *,
        on_packet: Callable[[str | bytes], None],
        on_refused: Callable[[HttpResponse], None],
        on_polled: Callable[[], None],
    ) -> None:
        self.reading = ReadPause(self._pause_reading)
        self._clock = clock
        self._session = session
        self._connections = connections
        self._on_packet = on_packet
        self._on_refused = on_refused
        self._on_polled = on_polled
        self._splitter = Splitter(max_frame)
        self._exchange: Exchange | None = None
        self._under_way = False
        self._pause: IDelayedCall | None = None
        self._status = 0
        self._headers: Mapping[str, str] = {}
        self._refusal = bytearray()
        #: Whether the GET has brought a packet; and whether something that it brought broke the rules.
        self._brought = False
        self._broken = False
        #: Bytes since the last sign of life.
        self._progress = 0

    @property
    def quiet(self) -> bool:
        """Whether no GET is under way."""
        return not self._under_way

    def begin_poll(self) -> None:
        """Begin a GET, if none is under way and one may begin."""
        if self._session.may_request and not self._under_way and self._pause is None and not self.reading.paused:
            self._under_way = True
            self._connections.with_connection(self.poll_on)

    def poll_on(self, exchange: Exchange) -> None:
        """Make a GET on *exchange*."""
        self._under_way, self._exchange, self._brought = True, exchange, False
        exchange.request(self._session.head("GET", {}))
        if self.reading.paused:
            exchange.hold(True)

    def stop(self) -> None:
        """Poll no more: the session is over."""
        if self._pause is not None and self._pause.active():
            self._pause.cancel()

    def _pause_reading(self, on: bool) -> None:
        if self._exchange is not None and self._exchange.busy:
            self._exchange.hold(on)
        self.begin_poll()

    # From the connection of the GET (relayd.uplink.polling.exchange.ExchangeOwner), by way of the client

    def on_head(self, status: int, headers: Mapping[str, str]) -> None:
        """The response begins."""
        self._status, self._headers = status, headers
        self._refusal.clear()
        if status == _OK and self._session.opened is None:
            self._session.listener.on_upgraded()

    def on_body(self, data: bytes) -> None:
        """Some of its body came."""
        if self._status != _OK:
            self._refusal += data[: _MAX_REFUSAL - len(self._refusal)]
            if len(self._refusal) == _MAX_REFUSAL:
                self._refuse()
            return
        self._progress += len(data)
        if self._progress >= LEAST_PROGRESS:
            self._give_sign_of_life()
        if not self._broken:
            self._deliver(self._splitter.feed(data))

    def on_done(self) -> None:
        """The response is complete."""
        if self._status != _OK:
            self._refuse()
            return
        self._give_sign_of_life()
        if not self._broken:
            self._deliver(self._splitter.finish())
        self._under_way, self._exchange = False, None
        self._on_polled()
        if self._brought:
            self.begin_poll()
        elif self._session.may_request:
            self._pause = self._clock.callLater(EMPTY_PAUSE, self._end_pause)

    def _refuse(self) -> None:
        self._on_refused(HttpResponse(self._status, "", self._headers, bytes(self._refusal)))

    def _deliver(self, packets: Iterator[str | bytes]) -> None:
        try:
            for packet in packets:
                if self._session.over is not None:
                    return
                if packet != NOOP:
                    self._brought = True
                    self._give_sign_of_life()
                    self._on_packet(packet)
        except ProtocolError as error:
            self._broken = True
            self._session.listener.on_broken(error)

    def _give_sign_of_life(self) -> None:
        self._progress = 0
        self._session.listener.on_heard()

    def _end_pause(self) -> None:
        self._pause = None
        self.begin_poll()
