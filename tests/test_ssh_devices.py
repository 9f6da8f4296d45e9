"""Commands for network devices, from the order to the result of the protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msgspec.structs import replace
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase

from relayd.errors import (
    BecomeMismatch,
    BecomeUnsupported,
    FieldUnsupported,
    PrivilegeUnknown,
    PtyUnsupported,
    RelayError,
)
from relayd.network.credential_rules import CredentialRule
from relayd.network.host_rules import PRIVILEGED_FAMILIES, Become, HostRule, HostSettings, HostTable
from relayd.ssh.device.families import FAMILIES
from relayd.ssh.login.site_credentials import CredentialTable
from relayd.ssh.settings import SSHSettings
from relayd.ssh.testing import CommandLine, MemoryDevice, MemoryNetwork
from relayd.ssh_devices import lines_of
from relayd.ssh_runner import SSHCommandRunner
from relayd.ssh_texts import RunnerSettings
from relayd.wire.messages import Become as WireBecome
from relayd.wire.messages import CommandResult, ExecuteCommand, Pty, Secret
from tests.support.dispatching import at_once

CISCO = HostSettings(shell="device", family="cisco")


def order(text: str, **changes: Any) -> ExecuteCommand:
    fields: dict[str, Any] = {
        "command_id": "c1",
        "host": "router.example",
        "port": 22,
        "username": "user",
        "password": Secret("password"),
        "command": text,
    }
    return ExecuteCommand(**fields | changes)


class LineTests(SynchronousTestCase):
    def lines(self, text: str, site: HostSettings = CISCO, *, exactly: bool = False, **changes: Any) -> Any:
        try:
            return lines_of(order(text, **changes), site, "gbk", exactly=exactly)
        except RelayError as error:
            return error.code

    def test_lines(self) -> None:
        self.assertEqual((b"one", b"", b"two"), self.lines("\none\r\n\ntwo\n\n"))
        self.assertEqual(("描述".encode("gbk"),), self.lines("描述"))

    def test_what_a_device_cannot_have(self) -> None:
        for changes in ({"cwd": "/tmp"}, {"env": (("A", "b"),)}, {"stdin": b"x"}):
            self.assertEqual("field-unsupported", self.lines("show version", **changes))

    def test_a_terminal(self) -> None:
        """A device always has one, and relayd takes away what the terminal adds: nobody gets the output as it is."""
        for pty in (True, Pty(), Pty(cols=132)):
            with self.assertRaises(PtyUnsupported) as caught:
                lines_of(order("show version", pty=pty), CISCO, "ascii", exactly=False)
            self.assertEqual("field-unsupported", caught.exception.code)
            self.assertIn("Leave pty out", str(caught.exception))
        for site in (CISCO, replace(CISCO, pty=True), replace(CISCO, pty=False)):
            self.assertEqual((b"show version",), self.lines("show version", site, pty=False))
            self.assertEqual((b"show version",), self.lines("show version", site))

    def test_another_user(self) -> None:
        for ordered in (True, WireBecome(), WireBecome(method="su", user="other")):
            self.assertEqual("field-unsupported", self.lines("show version", become=ordered))
        self.assertEqual((b"show version",), self.lines("show version", become=False))

    def test_keys_that_are_no_text(self) -> None:
        """A device would complete a word, or leave it out: it would not read what the site's rules saw."""
        for text in ("sh\tversion", "a\x03b", "a\x16b", "a\x1b[Ab", "a\rb", "rel?oad", "a\x7fb", "a\x9bb"):
            self.assertEqual("unencodable", self.lines(text), repr(text))
        plain = HostSettings(shell="device")
        self.assertEqual((b"what?",), self.lines("what?", plain))
        self.assertEqual("unencodable", self.lines("what?", plain, exactly=True))


class RunnerTests(TestCase):
    timeout = 60

    def setUp(self) -> None:
        self.clock = Clock()
        self.network = MemoryNetwork(reactor, self.clock)

    def make_runner(self, site: HostSettings, *credentials: CredentialRule) -> SSHCommandRunner:
        hosts = HostTable((HostRule(hosts=("router.*",), settings=site),))
        ssh = SSHSettings(known_hosts=self.mktemp(), host_keys="ignore", connect_timeout=30.0)
        runner = SSHCommandRunner(self.network, ssh, RunnerSettings(hosts=hosts), CredentialTable(credentials))
        self.addCleanup(lambda: self.passing(runner.close()))
        return runner

    async def passing(self, running: Deferred[Any]) -> Any:
        while not running.called:
            await deferLater(reactor, 0)
            self.clock.advance(0.05)
        return await running

    async def run_command(self, runner: SSHCommandRunner, text: str, **changes: Any) -> dict[str, Any]:
        running = runner.run_command(order(text, **changes), self.clock.seconds() + 30, at_once, None)
        result: CommandResult = await self.passing(running)
        wire: dict[str, Any] = result.to_wire()["result"]
        return wire

    async def test_result_on_the_wire(self) -> None:
        def answer(line: CommandLine, text: bytes) -> bytes | None:
            return b"% Invalid input\n" if text == b"bogus" else b"Version 15.2\n" if text == b"show version" else b""

        self.network.add(MemoryDevice(answer=answer))
        runner = self.make_runner(CISCO)
        plain = await self.run_command(runner, "show version")
        self.assertEqual({"stdout": "Version 15.2", "stderr": "", "exitCode": 0}, plain)
        refused = await self.run_command(runner, "bogus")
        self.assertEqual({"stdout": "% Invalid input", "stderr": "", "exitCode": 1}, refused)
        stopped = await self.run_command(runner, "bogus\nshow version", extended=True)
        self.assertEqual((1, "line-refused"), (stopped["exitCode"], stopped["error"]["code"]))

    def private_file(self, text: str) -> str:
        path = Path(self.mktemp())
        path.touch(mode=0o600)
        path.write_text(text)
        return str(path)

    async def test_secret_of_the_site(self) -> None:
        """It goes where the site's own credential logs in, and to no login that the main server brings."""

        def answer(line: CommandLine, text: bytes) -> bytes | None:
            if text == b"enable":
                line.mode = "password"
                line.write(b"Password: ")
                return None
            if line.mode == "password":
                line.mode = ""
                line.prompt = b"router#" if text == b"s3cret" else line.prompt
            return b""

        device = self.network.add(MemoryDevice(answer=answer))
        secret = Become(method="enable", password_file=self.private_file("s3cret\n"))
        login = CredentialRule(hosts=("router.*",), password_file=self.private_file("password\n"))
        runner = self.make_runner(HostSettings(shell="device", family="cisco", become=secret), login)
        await self.run_command(runner, "show version", password=None)
        await self.run_command(runner, "show version")
        await self.run_command(runner, "show version", password=None, become=False)
        self.assertEqual([b"router#", b"router>", b"router>"], [line.prompt for line in device.command_lines])
        self.assertEqual(1, device.lines.count(b"s3cret"))

    async def test_commands_per_connection(self) -> None:
        device = self.network.add(MemoryDevice())
        for most, expected in ((None, 1), (1, 4)):
            runner = self.make_runner(replace(CISCO, commands_per_connection=most))
            for _ in range(3):
                await self.run_command(runner, "show version")
            self.assertEqual(expected, len(device.command_lines))

    async def test_refused_before_any_host_is_contacted(self) -> None:
        error = self.make_runner(CISCO).refuses(order("show version", cwd="/tmp"))
        self.assertEqual("field-unsupported", error and error.code)

    async def test_the_privileged_mode_of_a_host_that_is_no_device(self) -> None:
        """Refused before that is contacted, unless the command says as whom it runs, or as nobody else."""
        enable = Become(method="enable", password_file=self.private_file("s3cret\n"))
        for shell in (None, "posix", "none", "cmd", "powershell"):
            runner = self.make_runner(HostSettings(shell=shell, become=enable))  # type: ignore[arg-type]
            for error in (
                runner.refuses(order("id")),
                await self.failed(runner.run_command(order("id"), self.clock.seconds() + 30, at_once, None)),
            ):
                self.assertIsInstance(error, BecomeMismatch)
                self.assertIn('become = "enable" for router.example:22', str(error))
                self.assertIn('"device"', str(error))
            self.assertEqual(None, runner.refuses(order("id", become=False)))
        runner = self.make_runner(HostSettings(become=enable))
        self.assertEqual(None, runner.refuses(order("id", become=WireBecome())))

    async def test_the_privileged_mode_of_a_family_without_one(self) -> None:
        """It would not be entered, and the command would run without it."""
        enable = Become(method="enable", password_file=self.private_file("s3cret\n"))
        for name, family in FAMILIES.items():
            self.assertEqual(name in PRIVILEGED_FAMILIES, bool(family.privilege))
        for unsaid in (None, "generic", "juniper", "mikrotik"):
            runner = self.make_runner(HostSettings(shell="device", family=unsaid, become=enable))  # type: ignore[arg-type]
            error = runner.refuses(order("show version"))
            self.assertIsInstance(error, PrivilegeUnknown)
            self.assertIn(unsaid or "generic", str(error))
            self.assertEqual(None, runner.refuses(order("show version", become=False)))

    async def test_another_user_where_no_posix_shell_is(self) -> None:
        for shell in ("none", "cmd", "powershell", "device"):
            runner = self.make_runner(HostSettings(shell=shell, become=Become(method="su")))  # type: ignore[arg-type]
            error = runner.refuses(order("id"))
            self.assertEqual((BecomeMismatch, "become-unsupported"), (type(error), error and error.code))
            self.assertIn('become = "su" for router.example:22', str(error))
            self.assertIn('"posix"', str(error))
            self.assertEqual(None, runner.refuses(order("id", become=False)))
            error = runner.refuses(order("id", become=WireBecome()))
            expected = FieldUnsupported if shell == "device" else BecomeUnsupported
            self.assertEqual(expected, type(error))

    async def failed(self, running: Deferred[Any]) -> object:
        return await self.assertFailure(running, RelayError)
