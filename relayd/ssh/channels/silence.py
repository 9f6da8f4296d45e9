"""
Notices servers that do not answer when a channel is asked for, long before the keepalive gives the connection up.

Some fall silent. Others live on, and answer everything but that: while a first command runs they say nothing about a
second channel.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from relayd.ssh.channels.channel import ChannelUser
from relayd.ssh.channels.connection import ClientConnection

#: Seconds between two looks at a connection on which something was asked for.
LOOK_AFTER = 1.0
#: Looks in a row, with nothing heard in between, after which a connection is silent. One is not enough: where this
#: process was held up, what has arrived meanwhile is read after the first look.
SILENT_LOOKS = 2
#: Looks in a row after which a channel that was not answered for is late, though its server says other things.
LATE_LOOKS = 5


class SilenceWatch:
    """
    Watches connections from when a channel is asked for until it is answered: one delayed call for each connection,
    however many channels are asked for.

    :param on_silence: called with a connection that has been silent for two to three seconds.
    :param on_late: called with one that has not, and those who have waited on it for their channels for four to five.
    """

    def __init__(
        self,
        clock: IReactorTime,
        on_silence: Callable[[ClientConnection], None],
        on_late: Callable[[ClientConnection, list[ChannelUser]], None],
    ) -> None:
        self._clock = clock
        self._on_silence = on_silence
        self._on_late = on_late
        self._looks: dict[ClientConnection, IDelayedCall] = {}

    def asked(self, connection: ClientConnection) -> None:
        """A channel was asked for."""
        if connection not in self._looks:
            self._look_later(connection, connection.heard, 0, {})

    def forget(self, connection: ClientConnection) -> None:
        """The connection is gone."""
        call = self._looks.pop(connection, None)
        if call is not None:
            call.cancel()

    def _look_later(
        self, connection: ClientConnection, heard: int, silent: int, waiting: dict[ChannelUser, int]
    ) -> None:
        self._looks[connection] = self._clock.callLater(LOOK_AFTER, self._look, connection, heard, silent, waiting)

    def _look(self, connection: ClientConnection, heard: int, silent: int, waiting: dict[ChannelUser, int]) -> None:
        """
        :param waiting: those who waited for their channels at the last looks, and how many these were.
        """
        del self._looks[connection]
        users = connection.unanswered()
        if not users:
            return
        # What has arrived from a server that is being slowed down may wait here to be read.
        held = connection.is_held()
        silent = silent + 1 if connection.heard == heard and not held else 0
        waiting = {} if held else {user: waiting.get(user, 0) + 1 for user in users}
        if silent >= SILENT_LOOKS:
            silent, waiting = 0, {}
            self._on_silence(connection)
        elif late := [user for user, looks in waiting.items() if looks >= LATE_LOOKS]:
            self._on_late(connection, late)
        elif silent:
            connection.probe()  # a server that only does not open the channel answers this
        # More may be asked of it than what was just taken away.
        if connection not in self._looks and connection.unanswered():
            self._look_later(connection, connection.heard, silent, waiting)
