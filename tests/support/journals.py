"""
Journals for tests: the contract of all of them, and one in a file whose thread the test waits for.
"""

from __future__ import annotations

import errno
import os
import select
import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from relayd.errors import JournalFull, JournalUnavailable
from relayd.interfaces import EntryState, IJournal, JournalEntry
from relayd.journal.disk import Disk
from relayd.journal.durable import DurableJournal
from relayd.journal.index import JournalLimits
from relayd.journal.writer import PACE
from tests.support.dispatching import command, result, watch_log


class ThreadClock(Clock):
    """A clock that reads what comes from threads: `run` does what is due, and waits for the threads to be done."""

    def __init__(self) -> None:
        super().__init__()
        self._readers: list[Any] = []

    def addReader(self, reader: Any) -> None:
        self._readers.append(reader)

    def removeReader(self, reader: Any) -> None:
        self._readers.remove(reader)

    def run(self, deferred: Deferred[Any]) -> None:
        """Until *deferred* has fired."""
        while not deferred.called:
            self.advance(PACE)
            if not deferred.called:
                ready, _, _ = select.select(self._readers, [], [], 30)
                assert ready, "nothing happens any more"
                for reader in ready:
                    reader.doRead()


class Contract:
    """What every journal does."""

    journal: Any

    def wait(self, deferred: Deferred[Any]) -> Any:
        raise NotImplementedError

    def accept(self, command_id: str, fingerprint: bytes = b"print", **fields: Any) -> JournalEntry | None:
        known: JournalEntry | None = self.wait(self.journal.accept(command(command_id, **fields), fingerprint))
        return known

    def finish(self, *ids: str, stdout: str = "fine") -> None:
        for command_id in ids:
            self.accept(command_id, b"print of " + command_id.encode())
            self.wait(self.journal.start(command_id))
            self.wait(self.journal.finish(result(command_id, stdout)))

    def state(self, command_id: str) -> EntryState | None:
        entry = self.journal.lookup(command_id)
        return None if entry is None else entry.state


class SmallDisk(Disk):
    """
    A disk that can be full.

    :ivar full: whether it sets nothing aside any more; what is set aside already can be written.
    """

    full = False

    def allocate(self, file: int, offset: int, size: int) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().allocate(file, offset, size)


LIMITS = JournalLimits(max_commands=3, max_bytes=150_000, max_ids=2, retention=1000.0)


class DurableCase(Contract, SynchronousTestCase):
    """Has a journal in a file."""

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.directory)
        self.path = self.directory / "journal" / "journal.sqlite3"
        self.logged = watch_log(self)
        self.clock = ThreadClock()
        self.disk = SmallDisk()
        self.journal: Any = self.open()
        self.addCleanup(self.close)

    def open(self, limits: JournalLimits = LIMITS) -> DurableJournal:
        journal = DurableJournal(self.clock, str(self.path), durable=True, limits=limits, disk=self.disk)
        self.recovered = journal.open()
        return journal

    def close(self) -> None:
        if self.journal is not None:
            closing_down = self.journal.close()
            self.clock.run(closing_down)
            self.journal = None

    def restart(self, limits: JournalLimits = LIMITS) -> None:
        """As after a crash: nothing but what is on disk counts."""
        self.close()
        self.journal = self.open(limits)

    def wait(self, deferred: Deferred[Any]) -> Any:
        outcomes: list[Any] = []
        failures: list[Any] = []
        deferred.addCallbacks(outcomes.append, failures.append)
        self.clock.run(deferred)
        if failures:
            failures[0].raiseException()
        return outcomes[0]

    def settle(self) -> None:
        """Until what was asked for is written, and what was begun to be moved to the archive is moved."""
        self.wait(self.journal.load("nothing"))
        done: Deferred[Any] = Deferred()
        self.journal._archiver.do(lambda: None, done.callback)
        self.wait(done)

    def archive(self) -> None:
        """All that was asked for is written, and what it comes to is in the archive."""
        self.settle()
        self.journal._archiver.archive()
        self.settle()

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        if self.journal is not None:
            self.archive()
        with closing(sqlite3.connect(self.path)) as db:
            return db.execute(query).fetchall()

    def lines(self, level: LogLevel) -> list[str]:
        return [formatEvent(event) for event in self.logged if event["log_level"] is level]


class ContractTests(Contract):
    """Mixed into a test case."""

    def test_interface(self: Any) -> None:
        self.assertTrue(verifyObject(IJournal, self.journal))

    def test_unknown_command(self: Any) -> None:
        self.assertIsNone(self.journal.lookup("c1"))
        self.assertIsNone(self.wait(self.journal.load("c1")))

    def test_command_from_acceptance_to_confirmation(self: Any) -> None:
        self.assertIsNone(self.accept("c1"))
        self.assertEqual(self.journal.lookup("c1"), JournalEntry(fingerprint=b"print", state=EntryState.ACCEPTED))
        self.wait(self.journal.start("c1"))
        self.assertEqual((self.state("c1"), self.journal.unconfirmed()), (EntryState.STARTED, []))
        self.wait(self.journal.finish(result("c1")))
        self.assertEqual(self.journal.lookup("c1"), JournalEntry(fingerprint=b"print", state=EntryState.FINISHED))
        self.assertEqual((self.journal.unconfirmed(), self.journal.outstanding), (["c1"], 1))
        self.assertEqual(self.wait(self.journal.load("c1")), result("c1"))
        self.journal.confirm("c1")
        self.assertEqual(self.journal.lookup("c1"), JournalEntry(fingerprint=b"print", state=EntryState.CONFIRMED))
        self.assertEqual((self.journal.unconfirmed(), self.journal.outstanding), ([], 0))
        self.assertIsNone(self.wait(self.journal.load("c1")))

    def test_result_comes_back_as_it_was(self: Any) -> None:
        self.accept("c1")
        held = result("c1", stdout="\0 ä 漢 \U0001f600 " + "x" * 300_000, exit_code=137)
        self.wait(self.journal.finish(held))
        self.assertEqual(self.wait(self.journal.load("c1")), held)

    def test_known_command_is_not_accepted_again(self: Any) -> None:
        self.finish("c1")
        self.assertEqual(self.accept("c1", b"other").state, EntryState.FINISHED)
        self.journal.confirm("c1")
        known = self.accept("c1", b"other")
        self.assertEqual((known.state, known.fingerprint), (EntryState.CONFIRMED, b"print of c1"))
        self.assertEqual(self.state("c1"), EntryState.CONFIRMED)

    def test_start_of_what_is_not_there(self: Any) -> None:
        self.assertRaises(JournalUnavailable, self.wait, self.journal.start("c1"))

    def test_unconfirmed_results_are_in_the_order_of_their_end(self: Any) -> None:
        self.accept("slow")
        self.finish("b", "a")
        self.wait(self.journal.finish(result("slow")))
        self.journal.confirm("a")
        self.assertEqual(self.journal.unconfirmed(), ["b", "slow"])

    def test_confirming_twice_or_too_early_changes_nothing(self: Any) -> None:
        self.finish("a", "b")
        for command_id in ("a", "b", "a", "unknown"):
            self.journal.confirm(command_id)
        self.accept("c1")
        self.journal.confirm("c1")
        self.assertEqual([self.state(each) for each in ("c1", "unknown")], [EntryState.ACCEPTED, None])

    def test_dead_letter(self: Any) -> None:
        self.finish("a", "b")
        self.journal.bury("a")
        self.assertEqual((self.journal.unconfirmed(), self.journal.outstanding), (["b"], 1))
        self.assertEqual((self.state("a"), self.wait(self.journal.load("a"))), (EntryState.DEAD, result("a")))
        self.journal.confirm("a")
        self.assertEqual((self.state("a"), self.journal.outstanding), (EntryState.CONFIRMED, 1))

    def test_full(self: Any) -> None:
        self.finish("a", "b")
        self.accept("c")
        error = self.assertRaises(JournalFull, self.wait, self.journal.accept(command("d"), b"print"))
        self.assertIn("2 results", str(error))
        self.journal.confirm("a")
        self.assertIsNone(self.accept("d"))

    def test_full_of_bytes(self: Any) -> None:
        self.accept("b")
        self.finish("a", stdout="x" * 200_000)
        self.assertRaises(JournalFull, self.wait, self.journal.accept(command("c"), b"print"))
        self.journal.confirm("a")
        self.assertIsNone(self.accept("c"))

    def test_notes(self: Any) -> None:
        self.assertIsNone(self.journal.noted("receipts"))
        self.journal.note("receipts", "yes")
        self.assertEqual(self.journal.noted("receipts"), "yes")
