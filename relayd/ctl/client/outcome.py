"""
How a run ended: counted, in words, and as an exit status.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

#: Exit statuses of what waits for a run.
SUCCEEDED: Final = 0
SOME_FAILED: Final = 1
SOME_UNKNOWN: Final = 3
SOME_NOT_RUN: Final = 4
HUB_AWAY: Final = 5
LEFT_RUNNING: Final = 130

#: For ``--help`` and the manual.
EXIT_CODES: Final = (
    "exit status: 0 the command succeeded on every host; 1 it failed on some; 2 a mistake on the command line, or the "
    "hub refuses the order: nothing ran; 3 of some it is not known whether it ran; 4 on some it certainly did not run, "
    "and on all others it succeeded; 5 the hub is away, and the run goes on without relayctl; 130 interrupted, and the "
    "run goes on. Where several are true: 3 before 1 before 4"
)

#: How an invocation ends, in the order in which people want to know of it.
ENDS: Final = (
    "unknown",
    "failed",
    "timed-out",
    "refused",
    "not-executed",
    "expired",
    "cancelled",
    "succeeded",
)
#: Of these it is certain that nothing ran, or that a person wanted it so.
_NOT_RUN: Final = frozenset(("refused", "not-executed", "expired", "cancelled"))
#: In progress, in the order of their way.
_OPEN: Final = ("waiting", "queued", "sent", "accepted")


def exit_status(states: Iterable[str]) -> int:
    """The exit status for invocations in these states."""
    found = set(states)
    if "unknown" in found:
        return SOME_UNKNOWN
    if not found <= _NOT_RUN | {"succeeded"}:
        return SOME_FAILED
    return SOME_NOT_RUN if found & _NOT_RUN else SUCCEEDED


def tell(counts: Mapping[str, int]) -> str:
    """Such as ``1 unknown, 48 succeeded``."""
    known = [state for state in (*ENDS, *_OPEN) if counts.get(state)]
    others = [state for state in counts if state not in known and counts[state]]
    return ", ".join(f"{counts[state]} {state}" for state in known + others) or "none"


def counted(invocations: Iterable[Mapping[str, Any]]) -> Counter[str]:
    """How many invocations are in each state."""
    return Counter(str(each.get("state")) for each in invocations)


def why(invocation: Mapping[str, Any]) -> str:
    """Why an invocation did not succeed, in words."""
    error = invocation.get("error") or {}
    said = str(error.get("message") or error.get("code") or "")
    code = invocation.get("exitCode")
    if invocation.get("state") == "failed" and code is not None and not said:
        return f"exit status {code}"
    return said
