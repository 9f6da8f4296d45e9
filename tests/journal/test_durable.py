"""
Tests of `relayd.journal.durable`: what only a journal in a file can meet.
"""

from __future__ import annotations

import contextlib  # "suppress" in a module of tests is trial's
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import msgspec
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from relayd.errors import ConfigError, JournalUnavailable
from relayd.interfaces import EntryState
from relayd.journal import store as journal_store
from relayd.journal.index import JournalLimits
from relayd.journal.upkeep import PRUNE_INTERVAL, RETRY_INTERVAL
from relayd.language.texts import Text
from tests.support.dispatching import PASSWORD, command, result
from tests.support.journals import ContractTests, DurableCase


class DurableJournalTests(ContractTests, DurableCase):
    """The contract, and what outlives a process."""

    def test_from_which_main_server(self) -> None:
        """It outlives the process, whatever form the result has, and is known of a command without a result, too."""
        self.restart(JournalLimits())
        for number, fields in enumerate(({}, {"extended": True}, {"numeric_id": True}, {"extended": True})):
            order = command(f"c{number}", **fields)
            self.wait(self.journal.accept(order, b"print", number))
            if number != 3:
                self.wait(self.journal.start(order.command_id))
                self.wait(self.journal.finish(result(order.command_id)))
        before = [self.journal.lookup(f"c{number}") for number in range(4)]
        self.assertEqual([entry and entry.origin for entry in before], [0, 1, 2, 3])
        self.assertEqual([self.journal.outstanding_from(number) for number in (1, 2, 3)], [1, 1, 0])
        self.restart(JournalLimits())
        after = [self.journal.lookup(f"c{number}") for number in range(4)]
        self.assertEqual([entry and entry.origin for entry in after], [0, 1, 2, 3])
        self.assertEqual([self.journal.outstanding_from(number) for number in (1, 2, 3)], [1, 1, 1])
        self.journal.bury("c1")
        self.journal.confirm("c2")
        self.assertEqual([self.journal.outstanding_from(number) for number in (1, 2, 3)], [0, 0, 1])
        self.journal.confirm("c1")
        self.assertEqual(self.journal.outstanding_from(1), 0)
        found = self.wait(self.journal.load("c3"))
        self.assertEqual((found.details.error["code"], found.numeric_id), ("not-executed", False))

    def test_a_confirmation_while_a_result_is_recorded_once_more(self) -> None:
        """It counts: a result that was confirmed is not sent again on the next link."""
        self.accept("a")
        self.wait(self.journal.start("a"))
        write = self.journal._store.write
        full = JournalUnavailable(reason=Text("the disk is full"))
        self.patch(self.journal._store, "write", lambda prepared: [full for _ in prepared.calls])
        self.assertRaises(JournalUnavailable, self.wait, self.journal.finish(result("a")))
        self.patch(self.journal._store, "write", write)
        self.journal._catch_up()
        self.journal.confirm("a")
        self.settle()
        self.settle()
        self.assertEqual((self.journal.outstanding, list(self.journal.unconfirmed())), (0, []))

    def test_only_this_user_can_read_it(self) -> None:
        self.finish("c1")
        modes = {name: stat.S_IMODE(os.stat(self.path.parent / name).st_mode) for name in os.listdir(self.path.parent)}
        self.assertEqual(stat.S_IMODE(os.stat(self.path.parent).st_mode), 0o700)
        self.assertEqual(set(modes.values()), {0o600}, modes)
        self.assertIn("log.00000001", modes)

    def test_what_was_not_finished_gets_a_result_that_says_so(self) -> None:
        self.accept("waited", extended=True)
        self.accept("ran")
        self.wait(self.journal.start("ran"))
        self.finish("done")
        self.restart()
        self.assertEqual(self.recovered, [("waited", "not-executed"), ("ran", "outcome-unknown")])
        self.assertEqual(self.journal.unconfirmed(), ["done", "waited", "ran"])
        codes = {}
        for command_id in ("waited", "ran"):
            held = self.wait(self.journal.load(command_id))
            codes[command_id] = (held.details.error["code"], held.details.error["executed"], held.extended)
        self.assertEqual(codes, {"waited": ("not-executed", "no", True), "ran": ("outcome-unknown", "unknown", False)})
        self.assertEqual(self.wait(self.journal.load("done")), result("done"))
        [line] = self.lines(LogLevel.warn)
        self.assertIn("1 may or may not have run to their end, and 1 were not run", line)
        self.restart()
        self.assertEqual(len(self.lines(LogLevel.warn)), 1, "told once")

    def test_ids_that_are_numbers(self) -> None:
        """The result of one says so after a restart, whether it was there before or not."""
        self.restart(JournalLimits())
        self.accept("1", numeric_id=True)
        self.wait(self.journal.start("1"))
        self.wait(self.journal.finish(msgspec.structs.replace(result("1"), numeric_id=True)))
        self.accept("2", numeric_id=True, extended=True)
        self.accept("3", numeric_id=True)
        self.wait(self.journal.start("3"))
        self.accept("4", extended=True)
        self.restart(JournalLimits())
        for command_id, wire, extended in (("1", 1, False), ("2", 2, True), ("3", 3, False), ("4", "4", True)):
            held = self.wait(self.journal.load(command_id))
            self.assertEqual((held.to_wire()["commandId"], held.extended), (wire, extended))
        self.assertEqual(self.accept("1", b"other").state, EntryState.FINISHED, "the text is the same command")

    def test_after_a_restart_everything_is_as_it_was(self) -> None:
        self.finish("a", "b")
        self.journal.bury("b")
        self.journal.note("receipts", "yes")
        self.settle()
        self.restart()
        self.assertEqual((self.state("a"), self.state("b")), (EntryState.FINISHED, EntryState.DEAD))
        self.assertEqual((self.journal.unconfirmed(), self.journal.outstanding), (["a"], 1))
        self.assertEqual(self.journal.noted("receipts"), "yes")
        self.journal.confirm("a")
        self.settle()
        self.restart()
        self.assertIsNone(self.journal.lookup("a"), "not in memory any more")
        known = self.accept("a", b"print")
        assert known is not None
        self.assertEqual((known.state, known.fingerprint), (EntryState.CONFIRMED, b"print of a"))

    def test_order_survives(self) -> None:
        self.accept("slow")
        self.finish("b", "a")
        self.wait(self.journal.finish(result("slow")))
        self.restart()
        self.assertEqual(self.journal.unconfirmed(), ["b", "a", "slow"])

    def test_no_secret_is_in_the_file(self) -> None:
        order = {
            "text": "canary-command",
            "cwd": "/canary-cwd",
            "env": (("A", "canary-env"),),
            "stdin": b"canary-stdin",
        }
        self.accept("c1", **order)
        self.wait(self.journal.start("c1"))
        self.wait(self.journal.finish(result("c1", "canary-output")))
        written = b"".join(path.read_bytes() for path in self.path.parent.iterdir())
        self.assertIn(b"canary-output", written)
        for secret in (PASSWORD, "root", "web1", *(f"canary-{name}" for name in ("command", "cwd", "env", "stdin"))):
            self.assertNotIn(secret.encode(), written)
        self.journal.confirm("c1")
        self.settle()
        self.close()
        written = b"".join(path.read_bytes() for path in self.path.parent.iterdir())
        self.assertNotIn(b"canary-output", written, "removed when confirmed, and not only from the index")

    def test_half_a_character(self) -> None:
        """An output that was not decoded strictly must not be lost for it."""
        self.accept("c1")
        self.wait(self.journal.finish(result("c1", "broken \ud800")))
        self.assertEqual(self.wait(self.journal.load("c1")).stdout, "broken ?")

    def test_nothing_is_taken_once_it_closes(self) -> None:
        waiting = self.journal.accept(command("a"), b"")
        closing_down = self.journal.close()
        self.assertRaises(JournalUnavailable, self.wait, self.journal.accept(command("b"), b""))
        self.assertIsNone(self.wait(waiting))
        self.clock.run(closing_down)
        self.journal = None
        self.assertEqual(self.rows("SELECT id FROM command"), [("a",)])


class BrokenFileTests(DurableCase):
    """A disk that is full or broken, and a file that is gone or damaged."""

    def break_writes(self) -> None:
        """The disk is full from now on, and there is no room left in what is set aside."""
        self.disk.full = True
        log = self.journal._store.steps.logs[-1]
        filler = 0
        with contextlib.suppress(JournalUnavailable):
            while True:
                filler += 1
                size = 20_000 if log._allocated - log.size > 25_000 else 100
                self.wait(self.journal.accept(command(f"filler {filler} " + "x" * size), b"print"))

    def mend_writes(self) -> None:
        self.disk.full = False

    def setUp(self) -> None:
        super().setUp()
        self.restart(JournalLimits(max_commands=10_000, max_bytes=1 << 30, max_ids=100, retention=1000.0))

    def test_full_disk_refuses_new_commands_and_heals(self) -> None:
        self.break_writes()
        error = self.assertRaises(JournalUnavailable, self.wait, self.journal.accept(command("c" * 200), b"print"))
        self.assertIn("the disk is full; make room", str(error))
        self.assertEqual(len(self.lines(LogLevel.error)), 1, "told once")
        self.assertEqual(self.journal.figures().trouble, "the disk is full; make room")
        self.mend_writes()
        self.assertIsNone(self.accept("c1"))
        self.assertEqual(self.lines(LogLevel.info), ["The journal can be written again"])
        self.assertIsNone(self.journal.figures().trouble)

    def test_end_that_could_not_be_recorded_is_recorded_later(self) -> None:
        for command_id in ("a", "b"):
            self.accept(command_id)
            self.wait(self.journal.start(command_id))
        self.break_writes()
        for command_id in ("a", "b"):
            finishing = self.journal.finish(result(command_id, "x" * 5000))
            self.assertRaises(JournalUnavailable, self.wait, finishing)
        self.journal.confirm("b")  # the main server had it from memory
        self.mend_writes()
        self.clock.advance(RETRY_INTERVAL)
        self.settle()
        self.assertEqual((self.state("a"), self.state("b")), (EntryState.FINISHED, EntryState.CONFIRMED))
        self.restart(JournalLimits(max_commands=10_000))
        self.assertEqual(self.wait(self.journal.load("a")), result("a", "x" * 5000))
        self.assertEqual(self.rows("SELECT state FROM command WHERE id = 'b'"), [(4,)])

    def test_end_that_could_not_be_recorded_is_recorded_when_it_closes(self) -> None:
        """Else a result that was delivered would be "outcome unknown" after the next start."""
        for command_id in ("a", "b"):
            self.accept(command_id)
            self.wait(self.journal.start(command_id))
        self.break_writes()
        for command_id in ("a", "b"):
            self.assertRaises(JournalUnavailable, self.wait, self.journal.finish(result(command_id, "x" * 5000)))
        self.journal.confirm("b")
        self.mend_writes()
        self.restart()
        self.assertEqual(self.wait(self.journal.load("a")), result("a", "x" * 5000))
        self.assertEqual(self.rows("SELECT id, state FROM command WHERE id < 'c' ORDER BY id"), [("a", 3), ("b", 4)])

    def test_confirmation_that_could_not_be_recorded_is_recorded_later(self) -> None:
        self.finish("a")
        self.patch(self.journal._steps, "confirm", self.broken)
        self.journal.confirm("a")
        self.settle()
        self.assertEqual(self.rows("SELECT state FROM command"), [(3,)])
        del self.journal._steps.confirm  # the patch
        self.clock.advance(PRUNE_INTERVAL)
        self.settle()
        self.assertEqual(self.rows("SELECT state FROM command"), [(4,)])

    def broken(self, *_: object) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorname = "SQLITE_IOERR_WRITE"
        raise error

    def test_one_that_fails_does_not_take_others_with_it(self) -> None:
        accepting, starting = self.journal.accept(command("a"), b""), self.journal.start("unknown")
        self.assertIsNone(self.wait(accepting))
        self.assertRaises(JournalUnavailable, self.wait, starting)
        self.assertEqual(self.rows("SELECT id FROM command"), [("a",)])

    def test_removed_file(self) -> None:
        """SQLite itself would go on writing into what nobody can open any more."""
        self.path.unlink()
        error = self.assertRaises(JournalUnavailable, self.wait, self.journal.accept(command("a"), b""))
        self.assertIn("somebody removed or replaced its file; restart relayd", str(error))

    def test_folder_that_cannot_be_used(self) -> None:
        self.close()
        shutil.rmtree(self.path.parent)
        self.path.parent.write_text("no folder")
        error = self.assertRaises(ConfigError, self.open)
        self.assertRegex(str(error), r"^--state-dir: the journal .*journal.sqlite3 cannot be used: ")

    def test_file_of_a_newer_version(self) -> None:
        self.close()
        with closing(sqlite3.connect(self.path)) as db:
            db.execute("PRAGMA user_version = 99")
        error = self.assertRaises(ConfigError, self.open)
        self.assertIn("written by a newer version of relayd", str(error))


WRITER = """
import sys
from tests.support.journals import ThreadClock
from relayd.journal.durable import DurableJournal
from tests.support.dispatching import command, result

clock = ThreadClock()
journal = DurableJournal(clock, sys.argv[1], durable=True)
journal.open()
number = 0
while True:
    number += 1
    for step in (journal.accept(command(f"c{number}"), b""), journal.start(f"c{number}")):
        clock.run(step)
        print(number, flush=True)
    clock.run(journal.finish(result(f"c{number}")))
    print(number, "finished", flush=True)
"""


class KilledWriterTests(SynchronousTestCase):
    """A process that is killed while it writes."""

    def test_what_was_promised_is_there(self) -> None:
        directory = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, directory)
        path = directory / "journal" / "journal.sqlite3"
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).resolve().parents[2],
        ) as writer:
            assert writer.stdout is not None
            promised: set[str] = set()
            for line in writer.stdout:
                number, *rest = line.split()
                if rest:
                    promised.add(f"c{number}")
                if number == "200":
                    writer.send_signal(signal.SIGKILL)
                    break
            for line in writer.stdout:
                number, *rest = line.split()
                if rest:
                    promised.add(f"c{number}")
        store = journal_store.Store(str(path), durable=True)
        recovery = store.open()
        store.close()
        self.assertLessEqual(promised, set(recovery.live))
        self.assertLessEqual(len(recovery.ended), 1)
        self.assertLessEqual(len(recovery.live), len(promised) + 2)
