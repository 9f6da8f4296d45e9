"""
The heartbeat of a main server's connections, which finds the dead ones.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from relayd.hub.links.bounded_server import BoundedServer
from relayd.hub.settings import HubSettings
from relayd.language.texts import span

#: Bytes of an unfinished frame that are a sign of life, as on the relay's side.
LEAST_PROGRESS = 4096


class Heartbeat:
    """
    Pings a relay at intervals, and drops its connection if no sign of life follows, or if the relay reads nothing.

    Every frame is a sign of life, and so are `LEAST_PROGRESS` bytes of one: single bytes of a frame that never ends
    are not.

    :param ping: sends a ping, in the dialect's own way.
    """

    def __init__(
        self, clock: IReactorTime, settings: HubSettings, connection: BoundedServer, ping: Callable[[], None]
    ) -> None:
        self._clock = clock
        self._settings = settings
        self._connection = connection
        self._ping = ping
        #: Whether anything arrived since the last ping.
        self._heard = True
        #: Bytes since the last sign of life.
        self._progress = 0
        #: When the relay last read some of what waited for it.
        self._last_taken = 0.0
        self._next: IDelayedCall | None = None

    def start(self) -> None:
        """The connection is open: ping it from now on."""
        self._beat_later(self._settings.ping_interval)

    def stop(self) -> None:
        """The connection is gone."""
        if self._next is not None and self._next.active():
            self._next.cancel()

    def received(self, count: int) -> None:
        """*count* bytes have arrived."""
        self._progress += count
        if self._progress >= LEAST_PROGRESS:
            self.alive()

    def alive(self) -> None:
        """A frame has ended, or a good part of one has arrived."""
        self._heard = True
        self._progress = 0

    def taken(self) -> None:
        """The relay has read some of what waits for it, or something begins to wait now."""
        self._last_taken = self._clock.seconds()

    def _beat_later(self, seconds: float) -> None:
        self._next = self._clock.callLater(seconds, self._beat)

    def _beat(self) -> None:
        self._heard = False
        self._ping()
        self._next = self._clock.callLater(self._settings.ping_timeout, self._check)

    def _check(self) -> None:
        settings, connection = self._settings, self._connection
        self._next = None
        if not connection.flow.writable and self._clock.seconds() - self._last_taken >= settings.write_timeout:
            connection.drop(f"it read nothing of what was sent to it for {span(settings.write_timeout)}")
        elif self._heard or connection.deaf:  # where we do not read, silence proves nothing
            self._beat_later(max(0.0, settings.ping_interval - settings.ping_timeout))
        else:
            connection.drop(f"it was silent for {span(settings.ping_timeout)}")
