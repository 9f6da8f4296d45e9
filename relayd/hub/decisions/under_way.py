"""
What a run remembers of the invocations that are under way, and until when each may last.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from relayd.language.texts import Text

SECOND: Final = 1_000_000


class Patience(Struct, frozen=True, kw_only=True):
    """
    How long is waited for what; in microseconds.

    :ivar timeout: of the command, as it was ordered.
    :ivar grace: for what a relay that is connected does after that.
    :ivar away: for a relay that is not connected, which may have run the command and bring its result later.
    :ivar resend: after an order was sent first, in which it may be sent again.
    """

    timeout: int
    grace: int = 60 * SECOND
    away: int = 24 * 3600 * SECOND
    resend: int = 60 * SECOND


class Trip(Struct, gc=False):
    """
    One invocation that is under way.

    :ivar relay: to which it was sent.
    :ivar journal: the relay's journal to which it was written; empty: it has none.
    :ivar since: when it was written, or accepted.
    :ivar resend_until: until when it may be written again.
    :ivar in_doubt: whether the link on which it was written is gone, so that the relay may not have it.
    :ivar writes: how often it was written.
    :ivar cancelled: whether a person cancelled it.
    :ivar refusal: what the relay said when it did not take it.
    :ivar answer_by: until when the relay is to answer, where it said something that ends it soon.
    :ivar stored: the deadline that is stored for it; 0: it is not known.
    """

    relay: str
    journal: str
    since: int
    resend_until: int
    in_doubt: bool = False
    writes: int = 0
    cancelled: bool = False
    refusal: Text | None = None
    answer_by: int | None = None
    stored: int = 0

    def deadline(self, patience: Patience, online_since: int | None) -> int:
        """
        Until when it may last.

        :param online_since: when its relay connected; ``None``: it is away.
        """
        if self.answer_by is not None:
            return self.answer_by
        base = self.since + patience.timeout + patience.grace
        return base + patience.away if online_since is None else max(base, online_since + patience.grace)


class UnderWay:
    """The trips of one run, by position and by relay."""

    def __init__(self) -> None:
        self._trips: dict[int, Trip] = {}
        self._at: dict[str, dict[int, None]] = {}

    def __getitem__(self, slot: int) -> Trip:
        return self._trips[slot]

    def __contains__(self, slot: int) -> bool:
        return slot in self._trips

    def __len__(self) -> int:
        return len(self._trips)

    def add(self, slot: int, trip: Trip) -> None:
        """It is under way."""
        self._trips[slot] = trip
        self._at.setdefault(trip.relay, {})[slot] = None

    def remove(self, slot: int) -> Trip:
        """It is not any more."""
        trip = self._trips.pop(slot)
        there = self._at[trip.relay]
        del there[slot]
        if not there:
            del self._at[trip.relay]
        return trip

    def at(self, relay: str) -> list[int]:
        """Those that were sent to a relay."""
        return list(self._at.get(relay, ()))

    def all(self) -> Iterator[int]:
        """All."""
        return iter(list(self._trips))
