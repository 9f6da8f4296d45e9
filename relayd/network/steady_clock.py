"""
Seconds for what is measured: a program's reactor may go by the time of day, which can be set back.
"""

from __future__ import annotations

import time
from typing import Any

from twisted.python import runtime

#: The clock of Twisted's reactors, unless a program has given them another one.
TIME_OF_DAY = runtime.seconds


def steady_seconds(reactor: Any) -> float:
    """Seconds of a clock that nobody can set: that of *reactor*, or another one where that is the time of day."""
    return time.monotonic() if reactor.seconds == TIME_OF_DAY else float(reactor.seconds())
