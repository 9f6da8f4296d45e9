"""
relayd.tap, as twistd and twist run it: options, help, one line for a mistake, and an orderly exit.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.python import usage
from twisted.trial.unittest import SynchronousTestCase

from relayd import __version__
from relayd.config.options import OPTIONS
from relayd.errors import MISTAKES
from relayd.process.program import OrderlyExit
from relayd.tap import Options, makeService

ROOT = Path(__file__).resolve().parents[2]
#: The deadline of any process here, in seconds.
PATIENCE = 60


SCRIPTS = {
    "twistd": "from twisted.scripts.twistd import run; run()",
    "twist": "from twisted.application.twist._twist import Twist; Twist.main()",
    "relayd": "from relayd.__main__ import main; main()",
}
ONE_AFTER_THE_OTHER = """
import contextlib, io, json, sys
given, results = json.loads(sys.argv[1]), []
for words in given["lines"]:
    sys.argv[:] = words
    code, output, errors = None, io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            exec(given["scripts"][words[0]], {})
        except SystemExit as end:
            code = end.code or 0
    results.append((code, output.getvalue(), errors.getvalue()))
print(json.dumps(results))
"""


class ProcessCase(SynchronousTestCase):
    """Runs twistd and twist as a person would, in a directory of its own and without any RELAYD_ variable."""

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.directory)
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith("RELAYD_")}
        self.environ.update(PYTHONPATH=str(ROOT), COLUMNS="100", PYTHONDONTWRITEBYTECODE="1")
        key = self.directory / "key"
        key.touch(mode=0o600)
        key.write_text("k" * 40 + "\n")
        self.usual = {
            "RELAYD_SERVER": "ws://127.0.0.1:9",
            "RELAYD_PROXY_ID": "proxy-1",
            "RELAYD_API_KEY_FILE": str(key),
            "RELAYD_STATE_DIR": str(self.directory / "state"),
        }

    def command(self, *words: str) -> list[str]:
        """As the console scripts do, wherever those are; test_packaging.py runs them themselves."""
        return [sys.executable, "-c", f"import sys; sys.argv[0] = {words[0]!r}; {SCRIPTS[words[0]]}", *words[1:]]

    def run_all(self, *lines: tuple[str, ...], **environ: str) -> list[tuple[int, str, str]]:
        """
        Run command lines that end with their options, one after the other in one process.

        :return: of each its exit code, output and errors.
        """
        given = json.dumps({"lines": lines, "scripts": SCRIPTS})
        env = self.environ | environ
        words = [sys.executable, "-c", ONE_AFTER_THE_OTHER, given]
        done = subprocess.run(
            words, cwd=self.directory, env=env, capture_output=True, text=True, check=True, timeout=PATIENCE
        )
        return [(code, output, errors) for code, output, errors in json.loads(done.stdout)]

    def run_it(self, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words),
            cwd=self.directory,
            env=self.environ | environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )


class HelpTests(ProcessCase):
    """What a person sees first."""

    def test_twistd_help_imports_nothing_of_relayd(self) -> None:
        self.environ["PYTHONPROFILEIMPORTTIME"] = "1"
        done = self.run_it("twistd", "--help")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("relayd", done.stdout)
        self.assertIn("Run a main server's commands", done.stdout)
        imported = [line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import")]
        self.assertIn("twisted.plugin", imported)  # the list is one
        self.assertEqual([name for name in imported if name.partition(".")[0] == "relayd"], [])

    def test_help_and_version(self) -> None:
        service = ("relayd", "--help")
        versions = (("twistd", "relayd", "--version"), ("relayd", "--version"))
        *helps, own, version, own_version = self.run_all(("twistd", *service), ("twist", *service), service, *versions)
        for code, printed, errors in helps:
            self.assertEqual(code, 0, errors)
            for option in OPTIONS:
                self.assertIn(option.flag_name, printed)
            self.assertIn("commands that may run at the same time [64]", printed)
            self.assertIn("SSH hosts:\n", printed)
        self.assertEqual([version, own_version], [(0, f"relayd {__version__}\n", "")] * 2)
        self.assertEqual((own[0], own[2]), (0, ""))
        usage = "Usage: relayd --server URL --proxy-id NAME --api-key-file PATH [options]\n"
        self.assertTrue(own[1].startswith(usage), own[1])
        self.assertNotIn("twistd", own[1])
        self.assertIn("commands that may run at the same time [64]", own[1])

    def test_help_fits_the_screen(self) -> None:
        for width in (60, 80, 120):
            self.assertLessEqual(max(map(len, Options().getUsage(width).splitlines())), width)

    def test_help_that_nobody_reads_to_its_end(self) -> None:
        read, write = os.pipe()
        os.close(read)
        self.addCleanup(os.close, write)
        code = "from relayd.__main__ import main; main()"
        for word in ("--help", "--version"):
            done = subprocess.run(
                [sys.executable, "-c", code, word], stdout=write, stderr=subprocess.PIPE, check=False, timeout=60
            )
            self.assertEqual((done.returncode, done.stderr), (128 + signal.SIGPIPE, b""))


class MistakeTests(ProcessCase):
    """A mistake is one line on standard error, and an exit status of its own."""

    def line_of(self, code: int, output: str, errors: str) -> str:
        """The one that was said."""
        self.assertEqual(code, MISTAKES, output + errors)
        self.assertEqual(output, "")
        self.assertTrue(errors.startswith("relayd: "), errors)
        self.assertEqual(errors.strip().count("\n"), 0, errors)
        return errors.strip()

    def test_options(self) -> None:
        programs = (("twistd", "relayd"), ("twist", "relayd"), ("relayd",))
        for done in self.run_all(*programs):
            self.assertIn("--server, --proxy-id and --api-key-file: missing; give", self.line_of(*done))
        wrong = [(*program, "--max-commands", "0") for program in programs]
        own, *others = self.run_all(("relayd", "--nodaemon"), *wrong, **self.usual)
        expected = "relayd: --nodaemon: is an option of twistd; the command relayd has none of those"
        self.assertEqual(self.line_of(*own), expected)
        expected = 'relayd: --max-commands: expected a whole number from 1 to 1000000, not "0"'
        self.assertEqual([self.line_of(*done) for done in others], [expected] * 3)

    def test_the_tac_file(self) -> None:
        done = self.run_it("twistd", "-n", "-y", str(ROOT / "relayd.tac"), **(self.usual | {"RELAYD_SERVER": "x"}))
        line = self.line_of(done.returncode, done.stdout, done.stderr)
        self.assertIn("RELAYD_SERVER in the environment: expected a URL", line)

    def test_a_state_directory_that_cannot_be_made(self) -> None:
        """
        It is seen only at the start, after twistd has begun to log; one line all the same. To start again may help, so
        the exit status is another one.
        """
        wrong = self.usual | {"RELAYD_STATE_DIR": "/proc/relayd-test"}
        for program in (["twistd", "-n", "--pidfile="], ["twist"]):
            done = self.run_it(*program, "relayd", **wrong)
            text = done.stdout + done.stderr
            self.assertEqual(done.returncode, 1, text)
            self.assertEqual(text.count("relayd: --state-dir: "), 1, text)
            self.assertIn("cannot be used: No such file or directory", text)
            self.assertNotIn("Traceback", text)


class OptionsTests(SynchronousTestCase):
    """The command line itself, without a process."""

    def refused(self, *arguments: str) -> str:
        self.patch(sys, "stderr", said := io.StringIO())
        end = self.assertRaises(SystemExit, Options().parseOptions, arguments)
        self.assertEqual(end.code, MISTAKES)
        return said.getvalue().removesuffix("\n")

    def test_the_beginning_of_a_name_is_not_enough(self) -> None:
        """getopt would take the first for --api-key-file, and tell the key in its message."""
        for arguments in (("--api-key", "s3cret"), ("--api-key=s3cret",), ("--allow-weak-key", "--api-key=s3cret")):
            message = self.refused(*arguments)
            self.assertEqual(message, "relayd: --api-key: no such option; did you mean --api-key-file?")

    def test_the_journal_of_systemd_gets_them_as_errors(self) -> None:
        path = self.mktemp()
        with open(path, "w") as file:
            status = os.fstat(file.fileno())
            self.patch(sys, "stderr", file)
            stream = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
            self.patch(os, "environ", {**os.environ, **stream})
            self.assertRaises(SystemExit, Options().parseOptions, ["--max-commands", "0", "--max-queue", "x"])
        with open(path) as file:
            self.assertEqual([line[:19] for line in file], ["<3>relayd: --max-co", "<3>relayd: --max-qu"])

    def test_a_value_may_look_like_an_option(self) -> None:
        self.assertIn(
            '--max-queue: expected a whole number from 0 to 1000000, not "--x"', self.refused("--max-queue", "--x")
        )

    def test_a_stray_word(self) -> None:
        self.assertEqual(self.refused("s3cret"), "relayd: expected options only; see --help")
        self.assertEqual(self.refused("--", "s3cret"), "relayd: expected options only; see --help")

    def test_a_value_is_missing(self) -> None:
        self.assertIn("--server", self.refused("--server"))

    def test_short_options(self) -> None:
        self.assertNotIn("s3cret", self.refused("-x", "s3cret"))
        self.assertEqual(self.refused("-ps3cret"), "relayd: -p: no such option; see --help")
        for argument in ("-n", "-nodaemon", "-l/var/log/relayd"):
            self.assertIn("is an option of twistd; put it before the word relayd", self.refused(argument))

    def test_one_hyphen(self) -> None:
        expected = "relayd: -server: no such option; did you mean --server?"
        for arguments in (("-server", "wss://main.example"), ("-server=wss://main.example",)):
            self.assertEqual(self.refused(*arguments), expected)
        self.assertEqual(self.refused("-"), "relayd: expected options only; see --help")

    def test_several_values(self) -> None:
        """Twisted alone would keep the last of them."""
        said = self.refused("--label", "a=1", "--label=b", "--max-queue", "1", "--max-queue", "x")
        self.assertIn("--label: expected labels like site=berlin: a key of up to 63 letters", said)
        self.assertIn('not "b"', said)
        self.assertIn('--max-queue: expected a whole number from 0 to 1000000, not "x"', said)
        key = self.mktemp()
        with open(key, "w") as file:
            file.write("k" * 40)
        options = Options()
        needed = ["--server", "wss://a.example", "--proxy-id", "p", "--api-key-file", key]
        options.parseOptions([*needed, "--label", "a=1", "--label=b=2,c=3"])
        self.assertEqual(options.config.label, ("a=1", "b=2", "c=3"))

    def test_the_table_is_all_there_is(self) -> None:
        options = Options()
        self.assertIsInstance(options, usage.Options)
        self.assertEqual(set(options), {option.name for option in OPTIONS})


class RunTests(ProcessCase):
    """A process from start to end, with no main server to be found."""

    def run_until(self, sign: str, numbers: list[signal.Signals], *words: str) -> tuple[int, str]:
        """
        Start *words*; once it has printed *sign*, which the reactor must be running for, send it the signals.

        :return: exit code, and all that it printed.
        """
        process = subprocess.Popen(
            self.command(*words),
            cwd=self.directory,
            env=self.environ | self.usual,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        alarm = signal.signal(signal.SIGALRM, lambda *_: process.kill())
        signal.alarm(PATIENCE)
        try:
            assert process.stdout is not None
            printed = ""
            for line in process.stdout:
                printed += line
                if sign in line:
                    for number in numbers:
                        process.send_signal(number)
                    break
            printed += process.stdout.read()
            return process.wait(), printed
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, alarm)
            process.stdout.close()

    def check(self, *words: str, numbers: tuple[signal.Signals, ...] = (signal.SIGTERM, signal.SIGINT)) -> str:
        for number in numbers:
            code, printed = self.run_until("Next attempt in", [number], *words)
            self.assertEqual(code, 0, printed)
            self.assertIn("relayd has stopped", printed)
            self.assertNotIn("Traceback", printed)
            self.assertNotIn("k" * 40, printed)
        return printed

    def test_twistd(self) -> None:
        self.check("twistd", "-n", "relayd")
        self.assertTrue((self.directory / "state").is_dir())

    def test_twist(self) -> None:
        self.check("twist", "--log-format=text", "relayd")

    def test_the_command(self) -> None:
        """It leaves no file but its state: it has no use for twistd's."""
        self.assertIn("relayd 0.", self.check("relayd", "--max-commands", "7"))
        self.assertEqual({path.name for path in self.directory.iterdir()}, {"key", "state"})

    def test_tac(self) -> None:
        self.check("twistd", "-n", "-o", "-y", str(ROOT / "relayd.tac"), numbers=(signal.SIGTERM,))

    def test_relative_paths_mean_where_it_was_started(self) -> None:
        """twistd changes to --rundir after the options were read, and before the service starts."""
        self.usual["RELAYD_STATE_DIR"] = "relative-state"
        elsewhere = self.directory / "elsewhere"
        elsewhere.mkdir()
        self.check("twistd", "-n", "--rundir", str(elsewhere), "relayd", numbers=(signal.SIGINT,))
        self.assertTrue((self.directory / "relative-state").is_dir())
        self.assertFalse((elsewhere / "relative-state").exists())


class OrderlyExitTests(SynchronousTestCase):
    """The handlers of SIGTERM and SIGINT."""

    def setUp(self) -> None:
        self.reactor = StoppableReactor()
        self.before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        self.addCleanup(self.restore)
        signal.signal(signal.SIGTERM, self.reactor.sigTerm)
        signal.signal(signal.SIGINT, self.reactor.sigInt)
        self.service = OrderlyExit(self.reactor, lambda name: None)
        self.service.startService()

    def restore(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def test_a_signal_stops_the_reactor_and_the_next_one_ends_the_process(self) -> None:
        signal.raise_signal(signal.SIGTERM)
        self.assertEqual((self.reactor.stops, self.reactor.own), (1, 0))
        self.assertEqual(signal.getsignal(signal.SIGTERM), signal.SIG_DFL)
        self.assertEqual(signal.getsignal(signal.SIGINT), signal.SIG_DFL)
        self.service.stopService()  # which is what stopping the reactor leads to, and must not undo it
        self.assertEqual(signal.getsignal(signal.SIGTERM), signal.SIG_DFL)

    def test_without_a_signal_it_leaves_no_trace(self) -> None:
        self.service.stopService()
        self.assertEqual(signal.getsignal(signal.SIGTERM), self.reactor.sigTerm)
        self.assertEqual(signal.getsignal(signal.SIGINT), self.reactor.sigInt)

    def test_a_handler_of_somebody_else_stays(self) -> None:
        self.service.stopService()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self.service.startService()
        self.assertEqual(signal.getsignal(signal.SIGTERM), signal.SIG_IGN)

    def test_stopped_before_the_reactor_ran(self) -> None:
        self.service.stopService()
        reactor = StoppableReactor(running=False)
        signal.signal(signal.SIGTERM, reactor.sigTerm)
        service = OrderlyExit(reactor, lambda name: None)
        service.startService()
        service.stopService()
        for call in reactor.waiting:
            call()
        self.assertEqual(signal.getsignal(signal.SIGTERM), reactor.sigTerm)


class StoppableReactor(MemoryReactorClock):
    """A reactor that counts how it is asked to stop."""

    def __init__(self, running: bool = True) -> None:
        super().__init__()
        self.is_running = running
        self.stops = 0
        self.own = 0
        self.waiting: list = []  # type: ignore[type-arg]

    def callWhenRunning(self, call, *args):  # type: ignore[no-untyped-def]
        if self.is_running:
            call(*args)
        else:
            self.waiting.append(call)

    def callFromThread(self, call, *args):  # type: ignore[no-untyped-def]
        call(*args)

    def stop(self) -> None:
        self.stops += 1

    def sigTerm(self, number: int, frame: object) -> None:
        self.own += 1

    def sigInt(self, number: int, frame: object) -> None:
        self.own += 1


class MakeServiceTests(ProcessCase):
    """`makeService` in this process."""

    def test_it_says_what_others_can_see(self) -> None:
        """In the log, at each start."""
        proxy = {"RELAYD_HTTP_PROXY": "http://user:s3cret@proxy:1", "RELAYD_SERVER": "wss://main.example"}
        self.patch(os, "environ", self.environ | self.usual | proxy)
        self.patch(reactor, "seconds", reactor.seconds)
        options = Options()
        options.parseOptions([])
        with capturedLogs() as events:
            makeService(options)
        said = [formatEvent(event) for event in events if event["log_level"] is LogLevel.warn]
        self.assertEqual(len(said), 1, said)
        self.assertTrue(said[0].startswith("RELAYD_HTTP_PROXY in the environment holds the proxy's password"), said)
        self.assertNotIn("s3cret", said[0])

    def test_it_holds_the_relay(self) -> None:
        self.patch(os, "environ", self.environ | self.usual)
        self.patch(reactor, "seconds", reactor.seconds)
        options = Options()
        options.parseOptions([])
        service = makeService(options)
        self.assertEqual(service.getServiceNamed("relay").running, 0)
