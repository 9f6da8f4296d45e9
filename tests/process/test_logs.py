"""
relayd.process.logs: levels, JSON lines, lines that repeat, and how they get into twistd's log.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from twisted.logger import (
    FilteringLogObserver,
    LogBeginner,
    LogEvent,
    Logger,
    LogLevel,
    LogLevelFilterPredicate,
    LogPublisher,
    capturedLogs,
    formatEvent,
    formatEventAsClassicLogText,
    jsonFileLogObserver,
    textFileLogObserver,
)
from twisted.trial.unittest import SynchronousTestCase

from relayd.process import logs
from relayd.process.journald import is_journal
from relayd.process.logs import (
    FIELDS,
    MAX_MESSAGE,
    MOST,
    MOST_INFO,
    PERIOD,
    QuickLogger,
    Shortener,
    Sieve,
    configure,
    format_json,
    format_text,
    format_text_untimed,
    is_logged,
)

ROOT = Path(__file__).resolve().parents[2]


class JSONTests(SynchronousTestCase):
    """One event, one line, the same names."""

    def line(self, **event: Any) -> dict[str, Any]:
        text = format_json({"log_time": 1.5, "log_level": LogLevel.warn, "log_namespace": "relayd.x", **event})
        assert text is not None
        self.assertEqual(text.count("\n"), 1)
        line: dict[str, Any] = json.loads(text)
        return line

    def test_a_line(self) -> None:
        line = self.line(log_format="{id} on {host}", id="c\n1", host="h", port=22, secret="s", duration=0.25)
        self.assertEqual(
            line,
            {
                "time": "1970-01-01T00:00:01.500000Z",
                "level": "warn",
                "logger": "relayd.x",
                "message": "c\n1 on h",
                "id": "c\n1",
                "host": "h",
                "port": 22,
                "duration": 0.25,
            },
        )

    def test_what_json_cannot_hold(self) -> None:
        self.assertEqual(self.line(log_format="{id}", id="\udc80")["id"], "?")
        self.assertIn("object", self.line(log_format="x", host=object())["host"])

    def test_an_event_of_the_old_kind(self) -> None:
        line = json.loads(format_json({"log_text": "old", "log_format": "{log_text}", "log_time": 0}) or "")
        self.assertEqual((line["level"], line["message"]), ("info", "old"))

    def test_a_failure_brings_its_traceback(self) -> None:
        events: list[LogEvent] = []
        try:
            raise RuntimeError("broken")
        except RuntimeError:
            Logger("relayd.x", observer=events.append).failure("Could not {what}", what="dance")
        line = json.loads(format_json(events[0]) or "")
        self.assertIn("RuntimeError: broken", line["traceback"])
        self.assertEqual((line["level"], line["message"]), ("critical", "Could not dance"))

    def test_the_document_has_every_field(self) -> None:
        _, fields = (ROOT / "docs" / "logs.rst").read_text().split("\nFields\n")
        rows = re.findall(r"^``([a-z_]+)``  +\S", fields, re.MULTILINE)
        self.assertEqual(rows, ["time", "level", "logger", "message", *FIELDS, "traceback"])


class TextTests(SynchronousTestCase):
    """The quick way to a line gives what Twisted's own does."""

    def events(self) -> list[LogEvent]:
        events: list[LogEvent] = []
        log = Logger("relayd.x", observer=events.append)
        log.info("Finished command {text}", text="c1", id="c1")
        log.info("{a!r} {b:.3f} {c[0]} {d.real}", a="x", b=1.5, c=[1], d=2)
        log.warn("two\nlines of {what} ({what})", what="text")
        log.error("{missing} is not there")
        log.debug("no fields, {{braces}}")
        log.info("{f()}", f=lambda: "called")
        log.info("")
        try:
            raise RuntimeError("broken")
        except RuntimeError:
            log.failure("Could not {what}", what="dance")
        old: dict[str, Any] = {"log_time": 1.0, "log_namespace": "log_legacy", "log_text": "old"}
        events += [
            {"log_format": b"bytes", "log_time": 0.0, "log_level": LogLevel.info, "log_namespace": "n"},
            {**old, "log_format": "{log_text}", "log_system": "-"},
            {**old, "log_format": "{log_text}"},
            {"log_format": "no time"},
            {"log_time": 5.0},
        ]
        return events

    def test_to_the_letter(self) -> None:
        events = self.events()
        formatted = [format_text(event) for event in events]
        self.assertEqual(formatted, [formatEventAsClassicLogText(event) for event in events])
        self.assertEqual(sum(line is not None for line in formatted), 11)

    def test_the_same_without_the_time(self) -> None:
        for event in self.events():
            timed = format_text(event)
            self.assertEqual(format_text_untimed(event), None if timed is None else timed.partition(" ")[2])


class SieveTests(SynchronousTestCase):
    """What passes."""

    def setUp(self) -> None:
        self.now = 0.0
        self.passed: list[LogEvent] = []
        self.log = self.make("info")

    def make(self, level: str) -> Logger:
        return Logger("relayd.x", observer=Sieve(self.passed.append, level, lambda: self.now))

    def texts(self) -> list[str]:
        return [formatEvent(event) for event in self.passed]

    def test_levels(self) -> None:
        for level, count in (("debug", 4), ("info", 3), ("warn", 2), ("error", 1)):
            log = self.make(level)
            self.passed.clear()
            for name in ("debug", "info", "warn", "error"):
                getattr(log, name)("x")
            self.assertEqual(len(self.passed), count, level)

    def test_what_repeats_is_counted_and_told(self) -> None:
        for number in range(MOST + 5):
            self.log.error("{id} failed", id=number)
        self.log.error("something else")
        self.assertEqual(len(self.passed), MOST + 1)
        self.now = PERIOD
        self.log.info("life goes on")
        self.assertEqual(self.texts()[-2:], ["5 more lines like this one were left out: {id} failed", "life goes on"])
        self.log.error("{id} failed", id=99)
        self.assertEqual(self.texts()[-1], "99 failed")

    def test_the_record_of_what_was_run_is_not_held_back(self) -> None:
        for number in range(MOST_INFO + 5):
            self.log.info("Accepted {id}", event="accepted", id=number)
            self.log.info("Finished {id}", event="finished", id=number)
        self.assertEqual(len(self.passed), 2 * MOST_INFO + 10)

    def test_other_information_is_counted_too(self) -> None:
        for number in range(MOST_INFO + 5):
            self.log.info("Refused {id}", event="refused", id=number)
        self.assertEqual(len(self.passed), MOST_INFO)
        self.now = PERIOD
        self.log.info("life goes on")
        self.assertEqual(self.texts()[-2:], ["5 more lines like this one were left out: Refused {id}", "life goes on"])

    def test_details_are_not_held_back(self) -> None:
        log = self.make("debug")
        for number in range(500):
            log.debug("Sent {id}", id=number)
        self.assertEqual(len(self.passed), 500)

    def test_a_new_wording_each_time_is_no_way_out(self) -> None:
        for number in range(5000):
            self.log.warn(f"wording {number}")
        self.assertEqual(len(self.passed), 1000 + MOST)
        self.now = PERIOD
        self.log.info("life goes on")
        self.assertEqual(self.texts()[-2], f"{4000 - MOST} more lines like this one were left out: of other kinds")
        self.assertLess(len(self.passed), 1100)


class LengthTests(SynchronousTestCase):
    """Whoever logs: a line has a bound."""

    def events(self) -> list[LogEvent]:
        events: list[LogEvent] = []
        log = Logger("relayd.x", observer=events.append)
        long = "a" + "x" * 10**6 + "z"
        log.info("Refused {id} for {user}", id="c1", user=long)
        log.warn("{error}", error=RuntimeError(long))
        log.info(long)
        log.info("{id}", id=long, host=long, reason=ValueError(long))
        try:
            raise RuntimeError(long)
        except RuntimeError:
            log.failure("Could not {what}", what=long)
        events.append({"log_format": "{log_text}", "log_text": long, "log_time": 1.0, "log_system": "old"})
        events.append({"log_format": long.encode(), "log_time": 1.0})
        return events

    def test_text(self) -> None:
        for event in self.events():
            line = format_text(event) or ""
            self.assertLess(len(line), 20_000)
            self.assertIn("characters left out", line)
            self.assertEqual(line[-1], "\n")

    def test_json(self) -> None:
        for event in self.events():
            line = format_json(event) or ""
            self.assertLess(len(line), 30_000)
            self.assertIn("characters left out", json.loads(line)["message"])

    def test_the_ends_are_kept(self) -> None:
        line = format_text(self.events()[0]) or ""
        self.assertRegex(line, r"Refused c1 for ax+ … \d+ characters left out … x+z\n$")

    def test_what_has_its_bound_stays_as_it_is(self) -> None:
        event = {"log_format": "{a}", "a": "x" * MAX_MESSAGE, "log_time": 1.0, "log_namespace": "n"}
        self.assertIn(" " + "x" * MAX_MESSAGE + "\n", format_text(event) or "")

    def test_an_observer_that_formats_by_itself(self) -> None:
        passed: list[LogEvent] = []
        shorten = Shortener(passed.append)  # type: ignore[arg-type]
        for event in self.events():
            shorten(event)
        self.assertEqual(len(passed), len(self.events()))
        for event in passed:
            self.assertLess(len(repr(event)), 20_000)
            self.assertIn("characters left out", formatEvent(event))
        short: LogEvent = {"log_format": "short"}
        shorten(short)
        self.assertIs(passed[-1], short)


class ConfigureTests(SynchronousTestCase):
    """The observers that twistd and twist hand over."""

    def setUp(self) -> None:
        self.addCleanup(setattr, logs._Level, "least", logs._Level.least)

    def beginner(self) -> tuple[LogPublisher, LogBeginner]:
        publisher = LogPublisher()
        beginner = LogBeginner(
            publisher, io.StringIO(), SimpleNamespace(stdout=sys.stdout, stderr=sys.stderr), warnings
        )
        self.addCleanup(setattr, warnings, "showwarning", warnings.showwarning)
        return publisher, beginner

    def begin(self, make: Any, level: str, format: Any) -> str:
        file = io.StringIO()
        publisher, beginner = self.beginner()
        configure(level, format, beginner)
        log = Logger("relayd.x", observer=publisher)
        log.info("before it began")
        beginner.beginLoggingTo([make(file)], redirectStandardIO=False)
        log.debug("a detail")
        log.info("a fact")
        return file.getvalue()

    def test_text(self) -> None:
        text = self.begin(textFileLogObserver, "info", "text")
        self.assertRegex(text, r"^\S+ \[relayd\.x#info\] before it began\n\S+ \[relayd.x#info\] a fact\n$")

    def test_json(self) -> None:
        lines = [json.loads(line) for line in self.begin(textFileLogObserver, "debug", "json").splitlines()]
        self.assertEqual([line["message"] for line in lines], ["before it began", "a detail", "a fact"])

    def in_journal(self, format: Any, act: Callable[[Logger], object]) -> list[str]:
        """The lines that systemd's journal gets, if the file is its stream."""
        path = Path(self.mktemp())
        with path.open("w+") as file:
            publisher, beginner = self.beginner()
            status = os.fstat(file.fileno())
            configure("info", format, beginner, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
            beginner.beginLoggingTo([textFileLogObserver(file)], redirectStandardIO=False)
            act(Logger("relayd.x", observer=publisher))
            return path.read_text().removesuffix("\n").split("\n")

    def test_the_journal_has_the_time_and_takes_the_priority(self) -> None:
        def act(log: Logger) -> None:
            log.info("a fact")
            log.warn("two\n<0>lines\x85more")
            log.error("an error")
            try:
                raise RuntimeError("broken")
            except RuntimeError:
                log.failure("Could not {what}", what="dance")

        lines = self.in_journal("text", act)
        expected = [
            "<6>[relayd.x#info] a fact",
            "<4>[relayd.x#warn] two",
            "<4>\t<0>lines\x85more",
            "<3>[relayd.x#error] an error",
        ]
        self.assertEqual(lines[:4], expected)
        self.assertEqual(lines[4], "<2>[relayd.x#critical] Could not dance")
        self.assertGreater(len(lines), 5)
        self.assertEqual({line[:3] for line in lines[4:]}, {"<2>"}, lines)
        self.assertTrue(any("RuntimeError: broken" in line for line in lines), lines)

        [first, *_] = self.in_journal("json", act)
        self.assertEqual((first[:3], json.loads(first[3:])["message"]), ("<6>", "a fact"))

    def test_another_stream_than_the_journals(self) -> None:
        with open(os.devnull, "w") as file:
            self.assertFalse(is_journal(file, {"JOURNAL_STREAM": "1:2"}))
            self.assertFalse(is_journal(file, {}))
        self.assertFalse(is_journal(io.StringIO(), {"JOURNAL_STREAM": "1:2"}))
        self.assertFalse(is_journal(file, {"JOURNAL_STREAM": "1:2"}))

    def test_the_observer_of_twist(self) -> None:
        def make(file: io.StringIO) -> Any:
            return FilteringLogObserver(textFileLogObserver(file), [LogLevelFilterPredicate(LogLevel.info)])

        lines = [json.loads(line) for line in self.begin(make, "debug", "json").splitlines()]
        self.assertEqual([line["message"] for line in lines], ["before it began", "a fact"])

    def test_the_json_of_twist_stays(self) -> None:
        text = self.begin(jsonFileLogObserver, "info", "text")
        self.assertIn('"log_format": "a fact"', text)

    def test_what_is_not_logged_need_not_be_made(self) -> None:
        self.assertTrue(is_logged("debug"))
        self.begin(textFileLogObserver, "info", "text")
        self.assertEqual([is_logged(level) for level in ("debug", "info", "error")], [False, True, True])

    def test_lines_of_one_turn_are_written_together(self) -> None:
        for format in ("text", "json"):
            file, due = io.StringIO(), []
            publisher, beginner = self.beginner()
            configure("info", format, beginner, {}, lambda function, due=due: due.append(function) or True)  # type: ignore[arg-type,misc]
            beginner.beginLoggingTo([textFileLogObserver(file)], redirectStandardIO=False)
            log = Logger("relayd.x", observer=publisher)
            log.info("a")
            log.info("b")
            self.assertEqual(file.getvalue(), "")
            for function in due:
                function()
            self.assertEqual(len(file.getvalue().splitlines()), 2)

    def test_a_quick_logger_makes_the_same_events(self) -> None:
        events: list[LogEvent] = []
        for kind in (Logger, QuickLogger):
            kind("relayd.x", observer=events.append).info("a {b}", b=1)  # type: ignore[arg-type]
        for event in events:
            self.assertIsInstance(event.pop("log_time"), float)
            self.assertEqual(event.pop("log_logger").namespace, "relayd.x")
        self.assertEqual(events[0], events[1])
        logs._Level.least = 3
        QuickLogger("relayd.x", observer=events.append).info("a")  # type: ignore[arg-type]
        self.assertEqual(len(events), 2)

    def test_an_observer_of_its_own_gets_no_long_lines(self) -> None:
        texts: list[str] = []
        publisher, beginner = self.beginner()
        configure("info", "text", beginner)
        own: Any = lambda event: texts.append(formatEvent(event))  # noqa: E731
        beginner.beginLoggingTo([own], redirectStandardIO=False)
        Logger("relayd.x", observer=publisher).info("{long}", long="x" * 100_000)
        self.assertEqual(len(texts), 1)
        self.assertLess(len(texts[0]), 5000)

    def test_an_observer_that_can_write_no_json(self) -> None:
        texts: list[str] = []
        with capturedLogs() as events:
            self.begin(lambda file: lambda event: texts.append(formatEvent(event)), "info", "json")
        self.assertEqual(texts, ["before it began", "a fact"])
        self.assertEqual([event["log_format"].split(";")[0] for event in events],
                         ["--log-format json is for files and standard output"])  # fmt: skip


class ProcessTests(SynchronousTestCase):
    """Real twistd and twist, until the main server turned out not to be there."""

    def log_of(self, program: str, *words: str, log: str = "output") -> str:
        """What is in the file *log* of the process's directory when it has ended."""
        directory = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, directory)
        key = directory / "key"
        key.touch(mode=0o600)
        key.write_text("k" * 40)
        argv = [str(Path(sys.executable).with_name(program)), *words]
        argv += ["relayd", "--server", "ws://127.0.0.1:1", "--proxy-id", "p", "--api-key-file", str(key)]
        argv += ["--state-dir", str(directory), "--log-format", "json", "--reconnect-delay", "1h"]
        environ = {name: value for name, value in os.environ.items() if not name.startswith("RELAYD_")}
        environ["PYTHONPATH"] = str(ROOT)
        with open(directory / "output", "w") as output:
            process = subprocess.Popen(argv, cwd=directory, env=environ, stdout=output, stderr=subprocess.STDOUT)
        try:
            deadline = time.monotonic() + 30
            while not (directory / log).exists() or "Next attempt" not in (directory / log).read_text():
                if time.monotonic() > deadline or process.poll() is not None:
                    raise AssertionError((directory / "output").read_text())
                time.sleep(0.05)
        finally:
            process.terminate()
            process.wait(30)
        return (directory / log).read_text()

    def check(self, text: str) -> None:
        lines = [json.loads(line) for line in text.splitlines()]
        self.assertIn("Connecting to ws://127.0.0.1:1 as p (socketio)", [line["message"] for line in lines])
        self.assertIn("relayd has stopped", [line["message"] for line in lines])

    def test_twistd_on_standard_output(self) -> None:
        self.check(self.log_of("twistd", "-n", "--pidfile="))

    def test_twistd_in_a_file(self) -> None:
        self.check(self.log_of("twistd", "-n", "--pidfile=", "--logfile=relay.log", log="relay.log"))

    def test_twist(self) -> None:
        self.check(self.log_of("twist"))
