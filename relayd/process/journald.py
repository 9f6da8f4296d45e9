"""
Lines for systemd's journal: it adds the time, and takes the priority from the head of each line (sd-daemon(3)).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

#: The numbers of syslog(3) for the levels of a log.
PRIORITIES: Final = {"debug": 7, "info": 6, "warn": 4, "error": 3, "critical": 2}


def is_journal(file: Any, environ: Mapping[str, str]) -> bool:
    """Whether what is written to *file* goes to the journal (systemd.exec(5), ``$JOURNAL_STREAM``)."""
    try:
        status = os.fstat(file.fileno())
    except (AttributeError, OSError, ValueError):  # it is no file of the system, or closed
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def with_priority(text: str, level: str) -> str:
    """*text* with the priority of *level* at the head of each of its lines: the journal takes each by itself."""
    head = f"<{PRIORITIES[level]}>"
    return "\n".join(head + line for line in text.removesuffix("\n").split("\n")) + "\n"
