"""
Tests of `relayd.commands.suspects`: results with which links are lost.
"""

from __future__ import annotations

import msgspec
from twisted.logger import LogLevel

from relayd.commands.suspects import (
    AFTERMATH,
    ALONE_FOR,
    BLAME_FOR,
    CONVICT_AFTER,
    FIRST_PAUSE,
    LONGEST_PAUSE,
    PUT_OFF_AFTER,
    SUSPECT_AFTER,
    TURNED_AWAY_FOR,
)
from relayd.interfaces import Blame, EntryState
from relayd.wire.messages import Receipt
from tests.support.dispatching import Desk, command, result
from tests.support.outbox import OutboxTestCase

RECEIVED = Receipt(success=True)


class PoisonTests(OutboxTestCase):
    """A result for which the main server drops the connection."""

    def lose(self) -> None:
        """The main server drops the connection for it, and the relay comes back."""
        self.desk.disconnect()
        self.desk.connect()

    def test_it_does_not_make_a_loop_of_disconnects(self) -> None:
        self.finish("poison", "good")
        for _ in range(SUSPECT_AFTER):
            self.assertEqual(self.desk.link.ids(), ["poison", "good"])
            self.lose()
        # From now on each travels alone, after the main server has read what was before.
        losses = 0
        while "poison" in self.unconfirmed():
            self.desk.link.answer()
            self.assertEqual(self.desk.link.ids()[-1:], ["poison"])
            self.desk.clock.advance(1)
            self.lose()
            losses += 1
            self.assertLessEqual(losses, CONVICT_AFTER)
        self.assertEqual(losses, CONVICT_AFTER)
        # Its place is taken by a short result that says so, and what came behind it goes out.
        self.assertEqual(self.desk.link.codes(), ["undeliverable"])
        [short] = self.desk.link.sent
        self.assertEqual((short.exit_code, short.stdout, short.details.truncated), (0, "", True))
        self.assertIn("could not be delivered as it is", short.stderr)
        self.assertIn("The exit code is 0;", short.stderr)
        self.receipt(command_id="poison")
        self.desk.link.answer()
        self.assertEqual(self.desk.link.ids(), ["poison", "good"])
        self.receipt()
        self.assertEqual(self.unconfirmed(), [])
        self.assertIs(self.desk.journal.lookup("poison").state, EntryState.DEAD)  # type: ignore[union-attr]
        self.assertEqual(len(self.lines(LogLevel.error)), 1)

    def test_what_takes_the_place_of_a_number(self) -> None:
        self.desk.order(command("7", numeric_id=True))
        done = msgspec.structs.replace(result("7"), numeric_id=True)
        self.desk.runner.runs[-1].done.callback(done)
        for _ in range(SUSPECT_AFTER):
            self.lose()
        for _ in range(CONVICT_AFTER):
            self.desk.link.answer()
            self.lose()
        self.assertEqual([sent.to_wire()["commandId"] for sent in self.desk.link.sent], [7])
        self.assertEqual(self.desk.link.codes(), ["undeliverable"])

    def test_one_that_was_only_unlucky_is_cleared(self) -> None:
        self.finish("c1")
        for _ in range(SUSPECT_AFTER):
            self.lose()
        self.desk.link.answer()
        self.receipt()
        self.assertEqual((self.unconfirmed(), self.desk.clock.getDelayedCalls()), ([], []))
        self.assertEqual(self.charges(), ({}, {}, {}))

    def test_others_wait_while_it_travels_alone_but_not_for_long(self) -> None:
        self.finish("c1")
        for _ in range(SUSPECT_AFTER):
            self.lose()
        self.desk.link.answer()
        self.finish("c2")
        self.assertEqual(self.desk.link.ids(), ["c1"])
        self.desk.clock.advance(ALONE_FOR)
        self.assertEqual(self.desk.link.ids(), ["c1", "c2"])
        self.lose()
        self.assertEqual(self.charges()[1:], ({}, {}))

    def charges(self) -> tuple[object, ...]:
        suspects = self.desk.dispatcher._outbox._suspects
        return suspects._losses, suspects._alone_unread, suspects._alone_read

    def test_losses_that_it_cannot_be_the_cause_of(self) -> None:
        """Either side gave another reason, or it was sent long before."""
        self.finish("c1")
        for _ in range(SUSPECT_AFTER * 3):
            self.desk.disconnect(Blame.NONE)
            self.assertEqual(self.desk.connect().ids(), ["c1"])
            self.desk.clock.advance(BLAME_FOR + 1)
            self.lose()
            self.assertEqual(self.desk.link.ids(), ["c1"])
        self.assertEqual(self.charges(), ({}, {}, {}))

    def test_main_server_that_turns_the_relay_away(self) -> None:
        """As for a wrong key, which it does a moment after it has let it in: nothing is given up for that."""
        self.finish("c1", "c2")
        for _ in range(10):
            self.desk.clock.advance(0.5)
            while self.desk.link.probes:
                self.desk.link.answer()
            carried = self.desk.link.ids()
            self.desk.disconnect(Blame.REFUSED)
            self.desk.connect()
        self.assertEqual((carried, self.unconfirmed()), ([], ["c1", "c2"]), "not before it is known to be accepted")
        self.desk.clock.advance(TURNED_AWAY_FOR)
        for name in ("c1", "c2"):
            while self.desk.link.probes:
                self.desk.link.answer()
            self.assertEqual(self.desk.link.ids()[-1:], [name])
            self.receipt()
        self.assertEqual((self.unconfirmed(), self.charges()), ([], ({}, {}, {})))

    def test_main_server_that_turns_the_relay_away_for_it(self) -> None:
        """It is the cause where that goes on when the relay is known to be accepted."""
        self.finish("c1")
        for _ in range(SUSPECT_AFTER):
            self.desk.disconnect(Blame.REFUSED)
            self.desk.connect()
        for _ in range(CONVICT_AFTER):
            self.desk.clock.advance(TURNED_AWAY_FOR)
            self.desk.link.answer()
            self.assertEqual(self.desk.link.codes(), [0])
            self.lose()
        self.assertEqual(self.desk.link.codes(), ["undeliverable"])

    def test_pong_acquits(self) -> None:
        """Links that are cut every few seconds: the result was read each time, and is never replaced."""
        self.finish("c1")
        for _ in range(30):
            while self.desk.link.probes:
                self.desk.link.answer()
            self.desk.clock.advance(4)
            self.assertEqual(set(self.desk.link.codes()), {0})
            self.lose()
        self.assertEqual((self.unconfirmed(), self.lines(LogLevel.error)), (["c1"], []))

    def test_others_follow_soon_after_the_pong(self) -> None:
        self.finish("c1")
        for _ in range(SUSPECT_AFTER):
            self.lose()
        self.finish("c2")
        self.desk.link.answer()
        self.desk.link.answer()
        self.assertEqual(self.desk.link.ids(), ["c1"])
        self.desk.clock.advance(AFTERMATH)
        self.assertEqual(self.desk.link.ids(), ["c1", "c2"])
        self.lose()
        self.assertEqual(self.desk.link.ids(), ["c1", "c2"])

    def break_on_it_after_reading(self) -> None:
        """As a main server whose handler fails in a later turn of its event loop, and takes the process with it."""
        self.desk.link.answer()
        self.desk.link.answer()
        self.assertEqual(self.desk.link.ids(), ["c1"])
        self.lose()

    def test_main_server_that_reads_it_and_breaks_a_moment_later(self) -> None:
        """It was delivered, so nothing takes its place; but it must not break link after link, either."""
        self.finish("c1")
        for _ in range(SUSPECT_AFTER):
            self.lose()
        for _ in range(PUT_OFF_AFTER):
            self.break_on_it_after_reading()
        pause = FIRST_PAUSE
        while pause < LONGEST_PAUSE * 4:
            self.desk.clock.advance(min(pause, LONGEST_PAUSE) - 0.1)
            self.assertEqual((self.desk.link.ids(), self.desk.link.probes), ([], []))
            self.desk.clock.advance(0.1)
            self.break_on_it_after_reading()
            pause *= 2
        self.assertEqual((self.unconfirmed(), self.lines(LogLevel.error)), (["c1"], []))
        self.desk.clock.advance(LONGEST_PAUSE)
        self.desk.link.answer()
        self.receipt()
        self.assertEqual((self.unconfirmed(), self.charges()), ([], ({}, {}, {})))

    def convict(self) -> None:
        self.finish("c1")
        for _ in range(SUSPECT_AFTER):
            self.lose()
        for _ in range(CONVICT_AFTER):
            self.desk.link.answer()
            self.lose()

    def test_it_is_not_offered_again_once_its_place_is_taken(self) -> None:
        """Like a dead letter that was refused: it would break the next link. The journal knows that, too."""
        self.convict()
        self.lose()
        self.assertEqual(self.desk.link.codes(), ["undeliverable"])
        self.receipt()
        self.assertEqual(self.desk.journal.dead_letters(), ["c1"])
        self.desk.connect()
        self.assertEqual(self.desk.link.ids(), [])
        again = Desk(journal=self.desk.journal)  # as after a restart
        self.assertEqual(again.link.ids(), [])

    def test_relay_that_ends_before_its_place_is_taken(self) -> None:
        """There must not be silence: then it is offered once more."""
        self.convict()
        again = Desk(journal=self.desk.journal)
        self.assertEqual(again.link.ids(), ["c1"])

    def test_what_takes_its_place_breaks_links_too(self) -> None:
        """In the end there is peace."""
        self.convict()
        for _ in range(SUSPECT_AFTER - 1):
            self.lose()
        for _ in range(CONVICT_AFTER):
            self.lose()
            self.desk.link.answer()
        self.lose()
        for _ in range(3):
            self.assertEqual((self.desk.link.ids(), self.desk.link.probes), ([], []))
            self.lose()
        self.assertEqual(self.desk.journal.dead_letters(), ["c1"])

    def test_those_that_are_not_suspected_go_first(self) -> None:
        self.finish("c1")
        for _ in range(SUSPECT_AFTER):
            self.lose()
        self.desk.disconnect()
        self.finish("c2")
        self.assertEqual(self.desk.connect().ids(), ["c2"])
