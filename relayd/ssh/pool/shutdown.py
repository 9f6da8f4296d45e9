"""
The end of a pool: all connections are closed, by force where a server does not read the disconnect.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from relayd.language.texts import Text
from relayd.ssh.channels.connection import ClientConnection
from relayd.ssh.pool.connections import OpenConnections

#: Seconds that servers get to close before their connections are aborted.
CLOSE_GRACE = 2.0


class Shutdown:
    """
    Closes connections, and waits until they are gone.

    :ivar begun: whether the pool is being closed, or is closed.
    """

    def __init__(self, reactor: Any, connections: OpenConnections) -> None:
        self.begun = False
        self._reactor = reactor
        self._connections = connections
        self._waiting: list[Deferred[None]] = []
        self._abort_call: IDelayedCall | None = None

    def close(self, connection: ClientConnection) -> None:
        """Close one connection."""
        connection.disconnect(Text("relayd shuts down"))

    def close_all(self) -> Deferred[None]:
        """Close all connections; fires when they are gone."""
        for connection in self._connections.farthest_first():
            self.close(connection)
        if self._connections and self._abort_call is None:
            # A server that reads no more must not hold up the shutdown.
            self._abort_call = self._reactor.callLater(CLOSE_GRACE, self._abort)
        gone: Deferred[None] = Deferred()
        self._waiting.append(gone)
        self.connection_lost()
        return gone

    def connection_lost(self) -> None:
        """A connection is gone, perhaps the last one."""
        if self._connections:
            return
        if self._abort_call is not None:
            self._abort_call.cancel()
            self._abort_call = None
        waiting, self._waiting = self._waiting, []
        for gone in waiting:
            gone.callback(None)

    def _abort(self) -> None:
        self._abort_call = None
        for connection in list(self._connections.members):
            connection.transport.abort()
