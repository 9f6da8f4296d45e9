"""
Tests of `relayd.uplink.link`: what is sent, and which pings an answer stands for.
"""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relayd.uplink.link import Link, Pings
from relayd.uplink.message_limit import MessageLimit
from relayd.uplink.result_sender import LARGE
from relayd.wire.dialects.codec import NO_LIMIT
from relayd.wire.dialects.native import NativeRelayDialect
from relayd.wire.messages import CommandOutput, CommandResult
from tests.support.uplink_parts import MemoryWire, settings


class PingsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.pings = Pings()

    def ask(self) -> tuple[bytes, Deferred[None]]:
        answered: Deferred[None] = Deferred()
        return self.pings.next_payload(answered), answered

    def test_an_answer_stands_for_earlier_pings(self) -> None:
        (_, first), (payload, second), (_, third) = self.ask(), self.ask(), self.ask()
        self.pings.on_pong(payload)
        self.successResultOf(first)
        self.successResultOf(second)
        self.assertNoResult(third)

    def test_answers_to_nothing(self) -> None:
        payload, answered = self.ask()
        for other in (b"", b"x", b"\xff" * 8):
            self.pings.on_pong(other)
        self.assertNoResult(answered)
        self.pings.on_pong(payload)
        self.pings.on_pong(payload)
        self.successResultOf(answered)


class LinkTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock: Any = Clock()
        self.wire, self.limit = MemoryWire(), MessageLimit(self.clock, "main")
        self.link = Link(self.clock, self.wire, NativeRelayDialect(), self.limit, settings())

    def sent(self) -> list[str]:
        return [json.loads(bytes(frame))["event"] for frame in self.wire.sent]

    def test_everything_leaves_in_its_order(self) -> None:
        self.link.send_output(CommandOutput(command_id="c", stream="stdout", offset=0, data="x"))
        self.link.send_result(CommandResult(command_id="c", stdout="x", stderr="", exit_code=0))
        self.link.send_event("command_status", {"commandId": "c", "state": "queued"})
        self.assertEqual(self.sent(), ["command_output", "command_result", "command_status"])

    def test_a_probe_follows_the_results_before_it(self) -> None:
        answered = self.link.probe()
        self.assertEqual(len(self.wire.pings), 1)
        self.link.on_pong(self.wire.pings[0])
        self.successResultOf(answered)

    def test_a_result_is_cut_to_the_limit_that_was_learned(self) -> None:
        self.assertEqual(self.link.max_payload, NO_LIMIT)
        self.limit.too_big(100_000, "larger than 20000 bytes")
        self.link.send_result(CommandResult(command_id="c", stdout="x" * 50_000, stderr="", exit_code=0))
        self.assertLess(len(self.wire.sent[-1]), 20_000)
        self.assertIn(b"bytes cut here", self.wire.sent[-1])

    def test_it_is_not_writable_while_the_wire_is_full(self) -> None:
        self.assertTrue(self.link.writable)
        self.wire.flow.pauseProducing()
        waiting = self.link.when_writable()
        self.assertFalse(self.link.writable)
        self.assertNoResult(waiting)
        self.wire.flow.resumeProducing()
        self.successResultOf(waiting)

    def test_it_is_not_writable_while_a_result_is_encoded(self) -> None:
        threads: list[Deferred[Any]] = []

        def defer(work: Any) -> Deferred[Any]:
            threads.append(Deferred().addCallback(lambda _: work()))
            return threads[-1]

        link = Link(self.clock, self.wire, NativeRelayDialect(), self.limit, settings(defer_to_thread=defer))
        link.send_result(CommandResult(command_id="c", stdout="x" * (LARGE + 1), stderr="", exit_code=0))
        waiting = link.when_writable()
        self.assertFalse(link.writable)
        threads[0].callback(None)
        self.successResultOf(waiting)
        self.assertEqual(self.sent(), ["command_result"])

    def test_it_goes_on_over_another_wire(self) -> None:
        other = MemoryWire()
        self.clock.advance(3)
        self.link.move_to(other)
        self.link.send_event("command_status", {"commandId": "c1", "state": "queued"})
        self.assertEqual((self.wire.sent, len(other.sent), self.link.upgraded_at), ([], 1, 3))
