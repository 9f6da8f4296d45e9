"""
Notes in the store when relays were seen, from where, and what they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from relayd.hub.links.links import Links
from relayd.hub.links.protocol import RelayConnection
from relayd.hub.store.errors import StoreError
from relayd.hub.store.relays import note_connection, note_seen
from relayd.hub.store.store import Store
from relayd.language.texts import printable

_log = Logger("relayd.hub")

#: Seconds between two notes that a connected relay is still there.
INTERVAL: Final = 60.0


class Presence(Service):
    """
    Notes each relay as it connects, all connected ones once a minute, and each as it leaves.

    A note that fails is left out: the next one says more.

    :param now: the time, in microseconds since 1970.
    """

    def __init__(self, clock: IReactorTime, store: Store, links: Links, now: Callable[[], int]) -> None:
        self._store = store
        self._links = links
        self._now = now
        self._loop = LoopingCall(self._note_all)
        self._loop.clock = clock
        #: Notes that are not written yet.
        self._open: set[Deferred[Any]] = set()

    def startService(self) -> None:
        """Begin."""
        super().startService()
        self._loop.start(INTERVAL, now=False)

    def stopService(self) -> None:
        """End; relays that are still connected were seen now."""
        super().stopService()
        self._loop.stop()
        self._note_all()

    def relay_connected(self, link: RelayConnection) -> None:
        """A relay has connected, or has told what it is: `LinkObserver.relay_connected`."""
        info, now = link.program.info, self._now()
        self._write(
            note_connection,
            link.proxy_id,
            now,
            address=link.address,
            dialect=link.dialect,
            version=None if info is None else printable(info.version, 40),
            info=None if info is None else msgspec.json.encode(info).decode(),
        )
        self._write(note_seen, [_seen(link)], now)

    def relay_lost(self, link: RelayConnection) -> None:
        """A relay has left: `LinkObserver.relay_lost`."""
        self._write(note_seen, [_seen(link)], self._now())

    def _note_all(self) -> None:
        if seen := [_seen(link) for link in self._links.relays.values()]:
            self._write(note_seen, seen, self._now())

    def _write(self, function: Callable[..., None], *arguments: Any, **more: Any) -> None:
        written = self._store.run(function, *arguments, **more)
        self._open.add(written)
        written.addErrback(self._failed)
        written.addBoth(lambda _: self._open.discard(written))

    def _failed(self, failure: Any) -> None:
        failure.trap(StoreError)
        _log.warn("It was not noted that a relay was seen: {error}", error=str(failure.value))


def _seen(link: RelayConnection) -> tuple[str, str]:
    return link.proxy_id, "" if link.identity is None else link.identity.key_id
