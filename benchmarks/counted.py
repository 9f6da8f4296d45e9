"""
Runs twistd and counts the calls of Python functions: between SIGUSR1 and SIGUSR2, which writes them to CALLS_FILE.

    CALLS_FILE=PATH python counted.py -n relayd …
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections import Counter
from types import CodeType, FrameType
from typing import Any

from twisted.scripts.twistd import run


class Counting:
    """
    Counts calls by the function's code.

    :ivar on: whether it does so now.
    """

    def __init__(self) -> None:
        self.on = False
        self._counters: list[Counter[CodeType]] = []

    def profiler(self) -> Any:
        """A profile function for one thread, with a counter of its own: so no thread waits for another."""
        counter: Counter[CodeType] = Counter()
        self._counters.append(counter)

        def count(frame: FrameType, event: str, _: Any) -> None:
            if self.on and event == "call":
                counter[frame.f_code] += 1

        return count

    def begin(self, *_: Any) -> None:
        """Count from now on."""
        self.on = True

    def end(self, *_: Any) -> None:
        """Count no more, and write what was counted."""
        self.on = False
        total: Counter[CodeType] = sum(self._counters, Counter())
        rows = [(code.co_filename, code.co_qualname, number) for code, number in total.items()]
        path = os.environ["CALLS_FILE"]
        with open(path + ".new", "w") as file:
            json.dump(rows, file)
        os.replace(path + ".new", path)


counting = Counting()


def first_of_thread(frame: FrameType, event: str, arg: Any) -> None:
    """The profile function of a new thread, which gives way to one of its own."""
    own = counting.profiler()
    sys.setprofile(own)
    own(frame, event, arg)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, counting.begin)
    signal.signal(signal.SIGUSR2, counting.end)
    threading.setprofile(first_of_thread)
    sys.setprofile(counting.profiler())
    sys.argv[0] = "twistd"
    run()
