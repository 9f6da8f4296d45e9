"""
One relay for a site of many kinds of hosts, each in its own way: what its tables say of one is nothing to the others.
"""

from __future__ import annotations

import pwd
import random
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path

from msgspec import Struct
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.trial.unittest import TestCase

from relayd.hub import Hub, HubSettings
from relayd.wire.messages import CommandResult, ExecuteCommand, Secret
from tests.peers.test_become import ASKED, allow_sudo
from tests.support import ssh_peers, wine
from tests.support.account import ensure_account
from tests.support.relays import Relayd
from tests.support.sshd import OpenSSHServer

#: An account whose login shell is tcsh.
CSH = "relayd-test-csh"
#: Seconds in which all commands must have ended, on a slow machine too.
PATIENCE = 120.0
#: Commands for each kind of host: Wine takes the longest for one.
SHARES = {"linux": 60, "csh": 50, "windows": 15, "device": 30, "become": 45}


class Kind(Struct, frozen=True):
    """
    One kind of host, as the commands for it see it.

    :ivar brings: the credential of its commands; nothing where the site has one.
    :ivar command: makes a command from a mark of its own, which nothing but the right shell answers rightly.
    :ivar output: a pattern for its standard output with that mark.
    :ivar rest: a pattern for its standard error, and its exit code.
    """

    port: int
    user: str
    brings: dict[str, Secret]
    command: Callable[[str], str]
    output: Callable[[str], str]
    rest: tuple[str, int]

    def order(self, command_id: str) -> ExecuteCommand:
        """A command for it, whose id is the mark."""
        return ExecuteCommand(
            command_id=command_id,
            host="127.0.0.1",
            port=self.port,
            username=self.user,
            command=self.command(command_id),
            timeout=PATIENCE,
            **self.brings,  # type: ignore[arg-type]
        )


class MixedSite(TestCase):
    """A main server, a relay as a process, and a host of each kind."""

    timeout = 2 * PATIENCE

    async def sshd(self, *config_lines: str, user: str) -> OpenSSHServer:
        server = OpenSSHServer(("MaxStartups 100:30:200", *config_lines), user=user)
        self.addCleanup(server.stop)
        await server.start()
        return server

    async def hosts(self) -> tuple[dict[str, Kind], str]:
        """The hosts, and the tables of the relay for them, each for one of them alone."""
        ensure_account(CSH)
        allow_sudo()
        linux = await self.sshd(user="relayd-test")
        # One host for two kinds: the tables tell them by their users.
        unix = await self.sshd(f"AllowUsers {CSH}", user=ASKED)
        windows = await self.sshd(*wine.ensure_wine(), user="relayd-test")
        device = ssh_peers.started("fakenos")
        self.put("unix-key", unix.key)
        self.put("sudo-password", ensure_account(ASKED).password)
        self.put("device-password", "admin")
        self.put("enable-secret", "unused")
        kinds = {
            "linux": Kind(
                linux.port, linux.user, {"private_key": Secret(linux.key)},
                lambda mark: f"x={mark}; echo $0 $((6 * 7)) ${{x#?}}; pwd; id -u >&2; test -t 1; exit $((5 + $?))",
                lambda mark: f"sh 42 {mark[1:]}\n/usr",
                (str(pwd.getpwnam(linux.user).pw_uid), 6),
            ),
            "csh": Kind(
                unix.port, CSH, {"private_key": Secret(unix.key)},
                lambda mark: f"set x = ( {mark} y ); echo $#x $x[1] $?tcsh $cwd; test -t 0; @ y = 3 + 4; exit $y",
                lambda mark: f"2 {mark} 1 /var",
                ("", 7),
            ),
            "windows": Kind(
                windows.port, windows.user, {"private_key": Secret(windows.key)},
                lambda mark: f"echo %OS% {mark}& cd& echo $0>&2& exit 9",
                lambda mark: rf"Windows_NT {mark}\r\nC:\\windows",
                (r"\$0", 9),
            ),
            # It knows "enable" only where it is not in that mode yet.
            "device": Kind(
                device.port, device.user, {},
                lambda mark: f"show clock\nenable\n{mark}",
                lambda mark: r"\*[0-9:.]+ UTC [A-Z].*\n% Invalid input detected at '\^' marker\.",
                (r".* refused line 2 of the command .*; the lines after it were not sent\.", 1),
            ),
            "become": Kind(
                unix.port, ASKED, {},
                lambda mark: f"echo {mark} $SUDO_USER; id -un; pwd; test -t 0 || exit 4",
                lambda mark: f"{mark} {ASKED}\nroot\n/etc",
                ("", 4),
            ),
        }  # fmt: skip
        tables = f"""
            working-directory = "/tmp"

            [[hosts]]
            hosts = ["[127.0.0.1]:1", "10.0.0.0/8", "*.example"]
            shell = "none"
            pty = true

            [[hosts]]
            hosts = ["[127.0.0.1]:{device.port}"]
            shell = "device"
            family = "cisco"
            ssh-algorithms = "legacy"
            password-file = "device-password"
            become = "enable"
            become-password-file = "enable-secret"
            max-connections = 4

            [[hosts]]
            hosts = ["[127.0.0.1]:{windows.port}"]
            shell = "cmd"
            working-directory = "C:\\\\windows"
            max-sessions = 4
            max-connections = 1

            [[hosts]]
            hosts = ["[127.0.0.1]:{unix.port}"]
            users = ["{ASKED}"]
            working-directory = "/etc"
            key-file = "unix-key"
            become = "sudo"
            become-password-file = "sudo-password"

            [[hosts]]
            hosts = ["[127.0.0.1]:{unix.port}"]
            working-directory = "/var"

            [[hosts]]
            hosts = ["127.0.0.0/8", "!10.0.0.1"]
            working-directory = "/usr"
        """
        return kinds, tables

    def put(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_text(text)
        return path

    async def begin(self, tables: str) -> None:
        hub = self.hub = Hub(reactor, {Relayd.proxy_id: Secret(Relayd.api_key)}, HubSettings())
        self.addCleanup(lambda: Deferred.fromCoroutine(hub.close()))
        port = await hub.listen(TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"))
        url = f"http://127.0.0.1:{port.getHost().port}"  # type: ignore[attr-defined]
        self.relay = Relayd(url, "--config", str(self.put("relayd.toml", tables)))
        self.addCleanup(self.relay.remove)
        self.relay.start()
        await hub.when_connected(Relayd.proxy_id)

    def run_command(self, kind: Kind) -> Deferred[CommandResult]:
        return self.hub.execute(Relayd.proxy_id, kind.order(f"m{next(self.numbers)}"))

    async def test_each_host_in_its_own_way(self) -> None:
        """200 commands, all at once, in any order."""
        self.folder = Path(tempfile.mkdtemp(prefix="relayd-mixed-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.numbers = count()
        kinds, tables = await self.hosts()
        await self.begin(tables)
        seed = secrets.randbits(32)
        print(f"(seed {seed})", end=" ", flush=True)
        ordered = [name for name, share in SHARES.items() for _ in range(share)]
        random.Random(seed).shuffle(ordered)
        self.assertEqual(len(ordered), 200)
        guard = wine.CrashGuard()
        running = [
            Deferred.fromCoroutine(guard.result_of(partial(self.run_command, kinds[name])))
            if name == "windows"
            else self.run_command(kinds[name])
            for name in ordered
        ]
        wrong = []
        for name, result in zip(ordered, await gatherResults(running), strict=True):
            stderr, exit_code = kinds[name].rest
            expected = f"{kinds[name].output(result.command_id)}\0{stderr}\0{exit_code}"
            if not re.fullmatch(expected, f"{result.stdout}\0{result.stderr}\0{result.exit_code}"):
                wrong.append((name, result.command_id, result.stdout, result.stderr, result.exit_code))
        self.assertEqual(wrong[:3], [], f"seed {seed}, {len(wrong)} wrong")
        self.assertNotIn("Traceback", self.relay.log)


if not wine.is_there() or "fakenos" not in ssh_peers.BROUGHT:
    # tests/bootstrap.sh says so where one of them is not to be had.
    del MixedSite
