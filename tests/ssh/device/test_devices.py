"""Commands on devices in memory: an `SSHClient` with the time in the test's hands."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock, deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from relayd.network.host_rules import HostRule, HostSettings, HostTable
from relayd.ssh import Credential, SSHClient, SSHError, SSHSettings
from relayd.ssh.client import Completed
from relayd.ssh.device.devices import NO_MORE_FOR
from relayd.ssh.device.run import DeviceRequest
from relayd.ssh.pool.checked_names import allow_all
from relayd.ssh.settings import LiveSettings
from relayd.ssh.testing import CommandLine, MemoryDevice, MemoryNetwork, Misbehaviour

LIMIT = 60.0
PAGE = b"--More--"


def cisco(line: CommandLine, text: bytes) -> bytes | None:
    """A device of Cisco's, or nearly."""
    if line.mode == "password":
        line.mode = ""
        if text != b"s3cret":
            return b"% Bad secrets\n"
        line.prompt = b"router#"
        return b""
    if line.mode == "question":
        line.mode = ""
        return b"done\n" if text == b"y" else b"not done\n"
    if text == b"enable":
        line.mode = "password"
        line.write(b"Password: ")
        return None
    if text in (b"reload", b"erase"):
        line.mode = "question"
        line.write(b"Proceed? [confirm]" if text == b"reload" else b"Sure? [Y/N]:")
        return None
    if text == b"configure terminal":
        line.prompt = b"router(config)#"
        return b""
    if text == b"hang":
        return None
    if text == b"leave":
        line.close()
        return None
    if text == b"pages":
        line.mode = "pages"
        line.write(b"page 1\r\n" + PAGE)
        return None
    if text.startswith((b"show", b"terminal", b"interface")) or not text:
        return b"output of " + text + b"\n" if text.startswith(b"show") else b""
    return b"    ^\n% Invalid input detected at '^' marker.\n\n"


def page_key(line: CommandLine, key: bytes) -> bool:
    if line.mode != "pages" or key != b" ":
        return False
    line.mode = ""
    line.write(b"\b" * 8 + b" " * 8 + b"\b" * 8 + b"page 2\r\n" + line.prompt)
    return True


class DeviceCase(TestCase):
    timeout = 60

    def setUp(self) -> None:
        self.clock = Clock()
        self.network = MemoryNetwork(reactor, self.clock)
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        known_hosts = str(Path(directory.name) / "known_hosts")
        settings = SSHSettings(known_hosts=known_hosts, host_keys="ignore", connect_timeout=30.0)
        self.client = SSHClient(self.network, settings)
        self.addCleanup(lambda: self.passing(self.client.close()))
        self.device = self.network.add(MemoryDevice(answer=cisco, keys=page_key))

    async def pass_time(self, seconds: float, step: float = 0.05) -> None:
        end = self.clock.seconds() + seconds
        while self.clock.seconds() < end:
            await deferLater(reactor, 0)
            self.clock.advance(step)

    async def passing(self, running: Deferred[Any]) -> Any:
        while not running.called:
            await self.pass_time(0.05)
        return await running

    def begin(self, *lines: bytes, **changes: Any) -> Deferred[Completed]:
        fields: dict[str, Any] = {
            "target": self.device.target(),
            "family": "cisco",
            "lines": lines,
            "secret": None,
            "deadline": self.clock.seconds() + LIMIT,
            "timeout": LIMIT,
            "most_sessions": 1,
        }
        return self.client.run_on_device(DeviceRequest(**fields | changes))

    async def carry_out(self, *lines: bytes, **changes: Any) -> Completed:
        done: Completed = await self.passing(self.begin(*lines, **changes))
        return done

    async def error_of(self, *lines: bytes, **changes: Any) -> SSHError:
        try:
            await self.carry_out(*lines, **changes)
        except SSHError as error:
            return error
        raise AssertionError("it was carried out")

    def shown(self, completed: Completed) -> tuple[int | None, str, str | None]:
        return completed.exit.status, completed.stdout.text(), completed.error and completed.error.code


class OrderTests(DeviceCase):
    async def test_output_without_echo_and_prompt(self) -> None:
        self.assertEqual((0, "output of show version", None), self.shown(await self.carry_out(b"show version")))
        both = await self.carry_out(b"show one", b"show two")
        self.assertEqual((0, "output of show one\noutput of show two", None), self.shown(both))

    async def test_one_command_line_for_many_commands(self) -> None:
        running = [self.begin(b"show %d" % number) for number in range(10)]
        shown = [self.shown(await self.passing(each))[1] for each in running]
        self.assertEqual([f"output of show {number}" for number in range(10)], shown)
        self.assertEqual(1, len(self.device.command_lines))

    async def test_a_device_that_does_not_echo(self) -> None:
        self.device.echoes = False
        self.assertEqual((0, "output of show version", None), self.shown(await self.carry_out(b"show version")))

    async def test_pages(self) -> None:
        self.assertEqual((0, "page 1\npage 2", None), self.shown(await self.carry_out(b"pages")))

    async def test_a_refused_line_is_the_last(self) -> None:
        status, output, code = self.shown(await self.carry_out(b"show one", b"bogus", b"show two"))
        self.assertEqual((1, "line-refused"), (status, code))
        self.assertIn("% Invalid input", output)
        self.assertNotIn(b"show two", self.device.lines)

    async def test_the_only_line_refused(self) -> None:
        status, output, code = self.shown(await self.carry_out(b"bogus"))
        self.assertEqual((1, None), (status, code))
        self.assertIn("% Invalid input", output)

    async def test_a_question_is_answered_by_the_commands_own_lines(self) -> None:
        status, output, code = self.shown(await self.carry_out(b"erase", b"y"))
        self.assertEqual((0, None), (status, code))
        self.assertIn("done", output)
        self.assertNotIn("not done", output)

    async def test_a_question_is_answered_by_nothing_else(self) -> None:
        for text in (b"erase", b"reload"):
            before = len(self.device.lines)
            completed = await self.carry_out(text)
            self.assertEqual((1, "device-asked"), (completed.exit.status, completed.error and completed.error.code))
            self.assertEqual(text, self.device.lines[-1])
            await self.pass_time(10)
            self.assertEqual(text, self.device.lines[-1])
            self.assertGreater(len(self.device.lines), before)
        self.assertEqual(2, len(self.device.command_lines))

    async def test_each_command_begins_in_the_same_mode(self) -> None:
        await self.carry_out(b"configure terminal", b"interface 1")
        await self.carry_out(b"show version")
        self.assertEqual([b"router(config)#", b"router>"], [line.prompt for line in self.device.command_lines])

    async def test_output_as_it_comes(self) -> None:
        pieces: list[bytes] = []

        def read(is_stderr: bool, data: bytes) -> Deferred[None]:
            pieces.append(data)
            return succeed(None)

        completed = await self.carry_out(b"show one", b"show two", reader=read)
        self.assertEqual(completed.stdout.raw(), b"".join(pieces))


class PrivilegeTests(DeviceCase):
    async def test_the_secret_opens_the_privileged_mode(self) -> None:
        await self.carry_out(b"show version", secret=b"s3cret")
        self.assertEqual([b"router#"], [line.prompt for line in self.device.command_lines])

    async def test_a_wrong_secret_is_tried_once(self) -> None:
        error = await self.error_of(b"show version", secret=b"wrong")
        self.assertEqual(("privilege-refused", "no"), (error.code, error.executed))
        self.assertNotIn("wrong", str(error))
        self.assertIn("Bad secrets", str(error))
        self.assertEqual(1, self.device.lines.count(b"wrong"))
        self.assertNotIn(b"show version", self.device.lines)


class TroubleTests(DeviceCase):
    async def test_time_is_over(self) -> None:
        completed = await self.carry_out(b"show one", b"hang", deadline=self.clock.seconds() + 5, timeout=5.0)
        self.assertEqual((None, "output of show one", "timeout"), self.shown(completed))
        self.assertEqual("unsupported", completed.killed)
        self.assertEqual((0, "output of show two", None), self.shown(await self.carry_out(b"show two")))
        self.assertEqual(2, len(self.device.command_lines))

    async def test_cancelled(self) -> None:
        running = self.begin(b"hang")
        await self.pass_time(5)
        self.assertIn(b"hang", self.device.lines)
        running.cancel()
        self.assertEqual((None, "", "cancelled"), self.shown(await running))

    async def test_waiting_for_its_turn(self) -> None:
        first = self.begin(b"hang")
        error = await self.error_of(b"show one", deadline=self.clock.seconds() + 5, timeout=5.0)
        self.assertEqual(("timeout", "no"), (error.code, error.executed))
        self.assertIn("other commands use its command line", str(error))
        self.assertNotIn(b"show one", self.device.lines)
        first.cancel()
        await first

    async def test_lost_while_it_runs(self) -> None:
        running = self.begin(b"hang")
        await self.pass_time(5)
        self.device.drop_connections()
        completed = await self.passing(running)
        self.assertEqual("outcome-unknown", completed.error and completed.error.code)
        self.assertEqual(1, self.device.lines.count(b"hang"))

    async def test_the_device_ends_it(self) -> None:
        self.assertEqual((None, "", "outcome-unknown"), self.shown(await self.carry_out(b"leave")))

    async def test_lost_before_it_is_sent(self) -> None:
        """A command whose permission takes time gets another command line, and the permission is asked for once."""
        permissions: list[Deferred[None]] = []

        def permission() -> Deferred[None]:
            permissions.append(Deferred())
            return permissions[-1]

        running = self.begin(b"show one", permission=permission)
        await self.pass_time(5)
        self.device.drop_connections()
        await self.pass_time(5)
        self.assertNotIn(b"show one", self.device.lines)
        permissions[0].callback(None)
        self.assertEqual((0, "output of show one", None), self.shown(await self.passing(running)))
        self.assertEqual((1, 2), (len(permissions), len(self.device.command_lines)))

    async def test_forbidden(self) -> None:
        running = self.begin(b"show one", permission=lambda: fail(Failure(ValueError("no"))))
        await self.passing(self.assertFailure(running, ValueError))
        await self.carry_out(b"show two")
        self.assertNotIn(b"show one", self.device.lines)
        self.assertEqual(1, len(self.device.command_lines))

    async def test_a_command_line_that_is_gone_is_found_before_it_is_used(self) -> None:
        await self.carry_out(b"show one")
        self.device.command_lines[0].typed = lambda data: None  # type: ignore[method-assign]
        self.device.answer = cisco
        await self.pass_time(20)
        self.assertEqual((0, "output of show two", None), self.shown(await self.carry_out(b"show two")))

    async def test_idle_ones_are_closed(self) -> None:
        await self.carry_out(b"show one")
        await self.pass_time(400, 5.0)
        self.assertEqual(0, self.device.connections)

    async def test_a_reload_ends_those_that_were_opened_in_another_way(self) -> None:
        """What is under way goes on; the next command has a command line of the new settings."""

        def say(**said: Any) -> None:
            rule = HostRule(hosts=("router.*",), settings=HostSettings(**said))
            self.client.configure(LiveSettings(host_keys="ignore", hosts=HostTable((rule,))), allow_all)

        await self.carry_out(b"show one")
        say(working_directory="/tmp")
        await self.carry_out(b"show one")
        self.assertEqual(1, len(self.device.command_lines))
        say(keepalive_interval=20.0)
        await self.carry_out(b"show two")
        self.assertEqual(2, len(self.device.command_lines))
        running = self.begin(b"erase", b"y")
        await self.pass_time(0.2)
        say(ssh_algorithms="compatible")
        self.assertEqual((0, None), (self.shown(await self.passing(running))[0], None))
        await self.carry_out(b"show three")
        self.assertEqual(3, len(self.device.command_lines))
        self.client.retire_all()
        await self.carry_out(b"show four")
        self.assertEqual(4, len(self.device.command_lines))

    async def test_an_old_connection_gets_no_more_commands(self) -> None:
        begun = self.clock.seconds()
        while self.clock.seconds() < begun + SSHSettings(known_hosts="").max_connection_age:
            await self.carry_out(b"show one")
            await self.pass_time(280, 70)
        await self.carry_out(b"show one")
        self.assertEqual(2, len(self.device.command_lines))

    async def test_commands_on_one_connection(self) -> None:
        for number in range(5):
            await self.carry_out(b"show %d" % number, most_commands=2)
        self.assertEqual(3, len(self.device.command_lines))

    async def test_wrong_password(self) -> None:
        target = self.device.target(credential=Credential(password="no"))
        self.assertEqual("login-refused", (await self.error_of(b"show one", target=target)).code)

    async def test_no_prompt(self) -> None:
        self.device.prompt = b"Change the password now? [Y/N]:"
        error = await self.error_of(b"show one")
        self.assertEqual(("device-not-ready", "no"), (error.code, error.executed))
        self.assertIn("[Y/N]", str(error))
        self.assertEqual([], self.device.lines)

    async def test_silence(self) -> None:
        self.device.prompt = self.device.greeting = b""
        error = await self.error_of(b"show one")
        self.assertEqual(("device-not-ready", "no"), (error.code, error.executed))

    async def test_no_shell(self) -> None:
        self.device.open_shell = lambda write, close: None  # type: ignore[method-assign]
        self.assertEqual("exec-refused", (await self.error_of(b"show one")).code)

    async def test_few_command_lines(self) -> None:
        """Where a device gives no second command line, the first one does all, and it is not asked again and again."""
        first = self.begin(b"show one", most_sessions=4)
        await self.passing(first)
        self.device.misbehaviour = Misbehaviour.CLOSES_LOGINS
        running = [self.begin(b"show %d" % number, most_sessions=4) for number in range(8)]
        for each in running:
            self.assertEqual(0, self.shown(await self.passing(each))[0])
        asked = self.device.factory.accepted
        self.assertLess(asked, 8)
        self.clock.advance(NO_MORE_FOR)
        for each in [self.begin(b"show %d" % number, most_sessions=4) for number in range(2)]:
            await self.passing(each)
        self.assertGreater(self.device.factory.accepted, asked, "after a while it is asked again")

    async def test_nothing_is_run_after_the_end(self) -> None:
        await self.passing(self.client.close())
        self.assertEqual("cancelled", (await self.error_of(b"show one")).code)
