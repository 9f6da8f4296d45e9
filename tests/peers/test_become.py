"""
Becoming another user with the real sudo and su, as Debian has them, behind a real sshd.
"""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from relayd.errors import BecomeUnsupported
from relayd.network import host_rules
from relayd.network.credential_rules import CredentialRule
from relayd.network.host_rules import HostRule, HostSettings, HostTable
from relayd.ssh import Completed, SSHClient
from relayd.ssh.become.texts import Become
from relayd.ssh.channels.surroundings import surround
from relayd.ssh.channels.terminal import Terminal
from relayd.ssh.errors import (
    BecomeFailed,
    BecomeForbidden,
    BecomeMissing,
    BecomePasswordNeeded,
    BecomePasswordWrong,
    BecomePrompt,
    BecomeTerminalNeeded,
    RunCancelled,
    RunTimeout,
    SessionTimeout,
    TerminalRefused,
)
from relayd.ssh.login.site_credentials import CredentialTable
from relayd.ssh.settings import SSHSettings
from relayd.ssh_runner import SSHCommandRunner
from relayd.ssh_texts import RunnerSettings
from relayd.wire import messages as wire
from relayd.wire.messages import ExecuteCommand, Secret
from tests.support.account import ensure_account, put_file, run_privileged
from tests.support.dispatching import at_once
from tests.support.ssh import DEADLINE, ServerTestCase, marked_sleep, processes
from tests.support.sshd import OpenSSHServer

#: Accounts that may use sudo, each in its own way; and one that may not.
ASKED, FREE, CACHED, CONFINED = (f"relayd-test-sudo-{name}" for name in ("asked", "free", "cached", "tty"))
STRANGER = "relayd-test-sudo-not"
#: Whom they become, beside root; its shell is not that of the others.
OTHER = "relayd-test-bash"
SUDOERS = f"""\
Defaults:{ASKED},{FREE},{CONFINED} timestamp_timeout=0
Defaults:{ASKED} lecture=always, pwfeedback
Defaults:{CONFINED} requiretty, use_pty
{ASKED},{CACHED},{CONFINED} ALL=(ALL) ALL
{FREE} ALL=(ALL) NOPASSWD: ALL
"""
#: The languages in which the host would speak.
CHINESE = {"LANG": "zh_CN.UTF-8", "LC_MESSAGES": "zh_CN.UTF-8"}


@cache
def allow_sudo() -> None:
    for account in (ASKED, FREE, CACHED, CONFINED):
        ensure_account(account)
    put_file("/etc/sudoers.d/relayd-test", SUDOERS, "440")
    # The host can speak Chinese, and so can its sudo and PAM.
    if not Path("/usr/lib/locale/zh_CN.utf8").exists():
        run_privileged(["localedef", "--no-archive", "-i", "zh_CN", "-f", "UTF-8", "zh_CN.UTF-8"])


class BecomeCase(ServerTestCase):
    """A host with these accounts."""

    async def begin(self, user: str, *config_lines: str, **changes: Any) -> tuple[OpenSSHServer, SSHClient]:
        allow_sudo()
        server = await self.start_server(*config_lines, user=user, **changes)
        return server, self.make_client()

    def run_as(
        self,
        client: SSHClient,
        server: OpenSSHServer,
        become: Become,
        command: str,
        timeout: float = DEADLINE,
        **keywords: Any,
    ) -> Deferred[Completed]:
        return client.run(
            self.target(server), command.encode(), self.reactor.seconds() + timeout, become=become, **keywords
        )

    def put_program(self, name: str, script: str) -> None:
        """A program in the test's directory."""
        path = self.directory / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        self.directory.chmod(0o755)

    def password(self, user: str) -> bytes:
        return ensure_account(user).password.encode()

    def outputs(self, done: Completed) -> tuple[bytes, bytes, int | None]:
        return done.stdout.raw(), done.stderr.raw(), done.exit.exit_code

    def assert_ran(self, done: Completed, stdout: bytes, stderr: bytes = b"", status: int = 0) -> None:
        self.assertIsNone(done.error)
        self.assertEqual(self.outputs(done), (stdout, stderr, status))

    def assert_not_run(self, done: Completed, kind: type[BecomeFailed], *secrets: bytes) -> None:
        error = done.error
        self.assertEqual((type(error), error and error.executed), (kind, "no"), (error, self.outputs(done)))
        for secret in secrets:
            self.assertNotIn(secret.decode(), f"{error}{error!r}{error and error.fields}")


class SudoTests(BecomeCase):
    async def test_with_a_password(self) -> None:
        server, client = await self.begin(ASKED, "PermitUserEnvironment no")
        become = Become(password=self.password(ASKED))
        self.assert_ran(await self.run_as(client, server, become, "id -un; echo e >&2; exit 3"), b"root\n", b"e\n", 3)
        other = Become(user=OTHER, password=self.password(ASKED))
        done = await self.run_as(client, server, other, 'id -un; echo "$HOME"; cat', stdin=b"in\0put")
        self.assert_ran(done, f"{OTHER}\n/home/{OTHER}\nin\0put".encode())

    async def test_input_and_output_are_exact(self) -> None:
        server, client = await self.begin(FREE)
        data = bytes(range(256)) * 2000
        done = await self.run_as(client, server, Become(), "cat; cat /dev/stdin | wc -c >&2", stdin=data)
        self.assert_ran(done, data, b"0\n")

    async def test_the_text_is_exact(self) -> None:
        server, client = await self.begin(FREE)
        text = "printf '%s|' \"$#\" 'it''s' \"a\\\\b\" '%b\\n!' '\t é'\necho '\n. \n'\n# end"
        direct = await self.run_command(client, self.target(server), text)
        self.assert_ran(await self.run_as(client, server, Become(), text), direct.stdout.raw())
        for size in (999, 1000, 1001, 300_000):
            done = await self.run_as(client, server, Become(), f"echo {'x' * size}.")
            self.assert_ran(done, b"x" * size + b".\n")

    async def test_directory_and_variables_are_those_of_the_command(self) -> None:
        server, client = await self.begin(ASKED)
        place = self.directory / "for root"
        place.mkdir(mode=0o700)
        become = Become(password=self.password(ASKED))
        env = [("A_B", b"x'y\n$z\\"), ("SUDO_X", b"")]
        text, progress = surround(b'pwd; printf %s "$A_B$SUDO_X"', str(place).encode(), b"", env)
        done = await self.run_as(client, server, become, text.decode(), progress=progress)
        self.assert_ran(done, f"{place}\n".encode() + b"x'y\n$z\\")

    async def test_nothing_of_it_is_seen(self) -> None:
        """Neither password nor command are in any argument or variable on the way, nor in the log of sudo."""
        server, client = await self.begin(ASKED)
        password = self.password(ASKED)
        look = (
            "p=$$; while [ $p -gt 1 ]; do tr '\\0' '\\n' </proc/$p/cmdline; tr '\\0' '\\n' </proc/$p/environ; "
            "p=$(sed -n 's/^PPid:.//p' /proc/$p/status); done; : the-text-of-the-command; env"
        )
        done = await self.run_as(client, server, Become(password=password), look)
        seen = done.stdout.raw()
        self.assertIn(b"sudo\n-H\n-S\n", seen)
        self.assertNotIn(password, seen + done.stderr.raw())
        self.assertNotIn(b"the-text-of-the-command", seen.replace(look.encode(), b""))

    async def test_wrong_password_is_tried_once(self) -> None:
        server, client = await self.begin(ASKED)
        wrong = b"wr0ng-password"
        done = await self.run_as(client, server, Become(password=wrong), "id; cat", stdin=b"guess2\nguess3\n")
        self.assert_not_run(done, BecomePasswordWrong, wrong)
        self.assertEqual(self.outputs(done)[:2], (b"", b""))

    async def test_no_password(self) -> None:
        server, client = await self.begin(ASKED)
        self.assert_not_run(await self.run_as(client, server, Become(), "id"), BecomePasswordNeeded)

    async def test_not_allowed(self) -> None:
        server, client = await self.begin(STRANGER)
        done = await self.run_as(client, server, Become(password=self.password(STRANGER)), "id")
        self.assert_not_run(done, BecomeForbidden, self.password(STRANGER))

    async def test_no_such_user(self) -> None:
        server, client = await self.begin(FREE)
        done = await self.run_as(client, server, Become(user="relayd-test-nobody-has-this"), "id")
        self.assert_not_run(done, BecomeFailed)
        self.assertIn("unknown user", str(done.error))

    async def test_not_installed(self) -> None:
        server, client = await self.begin(FREE, "SetEnv PATH=/nowhere")
        self.assert_not_run(await self.run_as(client, server, Become(), "id"), BecomeMissing)

    async def test_a_terminal_is_wanted(self) -> None:
        server, client = await self.begin(CONFINED)
        become = Become(password=self.password(CONFINED))
        self.assert_not_run(await self.run_as(client, server, become, "id"), BecomeTerminalNeeded)
        done = await self.run_as(
            client, server, become, "id -un; cat; tty >/dev/null && echo tty; echo e >&2",
            stdin="line\nhälf".encode(), terminal=Terminal(),
        )  # fmt: skip
        self.assert_ran(done, "root\r\nline\r\nhälftty\r\ne\r\n".encode())
        wrong = await self.run_as(client, server, Become(password=b"wr0ng"), "id", terminal=Terminal())
        self.assert_not_run(wrong, BecomePasswordWrong, b"wr0ng")

    async def test_asterisks_and_lecture_on_a_terminal(self) -> None:
        server, client = await self.begin(ASKED)
        become = Become(password=self.password(ASKED))
        self.assert_ran(await self.run_as(client, server, become, "echo x", terminal=Terminal()), b"x\r\n")

    async def test_a_password_that_is_remembered_there(self) -> None:
        """sudo does not ask again: the input is the command's, and no password is sent before it."""
        server, client = await self.begin(CACHED)
        become = Become(password=self.password(CACHED))
        env = "sudo -n true 2>/dev/null && echo remembered; "
        for _ in range(2):
            done = await self.run_as(client, server, become, "cat; id -un", stdin=b"in\n")
            self.assert_ran(done, b"in\nroot\n")
        # Whether the time stamp holds across sessions is sudo's business; within one it does.
        inner = "echo | sudo -S -p '' -v; " + env
        self.assertIsNone((await self.run_as(client, server, become, inner)).error)

    async def test_another_language(self) -> None:
        lines = [f"SetEnv {' '.join(f'{name}={value}' for name, value in CHINESE.items())}"]
        server, client = await self.begin(ASKED, *lines)
        done = await self.run_as(client, server, Become(password=self.password(ASKED)), 'echo "$LANG|${LC_ALL-no}"')
        self.assert_ran(done, b"zh_CN.UTF-8|no\n")
        server, client = await self.begin(ASKED, "SetEnv LC_ALL=zh_CN.UTF-8 LANGUAGE=zh_CN")
        wrong = await self.run_as(client, server, Become(password=b"wr0ng"), "id")
        self.assert_not_run(wrong, BecomePasswordWrong)
        self.assert_not_run(await self.run_as(client, server, Become(), "id"), BecomePasswordNeeded)
        done = await self.run_as(client, server, Become(password=self.password(ASKED)), 'echo "$LC_ALL"')
        self.assert_ran(done, b"zh_CN.UTF-8\n")

    async def test_a_command_that_asks_for_a_password_gets_none(self) -> None:
        server, client = await self.begin(FREE)
        secret = b"s3cret-of-the-site"
        # It can even know what our question looks like: that of sudo stands in its arguments.
        ask = (
            "q=$(tr '\\0' '\\n' </proc/$PPID/cmdline | sed -n 's/.*\\(relayd:[0-9a-f]*\\).*/\\1/p'); "
            "n=$(tr '\\0' '\\n' </proc/$PPID/cmdline | grep -x '[0-9a-f]\\{32\\}' | head -1); "
            'echo "relayd:$n:password;" >&2; echo "[sudo] password for root: " >&2; head -1'
        )
        done = await self.run_as(client, server, Become(password=secret), ask, stdin=b"input\n")
        self.assertEqual(done.stdout.raw(), b"input\n")
        self.assertRegex(done.stderr.raw(), rb"^relayd:[0-9a-f]{32}:password;\n")


class SuTests(BecomeCase):
    async def test_with_a_password(self) -> None:
        server, client = await self.begin(STRANGER)
        become = Become(method="su", user=OTHER, password=self.password(OTHER))
        done = await self.run_as(client, server, become, "id -un; cat; echo e >&2; exit 4", stdin=b"in\0put")
        self.assert_ran(done, f"{OTHER}\nin\0put".encode(), b"e\n", 4)
        done = await self.run_as(client, server, become, "id -un; cat", stdin=b"in", terminal=Terminal())
        self.assert_ran(done, f"{OTHER}\r\nin".encode())

    async def test_failures(self) -> None:
        server, client = await self.begin(STRANGER)
        wrong = Become(method="su", user=OTHER, password=b"wr0ng")
        for terminal in (None, Terminal()):
            done = await self.run_as(client, server, wrong, "id; cat", stdin=b"guess\n", terminal=terminal)
            self.assert_not_run(done, BecomePasswordWrong, b"wr0ng")
        done = await self.run_as(client, server, Become(method="su", user=OTHER), "id")
        self.assert_not_run(done, BecomePasswordNeeded)
        nobody = Become(method="su", user="relayd-test-nobody-has-this", password=b"x")
        self.assert_not_run(await self.run_as(client, server, nobody, "id"), BecomeFailed)

    async def test_another_language(self) -> None:
        server, client = await self.begin(STRANGER, "SetEnv LC_ALL=zh_CN.UTF-8 LANGUAGE=zh_CN")
        become = Become(method="su", user=OTHER, password=self.password(OTHER))
        self.assert_ran(await self.run_as(client, server, become, 'echo "$LC_ALL"'), b"zh_CN.UTF-8\n")


class EndingTests(BecomeCase):
    """What became another user is ended as that user."""

    async def end_early(self, server: OpenSSHServer, client: SSHClient, become: Become, **keywords: Any) -> None:
        marker, sleep = marked_sleep()
        running = self.run_as(client, server, become, f"trap '' HUP TERM; {sleep} & {sleep}; {sleep}", **keywords)
        await self.until(lambda: len(processes(marker)) == 2, "it runs")
        running.cancel()
        done = await running
        self.assertIsInstance(done.error, RunCancelled)
        await self.until(lambda: not processes(marker), "all of it is gone")

    async def test_sudo(self) -> None:
        server, client = await self.begin(ASKED)
        for user in ("root", OTHER):
            await self.end_early(server, client, Become(user=user, password=self.password(ASKED)))

    async def test_sudo_on_a_terminal(self) -> None:
        server, client = await self.begin(CONFINED)
        await self.end_early(server, client, Become(password=self.password(CONFINED)), terminal=Terminal())

    async def test_su(self) -> None:
        server, client = await self.begin(STRANGER)
        become = Become(method="su", user=OTHER, password=self.password(OTHER))
        for keywords in ({}, {"terminal": Terminal()}):
            await self.end_early(server, client, become, **keywords)

    async def test_a_time_out_says_what_is_true(self) -> None:
        server, client = await self.begin(FREE)
        marker, sleep = marked_sleep()
        other_marker, other = marked_sleep()
        running = self.run_as(client, server, Become(user=OTHER), other)
        await self.until(lambda: processes(other_marker), "the other one runs")
        done = await self.run_as(client, server, Become(), f"echo out; {sleep}", 2.0, grace=30.0)
        self.assertIsInstance(done.error, RunTimeout)
        self.assertEqual((done.killed, done.stdout.raw(), processes(marker)), ("confirmed", b"out\n", []))
        self.assertTrue(processes(other_marker))
        running.cancel()
        await running

    async def test_while_the_password_is_checked(self) -> None:
        """The command has not begun, and never does."""
        self.put_program("sudo", f"exec {marked_sleep()[1]}")
        server, client = await self.begin(STRANGER, f"SetEnv PATH={self.directory}:/usr/bin:/bin")
        error = await self.error_of(self.run_as(client, server, Become(), "id", 2.0), SessionTimeout)
        self.assertEqual(error.executed, "no")


class QuestionTests(BecomeCase):
    async def test_a_question_for_a_code_is_not_answered(self) -> None:
        self.put_program("su", 'printf "Verification code: " >&2; read -r c; echo "got $c" >&2; exit 1')
        server, client = await self.begin(STRANGER, f"SetEnv PATH={self.directory}:/usr/bin:/bin")
        done = await self.run_as(client, server, Become(method="su", password=b"s3cret"), "id")
        self.assert_not_run(done, BecomePrompt, b"s3cret")
        self.assertIn("Verification code", str(done.error))
        self.assertNotIn("got s3cret", str(done.error))


class RunnerTests(BecomeCase):
    """From an order and the site's tables to a result."""

    def runner(self, server: OpenSSHServer, site: HostSettings) -> SSHCommandRunner:
        key = self.write("key", server.key)
        rules = (CredentialRule(hosts=("127.0.0.1",), key_file=key),)
        settings = RunnerSettings(hosts=HostTable((HostRule(hosts=("*",), settings=site),)))
        ssh = SSHSettings(known_hosts=str(self.known_hosts))
        runner = SSHCommandRunner(self.reactor, ssh, settings, CredentialTable(rules))
        self.addCleanup(runner.close)
        return runner

    def write(self, name: str, text: str) -> str:
        path = self.directory / name
        path.touch(mode=0o600)
        path.write_text(text)
        return str(path)

    async def order(
        self, runner: SSHCommandRunner, server: OpenSSHServer, text: str = "id -un", **fields: Any
    ) -> dict[str, Any]:
        where: dict[str, Any] = {"host": server.host, "port": server.port, "username": server.user}
        command = ExecuteCommand(command_id="c", command=text, extended=True, **where, **fields)
        result = await runner.run_command(command, self.reactor.seconds() + DEADLINE, at_once)
        wire: dict[str, Any] = result.to_wire()["result"]
        return wire

    async def test_as_the_tables_say(self) -> None:
        server, _ = await self.begin(ASKED)
        password = self.write("password", ensure_account(ASKED).password)
        site = HostSettings(become=host_rules.Become(method="sudo", user=OTHER, password_file=password))
        runner = self.runner(server, site)
        result = await self.order(runner, server)
        self.assertEqual((result["stdout"], result["ranAs"], result.get("pty")), (OTHER, OTHER, None))
        same = await self.order(runner, server, become=wire.Become(user=OTHER), cwd="/tmp", env=(("A", "b"),))
        self.assertEqual(same["stdout"], OTHER)
        result = await self.order(runner, server, become=False)
        self.assertEqual((result["stdout"], "ranAs" in result), (ASKED, False))

    async def test_the_password_of_the_site_goes_nowhere_else(self) -> None:
        """To no other user, by no other program, and not where the command brings its own credential."""
        server, _ = await self.begin(ASKED)
        password = self.write("password", ensure_account(ASKED).password)
        site = HostSettings(become=host_rules.Become(method="sudo", user=OTHER, password_file=password))
        runner = self.runner(server, site)
        for fields in (
            {"become": wire.Become()},
            {"become": wire.Become(method="su", user=OTHER)},
            {"private_key": Secret(server.key)},
            {"private_key": Secret(server.key), "become": wire.Become(user=OTHER)},
        ):
            result = await self.order(runner, server, **fields)
            self.assertEqual(result["error"]["code"], "become-password-needed", fields)

    async def test_an_order_with_its_own_password(self) -> None:
        server, _ = await self.begin(ASKED)
        runner = self.runner(server, HostSettings(working_directory=""))
        become = wire.Become(password=Secret(ensure_account(ASKED).password))
        text = 'id -un; echo "$A"; cat'
        result = await self.order(runner, server, text, become=become, env=(("A", "b"),), stdin=b"in")
        self.assertEqual((result["stdout"], result["exitCode"], result["ranAs"]), ("root\nb\nin", 0, "root"))
        result = await self.order(runner, server, become=wire.Become(password=Secret("wr0ng")))
        self.assertEqual((result["exitCode"], result["error"]["executed"]), (1, "no"))

    async def test_terminals(self) -> None:
        server, _ = await self.begin(FREE)
        runner = self.runner(server, HostSettings(pty=True))
        for pty, size in ((None, "24 80"), (wire.Pty(cols=132), "24 132")):
            result = await self.order(runner, server, "stty size; echo e >&2", pty=pty)
            self.assertEqual((result["stdout"], result["stderr"], result["pty"]), (f"{size}\r\ne", "", True))
        result = await self.order(runner, server, "test -t 0 || echo no", pty=False)
        self.assertEqual((result["stdout"], "pty" in result), ("no", False))

    async def test_where_another_shell_is(self) -> None:
        server, _ = await self.begin(FREE)
        runner = self.runner(server, HostSettings(shell="none"))
        running = self.order(runner, server, become=wire.Become())
        error = await self.error_of(Deferred.fromCoroutine(running), BecomeUnsupported)
        self.assertIn("none", str(error))


class TerminalTests(BecomeCase):
    """A command with a pseudo-terminal."""

    def run_with(
        self, client: SSHClient, server: OpenSSHServer, command: str, stdin: bytes = b"", **keywords: Any
    ) -> Deferred[Completed]:
        return client.run(
            self.target(server),
            command.encode(),
            self.reactor.seconds() + keywords.pop("timeout", DEADLINE),
            stdin=stdin,
            terminal=keywords.pop("terminal", Terminal()),
            **keywords,
        )

    async def test_it_is_one(self) -> None:
        server = await self.start_server()
        client = self.make_client()
        terminal = Terminal(term="xterm", columns=132, rows=50)
        command = "test -t 0 && test -t 1 && test -t 2 && stty size; echo $TERM; echo e >&2; exit 5"
        done = await self.run_with(client, server, command, terminal=terminal)
        self.assert_ran(done, b"50 132\r\nxterm\r\ne\r\n", b"", 5)
        done = await self.run_command(client, self.target(server), "test -t 0 || test -t 1 || test -t 2")
        self.assertEqual(done.exit.status, 1)

    async def test_input_and_its_end(self) -> None:
        server = await self.start_server()
        client = self.make_client()
        for stdin in (b"", b"a\n", b"a", b"a\nb"):
            done = await self.run_with(client, server, "cat; cat; echo; echo end", stdin)
            self.assert_ran(done, stdin.replace(b"\n", b"\r\n") + b"\r\nend\r\n")
        many = b"".join(b"line %d\n" % number for number in range(20_000))
        done = await self.run_with(client, server, "sleep 0.2; cat | md5sum", many)
        expected = subprocess.run(["md5sum"], input=many, capture_output=True, check=True).stdout
        self.assert_ran(done, expected.replace(b"\n", b"\r\n"))

    async def test_it_is_ended_in_time(self) -> None:
        server = await self.start_server()
        marker, sleep = marked_sleep()
        done = await self.run_with(self.make_client(), server, f"trap '' HUP; {sleep} & {sleep}", timeout=1.5, grace=30)
        self.assertIsInstance(done.error, RunTimeout)
        self.assertEqual((done.killed, processes(marker)), ("confirmed", []))

    async def test_refused(self) -> None:
        server = await self.start_server("PermitTTY no")
        client = self.make_client()
        await self.run_command(client, self.target(server), "true")
        error = await self.error_of(self.run_with(client, server, "id"), TerminalRefused)
        self.assertEqual(error.executed, "no")
        self.assertFalse([line for line in server.log_lines if re.search("Starting session: command", line)][1:])
        self.assert_ran(await self.run_command(client, self.target(server), "echo x"), b"x\n")
        # It says nothing of what else the connection runs.
        self.assertEqual(len([line for line in server.log_lines if line.startswith("Accepted publickey")]), 1)
