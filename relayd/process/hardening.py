"""
Settings of the process itself: a clock that nobody can set, and no core dumps.
"""

from __future__ import annotations

import ctypes
import resource
import sys
import time
from typing import Any, Final

from twisted.logger import Logger

_PR_SET_DUMPABLE: Final = 4  # prctl(2)

_log = Logger("relayd.process")


def use_steady_clock(reactor: Any) -> None:
    """
    Make *reactor* use a monotonic clock instead of the system's time of day: setting that would move every timeout and
    deadline.

    Calls that are already scheduled use the old clock, so this must come first; a reactor in use is left as it is.
    """
    if reactor.running or reactor.getDelayedCalls():
        _log.warn("The reactor was in use before relayd started: setting the system's time will shift timeouts")
    else:
        reactor.seconds = time.monotonic


def forbid_dumps() -> None:
    """
    Keep crashes from writing this process's memory, which holds keys and passwords, to a file; and, on Linux, other
    processes of the same user from reading it.

    Call it once the process runs as its final user: a change of user undoes the second part (prctl(2),
    "PR_SET_DUMPABLE").
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # A program that handles core dumps, such as systemd's, gets them whatever that limit is.
    if sys.platform == "linux" and ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        _log.warn("The kernel would not forbid core dumps: error {errno}", errno=ctypes.get_errno())
