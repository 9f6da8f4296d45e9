"""
Opens connections to one main server, in either dialect, over a WebSocket or HTTP long-polling.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from twisted.internet.defer import CancelledError
from twisted.internet.protocol import Factory

from relayd import __version__
from relayd.errors import UplinkUnreachable
from relayd.uplink.connection import UplinkConnection
from relayd.uplink.endpoint import Route, describe, make_endpoint
from relayd.uplink.headers import Headers, subprotocols, with_session
from relayd.uplink.polling.client import PollingClient
from relayd.uplink.polling.upgrade import begin_upgrade
from relayd.uplink.probing import Attempt
from relayd.uplink.quoting import Quoting, words_of_header, words_of_query
from relayd.uplink.request import Request
from relayd.uplink.settings import ServerAddress, UplinkSettings
from relayd.uplink.websocket import WebSocketClient, WebSocketFactory
from relayd.uplink.wire import Wire
from relayd.wire.dialects import native, socketio
from relayd.wire.dialects.events import IDialect
from relayd.wire.messages import Secret


class UplinkDialer:
    """
    Dials the main server with one API key and one set of headers, as long as these last.

    :param headers: the site's own, for each HTTP request.
    :param on_end_seen: see `relayd.network.tls.client_options`.
    :ivar quote: makes what the main server says fit to be shown: without the key and what the headers hold.
    """

    def __init__(
        self,
        reactor: Any,
        settings: UplinkSettings,
        key: Secret,
        headers: Headers,
        on_end_seen: Callable[[float], None],
    ) -> None:
        parts = [part for _, value in headers for part in words_of_header(value)]
        self.quote = Quoting(key.reveal(), *parts, *words_of_query(settings.server))
        self._reactor = reactor
        self._settings = settings
        self._address = ServerAddress.of(settings.server)
        self._key = key
        self._headers = headers
        self._on_end_seen = on_end_seen

    def make_dialect(self, name: str) -> IDialect:
        """A new dialect of that name, for one connection."""
        if name == socketio.NAME:
            return socketio.SocketIORelayDialect(
                lambda: {"proxyId": self._settings.proxy_id, "apiKey": self._key.reveal()}
            )
        return native.NativeRelayDialect()

    def path(self, dialect: str) -> str:
        """Where on the main server that dialect asks for a connection."""
        return urlsplit(self._url(dialect, "")).path

    async def dial(
        self, attempt: Attempt, connect: Callable[[Wire], UplinkConnection], *, upgrades: bool
    ) -> UplinkConnection:
        """
        Open one connection.

        :param connect: makes the connection of a wire, once TCP is connected.
        :param upgrades: whether a polling session may move to a WebSocket.
        :raises UplinkError: when a file that TLS or the proxy needs cannot be used.
        :raises UplinkUnreachable: when TCP cannot be connected.
        """
        connections: list[UplinkConnection] = []
        route = self._route(attempt.dialect)
        factory = self._factory(attempt, route, lambda wire: connections.append(connect(wire)), upgrades)
        try:
            await route.endpoint.connect(factory)
        except CancelledError:
            raise
        except Exception as error:
            raise UplinkUnreachable(server=str(self._address), reason=describe(error, self.quote)) from None
        return connections[0]

    def _route(self, dialect: str) -> Route:
        return Route(
            endpoint=make_endpoint(self._reactor, self._address, self._settings, self._on_end_seen),
            server_name=self._address.host if self._address.secure else None,
            make_request=partial(self._make_request, dialect),
            subprotocols=subprotocols(self._headers),
            max_frame=self._settings.max_frame,
            quote=self.quote,
        )

    def _factory(self, attempt: Attempt, route: Route, on_connected: Callable[[Wire], None], upgrades: bool) -> Factory:
        if attempt.polling:
            upgrade = partial(begin_upgrade, self._reactor, route) if upgrades else None
            session = PollingClient(self._reactor, route, upgrade)
            return session.factory(partial(on_connected, session))

        def build() -> WebSocketClient:
            client = WebSocketClient(partial(route.make_request, {}, {}), server_name=route.server_name)
            on_connected(client)
            return client

        return WebSocketFactory(self._reactor, build, route.max_frame, route.subprotocols)

    def _make_request(self, dialect: str, parameters: Mapping[str, str], headers: Mapping[str, str]) -> Request:
        url = urlsplit(self._url(dialect, self._key.reveal(), **parameters))
        return Request(
            resource=f"{url.path}?{url.query}",
            host=self._address.authority,
            user_agent=f"relayd/{__version__}",
            headers=with_session(self._headers, headers),
        )

    def _url(self, dialect: str, key: str, **parameters: str) -> str:
        server, proxy_id = self._settings.server, self._settings.proxy_id
        if dialect == socketio.NAME:
            return socketio.url(server, proxy_id, key, **parameters)
        return native.url(server, proxy_id, key, self._settings.native_path)
