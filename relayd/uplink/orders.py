"""
What the main server orders and asks on one connection: commands, cancels, questions about their state, and receipts.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from msgspec.structs import replace
from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from relayd.errors import InvalidMessage, RelayError
from relayd.interfaces import Acknowledge, Blame, ICommandReceiver, no_acknowledgement
from relayd.language.texts import Text, Translate
from relayd.uplink.link import Link
from relayd.uplink.settings import Describe
from relayd.uplink.turns import LARGE, Turns
from relayd.wire.dialects.events import EventReceived
from relayd.wire.messages import (
    CANCEL_COMMAND,
    CHECK_COMMAND,
    COMMAND_RESULT_RECEIVED,
    COMMAND_STATUS,
    EXECUTE_COMMAND,
    RELAY_INFO,
    CommandState,
    CommandStatus,
    wire_id,
)
from relayd.wire.parsing import parse_execute_command, parse_question, parse_receipt
from relayd.wire.policy_answer import PolicyAnswer

_log = Logger("relayd.uplink")

#: The events that only a relay gets: a main server that sends one has accepted it.
ORDERS: Final = frozenset(
    (EXECUTE_COMMAND, COMMAND_RESULT_RECEIVED, CANCEL_COMMAND, COMMAND_STATUS, RELAY_INFO, CHECK_COMMAND)
)


#: Why a relay does not tell what it is.
NOT_TOLD: Final = Text("The operator of this relay has it tell nothing of itself.")
TOO_LONG: Final = Text("What this relay tells of itself does not fit into a message that the main server takes.")


class Orders:
    """
    Hands the events of one connection to the command logic, and sends its answers.

    :param link: what the command logic sends on.
    :param translate: to the language of errors in acknowledgements.
    :param describe: what the relay tells of itself.
    :ivar commands: how many commands came.
    """

    def __init__(
        self, link: Link, receiver: ICommandReceiver, turns: Turns, translate: Translate, describe: Describe
    ) -> None:
        self.commands = 0
        self._link = link
        self._receiver = receiver
        self._turns = turns
        self._translate = translate
        self._describe = describe
        #: Whether the command logic has the link.
        self._ready = False

    def announce_link(self) -> None:
        """Give the command logic the link: events can flow."""
        self._ready = True
        self._shield(self._receiver.link_ready, self._link)

    def withdraw_link(self, blame: Blame) -> None:
        """Take the link away again, if it was given: the connection is over."""
        if self._ready:
            self._shield(self._receiver.link_lost, self._link, blame)

    def receive(self, event: EventReceived) -> None:
        """
        Do what *event* orders.

        :param event: one of `ORDERS`.
        """
        if event.name == EXECUTE_COMMAND:
            self._command_received(event)
        elif event.name == COMMAND_RESULT_RECEIVED:
            self._receipt_received(event)
        elif event.name == CANCEL_COMMAND:
            self._shield(self._question_received, event, self._receiver.cancel_received)
        elif event.name == RELAY_INFO:
            self._shield(self._info_asked, event)
        elif event.name == CHECK_COMMAND:
            self._shield(self._check_asked, event)
        else:
            self._shield(self._question_received, event, self._receiver.status_asked)

    def _command_received(self, event: EventReceived) -> None:
        self.commands += 1
        acknowledge = self._acknowledger(event.ack_id)
        try:
            command = parse_execute_command(event.data)
        except InvalidMessage as error:
            self._shield(self._receiver.invalid_received, error, acknowledge)
            return
        if self._link.server:
            command = replace(command, origin=self._link.server)
        if len(command.stdin) + len(command.command) > LARGE:
            receive = partial(self._shield, self._receiver.command_received, command, acknowledge)
            self._turns.take_next(receive)
        else:
            self._shield(self._receiver.command_received, command, acknowledge)

    def _receipt_received(self, event: EventReceived) -> None:
        try:
            receipt = parse_receipt(event.data)
        except InvalidMessage as error:
            _log.warn("{reason}", reason=str(error))
        else:
            self._shield(self._receiver.receipt_received, self._link, receipt)

    def _question_received(self, event: EventReceived, ask: Callable[[str], CommandState]) -> None:
        """Answer in the acknowledgement; or with an event, if a status was asked without one."""
        try:
            command_id, numeric_id = parse_question(event.name, event.data)
        except InvalidMessage as error:
            _log.warn("{reason}", reason=str(error))
            answer = {"error": self._words_of(error)}
        else:
            answer = CommandStatus(command_id=command_id, numeric_id=numeric_id, state=ask(command_id)).to_wire()
            if event.ack_id is None and event.name == COMMAND_STATUS:
                self._link.send_event(COMMAND_STATUS, answer)
        if event.ack_id is not None:
            self._link.acknowledge(event.ack_id, answer)

    def _check_asked(self, event: EventReceived) -> None:
        """Say what the site's rules say, in the words of a refusal; nothing is run or recorded."""
        try:
            command = parse_execute_command(event.data, CHECK_COMMAND)
        except InvalidMessage as error:
            _log.warn("{reason}", reason=str(error))
            self._answer(event, {"error": self._words_of(error)})
            return
        refusal = self._receiver.check_asked(command)
        answer = PolicyAnswer(
            command_id=command.command_id,
            allowed=refusal is None,
            code=None if refusal is None else refusal.code,
            reason=None if refusal is None else self._words_of(refusal),
        )
        self._answer(event, answer.to_wire() | {"commandId": wire_id(command.command_id, command.numeric_id)})

    def _answer(self, event: EventReceived, answer: dict[str, Any]) -> None:
        """In the acknowledgement, or with an event if the question asked for none."""
        if event.ack_id is not None:
            self._link.acknowledge(event.ack_id, answer)
        else:
            self._link.send_event(event.name, answer)

    def _info_asked(self, event: EventReceived) -> None:
        """Answer in the acknowledgement, or with an event if the question asked for none."""
        info = self._describe()
        answer = None if info is None else info.to_wire(self._link.max_payload // 2)
        if answer is None:
            answer = {"error": self._cut((NOT_TOLD if info is None else TOO_LONG).within(self._translate))}
        self._answer(event, answer)

    def _acknowledger(self, ack_id: int | None) -> Acknowledge:
        if ack_id is None:
            return no_acknowledgement

        def acknowledge(error: RelayError | None) -> None:
            answer = None if error is None else {"error": self._words_of(error)}
            self._link.acknowledge(ack_id, answer)

        return acknowledge

    def _words_of(self, error: RelayError) -> str:
        """The text of an error, cut to what the main server takes."""
        return self._cut(error.text.within(self._translate))

    def _cut(self, words: str) -> str:
        """An acknowledgement cannot be cut later."""
        return words[: max(1, self._link.max_payload // 8)]

    def _shield(self, method: Callable[..., None], *args: object) -> None:
        """Call the command logic, which promises not to raise; if it does, the connection goes on."""
        try:
            method(*args)
        except (CancelledError, RecursionError):
            raise
        except Exception:
            _log.failure("Internal error: {method} failed", method=getattr(method, "__name__", "a callback"))
