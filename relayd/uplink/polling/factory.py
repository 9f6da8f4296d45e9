"""
What a polling session is made of, next to the WebSocket that an uplink dials first: its requests, and its upgrade.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory

from relayd.uplink.connection import Connection
from relayd.uplink.polling.client import PollingClient
from relayd.uplink.polling.upgrade import Upgrade
from relayd.uplink.request import MakeRequest, Request
from relayd.uplink.settings import Address
from relayd.uplink.websocket import WebSocketClient, WebSocketListener
from relayd.wire.dialects.engineio import WEBSOCKET, OpenPacket

#: Seconds in which a WebSocket that a session has moved to must not be lost, and those for which sessions stay with
#: polling after that: what is in between may let WebSockets through and then end them.
SHORT_LIVED: Final = 60.0
STAY_POLLING: Final = 3600.0


def polling_factory(
    reactor: Any,
    connection: Connection,
    endpoint: IStreamClientEndpoint,
    address: Address,
    make_request: MakeRequest,
    quote: Callable[[str], str],
    *,
    max_frame: int,
    protocols: list[str],
    upgrades: bool,
) -> Factory:
    """
    What makes the first TCP connection of a polling session at *endpoint*, and attaches the session to *connection*.

    :param protocols: subprotocols of a WebSocket from which the main server may choose.
    :param upgrades: whether it shall move to a WebSocket where the main server offers that.
    """
    tls_host = address.host if address.secure else None

    def upgrade(client: PollingClient, opened: OpenPacket) -> Callable[[], None] | None:
        if not upgrades or WEBSOCKET not in opened.upgrades:
            return None

        def request() -> Request:
            return make_request({"sid": opened.sid}, client.cookies.header())

        def build(listener: WebSocketListener) -> WebSocketClient:
            return WebSocketClient(listener, request, tls_host=tls_host)

        return Upgrade(reactor, client, connection, endpoint, build, max_frame, protocols).stop

    session = PollingClient(
        reactor,
        connection,
        make_request,
        quote,
        endpoint,
        tls_host=tls_host,
        max_frame=max_frame,
        on_open=upgrade,
    )
    return session.factory(partial(connection.attach, session))
