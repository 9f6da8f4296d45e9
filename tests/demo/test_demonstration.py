"""
The demonstration as its users run it, and its SSH server against the real ``ssh`` client.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import SynchronousTestCase, TestCase

from relayd.demo.command_line import chosen_target, make_parser
from relayd.demo.report import table
from relayd.demo.sessions import LAUNCHER, PYTHON_SETSID
from relayd.demo.ssh_server import ExecutingSSHServer
from relayd.demo.steps import STEPS, DemoTarget, StepResult
from relayd.errors import ConfigError
from relayd.ssh.settings import SSHSettings
from relayd.ssh_runner import SSHCommandRunner
from relayd.wire.messages import CommandResult, ExecuteCommand, Secret
from tests.support.dispatching import at_once
from tests.support.sshd import make_key

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "a password that no log may hold"


class DemoTestCase(TestCase):
    """Runs ``python -m relayd.demo``, with a temporary directory of its own that must be empty afterwards."""

    timeout = 120.0

    def setUp(self) -> None:
        self.temporary = Path(self.mktemp())
        self.temporary.mkdir()

    async def demo(self, *arguments: str) -> tuple[str, str, int]:
        environment = {**os.environ, "TMPDIR": str(self.temporary.resolve()), "PYTHONPATH": str(ROOT)}
        out, err, code = await getProcessOutputAndValue(
            sys.executable, ["-m", "relayd.demo", *arguments], env=environment, path=str(ROOT)
        )
        self.assertEqual(list(self.temporary.iterdir()), [])
        self.assertNotIn(b"Traceback", err)
        return out.decode(), err.decode(), code

    async def ssh_server(self, launcher: Sequence[str] = LAUNCHER) -> None:
        """Start the demonstration's SSH server in this process: user *tester* with `PASSWORD` and with a key."""
        private, public = make_key()
        self.key = Path(self.mktemp()).resolve()
        self.key.touch(mode=0o600)
        self.key.write_text(private)
        self.server = ExecutingSSHServer(reactor, {"tester": PASSWORD}, {"tester": [public]}, launcher)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.server.close()))
        port: Any = await self.server.listen(TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"))
        self.port: int = port.getHost().port

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await deferLater(reactor, 0.01)


class LoopbackTests(DemoTestCase):
    """Without a host: everything in one process."""

    async def check(self, *arguments: str, dialect: str) -> None:
        out, err, code = await self.demo(*arguments)
        self.assertEqual((err, code), ("", 0), out)
        self.assertRegex(out, rf"(?m)^relay +demo, connected by {dialect}$")
        rows = [line for line in out.splitlines() if line.startswith(("ok ", "NO "))]
        expected = (
            r"ok  echo \"hello .* demo@127\.0\.0\.1:\d+ +0 +[\d.]+ ms  hello from .+",
            r"ok  echo 'no such .* demo@127\.0\.0\.1:\d+ +3 +[\d.]+ ms +no such thing",
            r"ok  echo to stdout.* demo@127\.0\.0\.1:\d+ +0 +[\d.]+ ms  to stdout +to stderr",
            r"ok  echo started.* demo@127\.0\.0\.1:\d+ +1 +[\d.]+ ms  started +The command timed out.*",
            r"ok  true .* demo@127\.0\.0\.1:\d+ +1 +[\d.]+ ms +127\.0\.0\.1:\d+ refused the login of demo.*",
        )
        self.assertEqual(len(rows), len(expected), out)
        for row, pattern in zip(rows, expected, strict=True):
            self.assertRegex(row, f"^{pattern}$")
        self.assertRegex(out.splitlines()[-1], r"^5 commands in [\d.]+ s, 5 of 5 as expected; fastest .* slowest .*")
        starts = ("main server ", "relay ", "SSH host ", "    COMMAND ", "ok ", "5 commands ")
        self.assertEqual([line for line in out.splitlines() if line and not line.startswith(starts)], [])

    async def test_it_works(self) -> None:
        await self.check(dialect="socketio")

    async def test_native(self) -> None:
        await self.check("--dialect", "native", dialect="native")

    async def test_an_interrupt_leaves_nothing_behind(self) -> None:
        environment = {**os.environ, "TMPDIR": str(self.temporary.resolve()), "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", "relayd.demo", "--verbose"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("SSH host"):
                break
        process.send_signal(signal.SIGINT)
        await deferToThread(process.communicate)
        self.assertEqual(process.returncode, 130)
        self.assertEqual(list(self.temporary.iterdir()), [])


class RealHostTests(DemoTestCase):
    """With ``--ssh``: the host is a server in this process."""

    async def test_with_a_key(self) -> None:
        await self.ssh_server()
        address = f"127.0.0.1:{self.port}"
        out, err, code = await self.demo("--ssh", address, "--user", "tester", "--key", str(self.key))
        self.assertEqual((err, code), ("", 0), out)
        self.assertEqual(len(re.findall(rf"(?m)^ok .* tester@{address} ", out)), 4, out)
        self.assertIn("Skipped: the wrong password", out)

    async def test_with_a_password_which_no_log_holds(self) -> None:
        await self.ssh_server()
        file = Path(self.mktemp()).resolve()
        file.write_text(PASSWORD + "\n")
        arguments = ("--ssh", f"127.0.0.1:{self.port}", "--user", "tester", "--password-file", str(file))
        out, err, code = await self.demo(*arguments, "--verbose")
        self.assertEqual(code, 0, out + err)
        self.assertIn("Relay demo connected", err)
        self.assertNotIn(PASSWORD, out + err)

    async def test_what_goes_wrong_is_said(self) -> None:
        await self.ssh_server()
        file = Path(self.mktemp()).resolve()
        file.write_text("wrong")
        out, err, code = await self.demo(
            "--ssh", f"127.0.0.1:{self.port}", "--user", "tester", "--password-file", str(file)
        )
        self.assertEqual(code, 1)
        self.assertEqual(len(re.findall("(?m)^NO ", out)), 4, out)
        self.assertIn("0 of 4 as expected", out)
        self.assertIn("expected exit code 3, got: 127.0.0.1", err)
        self.assertIn("--verbose", err)

    async def test_mistakes_on_the_command_line(self) -> None:
        for arguments, words in (
            (("--ssh", "h"), "--user: is missing"),
            (("--ssh", "h", "--user", "u", "--key", "/no/such/file"), "/no/such/file cannot be read"),
            (("--dialect", "morse"), "invalid choice"),
        ):
            out, err, code = await self.demo(*arguments)
            self.assertEqual((out, code), ("", 2))
            self.assertIn(words, err)


class SSHServerTests(DemoTestCase):
    """The demonstration's SSH server, by the real ``ssh`` client."""

    def client(self, command: str, *options: str) -> list[str]:
        """The argument vector that runs *command* on the server."""
        path = shutil.which("ssh")
        assert path is not None, "these tests need the OpenSSH client"
        known_hosts = Path(self.mktemp()).resolve()
        known_hosts.write_text(f"[127.0.0.1]:{self.port} {self.server.host_key}\n")
        settings = (f"UserKnownHostsFile={known_hosts}", "StrictHostKeyChecking=yes", "BatchMode=yes", "LogLevel=ERROR")
        return [
            *(path, "-F", "none", "-i", str(self.key), "-p", str(self.port), "-l", "tester", "-T"),
            *(part for setting in (*settings, *options) for part in ("-o", setting)),
            "127.0.0.1",
            command,
        ]

    async def ssh(self, command: str, stdin: bytes = b"") -> tuple[bytes, bytes, int]:
        path, *arguments = self.client(command)
        out, err, code = await getProcessOutputAndValue(path, arguments, env=dict(os.environ), stdinBytes=stdin)
        return out, err, code

    async def test_outputs_and_exit_codes(self) -> None:
        await self.ssh_server()
        self.assertEqual(await self.ssh("echo out; echo err >&2; exit 3"), (b"out\n", b"err\n", 3))
        self.assertEqual(await self.ssh("exit 255"), (b"", b"", 255))
        self.assertEqual((await self.ssh("no-such-command"))[2], 127)
        self.assertEqual(await self.ssh("printf '\\303\\244'"), ("ä".encode(), b"", 0))

    async def test_standard_input_and_its_end(self) -> None:
        await self.ssh_server()
        self.assertEqual(await self.ssh("cat", b"some input"), (b"some input", b"", 0))
        self.assertEqual(await self.ssh("cat; echo end"), (b"end\n", b"", 0))
        data = os.urandom(1024) * 3000
        self.assertEqual(await self.ssh("cat", data), (data, b"", 0))

    async def test_a_process_that_does_not_read_its_input(self) -> None:
        await self.ssh_server()
        self.assertEqual(await self.ssh("exec <&-; sleep 0.2; echo done", b"x" * 1_000_000), (b"done\n", b"", 0))

    async def test_much_on_both_outputs(self) -> None:
        await self.ssh_server()
        out, err, code = await self.ssh("head -c 9000000 /dev/zero & head -c 8000000 /dev/zero >&2; wait; exit 4")
        self.assertEqual((len(out), len(err), code), (9_000_000, 8_000_000, 4))

    async def test_killed_by_a_signal(self) -> None:
        await self.ssh_server()
        _, _, code = await self.ssh("kill -TERM $$")
        self.assertEqual(code, 255)  # what the client makes of exit-signal

    async def test_the_environment_is_its_own(self) -> None:
        self.patch(os, "environ", {**os.environ, "RELAYD_LEAK": "leaked"})
        await self.ssh_server()
        out, _, _ = await self.ssh("env")
        self.assertIn(b"USER=tester\n", out)
        self.assertNotIn(b"leaked", out)

    async def test_a_wrong_login(self) -> None:
        await self.ssh_server()
        self.key.write_text(make_key()[0])
        _, err, code = await self.ssh("true")
        self.assertEqual(code, 255)
        self.assertIn(b"Permission denied", err)

    async def test_no_terminal_and_no_second_kind_of_channel(self) -> None:
        await self.ssh_server()
        path, *arguments = self.client("true", "SessionType=subsystem")
        _, err, code = await getProcessOutputAndValue(path, arguments, env=dict(os.environ))
        self.assertEqual(code, 255)
        self.assertIn(b"subsystem request failed", err)

    async def test_a_client_that_reads_slowly_holds_the_command_back(self) -> None:
        await self.ssh_server()
        done = Path(self.mktemp()).resolve()
        total = 5_000_000  # more than the client's window of 2 MiB
        process = subprocess.Popen(
            self.client(f"head -c {total} /dev/zero; echo > {done}"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        await deferToThread(process.stdout.read, 1)
        await deferLater(reactor, 1)
        self.assertFalse(done.exists())
        out, _ = await deferToThread(process.communicate)
        self.assertEqual((len(out), process.returncode), (total - 1, 0))
        self.assertTrue(done.exists())

    async def test_a_command_that_reads_slowly_holds_the_client_back(self) -> None:
        await self.ssh_server()
        go = Path(self.mktemp()).resolve()
        total = 50_000_000
        process = subprocess.Popen(
            self.client(f"until test -e {go}; do sleep 0.05; done; wc -c"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdin is not None
        pipe = process.stdin.fileno()
        os.set_blocking(pipe, False)
        sent = 0
        idle = 0
        while sent < total and idle < 50:
            try:
                sent += os.write(pipe, bytes(min(65536, total - sent)))
                idle = 0
            except BlockingIOError:
                idle += 1
            await deferLater(reactor, 0.01 if idle else 0)
        self.assertLess(sent, total // 2)
        go.touch()
        os.set_blocking(pipe, True)
        out, _ = await deferToThread(process.communicate, bytes(total - sent))
        self.assertEqual(int(out), total)

    async def test_closing_ends_what_runs(self) -> None:
        await self.ssh_server()
        file = Path(self.mktemp()).resolve()
        command = f"trap '' HUP; echo $$ > {file}; sleep 300 & wait; sleep 300"
        process = subprocess.Popen(self.client(command), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        await self.until(lambda: file.exists() and file.read_text().endswith("\n"))
        group = int(file.read_text())
        await self.server.close()
        await self.until(lambda: not alive(group))
        await deferToThread(process.wait)

    async def test_a_client_that_is_gone_takes_its_command_along(self) -> None:
        await self.ssh_server()
        file = Path(self.mktemp()).resolve()
        process = subprocess.Popen(self.client(f"echo $$ > {file}; sleep 300 & wait"), stdin=subprocess.DEVNULL)
        await self.until(lambda: file.exists() and file.read_text().endswith("\n"))
        process.kill()
        await deferToThread(process.wait)
        await self.until(lambda: not alive(int(file.read_text())))


class SignalTests(DemoTestCase):
    """Signal requests, which relayd's own client sends at a timeout."""

    async def check(self, launcher: Sequence[str]) -> None:
        await self.ssh_server(launcher)
        known_hosts = Path(self.mktemp()).resolve()
        runner = SSHCommandRunner(reactor, SSHSettings(known_hosts=str(known_hosts)))
        self.addCleanup(runner.close)
        command = ExecuteCommand(
            command_id="c",
            server_id=1,
            host="127.0.0.1",
            port=self.port,
            username="tester",
            password=Secret(PASSWORD),
            command="echo $$; sleep 300 & sleep 300; echo unreached",
        )
        clock: Any = reactor
        result = await runner.run_command(command, clock.seconds() + 2, at_once)
        self.assertEqual((result.details.error or {}).get("code"), "timeout")
        await self.until(lambda: not alive(int(result.stdout)))

    async def test_they_reach_the_whole_process_group(self) -> None:
        await self.check(LAUNCHER)

    async def test_so_they_do_without_the_setsid_program(self) -> None:
        await self.check(PYTHON_SETSID)


class TableTests(SynchronousTestCase):
    """What is printed of results, and what is read from the command line."""

    def test_it_is_aligned_and_shows_first_lines_only(self) -> None:
        def row(stdout: str, milliseconds: float) -> StepResult:
            result = CommandResult(command_id="c", stdout=stdout, stderr="e\x1b[31m", exit_code=0)
            return StepResult(step=STEPS[0], milliseconds=milliseconds, result=result)

        lines = table(
            [row("hello from a\nsecond", 1.23), row("other", 1234.5)], DemoTarget(host="::1", port=22, username="u")
        ).splitlines()
        self.assertEqual([line[:2] for line in lines], ["  ", "ok", "NO"])
        self.assertIn("u@[::1]:22", lines[1])
        self.assertEqual(lines[1].index("1.2 ms") + 6, lines[2].index("1234.5 ms") + 9)
        self.assertIn("hello from a …", lines[1])
        self.assertNotIn("second", lines[1])
        self.assertNotIn("\x1b", lines[1])

    def test_a_command_without_a_result(self) -> None:
        row = StepResult(step=STEPS[0], milliseconds=1, result=None, failure="no result came")
        self.assertFalse(row.as_expected)
        self.assertIn("no result came", table([row], DemoTarget(host="h", port=22, username="u")))

    def test_hosts_and_ports(self) -> None:
        key = Path(self.mktemp())
        key.write_text("k")

        def address(text: str) -> tuple[str, int]:
            options = make_parser().parse_args(["--ssh", text, "--user", "u", "--key", str(key)])
            target = chosen_target(options)
            assert target is not None
            return target.host, target.port

        self.assertEqual(address("h"), ("h", 22))
        self.assertEqual(address("h:2222"), ("h", 2222))
        self.assertEqual(address("::1"), ("::1", 22))
        self.assertEqual(address("[::1]"), ("::1", 22))
        self.assertEqual(address("[::1]:2222"), ("::1", 2222))
        for wrong in ("h:", "h:0", "h:65536", "h:x", ":22", "h:٢٢", "h:" + "9" * 5000):
            self.assertRaises(ConfigError, address, wrong)


def alive(group: int) -> bool:
    """Whether a process group has any member that is not just waiting to be reaped."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    listing = subprocess.run(["ps", "-e", "-o", "pgid=,stat="], capture_output=True, text=True, check=True).stdout
    members = [line.split() for line in listing.splitlines()]
    return any(int(pgid) == group and not state.startswith("Z") for pgid, state in members)
