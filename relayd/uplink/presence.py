"""
Decides, without I/O, when to connect again because the main server says that this relay is offline
(``proxy_status_update``).

The known main server keeps a table of relays by name, and drops a row when *any* connection of that name ends: for
example one that this relay lost long ago and that times out there.  Then the relay is connected and gets no commands.
The main server tells all relays when it drops a row.
"""

from __future__ import annotations

import random
from math import inf
from typing import Any, Final

from relayd.uplink.retry import JITTER, grown, is_calm

#: Seconds until the first attempt: the news may be about a connection that this relay has just ended, and the news that
#: the new one is online may follow at once.
AT_ONCE: Final = 0.5
#: Seconds between the end of the old connection and the new one: at first, and at most.
SETTLE: Final = 0.5
MAX_SETTLE: Final = 30.0
#: Seconds after a new connection in which the news that the relay is online is about this connection.
OWN_NEWS: Final = 5.0
#: Seconds for which another relay of this name is expected to exist after it was seen.
OTHER_FOR: Final = 600.0


def told_of(data: Any, proxy_id: str) -> bool | None:
    """
    Whether the main server says that *proxy_id* is online.

    :param data: of ``proxy_status_update``: ``{"id": proxyId, "status": "online" or "offline"}``; the id may be a
        number, as databases have it, and a member ``proxyId`` takes its place.
    :return: ``None`` where it is about another relay, or says something else.
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
    What the main server has said about this relay so far. All times in seconds of one clock.

    :param source: of the jitter that keeps two relays of one name from displacing each other for ever.
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
        Seconds between the end of the old connection and the new one: longer each time, since the main server may drop
        the row late, and must not drop the new one.
        """
        return min(SETTLE * 2.0 ** min(self._renewals - 1, 64), MAX_SETTLE)

    def connected(self, now: float) -> None:
        """A new connection has come about."""
        self._ready_at = now
        self._was_online = self._other_told = False

    def came_online(self, now: float) -> bool:
        """
        The main server says that this relay is online.

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
        The main server says that this relay is offline, while it is connected.

        :param delay: the shortest delay, except for the first one.
        :return: seconds to wait before connecting again: almost none the first time, and longer each time after it. It
            is longer from the start where another relay of this name was seen, since that may be the one that ended.
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
