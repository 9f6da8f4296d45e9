"""
Notices servers that do not answer when a channel is asked for, long before the keepalive gives the connection up.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from relayd.ssh.channels.connection import ClientConnection

#: Seconds between two looks at a connection on which something was asked for.
LOOK_AFTER = 1.0
#: Looks in a row, with nothing heard in between, after which a connection is silent. One is not enough: where this
#: process was held up, what has arrived meanwhile is read after the first look.
SILENT_LOOKS = 2


class SilenceWatch:
    """
    Watches connections from when a channel is asked for until it is answered: one delayed call for each connection,
    however many channels are asked for.

    :param on_silence: called with a connection that has been silent for two to three seconds.
    """

    def __init__(self, clock: IReactorTime, on_silence: Callable[[ClientConnection], None]) -> None:
        self._clock = clock
        self._on_silence = on_silence
        self._looks: dict[ClientConnection, IDelayedCall] = {}

    def asked(self, connection: ClientConnection) -> None:
        """A channel was asked for."""
        if connection not in self._looks:
            self._look_later(connection, connection.heard, 0)

    def forget(self, connection: ClientConnection) -> None:
        """The connection is gone."""
        call = self._looks.pop(connection, None)
        if call is not None:
            call.cancel()

    def _look_later(self, connection: ClientConnection, heard: int, silent: int) -> None:
        self._looks[connection] = self._clock.callLater(LOOK_AFTER, self._look, connection, heard, silent)

    def _look(self, connection: ClientConnection, heard: int, silent: int) -> None:
        del self._looks[connection]
        if not connection.unanswered():
            return
        # What has arrived from a server that is being slowed down may wait here to be read.
        silent = silent + 1 if connection.heard == heard and not connection.is_held() else 0
        if silent >= SILENT_LOOKS:
            silent = 0
            self._on_silence(connection)
        # More may be asked of it than what was just taken away.
        if connection not in self._looks and connection.unanswered():
            self._look_later(connection, connection.heard, silent)
