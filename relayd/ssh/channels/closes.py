"""
The ends of channels that wait a little to be sent, together with something else.
"""

from __future__ import annotations

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from relayd.ssh.channels.channel import Channel

#: Seconds for which CHANNEL_CLOSE, the answer to the server's own, may wait for something else to be sent on the
#: connection: alone it would cost both sides as much as any other step of a command, and nobody waits for it. Less than
#: the pool's COOL_DOWN.
CLOSE_LINGER = 0.004


class DelayedCloses:
    """
    The closes that wait on one connection.

    :ivar waiting: channels that the server has closed, and we not yet.
    """

    __slots__ = ("_call", "_clock", "waiting")

    def __init__(self, clock: IReactorTime) -> None:
        self.waiting: list[Channel] = []
        self._clock = clock
        self._call: IDelayedCall | None = None

    def add(self, channel: Channel) -> None:
        """Close *channel* soon."""
        self.waiting.append(channel)
        if self._call is None:
            self._call = self._clock.callLater(CLOSE_LINGER, self._linger_ended)

    def send(self) -> None:
        """Close all that wait."""
        for channel in self.waiting:
            channel.send_close()
        self.waiting.clear()

    def stop(self) -> None:
        """The connection is gone: send nothing any more."""
        self.waiting.clear()
        call, self._call = self._call, None
        if call is not None:
            call.cancel()

    def _linger_ended(self) -> None:
        self._call = None
        self.send()
