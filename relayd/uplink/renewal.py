"""
Renews a connection that the main server takes for lost: see `relayd.uplink.presence`, which decides when.
"""

from __future__ import annotations

import random

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from relayd.errors import UplinkRenewed
from relayd.language.texts import span
from relayd.uplink.connection import UplinkConnection
from relayd.uplink.presence import Presence, told_of

_log = Logger("relayd.uplink")


class Renewals:
    """
    The renewals of the connections of one relay, at most one at a time.

    :param server: the main server's name in errors and logs.
    :param source: of the jitter.
    """

    def __init__(self, clock: IReactorTime, server: str, proxy_id: str, source: random.Random) -> None:
        self._clock = clock
        self._server = server
        self._proxy_id = proxy_id
        self._presence = Presence(source)
        self._call: IDelayedCall | None = None

    def note_connected(self) -> None:
        """A new connection has come about."""
        self._presence.connected(self._clock.seconds())

    def on_status_update(self, connection: UplinkConnection, data: object, delay: float) -> None:
        """
        The main server says on *connection* that a relay is online or offline.

        :param data: of ``proxy_status_update``.
        :param delay: the shortest one in seconds before the connection is renewed, except for the first time.
        """
        online = told_of(data, self._proxy_id)
        if online:
            self.cancel()
            if self._presence.came_online(self._clock.seconds()):
                _log.warn(
                    "{server} says that {proxy_id} came online while this relay was online already: another relay may "
                    "use this name",
                    server=self._server,
                    proxy_id=self._proxy_id,
                )
        elif online is not None and self._call is None:
            pause = self._presence.went_offline(self._clock.seconds(), delay)
            _log.info(
                "{server} says that {proxy_id} is offline. If it sends no command within {span}, relayd connects again",
                server=self._server,
                proxy_id=self._proxy_id,
                span=span(pause),
            )
            self._call = self._clock.callLater(pause, self._renew, connection, connection.orders.commands)

    def cancel(self) -> None:
        """Renew nothing: the connection is fine, or over."""
        call, self._call = self._call, None
        if call is not None:
            call.cancel()

    def _renew(self, connection: UplinkConnection, commands: int) -> None:
        self._call = None
        if connection.orders.commands == commands:  # a relay that gets commands is not offline
            # The main server drops the relay's row at the end of a connection: this one has to end before the next one
            # begins.
            connection.close(UplinkRenewed(server=self._server, settle=self._presence.settle))
