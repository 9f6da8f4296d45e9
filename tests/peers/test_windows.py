"""
Commands for cmd.exe on a real sshd that gives them to Wine's, as OpenSSH for Windows gives them to Microsoft's.

Wine's differs: it reads the value of a variable once more, so no text here has two exclamation marks or percent signs
around a name where that would show.
"""

from __future__ import annotations

from collections.abc import Iterator
from subprocess import CompletedProcess
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import succeed
from twisted.trial.unittest import TestCase

from relayd.errors import HostFailure
from relayd.network.host_rules import HostRule, HostSettings, HostTable, Shell
from relayd.ssh.shells import cmd
from relayd.ssh.shells.prepared import Order
from relayd.ssh_runner import SSHCommandRunner
from relayd.wire.messages import CommandResult
from tests.support.sshd import OpenSSHServer
from tests.support.wine import CRASHED, CrashGuard, ensure_wine, is_there, run_in_wine
from tests.test_ssh_runner import RunnerTestCase

#: Values that would be code, or something else, if anything read them so.
HOSTILE = (
    "a&echo no", "a|more", "a>c:\\no", "a<nul", 'a"&echo no&"', '"', '""', "^", "^^", "a^&b", "(", ")", ")&echo no&(",
    "100%", "%", "%%", "!", "a!b", "a b ", " a", "'", "`", ";", ",", "=", "~", "*", "?", "\t", "\\", "a\\", "/", ":",
    "@", "é 日本 \U0001f41f", "rem", "%1", "%~dp0", "%a", "&&", "||", "^\"", "\"^", "\\\"", "&", "|", "<", ">",
)  # fmt: skip
VALUES = st.text(
    st.sampled_from("\"%^&|<>()=,;`'*?~@ \t:/\\aé日")
    | st.characters(exclude_categories=("C", "Z"), exclude_characters="!"),
    min_size=1,
    max_size=12,
).filter(lambda value: value.count("%") < 2)


class WineTestCase(RunnerTestCase):
    """One sshd, whose commands go to Wine."""

    def setUp(self) -> None:
        super().setUp()
        self.guard = CrashGuard()

    async def start(self, *more: str, shell: Shell | None = "cmd") -> tuple[OpenSSHServer, SSHCommandRunner]:
        server = await self.start_server(*ensure_wine(), *more)
        rule = HostRule(hosts=("*",), settings=HostSettings(shell=shell))
        return server, self.make_runner(hosts=HostTable((rule,)))

    async def run_there(
        self, server: OpenSSHServer, runner: SSHCommandRunner, text: str, **fields: Any
    ) -> tuple[CommandResult, str | None]:
        """What came of *text*, and the code of its error."""
        result = await self.guard.result_of(lambda: self.order(runner, server, text, extended=True, **fields))
        error = result.to_wire()["result"].get("error")
        return result, None if error is None else error["code"]


class CrashTests(TestCase):
    """Wine's process that crashes as it ends is no fault of the relay; one that always does so is seen."""

    def answers(self, *crashes: bool) -> Iterator[CommandResult]:
        for number, crash in enumerate(crashes):
            stderr, exit_code = (f"{CRASHED}: 256: _dl_fini: Assertion failed!", 127) if crash else ("", 0)
            yield CommandResult(command_id=f"c{number}", stdout="out", stderr=stderr, exit_code=exit_code)

    async def test_a_crash(self) -> None:
        """The command is run once more, twice in a test at most."""
        guard = CrashGuard()
        for crashes, expected in (
            ((False, True), "c0"), ((True, False, True), "c1"), ((True, False), "c1"), ((True, False), "c0"),
        ):  # fmt: skip
            answers = self.answers(*crashes)
            result = await guard.result_of(lambda answers=answers: succeed(next(answers)))  # type: ignore[misc]
            self.assertEqual(result.command_id, expected)

    def test_a_crash_without_a_server(self) -> None:
        codes = iter((127, 0))
        done = CrashGuard().output_of(
            lambda: CompletedProcess([], code := next(codes), b"", CRASHED.encode() if code else b"")
        )
        self.assertEqual(done.returncode, 0)


class CmdTests(WineTestCase):
    """What a command gets, and what comes of it."""

    async def test_output_and_status(self) -> None:
        server, runner = await self.start()
        for text, expected in (
            ("echo out& echo err>&2& exit 7", ("out", "err", 7)),
            ('echo "a&b" c^&d', ('"a&b" c&d', "", 0)),
            ("echo %OS% 100% !x", ("Windows_NT 100% !x", "", 0)),
            ("echo é日本", ("é日本", "", 0)),
            ("for %i in (1 2) do @echo %i", ("1\r\n2", "", 0)),
            ("echo one\r\n", ("one", "", 0)),
        ):
            result, error = await self.run_there(server, runner, text)
            self.assertEqual((result.stdout, result.stderr, result.exit_code, error), (*expected, None), text)

    async def test_directory(self) -> None:
        server, runner = await self.start()
        for cwd, expected in (
            ("c:/windows/system32", "C:\\windows\\system32"), ("C:\\Program Files", "C:\\Program Files"),
        ):  # fmt: skip
            result, error = await self.run_there(server, runner, "cd", cwd=cwd)
            self.assertEqual((result.stdout.lower(), result.exit_code, error), (expected.lower(), 0, None))
        made, _ = await self.run_there(server, runner, 'mkdir "a & b (100%) ^ é"& cd', cwd="~")
        result, _ = await self.run_there(server, runner, "cd", cwd="~/a & b (100%) ^ é")
        self.assertEqual(result.stdout, f"{made.stdout}\\a & b (100%) ^ é")

    async def test_directory_that_is_not_there(self) -> None:
        """Nothing is run."""
        server, runner = await self.start()
        for cwd in ("Q:\\x", "C:\\a & (echo no) > no", "~nobody/x"):
            result, error = await self.run_there(server, runner, "echo no", cwd=cwd, env=(("A", "1"),))
            self.assertEqual((result.stdout, result.exit_code, error), ("", 1, "directory-unusable"), cwd)
            self.assertTrue(result.stderr.partition("\n")[2], cwd)

    async def test_variables(self) -> None:
        """All of them at once, as they are."""
        server, runner = await self.start()
        env = tuple((f"V{number:03}", value) for number, value in enumerate(HOSTILE))
        result, error = await self.run_there(server, runner, "set V", env=env, cwd="C:\\")
        self.assertEqual(error, None)
        self.assertEqual(result.stdout.split("\r\n"), [f"{name}={value}" for name, value in env])

    async def test_variables_are_there_for_the_command(self) -> None:
        server, runner = await self.start()
        env = (("A", "a b"), ("_1", "one"), ("EMPTY", ""), ("ComSpec", "C:\\no.exe"))
        result, error = await self.run_there(server, runner, "echo %A% %_1% [%relayd%]& set EMPTY", env=env)
        self.assertEqual((result.stdout, error), ("a b one [%relayd%]", None))

    async def test_standard_input(self) -> None:
        server, runner = await self.start()
        result, error = await self.run_there(server, runner, 'find "x"', stdin=b"ax\r\nb\r\nxc\r\n", cwd="C:\\")
        self.assertEqual((result.stdout, error), ("ax\r\nxc", None))

    async def test_what_it_cannot_be_given(self) -> None:
        server, runner = await self.start()
        cases: tuple[tuple[str, dict[str, Any], str], ...] = (
            ("echo a\necho b", {}, "unfit-for-shell"),
            ("echo a", {"env": (("A", "1\n2"),)}, "unfit-for-shell"),
            ("rem " + "x" * 9000, {}, "command-too-long"),
        )
        for text, fields, code in cases:
            error = await self.error_of(self.order(runner, server, text, **fields), HostFailure)
            self.assertEqual((error.code, error.executed), (code, "no"))

    async def test_longest(self) -> None:
        server, runner = await self.start()
        result, _ = await self.run_there(server, runner, "echo " + "x" * 7000)
        self.assertEqual(len(result.stdout), 7000)


class FoundTests(WineTestCase):
    """The site says nothing of the host."""

    async def test_by_its_version(self) -> None:
        server, runner = await self.start("VersionAddendum for_Windows", shell=None)
        for _ in range(2):
            result, error = await self.run_there(server, runner, "cd& echo %A%", cwd="C:\\windows", env=(("A", "x"),))
            self.assertEqual((result.stdout.lower(), error), ("c:\\windows\r\nx", None))

    async def test_without_a_sign(self) -> None:
        """cmd.exe cannot read what is for POSIX shells, and runs none of it."""
        server, runner = await self.start(shell=None)
        result, error = await self.run_there(server, runner, "echo no", cwd="/windows")
        self.assertNotIn("no", result.stdout.split())
        self.assertEqual(error, "shell-unsuitable")

    async def test_text_as_it_is(self) -> None:
        server, runner = await self.start(shell="none")
        result, error = await self.run_there(server, runner, "echo %OS%& exit 4")
        self.assertEqual((result.stdout, result.exit_code, error), ("Windows_NT", 4, None))


class ValueTests(RunnerTestCase):
    """Any value, in the real cmd.exe of Wine, without a server in between."""

    @settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(VALUES, min_size=1, max_size=8))
    def test_variables(self, values: list[str]) -> None:
        ensure_wine()
        env = tuple((f"V{number}", value) for number, value in enumerate(values))
        made = cmd.prepare(Order(command="set V", env=env, cwd="C:\\"), "win.example", 22)
        done = CrashGuard().output_of(lambda: run_in_wine(made.text.decode()))
        assert made.progress is not None
        output = made.progress.feed(done.stdout)
        self.assertIsNone(made.progress.missing, done)
        self.assertEqual(output.decode().split("\r\n")[:-1], [f"{name}={value}" for name, value in env])


if not is_there():
    # tests/bootstrap.sh says so where Wine is not to be had.
    del CmdTests, FoundTests, ValueTests
