"""
Hosts of Windows, in memory: which shell they have, what they are sent, and how their commands are ended.
"""

from __future__ import annotations

import re
import tempfile
from base64 import b64decode
from pathlib import Path
from typing import Any, cast

from msgspec import structs
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase

from relayd.network.host_rules import HostRule, HostSettings, HostTable, Shell
from relayd.ssh.channels.connection import ClientConnection
from relayd.ssh.ending.windows import parse_answer, script
from relayd.ssh.pool.jobs import Job
from relayd.ssh.pool.pool import Pool
from relayd.ssh.settings import SSHSettings
from relayd.ssh.shells.windows import WindowsShells, answer, question
from relayd.ssh.target import Credential, Target
from relayd.ssh.testing import MemoryHost, MemoryNetwork, Misbehaviour, Reply
from relayd.ssh_runner import SSHCommandRunner
from relayd.ssh_texts import RunnerSettings
from relayd.wire.messages import CommandResult, ExecuteCommand, Secret
from tests.support.dispatching import at_once

VERSION = "OpenSSH_for_Windows_9.5"
NONCE = "0123456789abcdef"
HOME = b"C:\\Windows\\System32\\WindowsPowerShell\\v1.0"


class AnswerTests(SynchronousTestCase):
    """What shells make of the question, by their rules; Wine's cmd.exe is asked in `tests.peers.test_windows`."""

    def test_answers(self) -> None:
        for said, expected in (
            (b"relayd:%s:C:\\Windows\\system32\\cmd.exe:$PSHOME:\r\n", "cmd"),
            (b"relayd:%s:C:\\WINDOWS\\System32\\CMD.EXE:$PSHOME:\r\n", "cmd"),
            (b"Welcome\r\nrelayd:%s:C:\\Windows\\system32\\cmd.exe:$PSHOME:\r\n", "cmd"),
            (b"relayd:%s:%ComSpec%:" + HOME + b":\r\n", "powershell"),
            (b"relayd:%s:%ComSpec%:c:\\program files\\powershell\\7:\r\n", "powershell"),
            (b"relayd:%s:%ComSpec%::\n", None),  # a POSIX shell
            (b"relayd:%s:%ComSpec%:$PSHOME:\n", None),  # a device that repeats what it is told
            (b"> echo relayd:%s:%ComSpec%:$PSHOME:\r\n% Invalid input\r\n", None),
            (b"", None),
        ):
            self.assertEqual(answer(NONCE, said.replace(b"%s", NONCE.encode())), expected, said)
        self.assertIsNone(answer("f" * 16, b"relayd:%s:x\\cmd.exe:$PSHOME:\r\n" % NONCE.encode()))

    def test_question_changes_nothing(self) -> None:
        self.assertTrue(re.fullmatch(rb"echo [A-Za-z0-9:%$]+", question(NONCE)))


class KillScriptTests(SynchronousTestCase):
    """What is known of the processes of a command, by the answer of PowerShell."""

    def test_answers(self) -> None:
        for said, killed in (
            (b"relayd:%s 3 0\n", "confirmed"),
            (b"noise\r\nrelayd:%s 3 0\r\n", "confirmed"),
            (b"relayd:%s 3 1\n", "unconfirmed"),
            (b"relayd:%s 0 0\n", "unconfirmed"),  # it found nothing, so nothing is known
            (b"relayd:%s\n", "unsupported"),
            (b"'powershell' is not recognized\r\n", "unsupported"),
            (b"relayd:fedc 3 0\n", "unsupported"),
        ):
            self.assertEqual(parse_answer(said.replace(b"%s", NONCE.encode()), NONCE), killed, said)

    def test_only_our_own_needle_is_in_it(self) -> None:
        self.assertIn("Contains('abc+/9')", script("abc+/9", NONCE))
        for needle in ("a'b", "", "a b", "$x"):
            self.assertRaises(ValueError, script, needle, NONCE)


class WindowsCase(TestCase):
    """A host of Windows in memory, which runs commands as its shell would."""

    timeout = 60
    shell = "cmd"
    version = VERSION

    def setUp(self) -> None:
        self.clock = Clock()
        self.network = MemoryNetwork(reactor, self.clock)
        self.host = self.network.add(MemoryHost("win.example", run=self.run_text, version=self.version))
        self.kills = b"%s 2 0"
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.known_hosts = Path(directory.name) / "known_hosts"

    def run_text(self, text: bytes) -> Reply:
        asked = re.fullmatch(rb"echo relayd:([0-9a-f]+):%ComSpec%:\$PSHOME:", text)
        if asked is not None:
            said = {
                "cmd": b"C:\\Windows\\system32\\cmd.exe:$PSHOME",
                "powershell": b"%ComSpec%:" + HOME,
                "bash": b"%ComSpec%:",
            }[self.shell]
            return Reply(stdout=b"relayd:%s:%s:\r\n" % (asked[1], said))
        if b"-EncodedCommand" in text:
            return self.run_script(b64decode(text.partition(b"\n")[0].rpartition(b" ")[2]).decode("utf-16-le"))
        if b"%ComSpec%" in text and self.shell == "cmd":
            nonces = re.findall(rb"echo relayd:\^\^([0-9a-f]+)", text)
            marks = b"".join(b"relayd:%s\r\n" % nonce for nonce in nonces)
            return Reply(stdout=marks + b"done\r\n", exit_code=3, after=100.0 if b"sleep" in text else 0.0)
        return Reply(stderr=b"cannot read this", exit_code=1)

    def run_script(self, text: str) -> Reply:
        killer = re.search(r"'relayd:'\+'([0-9a-f]{32}) '", text)
        if killer is not None:
            return Reply(stdout=b"relayd:" + self.kills.replace(b"%s", killer[1].encode()) + b"\n", after=0.5)
        tells = re.findall(r"'relayd:'\+'([0-9a-f]{16})'", text)
        slow = "c2xlZX" in text  # sleep, in base64
        marks = "".join(f"relayd:{nonce}\n" for nonce in tells)
        return Reply(stdout=marks.encode() + b"done\r\n", exit_code=3, after=100.0 if slow else 0.0)

    def make_runner(self, shell: Shell | None = None, **more: Any) -> SSHCommandRunner:
        table = HostTable((HostRule(hosts=("*",), settings=HostSettings(shell=shell, **more)),))
        runner = SSHCommandRunner(
            self.network, SSHSettings(known_hosts=str(self.known_hosts)), RunnerSettings(hosts=table)
        )
        self.addCleanup(lambda: self.passing(runner.close()))
        return runner

    def start(
        self, runner: SSHCommandRunner, text: str, timeout: float = 30.0, grace: float | None = None, **fields: Any
    ) -> Deferred[Any]:
        command = ExecuteCommand(
            command_id="c1", server_id=7, host="win.example", port=22, username="user", password=Secret("password"),
            command=text, extended=True, **fields,
        )  # fmt: skip
        refused = runner.refuses(command)
        if refused is not None:
            self.refused = refused
        return runner.run_command(command, self.clock.seconds() + timeout, at_once, grace=grace)

    async def order(self, runner: SSHCommandRunner, text: str, **fields: Any) -> CommandResult:
        result: CommandResult = await self.passing(self.start(runner, text, **fields))
        return result

    async def passing(self, running: Deferred[Any]) -> Any:
        """Pass the time until *running* has fired."""
        while not running.called:
            await deferLater(reactor, 0.002)
            self.clock.advance(0.02)
        return await running

    @property
    def sent(self) -> list[bytes]:
        """What the host was asked to run."""
        return [each.command for each in self.host.received]

    def questions(self) -> int:
        return sum(text.startswith(b"echo relayd:") for text in self.sent)


class FoundTests(WindowsCase):
    """The site says nothing of the host; its version does."""

    async def test_cmd(self) -> None:
        result = await self.order(self.make_runner(), "dir", cwd="C:\\x", env=(("A", "1"),))
        self.assertEqual((result.stdout, result.exit_code, self.questions()), ("done", 3, 1))
        self.assertIn(b"%ComSpec% /d", self.sent[1])
        # The working directory for POSIX hosts is not one there.
        self.assertNotIn(b'cd /d ^"/', self.sent[1])

    async def test_powershell(self) -> None:
        self.shell = "powershell"
        result = await self.order(self.make_runner(), "Get-Date", stdin=b"in")
        self.assertEqual((result.stdout, result.exit_code, self.questions()), ("done", 3, 1))
        self.assertTrue(self.sent[1].startswith(b"powershell -NoProfile "))
        self.assertTrue(self.sent[1].endswith(b"\nexit $LASTEXITCODE"))
        self.assertEqual(self.host.received[1].stdin, b"in")

    async def test_another_shell_gets_what_it_got_before(self) -> None:
        self.shell = "bash"
        await self.order(self.make_runner(), "dir")
        self.assertEqual(self.sent[1:], [b"cd / ; dir"])

    async def test_asked_once(self) -> None:
        """For all commands that wait for it, and those that follow."""
        runner = self.make_runner()
        results = await self.passing(gatherResults([self.start(runner, "dir") for _ in range(5)]))
        await self.order(runner, "dir")
        self.assertEqual(([result.exit_code for result in results], self.questions()), ([3] * 5, 1))

    async def test_asked_again_when_the_answer_was_wrong(self) -> None:
        """The administrator has chosen another shell since: nothing ran, and the next command asks."""
        runner = self.make_runner()
        await self.order(runner, "dir")
        self.shell = "bash"
        result = await self.order(runner, "dir")
        self.assertEqual(result.to_wire()["result"]["error"]["code"], "shell-unsuitable")
        await self.order(runner, "dir")
        self.assertEqual((self.questions(), self.sent[-1]), (2, b"cd / ; dir"))

    async def test_what_the_shell_cannot_be_given(self) -> None:
        result = self.start(self.make_runner(), "dir\ndir")
        error = await self.passing(result.addErrback(lambda failure: failure.value))
        self.assertEqual((error.code, error.executed, len(self.sent)), ("unfit-for-shell", "no", 1))

    async def test_host_that_does_not_answer(self) -> None:
        self.host.misbehaviour = Misbehaviour.NEVER_ENDS
        running = self.start(self.make_runner(), "dir", timeout=3.0)
        error = await self.passing(running.addErrback(lambda failure: failure.value))
        self.assertEqual((error.code, error.executed), ("timeout", "no"))
        self.assertIn("which shell", str(error))
        self.assertEqual((len(self.sent), self.questions()), (1, 1))


class WhereTests(SynchronousTestCase):
    """What is known of hosts, and asked, where a private address stands for several of them."""

    def test_behind_different_jump_hosts(self) -> None:
        """Each is asked: none waits for the answer of another one, or gets what is for that."""
        pool = _AskedPool()
        shells = WindowsShells(cast(Pool, pool))
        jumps = [Target(name, 22, "jump", Credential()) for name in ("one.example", "two.example")]
        targets = [Target("10.0.0.5", 22, "user", Credential(), via=via) for via in (*jumps, None)]
        for number, target in enumerate(targets):
            self.assertFalse(shells.asking(target))
            shells.find(target, cast(ClientConnection, None)).addErrback(lambda _: None)
            self.assertEqual((shells.asking(target), len(pool.jobs)), (True, number + 1))
        pool.jobs[0].channel.ended()
        self.assertEqual([shells.asking(target) for target in targets], [False, True, True])
        other_user = structs.replace(targets[0], username="other")
        self.successResultOf(shells.find(other_user, cast(ClientConnection, None)))


class _AskedPool:
    """Keeps what is submitted."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def submit(self, job: Job, near: object) -> None:
        self.jobs.append(job)


class SaidTests(WindowsCase):
    """The site says which shell a host has."""

    version = ""

    async def test_nothing_is_asked(self) -> None:
        starts: dict[Shell, bytes] = {"cmd": b"%SystemRoot%", "powershell": b"powershell "}
        for shell, start in starts.items():
            self.host.received.clear()
            result = await self.order(self.make_runner(shell), "dir")
            self.assertEqual((result.stdout, result.exit_code, len(self.sent)), ("done", 3, 1))
            self.assertTrue(self.sent[0].startswith(start))

    async def test_without_a_sign_all_is_as_before(self) -> None:
        await self.order(self.make_runner(), "dir")
        self.assertEqual(self.sent, [b"cd / ; dir"])

    async def test_directory_of_the_table(self) -> None:
        await self.order(self.make_runner("cmd", working_directory="D:\\data"), "dir")
        self.assertIn(b'cd /d ^"D:\\data^"', self.sent[0])

    async def test_none(self) -> None:
        runner = self.make_runner("none")
        await self.order(runner, "show version")
        self.assertEqual(self.sent, [b"show version"])
        for fields in ({"cwd": "/x"}, {"env": (("A", "1"),)}):
            running = self.start(runner, "show version", **fields)
            error = await self.passing(running.addErrback(lambda failure: failure.value))
            self.assertEqual((error.code, error.executed, self.refused.code), ("no-shell", "no", "no-shell"))
        self.assertEqual(len(self.sent), 1)

    async def test_refused_before_it_is_accepted(self) -> None:
        running = self.start(self.make_runner("cmd"), "dir\ndir")
        error = await self.passing(running.addErrback(lambda failure: failure.value))
        self.assertEqual((error.code, self.refused.code, self.sent), ("unfit-for-shell", "unfit-for-shell", []))


class PosixOnWindowsTests(WindowsCase):
    """OpenSSH for Windows with a POSIX shell, as the site says."""

    async def test_nothing_is_asked(self) -> None:
        await self.order(self.make_runner("posix"), "ls")
        self.assertEqual(self.sent, [b"cd / ; ls"])


class EndingTests(WindowsCase):
    """Commands that run out of time."""

    async def killed(self, shell: Shell, **fields: Any) -> str:
        result = await self.order(self.make_runner(shell), "sleep", timeout=5.0, grace=5.0, **fields)
        wire = result.to_wire()["result"]
        self.assertEqual((wire["error"]["code"], wire["stdout"]), ("timeout", "done"))
        killed: str = wire["killed"]
        return killed

    async def test_processes_are_ended(self) -> None:
        shells: tuple[Shell, ...] = ("cmd", "powershell")
        for shell in shells:
            self.host.received.clear()
            self.assertEqual(await self.killed(shell), "confirmed")
            text = b64decode(self.sent[1].rpartition(b" ")[2]).decode("utf-16-le")
            needle = re.findall(r"Contains\('([^']*)'\)", text)[0]
            self.assertIn(needle.encode(), self.sent[0])
            # cmd.exe starts it, so it has to fit its line.
            self.assertLess(len(self.sent[1]), 8000)

    async def test_some_are_left(self) -> None:
        self.kills = b"%s 2 1"
        self.assertEqual(await self.killed("cmd"), "unconfirmed")
        self.assertEqual(self.host.received[0].signals, ["KILL"])

    async def test_powershell_is_not_there(self) -> None:
        self.kills = b"?"
        self.assertEqual(await self.killed("cmd"), "unsupported")
        self.assertEqual(self.host.received[0].signals, ["KILL"])

    async def test_no_second_session_before_the_shell_was_reached(self) -> None:
        """The server may run a command of its own, which must not run twice."""
        self.host.misbehaviour = Misbehaviour.NEVER_ENDS
        result = await self.order(self.make_runner("cmd"), "sleep", timeout=5.0, grace=5.0)
        wire = result.to_wire()["result"]
        self.assertEqual((wire["error"]["executed"], len(self.sent)), ("unknown", 1))
        self.assertEqual(self.host.received[0].signals, ["KILL"])
