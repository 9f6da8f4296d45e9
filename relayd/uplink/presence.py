"""
What a main server tells everybody of this relay (``proxy_status_update``), without I/O: when to dial again for it.

The known main server keeps a table of relays by name and drops a row when *any* connection of that name ends, such as
one that was lost on our side long ago and times out there: the relay is connected, and gets no orders any more.  All
relays are told that it has dropped the row.
"""

from __future__ import annotations

import random
from math import inf
from typing import Any, Final

from relayd.uplink.retry import JITTER, grown, is_calm

#: Seconds until the first attempt: of a connection that we have ended ourselves we may be told on the next one, and
#: right after it that this one is online.
AT_ONCE: Final = 0.5
#: Seconds that a main server gets to be done with the old connection before the new one is made: at first, and at most.
SETTLE: Final = 0.5
MAX_SETTLE: Final = 30.0
#: Seconds after a connection was made in which it is this relay itself that is told to be online.
OWN_NEWS: Final = 5.0
#: Seconds for which another relay of this name that was seen is reckoned with.
OTHER_FOR: Final = 600.0


def told_of(data: Any, proxy_id: str) -> bool | None:
    """
    Whether *proxy_id* is told to be online.

    :param data: of ``proxy_status_update``: ``{"id": proxyId, "status": "online" or "offline"}``; the id may be a
        number that spells the name, as databases have it, and where there is a ``proxyId``, that is the name.
    :return: ``None`` where it is of another relay, or says something else.
    """
    if not isinstance(data, dict):
        return None
    name = data.get("proxyId", data.get("id"))
    if (str(name) if type(name) is int else name) != proxy_id:
        return None
    status = data.get("status")
    return status == "online" if status in ("online", "offline") else None


class Presence:
    """
    What was told so far. All times in seconds of one clock.

    :param source: of what keeps two relays of one name from taking turns for ever.
    """

    def __init__(self, source: random.Random) -> None:
        self._source = source
        self._ready_at = -inf
        self._was_online = False
        self._other_told = False
        self._other_at = -inf
        self._renewals = 0
        self._renewed_at = -inf
        self._pause = 0.0

    @property
    def settle(self) -> float:
        """
        Seconds between the end of the old connection and the new one: longer each time, as the main server may take its
        time to drop the row, and must not drop the new one.
        """
        return min(SETTLE * 2.0 ** min(self._renewals - 1, 64), MAX_SETTLE)

    def connected(self, now: float) -> None:
        """A new connection is there."""
        self._ready_at = now
        self._was_online = self._other_told = False

    def came_online(self, now: float) -> bool:
        """
        This relay's name is told to be online.

        :return: whether that shows another relay of this name, for the first time on this connection.
        """
        other = self._was_online or now - self._ready_at > OWN_NEWS
        self._was_online = True
        if other:
            self._other_at = now
        told, self._other_told = self._other_told, self._other_told or other
        return other and not told

    def went_offline(self, now: float, delay: float) -> float:
        """
        This relay's name is told to be offline, while it is connected.

        :param delay: the shortest after the first.
        :return: seconds to wait before the connection is made anew: at once, and then longer each time; longer from the
            start where another relay of this name was seen, since that may be the one which has ended.
        """
        if is_calm(now - self._renewed_at, self._pause):
            self._renewals = 0
        if self._renewals or now - self._other_at < OTHER_FOR:
            jitter = self._source.uniform(1 - JITTER, 1 + JITTER)
            self._pause = grown(delay, max(0, self._renewals - 1)) * jitter
        else:
            self._pause = AT_ONCE
        self._renewals += 1
        self._renewed_at = now
        return self._pause
