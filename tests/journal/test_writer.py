"""
Tests of `relayd.journal.writer`: what is written together, and what happens when that fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import LogLevel, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from relayd.errors import JournalUnavailable
from relayd.journal.index import JournalLimits
from relayd.journal.store import Call, Prepared
from relayd.journal.writer import LARGE, LARGE_BATCH, LINGER, MAX_BATCH, PACE, QUICK, Writer, fire
from relayd.language.texts import Text
from tests.support.dispatching import command, result, watch_log
from tests.support.journals import DurableCase, ThreadClock


class FakeStore:
    """
    Writes nothing, and remembers what was to be written together.

    :ivar trouble: what is wrong with the disk.
    :ivar needs_disk: whether a look at the disk is needed.
    :ivar prepared: batches that were prepared.
    """

    needs_disk = False
    prepared = 0

    def __init__(self) -> None:
        self.batches: list[list[object]] = []
        self.is_full = False
        self.trouble: Exception | None = None

    def put(self, value: object) -> object:
        return value

    def prepare(self, calls: list[Call]) -> Prepared | None:
        return None if self.needs_disk else Prepared(calls, [], None)

    def write(self, prepared: Prepared) -> list[object] | None:
        self.prepared += 1
        return self.apply(prepared.calls)

    def apply(self, calls: Sequence[Call]) -> list[object]:
        self.batches.append([arguments[0] for _, arguments in calls])
        return [self.trouble or method(*arguments) for method, arguments in calls]


class WriterTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = ThreadClock()
        self.store = FakeStore()
        self.full = self.share = 0
        self.writer = Writer(self.clock, self.store, lambda: self.share, self.when_full)  # type: ignore[arg-type]
        self.writer.start()

    def when_full(self) -> None:
        self.full += 1

    def wait(self, done: Deferred[Any]) -> Any:
        self.clock.run(done)
        return self.successResultOf(done)

    def later(self, value: object) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()
        self.writer.request_later((self.store.put, (value,)), partial(fire, done))
        return done

    def close(self) -> None:
        self.wait(self.writer.close())

    def test_what_comes_meanwhile_is_written_together(self) -> None:
        """One who comes alone does not wait."""
        done = [self.writer.submit(self.store.put, value) for value in "abc"]
        self.assertEqual([self.wait(each) for each in done], ["a", "b", "c"])
        self.assertEqual(self.store.batches, [["a"], ["b", "c"]])
        self.close()

    def test_where_more_is_expected_it_goes_along(self) -> None:
        done = [self.writer.submit(self.store.put, value, alone=value == "c") for value in "abc"]
        self.assertEqual([self.wait(each) for each in done], ["a", "b", "c"])
        self.assertEqual(self.store.batches, [["a", "b", "c"]])
        self.close()

    def test_where_much_is_under_way_a_batch_waits_until_it_is_worth_while(self) -> None:
        self.share = 2
        self.wait(self.writer.submit(self.store.put, "a"))  # nothing was written before
        self.writer.submit(self.store.put, "b")
        self.clock.advance(PACE / 2)
        self.assertEqual(self.store.batches, [["a"]])
        self.wait(self.writer.submit(self.store.put, "c"))
        self.assertEqual(self.store.batches[1:], [["b", "c"]])
        self.wait(self.writer.submit(self.store.put, "d"))
        self.assertEqual(self.store.batches[2:], [["d"]], "and not for ever")
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.close()

    def test_it_says_that_the_store_is_full(self) -> None:
        self.wait(self.writer.submit(self.store.put, "a"))
        self.assertEqual(self.full, 0)
        self.store.is_full = True
        self.wait(self.writer.submit(self.store.put, "b"))
        self.assertEqual(self.full, 1)
        self.close()

    def test_batches_are_bounded(self) -> None:
        done = [self.writer.submit(self.store.put, value, alone=False) for value in range(MAX_BATCH + 1)]
        self.wait(done[-1])
        self.assertEqual([len(batch) for batch in self.store.batches], [MAX_BATCH, 1])
        self.close()

    def test_what_needs_a_look_at_the_disk_or_much_work_is_left_to_the_thread(self) -> None:
        """All of the batch is, and what comes meanwhile waits for it."""
        self.store.needs_disk = True
        self.assertEqual(self.wait(self.writer.submit(self.store.put, "a")), "a")
        self.store.needs_disk = False
        done = [self.writer.submit(self.store.put, value, size=QUICK // 2 + 1, alone=False) for value in "bc"]
        self.assertEqual([self.wait(each) for each in done], ["b", "c"])
        self.assertEqual((self.store.batches, self.store.prepared), ([["a"], ["b", "c"]], 0))
        self.wait(self.writer.submit(self.store.put, "d", size=QUICK))
        self.assertEqual((self.store.batches[2:], self.store.prepared), ([["d"]], 1))
        self.close()

    def test_what_is_called_between_two_batches(self) -> None:
        """Nothing is prepared meanwhile: it may be for a log that is written no more."""
        first = self.writer.submit(self.store.put, "a")
        between: Deferred[Any] = Deferred()
        self.writer.call_between(lambda: self.store.batches.append(["between"]), between.callback)
        second = self.writer.submit(self.store.put, "b")

        def prepare(calls: list[Call]) -> None:
            self.store.batches.append(["prepared"])

        self.patch(self.store, "prepare", prepare)
        for each in (first, between, second):
            self.wait(each)
        self.assertEqual(self.store.batches, [["a"], ["between"], ["prepared"], ["b"]])
        self.writer.call_between(lambda: None, lambda _: self.store.batches.append(["idle"]))
        self.wait(self.writer.submit(self.store.put, "c"))
        self.assertEqual(self.store.batches[4:], [["idle"], ["prepared"], ["c"]])
        self.close()

    def test_what_nobody_waits_for_goes_along(self) -> None:
        self.later("late")
        self.clock.advance(LINGER / 2)
        self.assertEqual(self.store.batches, [])
        self.wait(self.writer.submit(self.store.put, "urgent"))
        self.assertEqual(self.store.batches, [["late", "urgent"]])
        self.clock.advance(LINGER)
        self.assertFalse(self.clock.getDelayedCalls())
        self.assertEqual(self.store.batches, [["late", "urgent"]], "nothing more")
        self.close()

    def test_what_nobody_waits_for_is_written_at_last(self) -> None:
        done = self.later("late")
        self.assertFalse(self.writer.is_idle(0.0))
        self.clock.advance(LINGER)
        self.assertEqual(self.wait(done), "late")
        self.assertTrue(self.writer.is_idle(0.0))
        self.assertFalse(self.writer.is_idle(1.0))
        self.close()

    def test_trouble_is_logged_once(self) -> None:
        logged = watch_log(self)
        self.store.trouble = JournalUnavailable(reason="the disk is full")
        for value in "ab":
            failed = self.writer.submit(self.store.put, value)
            failed.addErrback(lambda failure: failure.type)
            self.assertIs(self.wait(failed), JournalUnavailable)
            self.assertEqual(self.writer.trouble, "the disk is full")
        self.store.trouble = None
        self.wait(self.writer.submit(self.store.put, "c"))
        self.assertIsNone(self.writer.trouble)
        lines = [formatEvent(event) for event in logged if event["log_level"] is not LogLevel.debug]
        self.assertEqual(len(lines), 2, lines)
        self.assertEqual(lines[1], "The journal can be written again")
        self.close()

    def test_large_requests_share_a_commit_up_to_a_bound(self) -> None:
        size = LARGE_BATCH // 3
        done = [self.writer.submit(self.store.put, number, size=size) for number in range(5)]
        done.append(self.writer.submit(self.store.put, "small", size=LARGE))
        for each in done:
            self.wait(each)
        self.assertEqual(self.store.batches, [["small"], [0, 1, 2], [3, 4]])
        self.close()

    def test_small_requests_do_not_hide_that_large_ones_fail(self) -> None:
        """As on a disk that is nearly full."""
        logged = watch_log(self)
        self.store.trouble = JournalUnavailable(reason=Text("the disk is full"))
        self.wait(self.writer.submit(self.store.put, "large", size=LARGE + 1).addErrback(lambda _: None))
        self.store.trouble = None
        self.wait(self.writer.submit(self.store.put, "small"))
        self.assertIsNotNone(self.writer.trouble)
        self.wait(self.writer.submit(self.store.put, "large", size=LARGE + 1))
        self.assertIsNone(self.writer.trouble)
        self.assertEqual(len([event for event in logged if event["log_level"] is not LogLevel.debug]), 2)
        self.close()

    def test_close_writes_what_is_pending(self) -> None:
        late, done = self.later("late"), self.writer.submit(self.store.put, "a")
        self.close()
        self.assertEqual((self.wait(late), self.wait(done)), ("late", "a"))
        self.failureResultOf(self.writer.submit(self.store.put, "b"), JournalUnavailable)
        self.failureResultOf(self.later("c"), JournalUnavailable)
        self.assertFalse(self.clock.getDelayedCalls())


class SharedCommitTests(DurableCase):
    """What is written together, by a journal in a file."""

    def watch_batches(self) -> list[int]:
        """How many requests each batch has, from now on."""
        batches: list[int] = []
        write = self.journal._store.write

        def watch(prepared: Any) -> Any:
            batches.append(len(prepared.calls))
            return write(prepared)

        self.patch(self.journal._store, "write", watch)
        return batches

    def test_what_belongs_together_is_written_together(self) -> None:
        """So that the cost of a commit is shared."""
        batches = self.watch_batches()
        waiting = [
            self.journal.accept(command("a"), b""),
            self.journal.accept(command("b"), b""),
            self.journal.start("a"),
        ]
        for each in waiting:
            self.wait(each)
        self.assertEqual(batches, [3])

    def test_many_do_not_go_on_at_once(self) -> None:
        self.restart(JournalLimits())
        batches = self.watch_batches()
        accepting = [self.journal.accept(command(f"c{number}"), b"") for number in range(300)]
        self.wait(accepting[-1])
        self.assertEqual(batches, [MAX_BATCH, MAX_BATCH, 300 - 2 * MAX_BATCH])

    def test_large_results_hold_up_nobody_for_long(self) -> None:
        """Each is written by itself, after everything else that waits: the others wait for one at most."""
        self.restart(JournalLimits())
        ids = ["large1", "large2", "large3", "small"]
        for command_id in ids:
            self.accept(command_id)
            self.wait(self.journal.start(command_id))
        written: list[str] = []
        write = self.journal._store.write

        def watch(prepared: Any) -> Any:
            written.append(" ".join(sorted(getattr(each, "command_id", each) for _, (each, *_) in prepared.calls)))
            return write(prepared)

        self.patch(self.journal._store, "write", watch)
        waiting: list[Deferred[Any]] = []

        def next_command(_: Any, after: str) -> None:
            waiting.append(self.journal.accept(command(f"after-{after}"), b""))

        for each in ids:
            finishing = self.journal.finish(result(each, stdout="x" * LARGE_BATCH if each != "small" else ""))
            waiting.append(finishing.addCallback(next_command, each))
        for deferred in waiting:  # which grows meanwhile
            self.wait(deferred)
        expected = ["small", "large1", "after-large1 after-small", "large2", "after-large2", "large3", "after-large3"]
        self.assertEqual(written, expected)
        self.assertEqual(self.wait(self.journal.load("large3")).stdout, "x" * LARGE_BATCH)

    def test_confirmations_wait_for_what_is_urgent_and_not_for_ever(self) -> None:
        self.finish("a", "b")
        batches = self.watch_batches()
        self.journal.confirm("a")
        self.clock.advance(LINGER / 2)
        self.assertEqual(batches, [])
        self.accept("c")
        self.assertEqual(batches, [2])
        self.journal.confirm("b")
        self.clock.advance(LINGER)
        self.settle()
        self.assertEqual((batches[1], self.rows("SELECT id FROM command WHERE state = 4")), (1, [("a",), ("b",)]))
