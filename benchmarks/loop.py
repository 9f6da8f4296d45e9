"""
How long the event loop of a relay is held up, at most, by what is largest and dearest: one relay for each load.

    python benchmarks/loop.py [WORDS...]     only the loads whose names have one of these words
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.support.loads import LOADS, Load


async def measure(words: list[str]) -> None:
    """Print a line for each load."""
    for name, (act, dialect, options) in LOADS.items():
        if not words or any(word in name for word in words):
            stalls = await Load(dialect, *options).run(act)
            print(f"{name:26} {stalls.longest:6.0f} ms    own {stalls.own:4.0f} ms    {stalls.beats}", flush=True)


def main(reactor: Any) -> Deferred[None]:
    """Run what the command line names."""
    return Deferred.fromCoroutine(measure(sys.argv[1:]))


if __name__ == "__main__":
    react(main)
