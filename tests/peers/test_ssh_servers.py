"""
The SSH client against servers that are not OpenSSH: asyncssh, paramiko, npm's ssh2, dropbear.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

from relayd.ssh import execution
from relayd.ssh.channels.surroundings import surround
from relayd.ssh.client import SSHClient
from relayd.ssh.ending import ending
from relayd.ssh.errors import (
    DirectoryUnusable,
    LoginClosed,
    LoginRefused,
    LoginResting,
    RunTimeout,
    SignatureRefused,
)
from relayd.ssh.target import Credential, Target
from relayd.ssh.transport.server_limits import EVERY_SERVER, most_of_command
from tests.support.node import NodeServer
from tests.support.process import ChildProcess
from tests.support.script import ScriptServer
from tests.support.ssh import DEADLINE, ServerTestCase, key_pair, marked_sleep, processes
from tests.support.sshd import OpenSSHServer

SCRIPTS = Path(__file__).resolve().parents[1] / "support"
USER = 'Jörg O\'Brien@дом "$HOME"'
PASSWORD = "pass wörd; $(id)"


class ServersTestCase(ServerTestCase):
    """What every server has to do."""

    async def check(self, target: Target, *, tells_signals: bool = True) -> None:
        """Run commands, all at the same time."""
        client = self.make_client()
        both = self.run_command(client, target, "echo out; echo err >&2; exit 3")
        big = self.run_command(client, target, "head -c 5000000 /dev/zero | tr '\\0' x; echo; echo the end")
        loud = self.run_command(client, target, "head -c 1000000 /dev/zero | tr '\\0' y >&2; exit 255")
        nothing = self.run_command(client, target, "true")
        text = self.run_command(client, target, "printf '%s' 'größer \"als\" $HOME 日本'")
        unread = self.run_command(client, target, "cat; echo read")
        killed = self.run_command(client, target, "echo before; kill -TERM $$; sleep 60")
        many = [self.run_command(client, target, f"echo {number}; exit {number}") for number in range(20)]

        done = await both
        self.assertEqual((done.stdout.text(), done.stderr.text(), done.exit.status), ("out", "err", 3))
        done = await big
        self.assertEqual((done.stdout.total, done.stdout.text()[-9:], done.exit.status), (5_000_009, "x\nthe end", 0))
        done = await loud
        self.assertEqual((done.stdout.total, done.stderr.total, done.exit.status), (0, 1_000_000, 255))
        done = await nothing
        self.assertEqual((done.stdout.total, done.stderr.total, done.exit.status), (0, 0, 0))
        self.assertEqual((await text).stdout.text(), 'größer "als" $HOME 日本')
        self.assertEqual((await unread).stdout.text(), "read")
        done = await killed
        self.assertEqual((done.stdout.text(), done.exit.exit_code, done.error), ("before", 143, None))
        self.assertEqual(done.exit.signal, "TERM" if tells_signals else None)
        for number, each in enumerate(many):
            done = await each
            self.assertEqual((done.stdout.text(), done.exit.status), (str(number), number))
        await client.close()

    async def check_refused(self, client: SSHClient, target: Target) -> None:
        """The login is refused, and the server said so."""
        await self.error_of(self.run_command(client, target, "true"), LoginRefused)


class LibraryTests(ServersTestCase):
    """Servers that programs are made of, each in a process of its own."""

    def config(self) -> str:
        path = self.directory / "config.json"
        users = {USER: {"passwords": [PASSWORD], "keys": [key_pair(kind)[1] for kind in ("ed25519", "ecdsa", "rsa")]}}
        path.write_text(json.dumps({"host_key": key_pair()[0], "users": users}))
        return str(path)

    async def check_server(self, server: ScriptServer, *, tells_signals: bool = True) -> None:
        await server.start()
        self.addCleanup(server.stop)
        credentials = [Credential(password=PASSWORD)]
        credentials += [Credential(private_key=key_pair(kind)[0]) for kind in ("ed25519", "ecdsa", "rsa")]
        for credential in credentials[1:]:
            target = Target("127.0.0.1", server.port, USER, credential)
            done = await self.run_command(self.make_client(), target, "echo ok")
            self.assertEqual((done.stdout.text(), done.exit.status), ("ok", 0))
        target = Target("127.0.0.1", server.port, USER, credentials[0])
        await self.check(target, tells_signals=tells_signals)
        # What relayd sends to servers that it knows nothing of
        longest = most_of_command(EVERY_SERVER)
        done = await self.run_command(self.make_client(), target, "echo ok".ljust(longest))
        self.assertEqual((done.stdout.text(), done.exit.status), ("ok", 0))
        for user, password in ((USER, "wrong"), ("nobody", PASSWORD)):
            target = Target("127.0.0.1", server.port, user, Credential(password=password))
            await self.check_refused(self.make_client(), target)

    async def test_keys_of_another_type(self) -> None:
        """The key is the right one, and the server says which it takes."""
        private, public = key_pair()
        path = self.directory / "config.json"
        users = {USER: {"keys": [public]}}
        path.write_text(json.dumps({"host_key": private, "users": users, "no_keys_of": ["ssh-ed25519"]}))
        server = ScriptServer([sys.executable, str(SCRIPTS / "paramiko_server.py"), str(path)])
        await server.start()
        self.addCleanup(server.stop)
        target = Target("127.0.0.1", server.port, USER, Credential(private_key=private))
        error = await self.error_of(self.run_command(self.make_client(), target, "true"), SignatureRefused)
        self.assertIn("the server does not accept ssh-ed25519, only ecdsa-sha2-nistp256,", str(error))

    async def test_asyncssh(self) -> None:
        await self.check_server(ScriptServer([sys.executable, str(SCRIPTS / "asyncssh_server.py"), self.config()]))

    async def test_paramiko(self) -> None:
        script = [sys.executable, str(SCRIPTS / "paramiko_server.py"), self.config()]
        await self.check_server(ScriptServer(script), tells_signals=False)

    async def test_ssh2(self) -> None:
        await self.check_server(NodeServer("ssh2_server.js", self.config()))


class DropbearCase(ServersTestCase):
    """Starts the small server of routers and appliances."""

    async def start_dropbear(self, kind: str = "ed25519", *options: str) -> tuple[OpenSSHServer, int]:
        """A new dropbear; gives the sshd whose account it lets in, and its port."""
        account = await self.start_server()
        key = self.directory / kind
        subprocess.run(["dropbearkey", "-t", kind, "-f", str(key)], check=True, capture_output=True, timeout=60)
        lines: list[str] = []
        dropbear = ChildProcess(partial(_note, lines))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        pid_file = self.directory / f"{kind}.pid"
        address = f"127.0.0.1:{port}"
        dropbear.start(["dropbear", "-F", "-E", "-r", str(key), "-p", address, "-P", str(pid_file), *options])
        self.addCleanup(dropbear.terminate)
        await self.until(partial(_said, lines, "Not backgrounding"), "it listens")
        return account, port


class DropbearTests(DropbearCase):
    """All that every server has to do, and a command that runs out of time."""

    async def test_dropbear(self) -> None:
        for kind in ("ed25519", "rsa"):
            account, port = await self.start_dropbear(kind)
            await self.check(self.target(account, port=port, password=account.password))
            await self.check_refused(self.make_client(), self.target(account, port=port, password="wrong"))

    async def test_directory_and_variables(self) -> None:
        account, port = await self.start_dropbear()
        client, target = self.make_client(), self.target(account, port=port, password=account.password)
        for cwd, env, expected in (
            (b"/tmp", (), ("/tmp\n", None)),
            (b"", (("A", b"one\n'two' \\"),), ("/\none\n'two' \\", None)),
            (b"/no/such/place", (), ("", DirectoryUnusable)),
        ):
            text, progress = surround(b'pwd; printf %s "$A"', cwd, b"/", env)
            done = await client.run(target, text, self.reactor.seconds() + DEADLINE, progress=progress)
            self.assertEqual((done.stdout.raw().decode(), done.error and type(done.error)), expected)

    async def test_one_attempt_a_connection(self) -> None:
        """At the last wrong password it closes the connection without a word: nothing to try again at once."""
        account, port = await self.start_dropbear("ed25519", "-T", "1")
        client = self.make_client()
        for credential in ({"password": "wrong"}, {"private_key": key_pair()[0], "password": "wrong"}):
            target = self.target(account, port=port, **credential)
            await self.error_of(self.run_command(client, target, "true"), LoginClosed)
            await self.error_of(self.run_command(client, target, "true"), LoginResting)
        target = self.target(account, port=port, private_key=key_pair()[0], password=account.password)
        done = await self.run_command(client, target, "echo ok")
        self.assertEqual(done.stdout.text(), "ok")

    async def test_command_that_runs_out_of_time(self) -> None:
        """dropbear passes no signals on: the command's processes are found from another connection."""
        account, port = await self.start_dropbear()
        self.patch(execution, "RESULT_AFTER", DEADLINE)
        self.patch(ending, "FIND_WITHIN", DEADLINE)
        self.patch(ending, "LEAVE_AFTER", DEADLINE)
        client, target = self.make_client(), self.target(account, port=port, password=account.password)
        mark, sleep = marked_sleep()
        running = self.run_command(client, target, f"({sleep}) & {sleep}", 3)
        await self.until(lambda: processes(mark), "it runs")
        self.assertIsInstance((await running).error, RunTimeout)
        await self.until(lambda: not processes(mark), "it is gone")

    async def test_what_an_earlier_command_left_there(self) -> None:
        """It is in the same session and process group as later ones of its connection (POSIX)."""
        account, port = await self.start_dropbear()
        self.patch(execution, "RESULT_AFTER", DEADLINE)
        self.patch(ending, "LEAVE_AFTER", 5.0)
        client, target = self.make_client(), self.target(account, port=port, password=account.password)
        mark, sleep = marked_sleep()
        left_mark, left = marked_sleep()
        await self.run_command(client, target, f"{left} >/dev/null 2>&1 </dev/null &")
        running = self.run_command(client, target, f"({sleep}) & {sleep}", 3)
        await self.until(lambda: len(processes(mark)) == 2, "it runs")
        ended = await running
        self.assertIsInstance(ended.error, RunTimeout)
        await self.until(lambda: not processes(mark), "it is gone")
        self.assertTrue(processes(left_mark))
        # It has no parent any more, and might be of this command: nobody can tell.
        self.assertEqual(ended.killed, "unconfirmed")


def _note(lines: list[str], _descriptor: int, line: str) -> None:
    lines.append(line)


def _said(lines: list[str], words: str) -> bool:
    return any(words in line for line in lines)
