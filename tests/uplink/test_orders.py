"""
Tests of `relayd.uplink.orders`: what the command logic gets, and what the main server hears.
"""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relayd.commands.dispatcher import Dispatcher, Limits
from relayd.errors import ForbiddenHost, Overloaded
from relayd.interfaces import Blame
from relayd.journal.memory import MemoryJournal
from relayd.language.texts import english
from relayd.uplink.link import Link
from relayd.uplink.message_limit import MessageLimit
from relayd.uplink.orders import Orders
from relayd.uplink.turns import LARGE, Turns
from relayd.wire.dialects.events import EventReceived, IDialect
from relayd.wire.dialects.native import NativeRelayDialect
from relayd.wire.dialects.socketio import SocketIORelayDialect
from relayd.wire.relay_info import RelayInfo
from tests.support.dispatching import HeldRunner
from tests.support.receiver import RecordingReceiver
from tests.support.schemas import malformed
from tests.support.uplink import ORDER
from tests.support.uplink_parts import MemoryWire, settings
from tests.wire.test_relay_info import info


class OrdersTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock: Any = Clock()
        self.wire = MemoryWire()
        self.receiver = RecordingReceiver()
        self.link = Link(self.clock, self.wire, SocketIORelayDialect(), MessageLimit(self.clock, "main"), settings())
        self.turns = Turns(self.clock, lambda on: None)
        self.turns.begin_turn()
        self.info: RelayInfo | None = info(hosts=2)
        self.orders = Orders(self.link, self.receiver, self.turns, english, lambda: self.info)

    def receive(self, name: str, data: object, ack_id: int | None = None) -> None:
        self.orders.receive(EventReceived(name, data, ack_id))

    def acknowledged(self) -> list[Any]:
        """The arguments of the acknowledgements so far."""
        return [json.loads(frame[frame.index(b"[") :]) for frame in self.wire.sent if frame.startswith(b"43/proxy,")]

    def test_commands_are_counted_and_acknowledged(self) -> None:
        self.receive("execute_command", ORDER, 7)
        self.receive("execute_command", ORDER)
        self.assertEqual((self.receiver.words(), self.orders.commands), (["command", "command"], 2))
        self.assertEqual(self.wire.sent, [b"43/proxy,7[]"])

    def test_a_refusal(self) -> None:
        error = Overloaded(running=1, queued=2)
        self.receiver._answer = lambda command: error
        self.receive("execute_command", ORDER, 0)
        self.assertEqual(self.acknowledged(), [[{"error": str(error)}]])

    def test_an_invalid_command_is_one_too(self) -> None:
        self.receive("execute_command", ORDER | {"port": "x"}, 0)
        self.assertEqual((self.receiver.words(), self.orders.commands), (["invalid"], 1))
        self.assertIn("port", self.acknowledged()[0][0]["error"])

    def test_a_large_command_has_a_turn_of_its_own(self) -> None:
        self.receive("execute_command", ORDER | {"stdin": "x" * LARGE})
        self.assertEqual(self.receiver.words(), [])
        self.clock.advance(0)
        self.assertEqual(self.receiver.words(), ["command"])

    def test_questions(self) -> None:
        self.receive("command_status", {"commandId": "c1"}, 1)
        self.receive("cancel_command", {"commandId": 5}, 2)
        self.receive("cancel_command", {}, 3)
        answers = [arguments[0] for arguments in self.acknowledged()]
        self.assertEqual(answers[:2], [{"commandId": "c1", "state": "queued"}, {"commandId": 5, "state": "running"}])
        self.assertIn("commandId is missing", answers[2]["error"])

    def test_what_the_relay_is(self) -> None:
        """Whatever data the question has, or without any."""
        for data in ({}, None, "x", {"commandId": 5}, [[]]):
            self.receive("relay_info", data, 1)
            ((answer,),) = self.acknowledged()
            self.assertEqual(answer["hosts"], [{"patterns": ["host-0.example"]}, {"patterns": ["host-1.example"]}])
            self.assertEqual((answer["version"], answer.get("labels")), ("1", None))
            self.wire.sent.clear()
        self.assertEqual(self.receiver.words(), [])

    def test_what_the_relay_is_without_acknowledgement(self) -> None:
        self.receive("relay_info", {})
        (frame,) = self.wire.sent
        name, answer = json.loads(frame[frame.index(b"[") :])
        self.assertEqual((name, answer["version"]), ("relay_info", "1"))

    def test_what_the_rules_say(self) -> None:
        """In the words of a refusal; nothing is ordered by it."""
        error = ForbiddenHost(host="db", port=22, reason="no")
        for refusal in (None, error):
            self.receiver._answer = None if refusal is None else lambda command: error
            self.receive("check_command", ORDER, 1)
            self.receive("check_command", ORDER | {"commandId": 7})
            ((answer,),) = self.acknowledged()
            _, event = json.loads(self.wire.sent[1][self.wire.sent[1].index(b"[") :])
            told = {} if refusal is None else {"code": "forbidden-host", "reason": str(error)}
            self.assertEqual(answer, {"commandId": ORDER["commandId"], "allowed": refusal is None} | told)
            self.assertEqual(event, answer | {"commandId": 7})
            self.wire.sent.clear()
        self.assertEqual(set(self.receiver.words()), {"check"})
        self.assertEqual(self.orders.commands, 0)

    def test_rules_for_what_is_no_command(self) -> None:
        for wrong in (ORDER | {"port": "x"}, {}, None):
            self.receive("check_command", malformed(wrong, "check_command"), 1)
            self.assertIn("check_command", self.acknowledged().pop()[0]["error"])
        self.assertEqual(self.receiver.words(), [])

    def test_a_relay_that_tells_nothing(self) -> None:
        self.info = None
        self.receive("relay_info", {}, 1)
        self.receive("relay_info", {})
        ((answer,),) = self.acknowledged()
        self.assertEqual(answer, {"error": "The operator of this relay has it tell nothing of itself."})
        self.assertIn(b"tell nothing of itself", self.wire.sent[1])

    def test_a_main_server_that_takes_small_messages_only(self) -> None:
        self.info = info(hosts=500)
        for limit, least, most in ((8000, 10, 200), (300, 0, 0)):
            self.patch(MessageLimit, "bytes", limit)
            self.receive("relay_info", {}, 1)
            ((answer,),) = self.acknowledged()
            self.assertLessEqual(least, len(answer.get("hosts", ())))
            self.assertLessEqual(len(answer.get("hosts", ())), most)
            self.assertEqual("error" in answer, limit == 300)
            self.assertLess(len(self.wire.sent[0]), limit)
            self.wire.sent.clear()

    def test_a_status_without_acknowledgement_is_an_event(self) -> None:
        self.receive("command_status", {"commandId": "c1"})
        self.receive("cancel_command", {"commandId": "c1"})
        (frame,) = self.wire.sent
        self.assertIn(b'["command_status",{"commandId":"c1","state":"queued"}]', frame)

    def test_the_link_is_given_once_and_taken_away_only_then(self) -> None:
        self.orders.withdraw_link(Blame.NONE)
        self.orders.announce_link()
        self.orders.withdraw_link(Blame.POSSIBLE)
        self.assertEqual(self.receiver.calls, [("ready", self.link), ("lost", self.link)])
        self.assertEqual(self.receiver.blames, [Blame.POSSIBLE])

    def test_command_logic_that_raises(self) -> None:
        def fail(command: Any) -> Any:
            raise RuntimeError

        self.receiver._answer = fail
        self.receive("execute_command", ORDER, 1)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)


class UsedAgainTests(SynchronousTestCase):
    """A ``commandId`` that is used for another command, with the relay's own command logic, on the wire."""

    def sent(self, dialect: IDialect, ack_id: int | None, *orders: dict[str, Any]) -> list[str]:
        clock, wire = Clock(), MemoryWire()
        limits = Limits(max_commands=9, max_queue=9, default_timeout=60.0, max_timeout=60.0)
        dispatcher = Dispatcher(clock, HeldRunner(), MemoryJournal(), limits)
        link = Link(clock, wire, dialect, MessageLimit(clock, "main"), settings())
        turns = Turns(clock, lambda on: None)
        turns.begin_turn()
        orders_of_it = Orders(link, dispatcher, turns, english, lambda: None)
        orders_of_it.announce_link()
        for order in orders:
            orders_of_it.receive(EventReceived("execute_command", order, ack_id))
        link.flush()
        return [frame.decode() for frame in wire.sent]

    def test_without_an_acknowledgement(self) -> None:
        """Both dialects: as the specification says for a command that fails."""
        for dialect in (NativeRelayDialect(), SocketIORelayDialect()):
            for change, words in (
                ({"command": "reboot"}, "Every command needs its own commandId"),
                ({"port": "x"}, "port is not a"),
            ):
                (frame,) = self.sent(dialect, None, ORDER, ORDER | change)
                self.assertIn("command_result", frame)
                self.assertIn(words, frame)
                self.assertIn('"exitCode":1', frame)
                self.assertNotIn('"error"', frame)

    def test_with_one(self) -> None:
        frames = self.sent(SocketIORelayDialect(), 5, ORDER, ORDER | {"command": "reboot"})
        self.assertEqual([frame[:11] for frame in frames], ["43/proxy,5["] * 2)
        self.assertIn('{"error":"A different command with this commandId', frames[1])
