"""
The demonstration's SSH server against the real ``ssh`` client, and against relayd's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.internet.utils import getProcessOutputAndValue

from relayd.demo.sessions import LAUNCHER, PYTHON_SETSID
from relayd.ssh.settings import SSHSettings
from relayd.ssh_runner import SSHCommandRunner
from relayd.wire.messages import ExecuteCommand, Secret
from tests.demo.test_demonstration import DemoTestCase, alive
from tests.support.dispatching import at_once
from tests.support.sshd import make_key

PASSWORD = "a password that no log may hold"


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
