"""
Accounts whose site put a command in the place of whatever is ordered: a command that runs out of time runs it once.
"""

from __future__ import annotations

import pwd
import subprocess
from typing import Any, ClassVar

from twisted.conch.ssh.common import getNS
from twisted.trial.unittest import SynchronousTestCase

from relayd.ssh import Completed, SSHClient
from relayd.ssh.ending.ending import FIND_WITHIN, KILL_AFTER, LEAVE_AFTER
from relayd.ssh.ending.processes import SHELL
from relayd.ssh.errors import CommandNotStarted, RunTimeout
from relayd.ssh.target import Target
from relayd.ssh.transport.server_limits import ALWAYS_STARTS, guarded
from relayd.ssh.transport.transport import ClientTransport
from tests.peers.test_ssh_servers import DropbearCase
from tests.support.account import USER, ensure_account, put_file, run_privileged
from tests.support.evil import CHANNEL_REQUEST, Evil, EvilServer, EvilTestCase
from tests.support.ssh import ServerTestCase, marked_sleep, processes
from tests.support.sshd import make_key


class ForcedCase(ServerTestCase):
    """Counts how often a forced command runs."""

    def setUp(self) -> None:
        super().setUp()
        self.runs = self.directory / "runs"
        self.runs.touch()
        self.runs.chmod(0o666)
        self.directory.chmod(0o755)
        self.mark, sleep = marked_sleep()
        self.command = f"echo run >> {self.runs}; {sleep}; true"

    async def run_out(self, client: SSHClient, target: Target, **options: Any) -> Completed:
        """Order a command that runs out of time, and wait until nothing more is done about it."""
        running = client.run(target, b"ordered", self.reactor.seconds() + 2, **options)
        await self.until(lambda: processes(self.mark), "the forced command runs")
        completed = await running
        self.assertIsInstance(completed.error, RunTimeout)
        await self.sleep(max(KILL_AFTER, LEAVE_AFTER) + 1 - 0.4)
        return completed

    def count(self) -> int:
        return len(self.runs.read_text().splitlines())


class OpenSSHTests(ForcedCase):
    """A real sshd."""

    async def test_for_everybody(self) -> None:
        server = await self.start_server(f"ForceCommand {self.command}")
        completed = await self.run_out(self.make_client(), self.target(server))
        self.assertEqual((self.count(), completed.killed), (1, "unsupported"))

    async def test_for_some(self) -> None:
        server = await self.start_server(f"Match User {USER}", f"ForceCommand {self.command}")
        target = self.target(server, password=server.password)
        completed = await self.run_out(self.make_client(), target)
        self.assertEqual((self.count(), completed.killed), (1, "unsupported"))

    async def test_where_there_is_no_place_beside_it(self) -> None:
        """Then the second session is on a connection of its own."""
        server = await self.start_server("MaxSessions 1", f"ForceCommand {self.command}")
        completed = await self.run_out(self.make_client(), self.target(server))
        self.assertEqual((self.count(), completed.killed), (1, "unsupported"))

    async def test_for_a_key(self) -> None:
        server = await self.start_server()
        key, public = make_key()
        server.authorize(f'command="{self.command}" {public}')
        await self.run_out(self.make_client(), self.target(server, private_key=key))
        self.assertEqual(self.count(), 1)

    async def test_for_a_key_that_the_server_says_nothing_of(self) -> None:
        """As OpenSSH before 7.7."""
        self.patch(ClientTransport, "_debug_received", lambda _transport, _payload: None)
        server = await self.start_server()
        key, public = make_key()
        server.authorize(f'command="{self.command}" {public}')
        completed = await self.run_out(self.make_client(), self.target(server, private_key=key))
        self.assertEqual((self.count(), completed.killed), (1, "unsupported"))

    async def test_command_that_does_not_fit_the_variable(self) -> None:
        server = await self.start_server(f"ForceCommand {self.command}")
        running = self.run_command(self.make_client(), self.target(server), "ordered".ljust(ALWAYS_STARTS + 1))
        await self.error_of(running, CommandNotStarted)
        self.assertEqual(self.count(), 0)

    async def test_files_only(self) -> None:
        server = await self.start_server("ForceCommand internal-sftp")
        completed = await self.run_command(self.make_client(), self.target(server), "sleep 60", 2)
        self.assertEqual((completed.exit.status, completed.error), (1, None))


class DropbearTests(DropbearCase, ForcedCase):
    """A real dropbear, whose forced commands belong to keys."""

    async def test_for_a_key(self) -> None:
        account, port = await self.start_dropbear()
        user = ensure_account(f"{USER}-forced").user
        key, public = make_key()
        keys = f"{pwd.getpwnam(user).pw_dir}/.ssh/authorized_keys"
        put_file(keys, f'command="{self.command}" {public}\n')
        self.addCleanup(run_privileged, ["rm", "-f", keys])
        target = self.target(account, port=port, private_key=key, username=user)
        completed = await self.run_out(self.make_client(), target)
        self.assertEqual((self.count(), completed.killed), (1, "unsupported"))


class SlowLine(Evil):
    """Runs the command; the request for a shell takes its time. Notes who asked for what."""

    asked: ClassVar[list[str]] = []
    commands = 0

    def command_requested(self, channel: int) -> None:
        self.commands += 1
        if self.commands == 1:
            self.accept(channel)
            return
        self.asked.append("shell")
        self.factory.reactor.callLater(FIND_WITHIN + 0.4, self.shell, channel)

    def shell(self, channel: int) -> None:
        self.asked.append("shell arrived")
        self.accept(channel)

    def dispatchMessage(self, messageNum: int, payload: bytes) -> None:
        if messageNum == CHANNEL_REQUEST and getNS(payload[4:])[0] == b"signal":
            self.asked.append("signal")
        super().dispatchMessage(messageNum, payload)


class SlowLineTests(EvilTestCase):
    """The line that asks for a shell is long."""

    async def test_server_is_not_asked_to_signal_while_it_is_on_its_way(self) -> None:
        """That ends the process by which the others are found."""
        SlowLine.asked.clear()
        server: Any = EvilServer(self.reactor, SlowLine)
        server.reactor = self.reactor
        self.addCleanup(server.stop)
        client = self.make_client(host_keys="ignore")
        self.assertIsInstance((await self.run_command(client, server.target, "true", 1)).error, RunTimeout)
        await self.until(lambda: "signal" in SlowLine.asked, "the server is asked at last")
        self.assertEqual(SlowLine.asked[:3], ["shell", "shell arrived", "signal"])


class GuardTests(SynchronousTestCase):
    """What is sent to which server."""

    def test_by_server(self) -> None:
        for version in (b"SSH-2.0-OpenSSH_5.3", b"SSH-2.0-OpenSSH_9.2p1 Debian-2"):
            text = guarded(SHELL, version, by_key=True) or b""
            self.assertEqual((text.strip(), len(text)), (SHELL, 131_060))
        for version in (b"SSH-2.0-OpenSSH_9.6 FreeBSD-20240701", b"SSH-2.0-OpenSSH_for_Windows_9.5"):
            self.assertIsNone(guarded(SHELL, version, by_key=False))
        self.assertIsNone(guarded(SHELL, b"SSH-2.0-dropbear_2022.83", by_key=True))
        for version in (b"SSH-2.0-dropbear_2022.83", b"SSH-2.0-AsyncSSH_2.14", b""):
            self.assertEqual(guarded(SHELL, version, by_key=False), SHELL)

    def test_login_shells_take_it(self) -> None:
        text = guarded(SHELL, b"SSH-2.0-OpenSSH_9.2", by_key=True) or b""
        for shell in ("sh", "bash", "dash", "busybox", "mksh", "zsh", "tcsh"):
            arguments = [shell, "sh", "-c", text] if shell == "busybox" else [shell, "-c", text]
            done = subprocess.run(arguments, input=b"echo $0", capture_output=True, check=False, timeout=60)
            self.assertEqual(done.stdout, b"/bin/sh\n", shell)
