"""
The SSH client against OpenSSH as administrators set it up: ways to log in, limits, restrictions, and odd shells.
"""

from __future__ import annotations

from functools import partial

from twisted.internet.defer import Deferred

from relayd.errors import HostFailure
from relayd.ssh import Completed
from relayd.ssh.errors import HostKeyChanged, LoginRefused
from relayd.ssh.settings import SSHSettings
from relayd.ssh_runner import SSHCommandRunner
from relayd.ssh_texts import RunnerSettings
from relayd.wire.messages import CommandResult, ExecuteCommand, Secret
from tests.support.account import put_file
from tests.support.dispatching import at_once
from tests.support.ssh import DEADLINE, ServerTestCase, key_pair
from tests.support.sshd import OpenSSHServer, make_key

#: The host asks for the password by prompts, as PAM words them.
PROMPTS_ONLY = ("UsePAM yes", "KbdInteractiveAuthentication yes", "PasswordAuthentication no")


class OpenSSHTestCase(ServerTestCase):
    """Commands on one server, with whatever lets in there."""

    async def check(self, server: OpenSSHServer, **credential: str) -> Completed:
        """A command runs."""
        target = self.target(server, **credential)
        done = await self.run_command(self.make_client(), target, "echo out; echo err >&2; exit 3")
        self.assertEqual((done.stdout.text(), done.stderr.text(), done.exit.status), ("out", "err", 3))
        return done

    async def refused(self, server: OpenSSHServer, **credential: str) -> str:
        """The login is refused; gives the message."""
        running = self.run_command(self.make_client(), self.target(server, **credential), "true")
        return str(await self.error_of(running, LoginRefused))


class LoginTests(OpenSSHTestCase):
    """Ways to log in that a server insists on."""

    async def test_prompts_of_pam(self) -> None:
        server = await self.start_server(*PROMPTS_ONLY, "PubkeyAuthentication no")
        await self.check(server, password=server.password)
        await self.until(partial(_logged, server, "Accepted keyboard-interactive/pam"), "the log has it")
        self.assertIn("tried keyboard-interactive", await self.refused(server, password="wrong"))

    async def test_key_and_password(self) -> None:
        server = await self.start_server("AuthenticationMethods publickey,password")
        await self.check(server, private_key=server.key, password=server.password)
        self.assertIn("tried publickey", await self.refused(server, private_key=server.key))
        self.assertIn("offers publickey", await self.refused(server, password=server.password))

    async def test_key_and_prompts(self) -> None:
        server = await self.start_server(*PROMPTS_ONLY, "AuthenticationMethods publickey,keyboard-interactive")
        await self.check(server, private_key=server.key, password=server.password)
        text = await self.refused(server, private_key=server.key, password="wrong")
        self.assertIn("publickey and keyboard-interactive", text)

    async def test_prompts_and_then_a_key(self) -> None:
        server = await self.start_server(*PROMPTS_ONLY, "AuthenticationMethods keyboard-interactive,publickey")
        await self.check(server, private_key=server.key, password=server.password)

    async def test_signatures_of_one_kind(self) -> None:
        for kind, algorithm in (
            ("rsa", "rsa-sha2-512"),
            ("rsa", "rsa-sha2-256"),
            ("ecdsa-384", "ecdsa-sha2-nistp384"),
            ("ecdsa-521", "ecdsa-sha2-nistp521"),
        ):
            private, public = make_key(kind)
            server = await self.start_server(f"PubkeyAcceptedAlgorithms {algorithm}")
            server.authorize(public)
            await self.check(server, private_key=private)

    async def test_a_key_of_a_kind_that_the_server_does_not_take(self) -> None:
        server = await self.start_server("PubkeyAcceptedAlgorithms ssh-ed25519", "PasswordAuthentication no")
        private, public = key_pair("rsa")
        server.authorize(public)
        self.assertIn("tried publickey", await self.refused(server, private_key=private))

    async def test_a_long_banner_for_some(self) -> None:
        banner = self.directory / "banner"
        banner.write_text("Authorised users only.\x1b[2J \n" * 5000)
        self.directory.chmod(0o755)
        server = await self.start_server("Match LocalAddress 127.0.0.1", f"Banner {banner}", "PermitTTY no")
        done = await self.check(server)
        self.assertNotIn("Authorised", done.stdout.text() + done.stderr.text())


class HostKeyTests(OpenSSHTestCase):
    """Who the server is."""

    async def test_each_curve(self) -> None:
        for kind in ("ecdsa-384", "ecdsa-521"):
            await self.check(await self.start_server(host_key_types=(kind,)))

    async def test_several_at_a_time(self) -> None:
        server = await self.start_server(host_key_types=("rsa", "ecdsa", "ed25519"))
        await self.check(server)
        self.assertIn(server.host_keys[2], self.known_hosts.read_text())

    async def test_no_login_is_tried_when_it_has_changed(self) -> None:
        server = await self.start_server("LogLevel DEBUG1")
        await self.check(server)
        for words in ("userauth-request for user", "Accepted publickey"):  # the log would tell
            await self.until(partial(_logged, server, words), f"the log has {words}")
        server.make_host_keys()
        await server.restart()
        seen = len(server.log_lines)
        for credential in ({"private_key": server.key}, {"password": server.password}):
            running = self.run_command(self.make_client(), self.target(server, **credential), "true")
            await self.error_of(running, HostKeyChanged)
        await self.until(lambda: sum("[preauth]" in line for line in server.log_lines[seen:]) > 1, "they are closed")
        log = "\n".join(server.log_lines[seen:])
        self.assertIn("SSH2_MSG_KEX", log)
        for words in ("userauth", "Accepted", "Failed", "Postponed", server.user):
            self.assertNotIn(words, log)


class LimitTests(OpenSSHTestCase):
    """Servers that grant little at a time."""

    async def test_sessions(self) -> None:
        for sessions in (1, 2):
            server = await self.start_server(f"MaxSessions {sessions}")
            client = self.make_client(max_connections=2)
            running: list[Deferred[Completed]] = [
                self.run_command(client, self.target(server), f"echo {number}") for number in range(24)
            ]
            for number, each in enumerate(running):
                done = await each
                self.assertEqual((done.stdout.text(), done.exit.status, done.error), (str(number), 0, None))
            await client.close()

    async def test_compression(self) -> None:
        # The server's default, "delayed", is covered by all others.
        await self.check(await self.start_server("Compression no"))
        await self.check(await self.start_server("Compression yes"))

    async def test_no_sessions_at_all(self) -> None:
        server = await self.start_server("MaxSessions 0")
        running = self.run_command(self.make_client(), self.target(server), "true")
        text = str((await self.failure_of(running)).value)
        self.assertIn("MaxSessions", text)


class ForcedCommandTests(OpenSSHTestCase):
    """Servers that run what they want."""

    async def test_for_everybody(self) -> None:
        server = await self.start_server('ForceCommand echo "instead of $SSH_ORIGINAL_COMMAND"; exit 7')
        done = await self.run_command(self.make_client(), self.target(server), "echo wanted")
        self.assertEqual((done.stdout.text(), done.exit.status), ("instead of echo wanted", 7))

    async def test_for_one_key(self) -> None:
        server = await self.start_server()
        private, public = make_key()
        server.authorize(f'command="echo forced; echo no >&2",no-pty,no-port-forwarding {public}')
        done = await self.run_command(self.make_client(), self.target(server, private_key=private), "echo wanted")
        self.assertEqual((done.stdout.text(), done.stderr.text(), done.exit.status), ("forced", "no", 0))
        await self.check(server)  # other keys are free


class ShellTests(OpenSSHTestCase):
    """The account's shell is not always a quiet POSIX shell."""

    def runner(self, **settings: str) -> SSHCommandRunner:
        ssh = SSHSettings(known_hosts=str(self.known_hosts))
        runner = SSHCommandRunner(self.reactor, ssh, RunnerSettings(**settings))
        self.addCleanup(runner.close)
        return runner

    def order(self, server: OpenSSHServer, text: str) -> ExecuteCommand:
        return ExecuteCommand(
            command_id="1",
            server_id=1,
            host=server.host,
            port=server.port,
            username=server.user,
            command=text,
            private_key=Secret(server.key),
        )

    async def result(self, runner: SSHCommandRunner, server: OpenSSHServer, text: str) -> CommandResult:
        result: CommandResult = await runner.run_command(
            self.order(server, text), self.reactor.seconds() + DEADLINE, at_once
        )
        return result

    async def test_no_login(self) -> None:
        server = await self.start_server(user="relayd-test-nologin")
        failure = await self.failure_of(Deferred.fromCoroutine(self.result(self.runner(), server, "echo hidden")))
        error = failure.value
        assert isinstance(error, HostFailure)
        self.assertEqual((error.code, error.executed, error.retriable), ("account-closed", "no", False))
        self.assertIn("“This account is currently not available.”", str(error))

    async def test_noise_of_a_startup_file(self) -> None:
        server = await self.start_server(user="relayd-test-bash")
        put_file("/home/relayd-test-bash/.bashrc", "echo Welcome; printf '\\377\\033[2J\\n'; echo careful >&2\n")
        result = await self.result(self.runner(), server, "pwd; exit 3")
        self.assertTrue(result.stdout.startswith("Welcome"), result.stdout)
        self.assertTrue(result.stdout.endswith("\n/"), result.stdout)
        self.assertEqual((result.stderr, result.exit_code), ("careful", 3))

    async def test_c_shell(self) -> None:
        server = await self.start_server(user="relayd-test-csh")
        result = await self.result(self.runner(), server, 'setenv WHO me ; echo "$WHO in `pwd`" ; exit 4')
        self.assertEqual((result.stdout, result.stderr, result.exit_code), ("me in /", "", 4))

    async def test_no_shell_at_all(self) -> None:
        put_file("/var/lib/relayd-test-device/shell", DEVICE, "755")
        server = await self.start_server(user="relayd-test-device")
        result = await self.result(self.runner(working_directory=""), server, "show version")
        self.assertEqual((result.stdout, result.exit_code), ("Device 1.0", 0))
        result = await self.result(self.runner(), server, "show version")
        self.assertEqual((result.stdout, result.exit_code), ("% Invalid input: cd / ; show version", 1))


#: Stands for an appliance: it takes whole lines, and knows one.
DEVICE = """#!/bin/sh
if [ "$1" = -c ] && [ "$2" = "show version" ]; then
    echo "Device 1.0"
else
    echo "% Invalid input: $2"
    exit 1
fi
"""


def _logged(server: OpenSSHServer, words: str) -> bool:
    return any(words in line for line in server.log_lines)
