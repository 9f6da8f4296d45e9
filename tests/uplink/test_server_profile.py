"""
Tests of `relayd.uplink.server_profile`: what one connection teaches for the next ones.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relayd.errors import RelayError, UplinkDisplaced, UplinkLost, UplinkRefused
from relayd.uplink.connection import Outcome
from relayd.uplink.idle import ALIKE
from relayd.uplink.probing import DOUBT, SHORT, Attempt
from relayd.uplink.server_profile import SHORT_LIVED, STAY_POLLING, ServerProfile
from relayd.uplink.stages import Stage, Timing
from relayd.wire.messages import Secret

LOST = UplinkLost(server="main", reason="gone")
REFUSED = UplinkRefused(server="main", reason="no")


class ServerProfileTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock: Any = Clock()
        self.profile = ServerProfile(self.clock, "main", None)

    def first(self) -> Attempt:
        return next(iter(self.profile.begin_round().attempts()))

    def end(self, error: RelayError, stage: Stage, key: str = "k", upgraded_at: float | None = None) -> RelayError:
        return self.profile.note_end(Outcome(error, stage, True), Secret(key), upgraded_at).error

    def test_the_dialect_that_was_accepted_comes_first_until_it_is_in_doubt(self) -> None:
        self.assertEqual(self.first(), Attempt("socketio", short=True))
        self.profile.note_accepted("native", polling=False)
        for _ in range(DOUBT):
            self.assertEqual(self.first(), Attempt("native"))
        self.assertEqual(self.first(), Attempt("native", short=True))

    def test_a_dialect_that_was_chosen_is_the_only_one(self) -> None:
        probing = ServerProfile(self.clock, "main", "native").begin_round()
        self.assertEqual(list(probing.attempts()), [Attempt("native")])

    def test_polling_comes_first_where_it_served(self) -> None:
        self.profile.note_accepted("socketio", polling=True)
        self.assertTrue(self.first().polling)
        self.assertFalse(self.first().polling, "only once, until it serves again")

    def test_a_key_that_has_just_served_is_not_wrong(self) -> None:
        self.assertIs(self.end(REFUSED, Stage.PROBATION), REFUSED)
        self.end(LOST, Stage.ACCEPTED)
        self.assertIsInstance(self.end(REFUSED, Stage.PROBATION), UplinkDisplaced)
        self.assertIs(self.end(REFUSED, Stage.PROBATION, key="another"), REFUSED)

    def test_sessions_stay_with_polling_for_a_while_after_a_move_that_failed(self) -> None:
        self.clock.advance(1000)
        self.end(LOST, Stage.ACCEPTED, upgraded_at=1000 - SHORT_LIVED)
        self.assertTrue(self.profile.upgrades)
        self.end(LOST, Stage.ACCEPTED, upgraded_at=1000 - SHORT_LIVED / 2)
        self.assertFalse(self.profile.upgrades)
        self.clock.advance(STAY_POLLING)
        self.assertTrue(self.profile.upgrades)

    def test_deadlines(self) -> None:
        usual = Timing()
        self.assertIs(self.profile.timing_of(Attempt("native"), usual), usual)
        self.assertEqual(self.profile.timing_of(Attempt("native", short=True), usual).handshake, SHORT)
        for _ in range(ALIKE):
            self.profile.note_end(Outcome(LOST, Stage.ACCEPTED, True, silence=20.0), Secret("k"), None)
        timing = self.profile.timing_of(Attempt("native"), usual)
        self.assertEqual((timing.own_pings, timing.ping_interval), (10.0, 10.0))
