"""
Tests of `relayd.commands.in_flight`: which result a receipt is for, and what the main server has read.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from relayd.commands.in_flight import MAX_IN_FLIGHT, InFlight
from relayd.commands.undelivered import ResultKey
from tests.support.dispatching import RecordingLink


def recorded(command_id: str) -> ResultKey:
    return ResultKey(command_id, True)


class InFlightTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.in_flight = InFlight(RecordingLink(), since=0.0)

    def send(self, *ids: str, now: float = 0.0) -> None:
        for command_id in ids:
            self.in_flight.record_sent(recorded(command_id), now)

    def test_receipts_are_counted(self) -> None:
        self.send("c1", "c2", "c1")
        matched = [self.in_flight.match_receipt(None) for _ in range(4)]
        self.assertEqual(matched, [recorded("c1"), recorded("c2"), recorded("c1"), None])

    def test_receipt_that_names_its_command(self) -> None:
        self.send("c1", "c2", "c2")
        self.assertEqual(self.in_flight.match_receipt("c2"), recorded("c2"))
        self.assertEqual(self.in_flight.match_receipt(None), recorded("c1"))
        self.assertEqual(self.in_flight.match_receipt("c2"), recorded("c2"))
        self.assertIsNone(self.in_flight.match_receipt("c2"))
        self.assertEqual(len(self.in_flight), 0)

    def test_refusal_and_result_of_one_command(self) -> None:
        self.in_flight.record_sent(ResultKey("c1", False), 0.0)
        self.send("c1")
        self.assertEqual(self.in_flight.match_receipt("c1"), ResultKey("c1", False))
        self.assertEqual(self.in_flight.match_receipt("c1"), ResultKey("c1", True))

    def test_room(self) -> None:
        self.send(*(f"c{number}" for number in range(MAX_IN_FLIGHT)))
        self.assertTrue(self.in_flight.full)
        room = self.in_flight.when_room()
        self.assertNoResult(room)
        self.in_flight.match_receipt("c7")
        self.assertIsNone(self.successResultOf(room))
        self.assertFalse(self.in_flight.full)

    def test_room_that_nobody_waits_for_any_more(self) -> None:
        self.send(*(f"c{number}" for number in range(MAX_IN_FLIGHT)))
        room = self.in_flight.when_room()
        room.addErrback(lambda _: None)
        room.cancel()
        self.assertIsNotNone(self.in_flight.match_receipt(None))

    def test_without_counting_nothing_is_matched(self) -> None:
        self.send("c1")
        self.in_flight.stop_counting()
        self.send("c2")
        self.assertIsNone(self.in_flight.match_receipt(None))
        self.assertEqual((len(self.in_flight), self.in_flight.last), (0, 1))

    def test_what_was_read(self) -> None:
        self.send("c1", "c2")
        read = self.in_flight.last
        self.send("c3", now=5.0)
        self.in_flight.mark_read(read)
        self.in_flight.mark_read(0)  # an answer that was overtaken
        self.assertEqual(self.in_flight.read, read)
        self.assertEqual(self.in_flight.unread(0.0), {recorded("c3")})
        self.assertEqual(self.in_flight.unread(6.0), set())
        taken = [self.in_flight.take_read(read) for _ in range(3)]
        self.assertEqual(taken, [recorded("c1"), recorded("c2"), None])
        self.assertEqual(len(self.in_flight), 1)
