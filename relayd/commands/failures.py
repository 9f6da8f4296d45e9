"""
What the main server gets for a command that fails, and what the log gets where that was not foreseen.
"""

from __future__ import annotations

from os.path import basename, dirname, relpath

from twisted.logger import Logger
from twisted.python.failure import Failure

import relayd
from relayd.errors import RelayError
from relayd.language.texts import Translate
from relayd.wire.failure_results import failure_result
from relayd.wire.messages import CommandResult, ExecuteCommand

_log = Logger("relayd.commands")


def failed_result(command: ExecuteCommand, error: RelayError, translate: Translate) -> CommandResult:
    """The result of *command* that says *error*."""
    return failure_result(
        command.command_id,
        error,
        extended=command.extended,
        numeric_id=command.numeric_id,
        translate=translate,
    )


def explain_failure(failure: Failure, doing: str, command_id: str, unexplained: RelayError) -> RelayError:
    """
    The error for the main server.

    An exception that is not relayd's is logged by its class and place alone: a library's text may hold what it was
    given.

    :param doing: what failed, for the log.
    :param unexplained: the error of an exception that is not relayd's.
    """
    kind = type(failure.value)
    if isinstance(failure.value, RelayError):
        error, reason = failure.value, str(failure.value)
    else:
        error, reason = unexplained, f"{kind.__module__}.{kind.__qualname__} at {_place(failure)}"
    if error is unexplained or doing != "run":
        _log.error("Could not {doing} command {id}: {reason}", doing=doing, id=command_id, reason=reason)
    return error


def _place(failure: Failure) -> str:
    """Where an exception was raised: the innermost place in our own code, where there is one."""
    package = dirname(relayd.__file__)
    place, ours = "an unknown place", False
    for function, path, line, *_ in failure.frames:  # the innermost last
        if dirname(path).startswith(package):
            place, ours = f"{relpath(path, dirname(package))}:{line} in {function}", True
        elif not ours:
            place = f"{basename(path)}:{line} in {function}"
    return place
