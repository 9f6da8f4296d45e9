"""
Which connections may wait that have not joined yet.  Decisions only, no I/O and no time.
"""

from __future__ import annotations

from collections import OrderedDict
from ipaddress import IPv6Address, ip_address
from typing import Final, Generic, TypeVar

ConnectionT = TypeVar("ConnectionT")

#: Seconds within which any real relay joins.
PATIENCE: Final = 3.0


class Doorway(Generic[ConnectionT]):
    """
    The connections that have not joined yet, of which only so many may wait.

    When one too many comes, the address with the most waiting connections cannot keep others out: its oldest connection
    gives way to those of other addresses.  Otherwise the new connection is closed: of relays that all come at the same
    time, as after a restart, the first ones join while the others try again.  A connection that has waited longer than
    any relay needs gives way in any case.

    :param most: how many connections may wait.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: dict[ConnectionT, str] = {}
        #: By address: when each connection came, the oldest first.
        self._by_origin: dict[str, OrderedDict[ConnectionT, float]] = {}

    def enter(self, connection: ConnectionT, address: str, now: float) -> ConnectionT | None:
        """
        Let *connection* wait, if it may.

        :param address: where it comes from; empty where that is not known.
        :param now: in seconds.
        :return: the connection to close, which waits no more; it may be *connection* itself.
        """
        origin, leaving = origin_of(address), None
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
        """*connection* has joined or is gone.  Calling this again does nothing."""
        origin = self._waiting.pop(connection, None)
        if origin is not None:
            crowd = self._by_origin[origin]
            del crowd[connection]
            if not crowd:
                del self._by_origin[origin]


def origin_of(address: str) -> str:
    """What counts as one address: of IPv6 the network, whose 2**64 addresses one peer has (RFC 4291, section 2.5.4)."""
    try:
        read = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if not isinstance(read, IPv6Address):
        return address
    if read.ipv4_mapped is not None:
        return str(read.ipv4_mapped)
    return read.exploded[:19]
