"""
Accounts whose site put a command in the place of whatever is ordered: a command that runs out of time runs it once.
"""

from __future__ import annotations

import pwd
import subprocess
from pathlib import Path
from typing import Any, ClassVar

from twisted.conch.ssh.common import getNS
from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import SynchronousTestCase

from relayd.ssh.ending.ending import FIND_WITHIN, KILL_AFTER, LEAVE_AFTER
from relayd.ssh.ending.processes import SHELL
from relayd.ssh.errors import CommandNotStarted, RunTimeout
from relayd.ssh.target import Target
from relayd.ssh.transport.server_limits import ALWAYS_STARTS, guarded
from relayd.ssh.transport.transport import ClientTransport
from tests.peers.test_ssh_servers import DropbearCase
from tests.support.account import USER, ensure_account, put_file, run_privileged
from tests.support.evil import CHANNEL_REQUEST, Evil, EvilServer, EvilTestCase
from tests.support.ssh import ServerTestCase, marked_sleep
from tests.support.sshd import make_key


class Forced:
    """
    A forced command that stays, and counts how often it runs.

    :param runs: a file to count in, which everybody may write to.
    """

    def __init__(self, runs: Path) -> None:
        self._runs = runs
        runs.touch()
        runs.chmod(0o666)
        _, sleep = marked_sleep()
        self.command = f"echo run >> {runs}; {sleep}; true"

    def count(self) -> int:
        return len(self._runs.read_text().splitlines())


class ForcedCase(ServerTestCase):
    """Runs out of time where there is a forced command."""

    def setUp(self) -> None:
        super().setUp()
        self.directory.chmod(0o755)

    def forced(self, name: str) -> Forced:
        return Forced(self.directory / f"runs-{name}")

    async def run_out(self, forced: Forced, target: Target, **options: Any) -> str | None:
        """
        Order a command that runs out of time, and wait until nothing more is done about it; the forced one runs once.

        :return: what is said of its end.
        """
        running = self.make_client().run(target, b"ordered", self.reactor.seconds() + 4, **options)
        await self.until(forced.count, "the forced command runs")
        completed = await running
        self.assertIsInstance(completed.error, RunTimeout)
        await self.sleep(max(KILL_AFTER, LEAVE_AFTER) + 1 - 0.4)
        self.assertEqual(forced.count(), 1)
        return completed.killed


class OpenSSHTests(ForcedCase):
    """A real sshd."""

    async def test_each(self) -> None:
        """All at a time: most of it is waiting whether something runs again."""
        await gatherResults(
            [
                Deferred.fromCoroutine(self.check_for_everybody()),
                Deferred.fromCoroutine(self.check_for_some()),
                Deferred.fromCoroutine(self.check_where_there_is_no_place_beside_it()),
                Deferred.fromCoroutine(self.check_for_a_key()),
            ],
            consumeErrors=True,
        )

    async def check_for_everybody(self) -> None:
        forced = self.forced("everybody")
        server = await self.start_server(f"ForceCommand {forced.command}")
        self.assertEqual(await self.run_out(forced, self.target(server)), "unsupported")

    async def check_for_some(self) -> None:
        forced = self.forced("some")
        server = await self.start_server(f"Match User {USER}", f"ForceCommand {forced.command}")
        target = self.target(server, password=server.password)
        self.assertEqual(await self.run_out(forced, target), "unsupported")

    async def check_where_there_is_no_place_beside_it(self) -> None:
        """Then the second session is on a connection of its own."""
        forced = self.forced("no-place")
        server = await self.start_server("MaxSessions 1", f"ForceCommand {forced.command}")
        self.assertEqual(await self.run_out(forced, self.target(server)), "unsupported")

    async def check_for_a_key(self) -> None:
        forced = self.forced("key")
        server = await self.start_server()
        key, public = make_key()
        server.authorize(f'command="{forced.command}" {public}')
        await self.run_out(forced, self.target(server, private_key=key))

    async def test_for_a_key_that_the_server_says_nothing_of(self) -> None:
        """As OpenSSH before 7.7."""
        self.patch(ClientTransport, "_debug_received", lambda _transport, _payload: None)
        forced = self.forced("key")
        server = await self.start_server()
        key, public = make_key()
        server.authorize(f'command="{forced.command}" {public}')
        self.assertEqual(await self.run_out(forced, self.target(server, private_key=key)), "unsupported")

    async def test_command_that_does_not_fit_the_variable(self) -> None:
        forced = self.forced("everybody")
        server = await self.start_server(f"ForceCommand {forced.command}")
        running = self.run_command(self.make_client(), self.target(server), "ordered".ljust(ALWAYS_STARTS + 1))
        await self.error_of(running, CommandNotStarted)
        self.assertEqual(forced.count(), 0)

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
        forced = self.forced("key")
        put_file(keys, f'command="{forced.command}" {public}\n')
        self.addCleanup(run_privileged, ["rm", "-f", keys])
        target = self.target(account, port=port, private_key=key, username=user)
        self.assertEqual(await self.run_out(forced, target), "unsupported")


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
