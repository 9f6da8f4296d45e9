"""
Accounts that real servers do not let in, or let in and run nothing for; PAM's one-time codes; one attempt a connection.
"""

from __future__ import annotations

import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from twisted.conch.ssh.common import NS

from relayd.ssh import execution
from relayd.ssh.channels.channel import State
from relayd.ssh.channels.connection import ClientConnection
from relayd.ssh.channels.session import Session
from relayd.ssh.client import SSHClient
from relayd.ssh.ending.account import AccountCheck, answers_for_account
from relayd.ssh.errors import (
    AccountClosed,
    LoginClosed,
    LoginRefused,
    LoginResting,
    LoginTimeout,
    NoSession,
    PasswordExpired,
    PromptUnknown,
    SSHError,
)
from relayd.ssh.pool.jobs import Job
from relayd.ssh.target import Target
from relayd.ssh.transport.numbers import MSG_CHANNEL_CLOSE, MSG_CHANNEL_DATA, MSG_CHANNEL_REQUEST
from tests.support.account import ensure_account, ensure_closed_account, ensure_expired_account
from tests.support.authority import SSHAgent
from tests.support.evil import USERAUTH_BANNER, USERAUTH_FAILURE, USERAUTH_INFO_REQUEST, Evil, EvilServer
from tests.support.memory_pool import PoolTestCase
from tests.support.ssh import ServerTestCase, key_pair
from tests.support.ssh_connection import numbers
from tests.support.sshd import OpenSSHServer

UNIX = ("auth required pam_unix.so", "account required pam_unix.so", "session required pam_permit.so")
NOLOGIN = b"This account is currently not available.\n"
KEYBOARD = ("PasswordAuthentication no", "KbdInteractiveAuthentication yes")


class AccountTestCase(ServerTestCase):
    """Commands that do not run."""

    async def check(
        self, client: SSHClient, target: Target, kind: type[SSHError], *words: str, command: str = "echo hidden"
    ) -> SSHError:
        """*command* fails with *kind*, was not run, and the next one is not even tried."""
        error = await self.error_of(self.run_command(client, target, command), kind)
        self.assertIs(type(error), kind, error)
        self.assertEqual((error.executed, error.retriable), ("no", False))
        for word in words:
            self.assertIn(word, str(error))
        resting = await self.error_of(self.run_command(client, target, command), LoginResting)
        self.assertIn(str(error), str(resting))
        return error

    async def resting(self, client: SSHClient, target: Target) -> SSHError:
        """The error of a login that rests: until then another connection may be open, of which nothing is known yet."""
        while True:
            error = await self.error_of(self.run_command(client, target, "true"), SSHError)
            if isinstance(error, LoginResting):
                return error

    def rest(self, resting: SSHError) -> float:
        """Seconds for which a login is not tried again."""
        (minutes, seconds) = re.findall(r"again for (?:(\d+) min ?)?(?:(\d+) s)?[.,]", str(resting))[0]
        return 60 * int(minutes or 0) + int(seconds or 0)

    def _idle(self, client: SSHClient) -> bool:
        return not client.counts().connections

    def connections(self, server: OpenSSHServer) -> int:
        return len([line for line in server.log_lines if line.startswith("Connection from ")])


class ClosedTests(AccountTestCase):
    """The host lets nobody in."""

    async def check_ways(self, server: OpenSSHServer, words: str) -> None:
        """By password, by key, and by keyboard-interactive."""
        for credential in ({"password": server.password}, {"private_key": server.key}):
            target = self.target(server, **credential)
            before = self.connections(server)
            await self.check(self.make_client(), target, LoginClosed, words)
            self.assertEqual(self.connections(server) - before, 1)

    async def test_expired(self) -> None:
        account = ensure_closed_account()
        words = "it said “Your account has expired; please contact your system administrator.”"
        server = await self.start_server(pam=UNIX, user=account.user)
        await self.check_ways(server, words)
        server = await self.start_server(*KEYBOARD, pam=UNIX, user=account.user)
        target = self.target(server, password=account.password)
        await self.check(self.make_client(), target, LoginRefused, f"tried keyboard-interactive ({words})")

    async def test_maintenance(self) -> None:
        notice = self.directory / "nologin"
        self.directory.chmod(0o755)
        notice.write_text("Closed for maintenance\nuntil 18:00\n")
        pam = (f"account required pam_nologin.so file={notice}", *UNIX)
        words = "it said “Closed for maintenance / until 18:00”"
        server = await self.start_server(pam=pam)
        await self.check_ways(server, words)
        server = await self.start_server(*KEYBOARD, pam=pam)
        target = self.target(server, password=server.password)
        await self.check(self.make_client(), target, LoginRefused, words)

    async def test_without_a_word(self) -> None:
        server = await self.start_server(pam=("account required pam_deny.so", *UNIX))
        await self.check_ways(server, "it did not say why")

    async def test_a_banner(self) -> None:
        banner = self.directory / "banner"
        self.directory.chmod(0o755)
        banner.write_text("Authorised use only.\nAsk the desk: 555-0100\n")
        server = await self.start_server(f"Banner {banner}", pam=("account required pam_deny.so", *UNIX))
        await self.check_ways(server, "it said “Authorised use only. / Ask the desk: 555-0100”")

    async def test_both_credentials(self) -> None:
        """It has said why: the other one would do no better."""
        account = ensure_closed_account()
        server = await self.start_server(pam=UNIX, user=account.user)
        target = self.target(server, private_key=server.key, password=account.password)
        await self.check(self.make_client(), target, LoginClosed, "by publickey: it said “Your account has expired")
        self.assertEqual(self.connections(server), 1)


class SaysAndWaits(Evil):
    """Has a notice, and waits for somebody."""

    def login_requested(self, method: bytes) -> None:
        if method == b"none":
            self.sendPacket(USERAUTH_BANNER, NS(b"Authorised use only.") + NS(b""))
            self.sendPacket(USERAUTH_FAILURE, NS(b"keyboard-interactive") + b"\0")
        else:
            self.sendPacket(USERAUTH_INFO_REQUEST, NS(b"") + NS(b"Approve it on your phone.") + NS(b"") + bytes(4))


class SlowTests(AccountTestCase):
    """The host takes longer than a login may."""

    async def timed_out(self, *config: str, **credential: str) -> str:
        server = await self.start_server(*config, pam=(f"auth required pam_exec.so {shutil.which('sleep')} 10", *UNIX))
        target = self.target(server, private_key=None, password=server.password)
        return str(
            await self.error_of(self.run_command(self.make_client(connect_timeout=2), target, "true"), LoginTimeout)
        )

    async def test_a_banner(self) -> None:
        banner = self.directory / "banner"
        self.directory.chmod(0o755)
        password = ensure_account().password
        banner.write_text(f"Authorised use only.\nThe directory is slow today, {password}.\n")
        words = "within 2 s: it said “Authorised use only. / The directory is slow today, ***.”. It may"
        self.assertIn(words, await self.timed_out(f"Banner {banner}"))

    async def test_without_a_word(self) -> None:
        self.assertIn("within 2 s: it said nothing. It may", await self.timed_out())

    async def test_what_it_says_after_something_was_tried(self) -> None:
        server = EvilServer(self.reactor, SaysAndWaits)
        self.addCleanup(server.stop)
        client = self.make_client(host_keys="ignore", connect_timeout=1)
        error = await self.error_of(self.run_command(client, server.target, "true"), LoginTimeout)
        self.assertIn("within 1 s: it said “Approve it on your phone.”. It may", str(error))


class AnswersOnce(Evil):
    """Answers the first command for the account, and no other."""

    commands = 0

    def command_requested(self, channel: int) -> None:
        self.commands += 1
        self.accept(channel)
        if self.commands == 1:
            self.output(channel, NOLOGIN)
            self.status(channel, 1)
            self.sendPacket(MSG_CHANNEL_CLOSE, numbers(channel))


class NothingRunsTests(AccountTestCase):
    """The host lets in, and answers each command with its own words."""

    async def test_the_password_must_be_changed(self) -> None:
        account = ensure_expired_account()
        server = await self.start_server(pam=UNIX, user=account.user)
        for credential in ({"password": account.password}, {"private_key": server.key}):
            client, target = self.make_client(), self.target(server, **credential)
            await self.check(client, target, PasswordExpired, account.user)
            await self.until(partial(self._idle, client), "the connection is closed")

    async def test_many_at_a_time(self) -> None:
        account = ensure_expired_account()
        server = await self.start_server(pam=UNIX, user=account.user)
        client, target = self.make_client(), self.target(server, password=account.password)
        for running in [self.run_command(client, target, "echo hidden") for _ in range(15)]:
            await self.error_of(running, PasswordExpired)
        self.assertLess(self.connections(server), 5)  # by far not one for each
        resting = await self.resting(client, target)
        self.assertLess(self.rest(resting), 60)  # nor a longer rest for each

    async def test_no_login(self) -> None:
        server = await self.start_server(user="relayd-test-nologin")
        words = "it answers every command with “This account is currently not available.”"
        await self.check(self.make_client(), self.target(server), AccountClosed, words)

    async def test_a_shell_without_a_word(self) -> None:
        """Nothing tells it from a command that ends so."""
        server = await self.start_server(user="relayd-test-false")
        done = await self.run_command(self.make_client(), self.target(server), "echo hidden")
        self.assertEqual((done.stdout.raw(), done.stderr.raw(), done.exit.status, done.error), (b"", b"", 1, None))

    async def test_a_command_that_says_so_itself(self) -> None:
        """As one does that asks another host."""
        server = await self.start_server()
        client = self.make_client()
        marks = self.directory / "marks"
        self.directory.chmod(0o777)
        for text in (
            "echo WARNING: Your password has expired. >&2; echo Password change required but no TTY available. >&2",
            "echo This account is currently not available.",
        ):
            done = await self.run_command(client, self.target(server), f"{text}; echo x >> {marks}; exit 1")
            self.assertEqual((done.exit.status, done.error), (1, None))
            self.assertIn("available.", done.stdout.text() + done.stderr.text())
        self.assertEqual(marks.read_text(), "x\nx\n")
        done = await self.run_command(client, self.target(server), "echo ok")
        self.assertEqual(done.stdout.text(), "ok")

    async def test_a_command_of_the_hosts_own(self) -> None:
        """It is not run a second time to find out."""
        server = await self.start_server()
        marks = self.directory / "marks"
        self.directory.chmod(0o777)
        private, public = key_pair("ecdsa")
        text = "echo This account is currently not available."
        server.authorize(f'command="{text}; echo x >> {marks}; exit 1" {public}')
        client, target = self.make_client(), self.target(server, private_key=private)
        done = await self.run_command(client, target, "true")
        self.assertEqual((done.stdout.text(), done.exit.status, marks.read_text()), (text[5:], 1, "x\n"))

    async def test_a_command_of_the_hosts_own_that_the_server_says_nothing_of(self) -> None:
        """Nor is that, whatever it writes."""
        self.directory.chmod(0o777)
        for number, text in enumerate(
            (
                "echo Password change required but no TTY available. >&2",
                "echo This account is currently not available.",
            )
        ):
            marks = self.directory / f"marks-{number}"
            server = await self.start_server(f"ForceCommand {text}; echo x >> {marks}; exit 1")
            done = await self.run_command(self.make_client(), self.target(server), "true")
            self.assertEqual((done.exit.status, done.error), (1, None))
            self.assertIn("available.", done.stdout.text() + done.stderr.text())
            self.assertEqual(marks.read_text(), "x\n")

    async def test_a_host_that_does_not_answer_any_more(self) -> None:
        """What it said is the result then, soon."""
        self.patch(execution, "CHECK_WITHIN", 0.5)
        server = EvilServer(self.reactor, AnswersOnce)
        self.addCleanup(server.stop)
        done = await self.run_command(self.make_client(host_keys="ignore"), server.target, "true", 50)
        self.assertEqual((done.stdout.raw(), done.exit.status), (NOLOGIN, 1))
        self.assertLess(done.timings["run"], 40)


class NoSessionTests(AccountTestCase):
    """PAM lets in, and opens no session: OpenSSH ends every command with 254."""

    def setUp(self) -> None:
        super().setUp()
        self.directory.chmod(0o777)
        self.marks = self.directory / "marks"

    def pam(self, *session: str) -> tuple[str, ...]:
        return *UNIX[:2], *session

    async def check_denied(self, words: str, *session: str) -> None:
        server = await self.start_server(pam=self.pam(*session))
        for credential in ({"password": server.password}, {"private_key": server.key}):
            client, target = self.make_client(), self.target(server, **credential)
            command = f"echo x >> {self.marks}"
            error = await self.error_of(self.run_command(client, target, command), NoSession)
            self.assertEqual((error.executed, error.retriable), ("no", True))
            self.assertIn(f"so nothing was run: {words}. A limit", str(error))
            await self.error_of(self.run_command(client, target, command), LoginResting)
            await self.until(partial(self._idle, client), "the connection is closed")
        self.assertFalse(self.marks.exists())

    async def test_without_a_word(self) -> None:
        await self.check_denied("it did not say why", "session required pam_deny.so")

    async def test_a_limit_of_logins(self) -> None:
        limits = self.directory / "limits.conf"
        limits.write_text("* - maxlogins 0\n")
        words = f"it said “There were too many logins for '{ensure_account().user}'.”"
        await self.check_denied(words, f"session required pam_limits.so conf={limits}")

    async def test_a_notice(self) -> None:
        notice = self.directory / "notice"
        notice.write_text("Moving house.\n" * 30 + "Back at 18:00\n")
        words = "it said “Moving house. / Moving house. / Moving house. / Back at 18:00”"
        await self.check_denied(words, f"session optional pam_echo.so file={notice}", "session required pam_deny.so")

    async def test_many_at_a_time(self) -> None:
        server = await self.start_server(pam=self.pam("session required pam_deny.so"))
        client, target = self.make_client(), self.target(server)
        for running in [self.run_command(client, target, "echo hidden") for _ in range(15)]:
            await self.error_of(running, NoSession)
        self.assertLess(self.connections(server), 5)
        resting = await self.resting(client, target)
        self.assertLess(self.rest(resting), 60)  # one refusal a connection

    async def test_a_command_that_ends_so_itself(self) -> None:
        server = await self.start_server()
        for command in (f"echo x >> {self.marks}; exit 254", f"echo x >> {self.marks}; echo said; exit 254"):
            done = await self.run_command(self.make_client(), self.target(server), command)
            self.assertEqual((done.exit.status, done.error), (254, None))
        self.assertEqual(self.marks.read_text(), "x\nx\n")

    async def test_a_command_of_the_hosts_own(self) -> None:
        """It is not run a second time to find out."""
        server = await self.start_server(f"ForceCommand echo x >> {self.marks}; exit 254")
        done = await self.run_command(self.make_client(), self.target(server), "true")
        self.assertEqual((done.exit.status, done.error), (254, None))
        self.assertEqual(self.marks.read_text(), "x\n")

    async def test_a_connection_from_before(self) -> None:
        """PAM decides for each connection: on one that it let in earlier, commands run, and end with what they like."""
        leave = self.directory / "leave"
        leave.touch()
        server = await self.start_server(pam=self.pam(f"session required pam_exec.so /bin/test -e {leave}"))
        early, late = self.make_client(), self.make_client()
        await self.run_command(early, self.target(server), "true")
        leave.unlink()
        await self.error_of(self.run_command(late, self.target(server), "true"), NoSession)
        done = await self.run_command(early, self.target(server), f"echo x >> {self.marks}; exit 254")
        self.assertEqual((done.exit.status, done.error, self.marks.read_text()), (254, None, "x\n"))


class CodeTests(AccountTestCase):
    """PAM modules that ask for one-time codes."""

    async def check_code(self, line: str, words: str) -> None:
        """Asked for before the password, and after it."""
        for pam in ((line, *UNIX), (UNIX[0], line, *UNIX[1:])):
            server = await self.start_server(*KEYBOARD, pam=pam)
            target = self.target(server, password=server.password)
            error = await self.check(self.make_client(), target, PromptUnknown, words)
            self.assertNotIn(server.password, str(error))
            self.assertEqual(self.connections(server), 1)

    def secret(self, name: str, text: str) -> Path:
        path = self.directory / name
        self.directory.chmod(0o755)
        path.write_text(text)
        path.chmod(0o600)
        return path

    async def test_google_authenticator(self) -> None:
        secret = self.secret("google", 'JBSWY3DPEHPK3PXP\n" TOTP_AUTH\n')
        await self.check_code(
            f"auth required pam_google_authenticator.so user=root secret={secret}", "“Verification code:”"
        )

    async def test_oath(self) -> None:
        """Whose question has the word "password" in it."""
        secret = self.secret("oath", f"HOTP/T30 {ensure_account().user} - {'00' * 20}\n")
        await self.check_code(f"auth required pam_oath.so usersfile={secret}", "One-time password (OATH) for")


class OneAttemptTests(AccountTestCase):
    """``MaxAuthTries 1``: the server closes the connection after the first refusal."""

    def failed(self, server: OpenSSHServer, method: str) -> int:
        return len([line for line in server.log_lines if line.startswith(f"Failed {method} ")])

    def both(self, server: OpenSSHServer, **changes: Any) -> Target:
        """A key that is wrong, and the password."""
        return self.target(server, **{"private_key": key_pair()[0], "password": server.password, **changes})

    async def test_the_password_on_another_connection(self) -> None:
        server = await self.start_server("MaxAuthTries 1")
        client, target = self.make_client(), self.both(server)
        done = await self.run_command(client, target, "echo ok")
        self.assertEqual(done.stdout.text(), "ok")
        self.assertEqual((self.connections(server), self.failed(server, "publickey")), (2, 1))

        server.drop_connections()
        await self.until(lambda: not client.counts().connections, "the connection is gone")
        done = await self.run_command(client, target, "echo again")
        self.assertEqual(done.stdout.text(), "again")
        # The key is not shown again: each time would count against the relay's address.
        self.assertEqual((self.connections(server), self.failed(server, "publickey")), (3, 1))

    async def test_neither(self) -> None:
        server = await self.start_server("MaxAuthTries 1")
        target = self.both(server, password="wr0ng-password")
        await self.check(self.make_client(), target, LoginClosed, "by publickey and password")
        self.assertEqual(
            (self.connections(server), self.failed(server, "publickey"), self.failed(server, "password")), (2, 1, 1)
        )

    async def test_another_key(self) -> None:
        server = await self.start_server("MaxAuthTries 1")
        agent = SSHAgent()
        self.addCleanup(agent.close)
        agent.add(server.key)
        target = self.target(server, private_key=key_pair()[0], agent=agent.path)
        done = await self.run_command(self.make_client(), target, "echo ok")
        self.assertEqual(done.stdout.text(), "ok")

    async def test_both_count_at_the_host(self) -> None:
        """Ten refusals, five logins: from then on only proven logins are tried there."""
        server = await self.start_server("MaxAuthTries 1")
        client = self.make_client()
        for number in range(5):
            target = self.both(server, password=f"wr0ng-{number}")
            await self.error_of(self.run_command(client, target, "true"), LoginClosed)
        target = self.both(server, password="wr0ng-last")
        error = await self.error_of(self.run_command(client, target, "true"), LoginRefused)
        self.assertEqual(error.code, "host-resting")
        self.assertEqual(self.connections(server), 10)


class CheckTests(PoolTestCase):
    """Several commands that find it out, one after another; in memory."""

    def setUp(self) -> None:
        super().setUp()
        self.found: list[SSHError | None] = []

    def answer(self, connection: ClientConnection, number: int, words: bytes = NOLOGIN, code: int = 1) -> None:
        """What a command or a check on the channel *number* gets."""
        self.confirm(connection, number)
        connection.packetReceived(MSG_CHANNEL_DATA, numbers(number) + NS(words))
        status = numbers(number) + NS(b"exit-status") + b"\0" + numbers(code)
        connection.packetReceived(MSG_CHANNEL_REQUEST, status)
        connection.packetReceived(MSG_CHANNEL_CLOSE, numbers(number))

    def check(self, job: Job) -> AccountCheck:
        assert isinstance(job.channel, Session)
        self.assertTrue(answers_for_account(job.channel))
        return AccountCheck(self.pool, job, job.channel, self.found.append)

    def kinds(self) -> list[str]:
        return [type(error).__name__ for error in self.found]

    def test_a_command_that_ends_later(self) -> None:
        first, second = self.submit(), self.submit()
        connection = self.dialer.succeed()
        self.answer(connection, 0)
        self.check(first)
        self.answer(connection, 2)
        self.assertEqual(self.kinds(), ["AccountClosed"])
        self.answer(connection, 1)
        self.check(second)
        self.assertEqual(self.kinds(), ["AccountClosed"] * 2)
        self.submit()
        self.assertEqual([type(error) for error in self.errors], [LoginResting])

    def test_checks_that_wait(self) -> None:
        self.make(max_sessions=1, max_connections=1)
        job, waiting = self.submit(), self.submit()
        connection = self.dialer.succeed()
        self.answer(connection, 0)
        self.check(job)
        self.check(job)
        self.clock.advance(1)
        self.answer(connection, 1)
        self.assertEqual(self.kinds(), ["AccountClosed"] * 2)
        self.assertEqual([type(error) for error in self.errors], [AccountClosed])
        self.assertIs(waiting.channel.state, State.WAITING)

    def test_no_session_on_another_connection(self) -> None:
        """That says nothing of the one on which the command was, which is asked when it has room."""
        self.make(max_sessions=1, max_connections=2)
        job, other = self.submit(), self.submit()
        first, second = self.dialer.succeed(), self.dialer.succeed()
        for connection in (first, second):
            connection.transport.otherVersionString = b"SSH-2.0-OpenSSH_9.2p1"
        self.assertEqual((job.connection, other.connection), (first, second))
        self.submit()
        self.answer(first, 0, b"", 254)  # and the next command is started there
        self.clock.advance(1)
        self.check(job)
        self.answer(second, 0, b"", 254)
        self.clock.advance(1)
        self.answer(second, 1, b"", 254)
        self.assertIsInstance(second.runs_nothing, NoSession)
        self.assertIsNone(first.runs_nothing)
        self.assertEqual((self.found, self.errors), ([], []))
        self.check(other)
        self.assertEqual(self.kinds(), ["NoSession"])
        self.answer(first, 1, b"")
        self.clock.advance(1)
        self.answer(first, 2, b"", 0)
        self.assertEqual((self.kinds(), self.errors), (["NoSession", "NoneType"], []))
        self.assertEqual((self.disconnected(first), first.runs_nothing), ("", None))

    def test_another_answer(self) -> None:
        job = self.submit()
        connection = self.dialer.succeed()
        self.answer(connection, 0)
        self.clock.advance(1)
        self.check(job)
        self.answer(connection, 1, b"something else")
        self.assertEqual(self.found, [None])
        self.assertEqual(self.disconnected(connection), "")

    def test_lost_before_the_answer(self) -> None:
        job = self.submit()
        connection = self.dialer.succeed()
        self.answer(connection, 0)
        self.clock.advance(1)
        self.check(job)
        self.confirm(connection, 1)
        self.lose(connection)
        self.assertEqual(self.found, [None])

    def test_stopped(self) -> None:
        """As at the deadline of the command: its result is what the host said."""
        job = self.submit()
        connection = self.dialer.succeed()
        self.answer(connection, 0)
        self.clock.advance(1)
        self.check(job).stop()
        self.answer(connection, 1)
        self.assertEqual((self.found, self.disconnected(connection)), ([], ""))
