"""
What an SSH client under measurement tells of the work that it did: see benchmarks/ssh.py, "Driver".
"""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

OUTPUT = "hello\n"


class Failed(Exception):
    """A command did not give what it must give; the argument says why."""


class Tally:
    """Counts from its creation on."""

    def __init__(self) -> None:
        self._latencies: list[float] = []
        self._reasons: Counter[str] = Counter()
        self._began = time.perf_counter()

    def done(self, began: float) -> None:
        """One succeeded, which began at this time of ``time.perf_counter``."""
        self._latencies.append(round(time.perf_counter() - began, 6))

    def failed(self, error: BaseException) -> None:
        """One failed."""
        self._reasons[f"{type(error).__name__}: {error}"[:200]] += 1

    def report(self, **more: Any) -> dict[str, Any]:
        """
        The answer to a request: seconds that all took, latencies of those that succeeded in seconds, how many failed
        and why.
        """
        return {
            "seconds": time.perf_counter() - self._began,
            "latencies": self._latencies,
            "failures": self._reasons.total(),
            "reasons": dict(self._reasons.most_common(5)),
            **more,
        }


def check(exit_code: int | None, output: str) -> None:
    """
    Whether a command gave what it must give.

    :raises Failed: otherwise.
    """
    if exit_code != 0 or output != OUTPUT:
        raise Failed(f"exit code {exit_code}, output {output[:40]!r}")


def read_setup(path: str) -> dict[str, Any]:
    """What benchmarks/ssh.py wrote for a driver."""
    setup: dict[str, Any] = json.loads(Path(path).read_text())
    return setup
