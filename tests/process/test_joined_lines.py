"""The lines of a log that are written together."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread

from twisted.trial.unittest import SynchronousTestCase

from relayd.process.joined_lines import JoinedLines

ROOT = Path(__file__).parents[2]
#: Logs as relayd does, and ends in some way: how, and what it says.
PROGRAM = """
import os, signal, sys
from twisted.internet import reactor
from twisted.logger import Logger, globalLogBeginner, textFileLogObserver
from relayd.network.loop_turns import turns_of
from relayd.process.logs import configure
configure("info", "text", globalLogBeginner, {}, turns_of(reactor).try_at_end)
globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stdout)], redirectStandardIO=False)
log = Logger("relayd.x")
log.info("before")
def act():
    log.info("one")
    log.info("two")
    %s
reactor.callWhenRunning(act)
reactor.addSystemEventTrigger("after", "shutdown", lambda: log.info("at the end"))
reactor.run()
log.info("after")
"""


class File(io.StringIO):
    """Keeps what each write has."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []

    def write(self, text: str) -> int:
        self.writes.append(text)
        return len(text)


class JoinedLinesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.file = File()
        self.due: list[Callable[[], None]] = []
        self.turns = True
        self.lines = JoinedLines(self.file, self.at_end)

    def at_end(self, function: Callable[[], None]) -> bool:
        if self.turns:
            self.due.append(function)
        return self.turns

    def end_turn(self) -> None:
        for function in self.due:
            function()
        self.due.clear()

    def test_one_write_for_a_turn(self) -> None:
        for text in ("a\n", "b\n", "c\n"):
            self.lines.write(text)
            self.lines.flush()
        self.assertEqual(self.file.writes, [])
        self.end_turn()
        self.assertEqual(self.file.writes, ["a\nb\nc\n"])
        self.lines.write("d\n")
        self.end_turn()
        self.assertEqual(self.file.writes, ["a\nb\nc\n", "d\n"])

    def test_at_once_where_there_is_no_turn(self) -> None:
        """After what waits."""
        self.lines.write("a\n")
        self.lines.write("b\n")
        self.turns = False
        Thread(target=self.lines.write, args=("c\n",)).start()
        while not self.file.writes:
            pass
        self.lines.write("d\n")
        self.end_turn()
        self.assertEqual("".join(self.file.writes), "a\nb\nc\nd\n")
        self.assertEqual(len(self.file.writes), 2)

    def test_bytes(self) -> None:
        file = io.BytesIO()
        lines = JoinedLines(file, self.at_end)
        lines.write(b"a\n")
        lines.write(b"b\n")
        self.end_turn()
        self.assertEqual(file.getvalue(), b"a\nb\n")

    def test_a_line_that_the_terminal_cannot_show(self) -> None:
        """The others are shown."""
        raw = io.BytesIO()
        lines = JoinedLines(io.TextIOWrapper(raw, "ascii"), self.at_end)
        for text in ("a\n", "é\n", "b\n"):
            lines.write(text)
        self.end_turn()
        self.assertEqual(raw.getvalue(), b"a\nb\n")

    def test_a_file_that_cannot_be_written(self) -> None:
        """Nobody is told: there is no log to say so. Twisted is where a line is written at once, as before."""
        file = open("/dev/full", "w")  # noqa: SIM115  # what it could not write would fail again at the end
        self.addCleanup(self.assertRaises, OSError, file.close)
        lines = JoinedLines(file, self.at_end)
        lines.write("a\n")
        self.end_turn()
        self.turns = False
        self.assertRaises(OSError, lines.write, "b\n")


class EndTests(SynchronousTestCase):
    """Nothing is lost, however a process ends on its own."""

    def run_program(self, end: str) -> list[str]:
        command = [sys.executable, "-c", PROGRAM % end]
        run = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT, timeout=120)
        return [line.partition("] ")[2] for line in run.stdout.splitlines() if "relayd.x" in line]

    def test_stop_and_signal(self) -> None:
        for end in ("reactor.stop()", "os.kill(os.getpid(), signal.SIGTERM)", "signal.raise_signal(signal.SIGINT)"):
            self.assertEqual(self.run_program(end), ["before", "one", "two", "at the end", "after"], end)

    def test_exit(self) -> None:
        """Even where the loop does not come to the end of its turn."""
        program = "import sys; from relayd.process.joined_lines import JoinedLines; "
        program += "JoinedLines(sys.stdout, lambda function: True).write('a'); raise SystemExit(1)"
        run = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, cwd=ROOT, timeout=120)
        self.assertEqual(run.stdout, b"a")

    def test_an_error(self) -> None:
        self.assertEqual(self.run_program("reactor.callLater(0, reactor.stop); 1 / 0")[:3], ["before", "one", "two"])

    def test_kill(self) -> None:
        """Lines of this turn are lost, and no others."""
        self.assertEqual(
            self.run_program(
                "reactor.callLater(0.1, lambda: (log.info('three'), os.kill(os.getpid(), signal.SIGKILL)))"
            ),
            ["before", "one", "two"],
        )
