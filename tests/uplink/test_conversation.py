"""
Tests of `relayd.uplink.conversation`: when the messages of a main server are read, and when what they say is done.
"""

from __future__ import annotations

from typing import Any, cast
from unittest import mock

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relayd.errors import ProtocolError
from relayd.uplink.conversation import Conversation
from relayd.uplink.turns import LARGE, Turns
from relayd.wire.dialects.events import EventReceived
from relayd.wire.dialects.native import NativeRelayDialect
from relayd.wire.messages import COMMAND_STATUS


class Reading(NativeRelayDialect):
    """A dialect that notes what it reads."""

    def __init__(self, done: list[str]) -> None:
        super().__init__()
        self._done = done

    def receive_text(self, text: str) -> Any:
        self._done.append("read")
        return super().receive_text(text)


class LargeMessageTests(SynchronousTestCase):
    """To read one takes long, and so does what it says: each has a turn, and order is kept."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.done: list[str] = []
        turns = Turns(self.clock, lambda held: None)
        self.machine, orders = mock.Mock(), mock.Mock()
        orders.receive = self.received
        self.conversation = Conversation(
            self.clock, mock.Mock(), self.machine, Reading(self.done), mock.Mock(), orders, turns, mock.Mock()
        )
        self.conversation.on_accepted()
        turns.begin_turn()

    def received(self, event: EventReceived) -> None:
        self.done.append(cast(Any, event.data)["commandId"])

    def say(self, command_id: str, size: int = 0, end: str = "}") -> None:
        data = f'{{"commandId":"{command_id}","x":"{"x" * size}"}}'
        self.conversation.receive_text(f'{{"event":"{COMMAND_STATUS}","data":{data}{end}')

    def turn(self) -> list[str]:
        """What is done in one turn of the event loop."""
        call: Any = self.clock.getDelayedCalls()[0]
        act = call.func
        call.cancel()
        self.done.clear()
        act()
        return self.done.copy()

    def test_turns(self) -> None:
        self.say("small")
        self.assertEqual(self.done, ["read", "small"])
        self.say("large", LARGE)
        self.say("next")
        self.assertEqual(self.turn(), ["read"])
        self.assertEqual(self.turn(), ["large", "read", "next"])

    def test_a_connection_that_ends_in_between(self) -> None:
        self.say("large", LARGE)
        self.turn()
        self.conversation.end()
        self.assertEqual(self.turn(), [])

    def test_one_that_cannot_be_read(self) -> None:
        self.say("large", LARGE, end="")
        self.turn()
        ((error,), _) = self.machine.failed.call_args
        self.assertIsInstance(error, ProtocolError)
