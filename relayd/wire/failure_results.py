"""
The results of commands that relayd did not run, or whose end it does not know.
"""

from __future__ import annotations

from relayd.errors import RelayError
from relayd.language.texts import Translate, english
from relayd.wire.messages import CommandResult, Details


def failure_result(
    command_id: str,
    error: RelayError,
    *,
    extended: bool = False,
    numeric_id: bool = False,
    translate: Translate = english,
) -> CommandResult:
    """
    The result of a command that has no exit code (specification, "command execution error").

    :param numeric_id: see `ExecuteCommand`.
    :param translate: to the language in which it says why.
    """
    details = Details(error=describe_error(error))
    return CommandResult(
        command_id=command_id,
        stdout="",
        stderr=error.text.within(translate),
        exit_code=1,
        details=details,
        extended=extended,
        numeric_id=numeric_id,
    )


def describe_error(error: RelayError) -> dict[str, str | bool]:
    """What an extended result tells programs about an error (`Details.error`)."""
    return {
        "code": error.code,
        "phase": error.phase,
        "executed": error.executed,
        "retriable": error.retriable,
    }
