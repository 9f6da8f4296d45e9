"""
Tests of `relayd.wire.dialects.attachments`: which binary messages belong to which event.
"""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from relayd.errors import ProtocolError
from relayd.wire.dialects.attachments import MAX_ATTACHMENTS, Attachments, BinaryEvents
from relayd.wire.unsent import Unsent


class Packet:
    def __init__(self, *numbers: int) -> None:
        self.data: Any = ["name", {str(number): {"_placeholder": True, "num": number} for number in numbers}]


class BinaryEventsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.events = BinaryEvents()

    def begin(self, *numbers: int) -> Attachments:
        self.assertFalse(self.events.announce(len(numbers)))
        attachments = Attachments(Packet(*numbers), len(numbers))
        self.events.begin(attachments)
        return attachments

    def test_a_complete_event(self) -> None:
        attachments = self.begin(0, 1)
        attachments.add_part(b"a")
        attachments.add_part(b"b")
        packet = self.events.finish(attachments)
        self.assertEqual((packet.data[1], self.events.incomplete), ({"0": b"a", "1": b"b"}, None))
        self.assertRaises(ProtocolError, self.events.drop_part)

    def test_an_event_that_is_given_up(self) -> None:
        attachments = self.begin(0, 1)
        attachments.add_part(b"a")
        packet = self.events.finish(attachments)
        self.assertEqual(packet.data[1]["0"], b"a")
        self.assertIsInstance(packet.data[1]["1"], Unsent)
        self.events.drop_part()  # the second one, which comes too late
        self.assertRaises(ProtocolError, self.events.drop_part)

    def test_attachments_that_nobody_wants(self) -> None:
        self.assertFalse(self.events.announce(2))
        self.assertTrue(self.events.announce(1))
        for _ in range(3):
            self.events.drop_part()
        self.assertRaises(ProtocolError, self.events.drop_part)

    def test_events_have_numbers(self) -> None:
        for number in range(3):
            self.events.finish(self.begin())
            self.assertEqual(self.events.number, number)

    def test_too_many(self) -> None:
        self.assertTrue(Attachments(Packet(), MAX_ATTACHMENTS + 1).hopeless)
        self.assertFalse(Attachments(Packet(), MAX_ATTACHMENTS).hopeless)
