"""
What the relay's command logic has done, in numbers: plain integers, to be shown elsewhere.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from msgspec import Struct

from relayd.wire.messages import Details

#: Upper bounds, in seconds, of the buckets that times of commands are counted in.
BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
#: Commands that ended and are remembered, for people to look at.
RECENT: Final = 100


class Histogram:
    """
    How many values were how large.

    :ivar counts: one number for each of `BOUNDS`, and one for what is beyond all.
    :ivar total: the sum of the values.
    """

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count *value*."""
        self.counts[bisect_left(BOUNDS, value)] += 1
        self.total += value


class EndedCommand(Struct, frozen=True):
    """
    A command that has its result, as far as it may be shown: without its text and its output.

    :ivar outcome: as in `Stats.finished`.
    :ivar duration: seconds from its receipt to its result.
    :ivar at: when it had its result, by the relay's clock.
    """

    command_id: str
    host: str
    port: int
    user: str
    outcome: str
    exit_code: int
    duration: float
    at: float


@dataclass(slots=True)
class Stats:
    """
    Counters since the start of the process; none ever falls.

    :ivar accepted: commands taken on.
    :ivar finished: commands that ended, by outcome: ``ok``, ``nonzero`` (they ran, and failed), or an error's code.
    :ivar refused: commands not taken on, by the error's code.
    :ivar joined: duplicates of commands that had not ended.
    :ivar resent: duplicates that were answered with the same result again.
    :ivar sent: times that a result was sent, the first time and again.
    :ivar confirmed: receipts that confirmed a result.
    :ivar rejected: receipts that rejected a result.
    :ivar presumed: results that count as delivered: the main server has read them, and sends no receipts.
    :ivar given_up: results that were rejected too often, or with which each connection was lost.
    :ivar dropped: results that no journal held, and that had to make room.
    :ivar stray: receipts that fit no result.
    :ivar streamed: pieces of output that were sent while their command ran.
    :ivar passed_over: bytes of output that were to be sent while their command ran, and that no link took.
    :ivar stdout_bytes: bytes that commands wrote to stdout, kept or not.
    :ivar stderr_bytes: bytes that commands wrote to stderr, kept or not.
    :ivar queue: seconds from receipt until a command's turn came, of those whose turn came.
    :ivar duration: seconds from receipt to result.
    :ivar phases: seconds by phase of a run, as in ``timings`` of results.
    :ivar recent: the commands that ended last, the latest at the end.
    """

    accepted: int = 0
    finished: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    joined: int = 0
    resent: int = 0
    sent: int = 0
    confirmed: int = 0
    presumed: int = 0
    rejected: int = 0
    given_up: int = 0
    dropped: int = 0
    stray: int = 0
    streamed: int = 0
    passed_over: int = 0
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    queue: Histogram = field(default_factory=Histogram)
    duration: Histogram = field(default_factory=Histogram)
    phases: Mapping[str, Histogram] = field(
        default_factory=lambda: {name: Histogram() for name in ("wait", "connect", "keyExchange", "login", "run")}
    )
    recent: deque[EndedCommand] = field(default_factory=lambda: deque(maxlen=RECENT))

    def count_ended(self, ended: EndedCommand, queued: float | None, details: Details) -> None:
        """
        Count a command that has its result.  A few additions only: this is on the way of every command.

        :param queued: seconds until its turn came; ``None`` where it never did.
        """
        self.finished[ended.outcome] += 1
        self.recent.append(ended)
        self.stdout_bytes += details.stdout_bytes
        self.stderr_bytes += details.stderr_bytes
        self.duration.observe(ended.duration)
        if queued is not None:
            self.queue.observe(queued)
        if details.timings is not None:
            timings: Any = details.timings
            for phase, seconds in timings.items():
                if (histogram := self.phases.get(phase)) is not None:
                    histogram.observe(seconds)
