"""
A relay's command logic that runs nothing: it remembers what the uplink tells it, and answers as it is told.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import implementer

from relayd.errors import InvalidMessage, RelayError
from relayd.interfaces import Acknowledge, Blame, ICommandReceiver, ILink
from relayd.wire.failure_results import failure_result
from relayd.wire.messages import CommandResult, CommandState, ExecuteCommand, Receipt


@implementer(ICommandReceiver)
class RecordingReceiver:
    """
    :param answer: makes the result of a command, which is sent at once; or the error with which it is refused.

    :ivar calls: what was told, as pairs of a word and a value; the words: command, invalid, receipt, cancel, status,
        check, ready, lost.
    :ivar blames: of each link that was lost.
    """

    def __init__(self, answer: Callable[[ExecuteCommand], CommandResult | RelayError] | None = None) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.link: ILink | None = None
        self.blames: list[Blame] = []
        self._answer = answer
        self._waiting: list[tuple[str, Deferred[Any]]] = []

    def next(self, word: str, timeout: float = 60) -> Deferred[Any]:
        """
        The value of the next call of that kind, from now on.

        :param timeout: in seconds of trial's reactor.
        """
        from twisted.internet import reactor

        waiting: Deferred[Any] = Deferred()
        self._waiting.append((word, waiting))
        return waiting.addTimeout(timeout, reactor)

    def words(self) -> list[str]:
        """Only the kinds of the calls, in order."""
        return [word for word, _ in self.calls]

    def command_received(self, command: ExecuteCommand, acknowledge: Acknowledge) -> None:
        answer = None if self._answer is None else self._answer(command)
        if isinstance(answer, RelayError):
            acknowledge(answer)
        else:
            acknowledge(None)
            if answer is not None and self.link is not None:
                self.link.send_result(answer)
        self._note("command", command)

    def invalid_received(self, error: InvalidMessage, acknowledge: Acknowledge) -> None:
        acknowledge(error)
        if error.command_id is not None and self.link is not None:
            self.link.send_result(failure_result(error.command_id, error, numeric_id=error.numeric_id))
        self._note("invalid", error)

    def receipt_received(self, link: ILink, receipt: Receipt) -> None:
        self._note("receipt", receipt)

    def cancel_received(self, command_id: str) -> CommandState:
        self._note("cancel", command_id)
        return CommandState.RUNNING

    def status_asked(self, command_id: str) -> CommandState:
        self._note("status", command_id)
        return CommandState.QUEUED

    def check_asked(self, command: ExecuteCommand) -> RelayError | None:
        self._note("check", command)
        answer = None if self._answer is None else self._answer(command)
        return answer if isinstance(answer, RelayError) else None

    def link_ready(self, link: ILink) -> None:
        self.link = link
        self._note("ready", link)

    def link_lost(self, link: ILink, blame: Blame) -> None:
        self.link = None
        self.blames.append(blame)
        self._note("lost", link)

    def _note(self, word: str, value: Any) -> None:
        self.calls.append((word, value))
        for entry in [entry for entry in self._waiting if entry[0] == word]:
            self._waiting.remove(entry)
            if not entry[1].called:
                entry[1].callback(value)


def echo(command: ExecuteCommand) -> CommandResult:
    """A result that shows which command it is of."""
    return CommandResult(
        command_id=command.command_id,
        numeric_id=command.numeric_id,
        stdout=f"ran {command.command}",
        stderr="",
        exit_code=0,
    )
