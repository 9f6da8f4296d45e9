"""
Questions to relays: about a command, about the relay itself, and about what its rules say.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from relayd.errors import InvalidMessage, RelayError
from relayd.hub.errors import CommandRefused, InfoRefused, NoAnswer, NoInfo, NoPolicyCheck, RelayOffline
from relayd.hub.links.identity import RelayProgram
from relayd.hub.links.protocol import RelayConnection
from relayd.hub.links.questions import Mark, Questions
from relayd.language.texts import printable, span
from relayd.wire.messages import (
    CANCEL_COMMAND,
    CHECK_COMMAND,
    COMMAND_STATUS,
    RELAY_INFO,
    Become,
    CommandStatus,
    ExecuteCommand,
)
from relayd.wire.parsing import parse_command_status, parse_policy_answer, parse_relay_info
from relayd.wire.policy_answer import PolicyAnswer
from relayd.wire.relay_info import MAX_INFO, RelayInfo

_T = TypeVar("_T")


class Asking:
    """
    The open questions, and what becomes of each: an answer, a refusal, or nothing in time.

    :param patience: seconds to wait for an answer.
    """

    def __init__(self, reactor: IReactorTime, patience: float) -> None:
        self._reactor = reactor
        self._patience = patience
        self._questions: Questions[RelayConnection] = Questions()

    def cancel(self, link: RelayConnection | None, proxy_id: str, command_id: str) -> Deferred[CommandStatus | None]:
        """
        Have a relay end a command.  The command's result comes as that of any other.

        :return: a Deferred of the command's state, or of ``None`` at once where the dialect has no acknowledgements; it
            fails as that of `status` does.
        """
        if link is None:
            return fail(RelayOffline(proxy_id=proxy_id))
        number = link.ask(CANCEL_COMMAND, {"commandId": command_id})
        if number is None:
            return succeed(None)
        answer: Deferred[Any] = self._state(link, number, command_id)
        return answer

    def status(self, link: RelayConnection | None, proxy_id: str, command_id: str) -> Deferred[CommandStatus]:
        """
        Ask a relay for the state of a command.

        :return: a Deferred of the answer.  It fails with `RelayOffline` (also when the relay leaves without an answer),
            `NoAnswer` (none came in time), `CommandRefused` (the relay refuses the question) or `InvalidMessage` (the
            answer is not valid).
        """
        if link is None:
            return fail(RelayOffline(proxy_id=proxy_id))
        number = link.ask(COMMAND_STATUS, {"commandId": command_id})
        return self._state(link, command_id if number is None else number, command_id)

    def info(self, link: RelayConnection | None, proxy_id: str) -> Deferred[RelayInfo]:
        """
        Ask a relay what it is.

        :return: a Deferred of the answer.  It fails with `RelayOffline` (also when the relay leaves without an answer),
            `NoInfo` (none came in time), `InfoRefused` or `InvalidMessage` (the answer is not valid).
        """
        if link is None:
            return fail(RelayOffline(proxy_id=proxy_id))

        def refused(words: str) -> RelayError:
            return InfoRefused(proxy_id=proxy_id, reason=words)

        late = NoInfo(proxy_id=proxy_id, time=span(self._patience))
        asked = self._questions.add(link, link.ask(RELAY_INFO, {}))
        return self._in_time(asked, late).addCallback(self._read, parse_relay_info, refused)

    def program(self, link: RelayConnection) -> Deferred[RelayProgram]:
        """
        Ask a relay that has just connected what it is.

        :return: fires when it answers, also if it refuses or if its answer makes no sense; fails when it leaves.  A
            program that does not know the question never answers.
        """

        def read(data: object) -> RelayProgram:
            if error := error_in(data):
                return RelayProgram(refusal=error)
            try:
                info = parse_relay_info(data)
            except InvalidMessage as error:
                return RelayProgram(refusal=printable(str(error), 500))
            if len(msgspec.json.encode(info)) > MAX_INFO:  # it is kept
                return RelayProgram(refusal=f"its answer has more than {MAX_INFO} bytes")
            return RelayProgram(info=info)

        return self._questions.add(link, link.ask(RELAY_INFO, {})).addCallback(read)

    def check(self, link: RelayConnection | None, proxy_id: str, command: ExecuteCommand) -> Deferred[PolicyAnswer]:
        """
        Ask a relay what its rules say of a command, which it does not run.

        :param command: its secrets are not sent, and its ``command_id`` only names the question.
        :return: a Deferred of the answer.  It fails with `RelayOffline` (also when the relay leaves without an answer),
            `NoPolicyCheck` (the relay does not know the question), `NoAnswer` (none came in time), `CommandRefused`
            (the command is not valid) or `InvalidMessage` (the answer is not).
        """
        if link is None:
            return fail(RelayOffline(proxy_id=proxy_id))
        if not link.program.has(CHECK_COMMAND):
            return fail(NoPolicyCheck(proxy_id=proxy_id))
        command_id = command.command_id

        def refused(words: str) -> RelayError:
            return CommandRefused(proxy_id=proxy_id, command_id=command_id, reason=words)

        number = link.ask(CHECK_COMMAND, question_of(command).to_wire())
        asked = self._questions.add(link, (CHECK_COMMAND, command_id) if number is None else number)
        late = NoAnswer(proxy_id=proxy_id, command_id=command_id, time=span(self._patience))
        return self._in_time(asked, late).addCallback(self._read, parse_policy_answer, refused)

    def answered(self, link: RelayConnection, mark: Mark, data: object) -> None:
        """The data of an answer has arrived."""
        for asked in self._questions.take(link, mark):
            asked.callback(data)

    def link_lost(self, link: RelayConnection) -> None:
        """No answer comes on *link* any more."""
        for asked in self._questions.take_all(link):
            asked.errback(RelayOffline(proxy_id=link.proxy_id))

    # Ours

    def _state(self, link: RelayConnection, mark: Mark, command_id: str) -> Deferred[CommandStatus]:
        def refused(words: str) -> RelayError:
            return CommandRefused(proxy_id=link.proxy_id, command_id=command_id, reason=words)

        late = NoAnswer(proxy_id=link.proxy_id, command_id=command_id, time=span(self._patience))
        asked = self._questions.add(link, mark)
        return self._in_time(asked, late).addCallback(self._read, parse_command_status, refused)

    def _read(self, data: object, parse: Callable[[object], _T], refused: Callable[[str], RelayError]) -> _T:
        if words := error_in(data):
            raise refused(words)
        return parse(data)

    def _in_time(self, asked: Deferred[object], late: RelayError) -> Deferred[object]:
        def too_late(outcome: object, _: float) -> object:
            if isinstance(outcome, Failure) and outcome.check(CancelledError):
                raise late
            return outcome

        return asked.addTimeout(self._patience, self._reactor, too_late)


def question_of(command: ExecuteCommand) -> ExecuteCommand:
    """*command* with what rules look at, and without its secrets: what may hold one is left out, or empty."""
    none: dict[str, Any] = {"password": None, "private_key": None, "passphrase": None, "certificate": None}
    become = command.become
    return replace(
        command,
        **none,
        via=tuple(replace(hop, **none) for hop in command.via),
        env=tuple((name, "") for name, _ in command.env),
        stdin=b"",
        become=replace(become, password=None) if isinstance(become, Become) else become,
        files=tuple(replace(file, content=b"", sha256=None) for file in command.files),
    )


def error_in(acknowledgement: object) -> str | None:
    """The words of an acknowledgement that refuses; ``None``: it does not."""
    error = acknowledgement.get("error") if isinstance(acknowledgement, dict) else None
    return printable(str(error), 500) if error else None
