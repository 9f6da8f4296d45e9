"""
Engine.IO over HTTP long-polling: for main servers that offer nothing else, and where something in between breaks
WebSockets. To a connection it is a wire like the WebSocket of `relayd.uplink.websocket`.

Source: the Engine.IO protocol document, revision 4.  One GET waits for what the main server sends (`Polls`), and POSTs
bring it what relayd sends, one at a time (`Posting`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Factory

from relayd.uplink.answers import HttpResponse, words_of
from relayd.uplink.endpoint import Route
from relayd.uplink.polling.exchange import Exchange
from relayd.uplink.polling.polls import Polls
from relayd.uplink.polling.posting import Posting
from relayd.uplink.polling.reuse import Connections, ExchangeFactory
from relayd.uplink.polling.session import PollingSession, SessionLost
from relayd.uplink.wire import NOBODY, Pieces, SessionListener, Wire
from relayd.wire.dialects.engineio import WEBSOCKET, OpenPacket, read_open_packet

#: Begins to upgrade the session of a client, which has this open packet; returns a function that stops the upgrade.
BeginUpgrade = Callable[["PollingClient", OpenPacket], Callable[[], None]]


class PollingClient:
    """
    The wire of one polling session.

    :param route: the way to the main server.
    :param begin_upgrade: is called once the main server has offered a WebSocket; ``None``: the session stays with
        polling.
    :ivar flow: tells whether more can be sent.
    """

    def __init__(self, clock: IReactorTime, route: Route, begin_upgrade: BeginUpgrade | None) -> None:
        self._clock = clock
        self._route = route
        self._begin_upgrade = begin_upgrade
        self._stop_upgrade: Callable[[], None] | None = None
        self._session = PollingSession(route.make_request, self._end)
        self._connections = Connections(clock, self, route.endpoint, route.server_name, self._session.end)
        self._polls = Polls(
            clock,
            self._session,
            self._connections,
            route.max_frame,
            on_packet=self._packet_received,
            on_refused=self._refused,
            on_polled=self._polled,
        )
        self._posting = Posting(clock, self._session, self._connections, self._polls.reading, self._check_quiet)
        self.flow = self._posting.flow
        #: Is called when no request is under way any more.
        self._on_quiet: Callable[[], None] | None = None

    def factory(self, on_connected: Callable[[], None]) -> Factory:
        """
        The factory of the first connection.

        :param on_connected: is called when TCP is connected.
        """

        def first() -> Exchange:
            on_connected()
            return self._connections.make_connection(self._ask_for_session)

        return ExchangeFactory(first)

    def _ask_for_session(self, exchange: Exchange) -> None:
        self._session.listener.on_secured()
        self._polls.poll_on(exchange)

    # For its connection (relayd.uplink.wire.Wire)

    def report_to(self, listener: SessionListener) -> None:
        """See `Wire.report_to`."""
        self._session.listener = listener

    def send_text(self, payload: bytes | Pieces) -> None:
        """Send one text message, where the session still takes any."""
        if self._session.over is None:
            self._posting.send_packet(bytes(payload))

    def ping(self, payload: bytes = b"") -> None:
        """See `Wire.ping`: the answer to a POST shows that all before the ping has been read."""
        self._posting.ping(payload)

    def hold(self, on: bool) -> None:
        """Stop reading, or read again."""
        self._polls.reading.hold(on)

    def close(self, code: int) -> None:
        """Close politely: send what waits, and then the close packet."""
        if self._session.opened is None:
            self._session.end(ConnectionDone())
        elif self._session.over is None:
            self._posting.close()

    def abort(self) -> None:
        """Drop the session."""
        self._session.end(ConnectionDone())

    # For an upgrade to a WebSocket (relayd.uplink.polling.upgrade)

    @property
    def cookies(self) -> Mapping[str, str]:
        """The header with the session's cookies, where it has any."""
        return self._session.cookies.header()

    def suspend(self, on_quiet: Callable[[], None]) -> None:
        """Begin no more requests, and call *on_quiet* when none is under way any more."""
        self._session.suspended = True
        self._on_quiet = on_quiet
        self._check_quiet()

    def resume(self) -> None:
        """Begin requests again."""
        self._session.suspended = False
        self._on_quiet = None
        self._posting.begin_post()
        self._polls.begin_poll()

    def hand_over(self, wire: Wire) -> None:
        """Let the session go on over *wire*, which gets what is still to be sent; this wire reports nothing more."""
        wire.report_to(self._session.listener)
        packets, pings = self._posting.unsent()
        for packet in packets:
            wire.send_text(packet)
        for payload in pings:
            wire.ping(payload)
        if self._polls.reading.held:
            wire.hold(True)
        listener, self._session.listener = self._session.listener, NOBODY
        listener.on_moved(wire)
        self._stop_upgrade = None
        self._session.end(ConnectionDone())

    def _check_quiet(self) -> None:
        if self._on_quiet is not None and self._polls.quiet and self._posting.quiet:
            self._on_quiet()

    # From its polls

    def _packet_received(self, packet: str | bytes) -> None:
        if isinstance(packet, bytes):
            self._session.listener.on_binary(packet)
            return
        opened = None if self._session.opened is not None else read_open_packet(packet)
        self._session.listener.on_text(packet)
        if opened is not None and self._session.over is None:
            self._session.opened = opened
            self._posting.begin_post()
            if self._begin_upgrade is not None and WEBSOCKET in opened.upgrades:
                self._stop_upgrade = self._begin_upgrade(self, opened)

    def _refused(self, response: HttpResponse) -> None:
        if self._session.opened is None:
            self._session.listener.on_upgrade_refused(response)
            self._session.end(ConnectionDone())
        else:
            said = self._route.quote(words_of(response))
            words = f"it ended the session and answers HTTP {response.status}"
            self._session.end(SessionLost(f'{words}, it says "{said}"' if said else words))

    def _polled(self) -> None:
        if self._session.opened is None:
            self._session.end(SessionLost("it answered with nothing"))
        else:
            self._check_quiet()

    # From its connections (relayd.uplink.polling.exchange.ExchangeOwner)

    def on_up(self, exchange: Exchange) -> None:
        if self._session.over is None:
            exchange.use(exchange)

    def on_sent(self, exchange: Exchange) -> None:
        if self._session.over is None and self._posting.is_on(exchange):
            self._posting.on_sent()

    def on_head(self, exchange: Exchange, status: int, headers: Mapping[str, str], cookies: list[str]) -> None:
        if self._session.over is not None:
            return
        self._session.cookies.take_from(cookies)
        if self._posting.is_on(exchange):
            self._posting.on_head(status)
        else:
            self._polls.on_head(status, headers)

    def on_body(self, exchange: Exchange, data: bytes) -> None:
        if self._session.over is not None:
            return
        if self._posting.is_on(exchange):
            self._posting.on_body(data)
        else:
            self._polls.on_body(data)

    def on_done(self, exchange: Exchange) -> None:
        exchange.hold(False)
        self._connections.request_done(exchange)
        if self._session.over is not None:
            return
        if self._posting.is_on(exchange):
            self._posting.on_done()
        else:
            self._polls.on_done()

    def on_lost(self, exchange: Exchange, error: BaseException) -> None:
        under_way = self._connections.connection_lost(exchange)
        if self._session.over is not None:
            self._report_end()
        elif under_way:
            self._session.end(error)

    # The end of the session

    def _end(self) -> None:
        if self._stop_upgrade is not None:
            self._stop_upgrade()
        self._polls.stop()
        self._connections.drop_all()
        self._posting.stop()
        self._clock.callLater(0, self._report_end)

    def _report_end(self) -> None:
        if self._session.over is not None and self._connections.all_closed:
            listener, self._session.listener = self._session.listener, NOBODY
            listener.on_closed(self._session.over)
