"""
How an invocation ends: what a result means, and what is certain when none came.

relayd says in ``error`` of an extended result whether a command was executed.  Other programs have an exit code and
texts, and nothing else: the hub never claims that one of their commands was not executed.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from msgspec import Struct

from relayd.hub.decisions.states import CERTAINLY_NOT_RUN, ENDS, InvocationState
from relayd.wire.messages import CommandResult

#: Codes that say nothing of how the command with this id ended, only that there was one.
_SAY_NO_END: Final = frozenset({"already-confirmed", "duplicate-mismatch"})
#: Codes with which the result of a command that ended comes, with its own exit code.
_OF_DELIVERY: Final = frozenset({"undeliverable"})


class Verdict(Struct, frozen=True):
    """
    What a result says.

    :ivar end: how the invocation ended.
    :ivar code: the relay's code for the failure; ``None``: it gave none.
    """

    end: InvocationState
    code: str | None = None


def end_of(result: CommandResult) -> Verdict:
    """
    What a result says of its invocation.

    An ``error`` that is not complete is not that of the protocol: another program means something else by it.
    """
    error = result.details.error
    by_exit_code = InvocationState.SUCCEEDED if result.exit_code == 0 else InvocationState.FAILED
    if error is None or not _is_complete(error):
        return Verdict(by_exit_code)
    code, executed = str(error["code"]), error["executed"]
    if code in _OF_DELIVERY:
        return Verdict(by_exit_code, code)
    if code in _SAY_NO_END or executed == "unknown":
        return Verdict(InvocationState.UNKNOWN, code)
    if executed == "yes":
        return Verdict(_EXECUTED.get(code, by_exit_code), code)
    return Verdict(_not_executed(code), code)


def _is_complete(error: Mapping[str, str | bool]) -> bool:
    """Whether it has all that docs/protocol.rst says."""
    texts = all(isinstance(error.get(name), str) for name in ("code", "phase"))
    return texts and error.get("executed") in ("yes", "no", "unknown") and isinstance(error.get("retriable"), bool)


_EXECUTED: Final = {"timeout": InvocationState.TIMED_OUT, "cancelled": InvocationState.CANCELLED}


def _not_executed(code: str) -> InvocationState:
    if code == "cancelled":
        return InvocationState.CANCELLED
    return (
        InvocationState.REFUSED
        if code == "forbidden" or code.startswith("forbidden-")
        else InvocationState.NOT_EXECUTED
    )


class Correction(Struct, frozen=True):
    """
    What a result that comes after the end of its invocation changes.

    :ivar end: how it ended, as is known now.
    :ivar former: how it was said to have ended.
    :ivar contradicts: whether *former* was said to be certain: somebody broke a promise.
    """

    end: InvocationState
    former: InvocationState
    contradicts: bool


#: The ends that the hub gives by itself, without a result.
_GIVEN_BY_US: Final = CERTAINLY_NOT_RUN | {InvocationState.UNKNOWN, InvocationState.CANCELLED}


def correction_of(end: InvocationState, had_result: bool, verdict: Verdict) -> Correction | None:
    """
    What a late result changes.

    :param end: how the invocation is said to have ended.
    :param had_result: whether a result said so, which is final: the same result comes again until its receipt arrives.
    :return: ``None``: nothing, since it says the same, or knows no more.
    """
    if end not in ENDS:
        raise ValueError(f"{end} is no end")
    final = had_result and end is not InvocationState.UNKNOWN
    if final or end not in _GIVEN_BY_US or verdict.end in (end, InvocationState.UNKNOWN):
        return None
    contradicts = end is not InvocationState.UNKNOWN and verdict.end not in CERTAINLY_NOT_RUN
    return Correction(verdict.end, end, contradicts and verdict.end is not InvocationState.CANCELLED)


class Rerun(StrEnum):
    """Which invocations of an ended run are ordered again."""

    #: Those of which it is certain that they did not run.
    CERTAINLY_NOT_RUN = "certainly-not-run"
    #: Those that did not succeed, without those that may have run all the same.
    FAILED = "failed"
    #: Those that may have run: only a person who has looked at the hosts can say that this is right.
    UNKNOWN = "unknown"
    #: All, also those that succeeded.
    ALL = "all"


def is_rerun(which: Rerun, end: InvocationState, was_sent: bool) -> bool:
    """
    Whether an invocation is ordered again.

    :param was_sent: whether it was ever sent.
    """
    if which is Rerun.ALL:
        return True
    if which is Rerun.UNKNOWN:
        return end is InvocationState.UNKNOWN
    if which is Rerun.CERTAINLY_NOT_RUN:
        return end in CERTAINLY_NOT_RUN or (end is InvocationState.CANCELLED and not was_sent)
    return end not in (InvocationState.SUCCEEDED, InvocationState.UNKNOWN)
