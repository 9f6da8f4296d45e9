"""
The states of runs and invocations, by the names that the store, the API and people see.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class InvocationState(StrEnum):
    """Where an invocation stands; a member of `ENDS` is final."""

    #: Its turn in the rollout has not come.
    WAITING = "waiting"
    #: Its turn has come; no relay that reaches the host is connected, or a limit is full.
    QUEUED = "queued"
    #: It was written to a relay's connection; the relay has not said that it took it.
    SENT = "sent"
    #: The relay has it in its journal.
    ACCEPTED = "accepted"

    #: Exit status 0.
    SUCCEEDED = "succeeded"
    #: Another exit status, or a failure of which the relay says that the command was executed.
    FAILED = "failed"
    #: The relay ended it, as its time was over.
    TIMED_OUT = "timed-out"
    #: It was cancelled, before it was sent or by the relay.
    CANCELLED = "cancelled"
    #: A rule forbids it: the relay's policy or the hub's.
    REFUSED = "refused"
    #: It certainly did not run.
    NOT_EXECUTED = "not-executed"
    #: It may have run.
    UNKNOWN = "unknown"
    #: It was not delivered in time, and so did not run.
    EXPIRED = "expired"


#: How an invocation ends.
ENDS: Final = frozenset(
    {
        InvocationState.SUCCEEDED,
        InvocationState.FAILED,
        InvocationState.TIMED_OUT,
        InvocationState.CANCELLED,
        InvocationState.REFUSED,
        InvocationState.NOT_EXECUTED,
        InvocationState.UNKNOWN,
        InvocationState.EXPIRED,
    }
)

#: The ends of which it is certain that the command did not run: a rerun of them runs nothing twice.
CERTAINLY_NOT_RUN: Final = frozenset({InvocationState.REFUSED, InvocationState.NOT_EXECUTED, InvocationState.EXPIRED})


class RunState(StrEnum):
    """Where a run stands; a member of `RUN_ENDS` is final, and then each of its invocations has ended."""

    RUNNING = "running"
    #: Nothing new is sent until a person resumes it.
    PAUSED = "paused"
    #: A person cancelled it; what was sent is still to end.
    CANCELLING = "cancelling"
    #: The error budget is spent; what was sent is still to end.
    STOPPING = "stopping"

    #: Each invocation succeeded.
    SUCCEEDED = "succeeded"
    #: At least one did not.
    FAILED = "failed"
    #: A person cancelled it.
    CANCELLED = "cancelled"
    #: The error budget was spent.
    STOPPED = "stopped"


#: How a run ends.
RUN_ENDS: Final = frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED, RunState.STOPPED})
