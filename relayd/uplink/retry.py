"""
How long to wait before dialling the main server again.

Specification, "connection errors": for ever, every 5 seconds.  A main server that turns the relay away is dialled less
often: most likely the key is wrong, and somebody has to change it first.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from relayd.errors import NeitherDialect, RelayError, UplinkBusy, UplinkDisplaced, UplinkRefused, UplinkRenewed

#: How far a delay may vary, as a fraction of it.  All relays of a restarted main server lose it at the same moment:
#: with a delay of 5 s, this spreads their return over 4 s.
JITTER: Final = 0.4
#: The longest delay of a relay that is turned away, in seconds.
MAX_REFUSED_DELAY: Final = 300.0
#: Seconds without another such failure after which a delay that has grown is short again, at least.
CALM_AFTER: Final = 60.0
#: The longest delay that a main server may ask for, in seconds.
MAX_BUSY_DELAY: Final = 3600.0
#: Characters of a header that are read.
_MAX_HEADER: Final = 100


class RetryPolicy:
    """
    The delays of one uplink.

    :ivar delay: in seconds, after a main server could not be reached or was lost.
    :param source: of the jitter, which keeps the relays of a restarted main server from returning all at once.
    """

    def __init__(self, delay: float, source: random.Random) -> None:
        self.delay = delay
        self._source = source
        self._refusals = 0
        self._displacements = 0
        self._displaced_delay = 0.0

    def accepted(self) -> None:
        """The main server has really accepted the relay: refusals before that no longer count."""
        self._refusals = 0

    def delay_after(self, error: RelayError, lived: float = 0.0) -> float:
        """
        Seconds to wait after an attempt or a connection that ended with *error*.

        :param lived: seconds that the connection had been accepted.
        """
        if isinstance(error, UplinkRenewed):
            return error.settle
        delay, least = self.delay, 1 - JITTER
        error = _decisive(error)
        if isinstance(error, UplinkRefused):
            delay = grown(delay, self._refusals)
            self._refusals += 1
        elif isinstance(error, UplinkDisplaced):
            # Two relays of one name would otherwise displace each other every few seconds, for ever.
            if is_calm(lived, self._displaced_delay):
                self._displacements = 0
            delay = self._displaced_delay = grown(delay, self._displacements)
            self._displacements += 1
        elif isinstance(error, UplinkBusy):
            delay = max(delay, min(error.seconds, MAX_BUSY_DELAY))
            least = 1.0  # before that time, the main server only turns the relay away again
        return delay * self._source.uniform(least, 1 + JITTER)


def is_refusal(error: RelayError) -> bool:
    """Whether a main server turns the relay away, most likely until somebody has changed something."""
    return isinstance(_decisive(error), UplinkRefused)


def _decisive(error: RelayError) -> RelayError:
    """*error*, or what became of the dialect that the main server is more likely to speak."""
    return error.decisive if isinstance(error, NeitherDialect) else error


def grown(delay: float, times: int) -> float:
    """*delay*, doubled *times* times, but not beyond `MAX_REFUSED_DELAY`."""
    return max(delay, min(delay * 2.0 ** min(times, 64), MAX_REFUSED_DELAY))


def is_calm(seconds: float, delay: float) -> bool:
    """Whether *delay* may be short again, *seconds* after the last failure: other relays wait about as long."""
    return seconds > max(CALM_AFTER, 4 * delay)


def seconds_of(headers: Mapping[str, str]) -> float | None:
    """
    Seconds that a main server asks to wait (``Retry-After``: RFC 9110, section 10.2.3), given as a number or a date.

    A date is compared with the main server's own clock, where its ``Date`` shows that: this machine's may be wrong.

    :param headers: of the response, by their names in lower case.
    """
    text = headers.get("retry-after", "")[:_MAX_HEADER].strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    until, now = _date(text), _date(headers.get("date", "")[:_MAX_HEADER])
    return None if until is None else max(0.0, (until - (now or datetime.now(UTC))).total_seconds())


def _date(text: str) -> datetime | None:
    """The date in a header; ``None`` where it is not one, or has no time zone."""
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):  # not a date, or one beyond all calendars
        return None
    return date if date.tzinfo is not None else None
