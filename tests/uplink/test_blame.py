"""
Tests of `relayd.uplink.blame`: when a message may be why a connection ended.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relayd.errors import ProtocolError, RelayError, UplinkLost, UplinkRefused, UplinkSilent
from relayd.interfaces import Blame
from relayd.uplink.blame import EndInquiry
from relayd.uplink.message_limit import MessageLimit, UnderWay

LOST = UplinkLost(server="main", reason="gone")


class EndInquiryTests(SynchronousTestCase):
    def setUp(self) -> None:
        clock: Any = Clock()
        self.limit = MessageLimit(clock, "main")
        self.under_way = UnderWay(clock, self.limit, Deferred)
        self.inquiry = EndInquiry(self.limit, self.under_way)

    def blame(self, error: RelayError = LOST) -> Blame:
        return self.inquiry.blame_for(error, unsent=False)

    def test_a_connection_that_is_just_lost(self) -> None:
        self.assertIs(self.blame(), Blame.POSSIBLE)

    def test_a_relay_that_is_turned_away(self) -> None:
        self.assertTrue(self.inquiry.note_close(1008, "who are you"))
        self.assertIs(self.blame(UplinkRefused(server="main", reason="who are you")), Blame.REFUSED)

    def test_another_reason_is_known(self) -> None:
        for error in (ProtocolError(reason="x"), UplinkSilent(server="main", time="45 s")):
            self.assertIs(self.blame(error), Blame.NONE)

    def test_this_relay_closes(self) -> None:
        self.inquiry.note_leaving()
        self.assertIs(self.blame(), Blame.NONE)

    def test_the_main_server_leaves(self) -> None:
        self.assertFalse(self.inquiry.note_close(1001, ""))
        self.assertIs(self.blame(), Blame.NONE)

    def test_a_message_was_too_large(self) -> None:
        self.under_way.message_sent(100_000)
        self.assertFalse(self.inquiry.note_close(1009, "limit of 50000 bytes"))
        self.assertIs(self.blame(), Blame.NONE, "the next connection gets smaller ones")
        self.assertLess(self.limit.bytes, 50_000)

    def test_a_post_was_too_large(self) -> None:
        self.under_way.message_sent(100_000)
        self.inquiry.note_too_big("HTTP 413")
        self.assertIs(self.blame(), Blame.NONE)
        self.assertLess(self.limit.bytes, 100_000)

    def test_nothing_smaller_can_be_sent(self) -> None:
        self.under_way.message_sent(900)
        self.inquiry.note_too_big("HTTP 413")
        self.assertIs(self.blame(), Blame.POSSIBLE)
