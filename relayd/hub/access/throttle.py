"""
How often somebody may try to log in.  No I/O and no clock, and bounded memory.

Three counts, of which each alone can make a login wait:

- **A user from an address**: after `FREE` failures, the wait doubles with each: 2 s, 4 s, … up to `LONGEST`.  A success
  forgets them.  This is what a person meets who has forgotten the password; nobody else can bring it about, unless they
  share the address.
- **An address**, whoever it says it is: the same after `FREE_ADDRESS` failures.  A success does not forget them, as
  somebody may have one good account and guess others.
- **A user from all addresses**: `BURST` attempts at once and `RATE` more a second: with those of a known address, no
  more than 100 in any hour (ASVS 4.0.3, 2.2.1).  There is no growing wait here: with one, somebody who fails on
  purpose would lock the user out for good.  An address from which the user has logged in before, since the hub's
  start, does not take part: it has only its own counts.  So an attack on a user does not keep that user away from
  where they work.

API tokens are not guessed (256 random bits), and work whatever happens here.  An attempt is counted when it begins, so
that many at once gain nothing, and taken back when it succeeds.  Names are counted whether they exist or not.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from ipaddress import ip_address, ip_network
from math import ceil
from typing import Final, Generic, TypeVar

from msgspec import Struct

#: Failures without a wait: of a user from an address, of an address.
FREE: Final = 5
FREE_ADDRESS: Final = 20
#: Seconds of the longest wait after failures, and after which failures are forgotten.
LONGEST: Final = 900.0
FORGOTTEN: Final = 3600.0
#: Attempts on one user from all addresses: at once, and more each second: 80 in the first hour.
BURST: Final = 20.0
RATE: Final = 60 / 3600
#: Entries of each table; the one that was used longest ago goes.
MOST: Final = 5_000
#: Bits of an IPv6 address that one customer has at least: they count as one address.
_PREFIX: Final = 64

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class _Failures(Struct):
    count: int = 0
    until: float = 0.0
    at: float = 0.0


class _Bucket(Struct):
    level: float
    at: float


class _Recent(Generic[K, V]):
    """A table of bounded size."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._entries: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> V | None:
        return self._entries.get(key)

    def put(self, key: K, value: V) -> None:
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._most:
            self._entries.popitem(last=False)

    def pop(self, key: K) -> None:
        self._entries.pop(key, None)


class LoginThrottle:
    """
    Counts attempts to log in.

    :param most: entries of each table.
    """

    def __init__(self, most: int = MOST) -> None:
        self._pairs: _Recent[tuple[str, str], _Failures] = _Recent(most)
        self._addresses: _Recent[str, _Failures] = _Recent(most)
        self._users: _Recent[str, _Bucket] = _Recent(most)
        self._known: _Recent[tuple[str, str], bool] = _Recent(most)

    @property
    def entries(self) -> int:
        """How many entries there are in all tables."""
        return len(self._pairs) + len(self._addresses) + len(self._users) + len(self._known)

    def begin(self, user: str, address: str, now: float) -> int:
        """
        Somebody tries to log in.

        :param user: the name that was given, whether it exists or not.
        :param now: seconds of a clock that never goes backwards.
        :return: 0: the attempt may go on, and is counted as a failure until it succeeds; otherwise it may not, is not
            counted, and this is how many seconds to wait.
        """
        network = network_of(address)
        pair = self._failures(self._pairs, (user, network), now)
        origin = self._failures(self._addresses, network, now)
        known = self._known.get((user, network)) is not None
        bucket = self._bucket(user, now)
        wait = max(pair.until - now, origin.until - now)
        if not known and bucket.level < 1.0:
            wait = max(wait, (1.0 - bucket.level) / RATE)
        if wait > 0:
            return ceil(wait)
        if not known:
            bucket.level -= 1.0
            self._users.put(user, bucket)
        self._count(self._pairs, (user, network), pair, FREE, now)
        self._count(self._addresses, network, origin, FREE_ADDRESS, now)
        return 0

    def succeeded(self, user: str, address: str) -> None:
        """An attempt that had begun was right."""
        network = network_of(address)
        self._pairs.pop((user, network))
        self._give_back(user, network)
        self._known.put((user, network), True)

    def void(self, user: str, address: str) -> None:
        """An attempt that had begun was not decided, by no fault of who made it."""
        network = network_of(address)
        pair = self._pairs.get((user, network))
        if pair is not None:
            pair.count, pair.until = max(0, pair.count - 1), 0.0
        self._give_back(user, network)

    def _give_back(self, user: str, network: str) -> None:
        origin = self._addresses.get(network)
        if origin is not None:
            origin.count, origin.until = max(0, origin.count - 1), 0.0
        bucket = self._users.get(user)
        if bucket is not None and self._known.get((user, network)) is None:
            bucket.level = min(BURST, bucket.level + 1.0)

    def _bucket(self, user: str, now: float) -> _Bucket:
        bucket = self._users.get(user)
        if bucket is None:
            return _Bucket(BURST, now)
        return _Bucket(min(BURST, bucket.level + (now - bucket.at) * RATE), now)

    @staticmethod
    def _failures(table: _Recent[K, _Failures], key: K, now: float) -> _Failures:
        failures = table.get(key)
        return _Failures() if failures is None or now - failures.at > FORGOTTEN else failures

    @staticmethod
    def _count(table: _Recent[K, _Failures], key: K, failures: _Failures, free: int, now: float) -> None:
        failures.count += 1
        failures.at = now
        if failures.count > free:
            # Not 2 to the power of a count that somebody else chooses.
            failures.until = now + min(LONGEST, 2.0 ** min(failures.count - free, 20))
        table.put(key, failures)


def network_of(address: str) -> str:
    """What counts as one address: of IPv6 the first 64 bits, of an IPv4 address in IPv6 that one."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    mapped = getattr(parsed, "ipv4_mapped", None)
    if mapped is not None:
        return str(mapped)
    return str(parsed) if parsed.version == 4 else str(ip_network((parsed, _PREFIX), strict=False))
