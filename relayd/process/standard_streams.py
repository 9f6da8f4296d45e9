"""
The standard streams of a process that was started without some of them, as with ``>&-``.
"""

from __future__ import annotations

import os
import sys


def open_standard_streams() -> None:
    """
    Open those that are closed, so that what is written to them goes nowhere. Otherwise the next file that is opened
    would get the number of one of them.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    # Python has None for those that were closed when it started.
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
