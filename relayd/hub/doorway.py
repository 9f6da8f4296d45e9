"""
Who may wait at the door: connections that have not joined yet, at most so many.  Decisions only, no I/O and no time.
"""

from __future__ import annotations

from collections import OrderedDict
from ipaddress import IPv6Address, ip_address
from typing import Final, Generic, TypeVar

ConnectionT = TypeVar("ConnectionT")

#: Seconds within which a real relay has joined.
PATIENCE: Final = 3.0


class Doorway(Generic[ConnectionT]):
    """
    Where too many wait, an address of which most are waiting cannot keep the others out: its oldest one gives way to
    theirs.  Otherwise the one that has just come has to go: relays that all come at the same time, as after a restart,
    are let in one after the other, while those that were begun with are done with.  One that has waited longer than any
    relay needs gives way in any case.

    :param most: connections that may wait.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: dict[ConnectionT, str] = {}
        #: By address, when each came; the oldest first.
        self._by_origin: dict[str, OrderedDict[ConnectionT, float]] = {}

    def enter(self, connection: ConnectionT, host: str, now: float) -> ConnectionT | None:
        """
        A connection waits from now on.

        :param host: the address that it comes from; empty where there is none.
        :param now: in seconds.
        :return: one that has to go, and waits no more; it may be this one.
        """
        origin, leaving = origin_of(host), None
        if len(self._waiting) >= self._most:
            crowd = max(self._by_origin.values(), key=len)
            oldest, since = next(iter(crowd.items()))
            if len(crowd) <= len(self._by_origin.get(origin, ())) + 1 and now - since < PATIENCE:
                return connection
            leaving = oldest
            self.leave(leaving)
        self._waiting[connection] = origin
        self._by_origin.setdefault(origin, OrderedDict())[connection] = now
        return leaving

    def leave(self, connection: ConnectionT) -> None:
        """It has joined, or is gone; once is enough."""
        origin = self._waiting.pop(connection, None)
        if origin is not None:
            crowd = self._by_origin[origin]
            del crowd[connection]
            if not crowd:
                del self._by_origin[origin]


def origin_of(host: str) -> str:
    """Who has one address of an IPv6 network has all 2**64 of them (RFC 4291, section 2.5.4)."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if not isinstance(address, IPv6Address):
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return address.exploded[:19]
