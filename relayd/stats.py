"""
What the relay's command logic has done, in numbers: plain integers, for whoever wants to show them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Stats:
    """
    Counted from the start of the process; none ever falls.

    :ivar accepted: commands taken on.
    :ivar finished: commands that ended, by outcome: ``ok``, ``nonzero`` (they ran, and said so), or an error's code.
    :ivar refused: commands turned away, by the error's code.
    :ivar joined: duplicates of commands that had not ended.
    :ivar resent: duplicates that were answered with the same result again.
    :ivar sent: times that a result was sent, the first time and again.
    :ivar confirmed: receipts that confirmed a result.
    :ivar rejected: receipts that refused one.
    :ivar presumed: results that count as delivered, as the main server has read them and sends no receipts.
    :ivar given_up: results that were refused too often, or that each connection was lost with.
    :ivar dropped: results that no journal held, and that left to make room.
    :ivar stray: receipts that fit no result.
    :ivar streamed: pieces of output that were sent while their command ran.
    :ivar passed_over: bytes of output that should have been sent so, but that no link would take.
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
