"""
Tests of ``relayctl journal``.
"""

from __future__ import annotations

import io
import os
import sqlite3
from contextlib import closing, redirect_stderr, redirect_stdout
from unittest import mock

from relayd.ctl.main import main
from relayd.journal.index import JournalLimits
from tests.support.journals import DurableCase


class JournalCommandTests(DurableCase):
    def run_it(self, *words: str) -> tuple[int, str, str]:
        """Exit code, standard output and errors of ``relayctl journal``."""
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err), mock.patch.dict(os.environ, clear=True):
            code = main(["journal", "--state-dir", str(self.directory), *words])
        return code, out.getvalue(), err.getvalue()

    def setUp(self) -> None:
        super().setUp()
        self.restart(JournalLimits())

    def test_empty(self) -> None:
        code, out, err = self.run_it()
        self.assertEqual((code, err), (0, ""))
        self.assertIn(str(self.path), out)
        self.assertNotIn("COMMAND", out)

    def test_an_empty_file_is_an_empty_journal(self) -> None:
        """It was made, and then the disk was full or the relay killed; the next start writes to it."""
        self.close()
        for path in self.path.parent.iterdir():
            path.unlink()
        self.path.touch()
        code, out, err = self.run_it()
        self.assertEqual((code, err), (0, ""))
        self.assertRegex(out, r"(?m)^ +0  waiting for confirmation")
        self.assertIn("holds no result of c1", self.run_it("c1")[2])
        self.journal = self.open(JournalLimits())
        self.finish("c1")
        self.assertIn("c1", self.run_it()[1])

    def test_a_pipe(self) -> None:
        """Nobody waits for what comes out of it."""
        self.close()
        for path in self.path.parent.iterdir():
            path.unlink()
        os.mkfifo(self.path)
        self.assertIn(f"{self.path} is not a file", self.run_it()[2])

    def test_a_directory_with_signs_of_a_uri(self) -> None:
        self.finish("c1")
        self.close()
        self.directory.rename(odd := self.directory.with_name(f"{self.directory.name}?mode=rwc#%41"))
        self.addCleanup(odd.rename, self.directory)
        code, out, err = self.run_it("--state-dir", str(odd))
        self.assertEqual((code, err), (0, ""))
        self.assertIn("c1", out)

    def test_what_is_not_confirmed_is_listed_dead_letters_first(self) -> None:
        """While the relay is using it."""
        self.finish("held", "dead", "done", stdout="x" * 5000)
        self.accept("queued")
        self.journal.bury("dead")
        self.journal.confirm("done")
        self.settle()
        code, out, err = self.run_it()
        self.assertEqual((code, err), (1, ""))
        listed = [line.split()[-1] for line in out.splitlines() if line.startswith("20")]
        self.assertEqual(listed, ["dead", "held", "queued"])
        self.assertRegex(out, r"(?m)^ +1  confirmed")
        self.assertNotIn("xxx", out)

    def test_only_the_oldest_are_listed_unless_all_are_asked_for(self) -> None:
        self.finish(*(f"c{number}" for number in range(25)))
        self.assertIn("… and 5 more; --all lists them", self.run_it()[1])
        self.assertNotIn("… and", self.run_it("--all")[1])

    def test_a_result(self) -> None:
        self.finish("c1", stdout="what it said")
        self.assertEqual(
            self.run_it("c1"),
            (0, "exit code  0\nstdout     12 characters\nwhat it said\nstderr     0 characters\n", ""),
        )
        code, out, err = self.run_it("c2")
        self.assertEqual((code, out), (1, ""))
        self.assertIn("holds no result of c2", err)

    def test_no_journal(self) -> None:
        code, out, err = self.run_it("--state-dir", str(self.directory / "other"))
        self.assertEqual((code, out), (1, ""))
        self.assertRegex(err, r"^relayctl: The journal cannot be shown: there is no journal at .*; name the right one")
        self.assertEqual(len(err.splitlines()), 1)

    def test_file_that_is_no_journal(self) -> None:
        self.close()
        self.path.write_bytes(os.urandom(9000))
        code, _, err = self.run_it()
        self.assertEqual(code, 1)
        self.assertIn("its file is damaged", err)
        self.journal = self.open()

    def test_damage_that_sqlite_does_not_see(self) -> None:
        self.finish("c1")
        self.archive()
        for change, words in (
            ("UPDATE result SET body = x'82aa'", ("c1",)),
            ("UPDATE result SET body = 'text'", ("c1",)),
            ("UPDATE command SET accepted = 1e300", ()),
            ("UPDATE command SET accepted = 'soon'", ()),
            ("UPDATE command SET state = 9", ()),
        ):
            with closing(sqlite3.connect(self.path)) as db, db:
                db.execute(change)
            code, out, err = self.run_it(*words)
            self.assertEqual((code, out), (1, ""), change)
            self.assertIn("its file is damaged", err)

    def test_damage_is_told(self) -> None:
        self.close()
        self.path.write_bytes(os.urandom(9000))
        self.journal = self.open()
        self.settle()
        code, out, _ = self.run_it()
        self.assertEqual(code, 1)
        self.assertIn("It was damaged once; the damaged file is ", out)

    def test_a_mistake_is_one_line(self) -> None:
        with self.assertRaises(SystemExit) as caught:
            self.run_it("--al")
        self.assertEqual(caught.exception.code, 2)
