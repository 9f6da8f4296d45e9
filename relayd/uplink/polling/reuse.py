"""
The HTTP connections of one polling session: those that are being dialled, in use, or idle until they are used again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from relayd.uplink.polling.exchange import Exchange, ExchangeOwner

#: Seconds after which an idle connection is not used again: Node.js closes it after 5 s, and loses what is sent then.
KEEP_IDLE: Final = 3.0


class Connections:
    """
    The HTTP connections of one session.

    :param owner: hears what happens on each of them.
    :param endpoint: connects to the main server.
    :param server_name: the name that the main server must prove over TLS; ``None``: there is no TLS.
    :param not_connected: is called with the reason when a connection fails.
    """

    def __init__(
        self,
        clock: IReactorTime,
        owner: ExchangeOwner,
        endpoint: IStreamClientEndpoint,
        server_name: str | None,
        not_connected: Callable[[BaseException], None],
    ) -> None:
        self._clock = clock
        self._owner = owner
        self._endpoint = endpoint
        self._tls_host = server_name
        self._not_connected = not_connected
        self._open: set[Exchange] = set()
        self._idle: list[tuple[float, Exchange]] = []
        self._dials: set[Deferred[Any]] = set()
        self._ended = False

    @property
    def all_closed(self) -> bool:
        """Whether all are closed."""
        return not self._open

    def make_connection(self, use: Callable[[Exchange], None]) -> Exchange:
        """A connection that is about to be made; *use* is called once it is up."""
        exchange = Exchange(self._owner, use, server_name=self._tls_host)
        self._open.add(exchange)
        return exchange

    def with_connection(self, use: Callable[[Exchange], None]) -> None:
        """Call *use*, now or later, with a connection on which a request may be made."""
        while self._idle:
            since, exchange = self._idle.pop()
            if self._clock.seconds() - since < KEEP_IDLE:
                use(exchange)
                return
            exchange.leave()
        dial: Deferred[Any] = self._endpoint.connect(ExchangeFactory(lambda: self.make_connection(use)))
        self._dials.add(dial)
        dial.addBoth(self._dialled, dial)

    def _dialled(self, result: object, dial: Deferred[Any]) -> None:
        self._dials.discard(dial)
        if isinstance(result, Failure) and not result.check(CancelledError):
            self._not_connected(result.value or ConnectionDone())

    def request_done(self, exchange: Exchange) -> None:
        """The request on *exchange* is answered: keep it for the next one, if it can be reused."""
        if exchange.reusable and not self._ended:
            self._idle.append((self._clock.seconds(), exchange))
        else:
            exchange.leave()

    def connection_lost(self, exchange: Exchange) -> bool:
        """
        A connection is lost.

        :return: whether a request is lost with it.
        """
        self._open.discard(exchange)
        idle = any(each is exchange for _, each in self._idle)
        self._idle = [(since, each) for since, each in self._idle if each is not exchange]
        return not (idle or exchange.left)

    def drop_all(self) -> None:
        """Drop all connections."""
        self._ended = True
        for dial in list(self._dials):
            dial.cancel()
        for exchange in list(self._open):
            exchange.abort()


class ExchangeFactory(Factory):
    """Makes one `Exchange`."""

    noisy = False

    def __init__(self, make: Callable[[], Exchange]) -> None:
        self._make = make

    def buildProtocol(self, addr: IAddress | None) -> Exchange:
        return self._make()
