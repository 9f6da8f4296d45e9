"""
What a relay asks of its own process: a clock that nobody can set, and that its memory is written to no file.
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
    Have *reactor* tell the time since some moment in the past, instead of the system's time of day: whoever sets that
    would move every timeout and deadline.

    What is scheduled already goes by the old clock, so this comes before all else; a reactor that is in use is left
    as it is.
    """
    if reactor.running or reactor.getDelayedCalls():
        _log.warn("The reactor was in use before relayd: when the system's time is set, timeouts move with it")
    else:
        reactor.seconds = time.monotonic


def forbid_dumps() -> None:
    """
    Let no crash write this process's memory, which holds keys and passwords, to a file; and, on Linux, no other
    process of the same user read it.

    To be called when the process has the user it will run as: a change of user takes the second part back
    (prctl(2), "PR_SET_DUMPABLE").
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # A handler of core dumps that is a program, such as systemd's, gets them whatever that limit is.
    if sys.platform == "linux" and ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        _log.warn("The kernel would not forbid core dumps: error {errno}", errno=ctypes.get_errno())
