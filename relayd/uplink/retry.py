"""
How long to wait before the main server is dialled again.

Specification, "connection errors": for ever, every 5 seconds.  A main server that turns the relay away is spared: most
likely the key is wrong, and somebody must change it first.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from relayd.errors import RelayError, UplinkBusy, UplinkDisplaced, UplinkRefused, UplinkRenewed

#: How far delays vary, as a part of them.  The relays of a restarted main server lose it in the same instant: with 5 s
#: this spreads their return over 4 s, about their mean.
JITTER: Final = 0.4
#: Seconds between two attempts of a relay that is turned away.
MAX_REFUSED_DELAY: Final = 300.0
#: Seconds without the like of it after which what made a delay grow is over, at least.
CALM_AFTER: Final = 60.0
#: Seconds that a main server may ask us to stay away.
MAX_BUSY_DELAY: Final = 3600.0
#: Characters of a header that are looked at.
_MAX_HEADER: Final = 100


class RetryPolicy:
    """
    The delays of one uplink.

    :ivar delay: in seconds, for a main server that cannot be reached or was lost.
    :param source: of the jitter, which keeps the relays of a restarted main server from coming all at once.
    """

    def __init__(self, delay: float, source: random.Random) -> None:
        self.delay = delay
        self._source = source
        self._refusals = 0
        self._displacements = 0
        self._displaced_delay = 0.0

    def accepted(self) -> None:
        """The main server has really accepted the relay: what was before does not count any more."""
        self._refusals = 0

    def delay_after(self, error: RelayError, lived: float = 0.0) -> float:
        """
        Seconds to wait after an attempt or a connection that ended with *error*.

        :param lived: seconds since it was accepted.
        """
        if isinstance(error, UplinkRenewed):
            return error.settle
        delay, least = self.delay, 1 - JITTER
        if isinstance(error, UplinkRefused):
            delay = grown(delay, self._refusals)
            self._refusals += 1
        elif isinstance(error, UplinkDisplaced):
            # Two relays of one name that displace each other would otherwise do so every few seconds, for ever.
            if is_calm(lived, self._displaced_delay):
                self._displacements = 0
            delay = self._displaced_delay = grown(delay, self._displacements)
            self._displacements += 1
        elif isinstance(error, UplinkBusy):
            delay = max(delay, min(error.seconds, MAX_BUSY_DELAY))
            least = 1.0  # who comes before the time is only turned away again
        return delay * self._source.uniform(least, 1 + JITTER)


def grown(delay: float, times: int) -> float:
    """*delay*, which has grown *times*: it doubles, up to `MAX_REFUSED_DELAY`."""
    return max(delay, min(delay * 2.0 ** min(times, 64), MAX_REFUSED_DELAY))


def is_calm(seconds: float, delay: float) -> bool:
    """Whether what made *delay* grow is over, *seconds* after the last time: others wait about as long as we do."""
    return seconds > max(CALM_AFTER, 4 * delay)


def seconds_of(headers: Mapping[str, str]) -> float | None:
    """
    Seconds that a main server asks us to stay away (RFC 9110, section 10.2.3): a number of them, or a date.

    A date counts from the main server's own time of day, where it tells that: ours may be wrong.

    :param headers: of its answer, by their names in lower case.
    """
    text = headers.get("retry-after", "")[:_MAX_HEADER].strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    until, now = _date(text), _date(headers.get("date", "")[:_MAX_HEADER])
    return None if until is None else max(0.0, (until - (now or datetime.now(UTC))).total_seconds())


def _date(text: str) -> datetime | None:
    """``None`` for what is no date, or one without a time zone."""
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):  # no date, or one beyond all calendars
        return None
    return date if date.tzinfo is not None else None
