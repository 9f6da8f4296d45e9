"""
relayd.service as the package brings it, under a real systemd: from its first start to the purge.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from relayd.hub.errors import CommandRefused
from tests.installed.installation import API_KEY, ETC, PROXY_ID, UNIT, Installation, MainServer, run, until
from tests.support.sshd import OpenSSHServer

ROOT = Path(__file__).resolve().parents[2]


class InstalledCase(TestCase):
    """
    A machine with the package, configured so that it works, a main server and an SSH host.
    """

    timeout = 120

    async def setUp(self) -> None:
        directory = Path(tempfile.mkdtemp())
        directory.chmod(0o755)
        self.server = MainServer(directory)
        self.addCleanup(self.server.stop)
        await self.server.start()
        self.host = OpenSSHServer()
        self.addCleanup(self.host.stop)
        await self.host.start()
        self.relay = Installation(self.server, self.host)
        await self.relay.install()
        await self.relay.configure()
        self.addCleanup(run, "systemctl", "stop", UNIT)

    async def started(self) -> None:
        """Start the relay; returns once the main server has accepted it."""
        done = await self.relay.start()
        self.assertEqual((done.code, done.output), (0, ""), await self.relay.log())

    async def main_pid(self) -> int:
        """The process of the relay."""
        return int(await self.relay.property("MainPID"))


class ServiceTests(InstalledCase):
    """relayd.service"""

    async def test_the_first_start(self) -> None:
        """``systemctl start`` returns once the relay is accepted; all that an operator asks then is green."""
        await self.started()
        self.assertIn(PROXY_ID, self.server.hub.relays)
        status = (await run("systemctl", "status", UNIT)).output
        self.assertIn("Active: active (running)", status)
        self.assertRegex(status, r'Status: "accepted by \S+ since [-\d]+ [:\d]+; 0 commands run"')
        result = await self.relay.execute()
        self.assertEqual((result.stdout, result.stderr, result.exit_code), ("done", "", 0))
        shown = await run("relayctl", "status", "--config", str(ETC / "relayd.toml"))
        self.assertEqual(shown.code, 0, shown.output)
        self.assertRegex(shown.output, f"{PROXY_ID} +ready")
        checked = await run("relayctl", "check")
        self.assertEqual(checked.code, 0, checked.output)
        self.assertIn("no faults, no warnings", checked.output)
        self.assertNotRegex(checked.output, "(?m)^(fault|warning)")

    async def test_journald(self) -> None:
        """Each line has its priority and the identifier ``relayd``, and no time of its own beside that of journald."""
        await self.started()
        link = self.server.hub.relays[PROXY_ID]
        link.transport.abortConnection()
        await until(lambda: self.server.hub.relays.get(PROXY_ID) not in (None, link))
        own = [entry for entry in await self.relay.entries() if entry["_COMM"] == "twistd"]
        self.assertEqual({entry["SYSLOG_IDENTIFIER"] for entry in own}, {"relayd"})
        self.assertEqual({entry["PRIORITY"] for entry in own}, {"4", "6"})
        warnings = [entry["MESSAGE"] for entry in own if entry["PRIORITY"] == "4"]
        self.assertIn("lost", " ".join(warnings))
        for entry in own:
            self.assertNotRegex(entry["MESSAGE"], r"^<\d>|\d\d:\d\d:\d\d")
            self.assertNotIn(API_KEY, entry["MESSAGE"])

    async def test_reload(self) -> None:
        """A sound file takes effect; a broken one fails the reload, names its line, and changes nothing."""
        await self.started()
        before = await self.main_pid()
        self.relay.set_options(allow_hosts='["10.1.0.0/16"]')
        done = await run("systemctl", "reload", UNIT)
        self.assertEqual((done.code, done.output), (0, ""))
        await until(lambda: self.says("reloaded|Reloaded|takes effect"))
        self.assertIn("--allow-hosts", await self.refusal())

        self.relay.set_options("max-commands == 3", allow_hosts='["10.1.0.0/16"]')
        done = await run("systemctl", "reload", UNIT)
        self.assertNotEqual(done.code, 0)
        self.assertIn(UNIT, done.output)
        self.assertTrue(await until(lambda: self.says(r"relayd\.toml.*line \d+")), await self.relay.log())
        self.assertEqual(await self.main_pid(), before)
        self.assertIn("--allow-hosts", await self.refusal())

    async def refusal(self) -> str:
        """Why the relay refuses a command."""
        try:
            await self.relay.execute()
        except CommandRefused as error:
            return str(error)
        return ""

    async def says(self, pattern: str) -> list[str]:
        """The lines of the log that *pattern* finds."""
        return [line for line in await self.relay.log() if re.search(pattern, line)]

    async def test_restart(self) -> None:
        """What ran when the process was killed is reported after the restart, and does not run again."""
        await self.relay.drop_in("[Service]\nRestartSec=100ms\n")
        await self.started()
        marks = Path(tempfile.mkdtemp())
        marks.chmod(0o777)
        waiting = self.relay.execute(command=f"mktemp -p {marks}; sleep 60")
        got: list[Any] = []
        from twisted.internet.defer import ensureDeferred

        ensureDeferred(waiting).addBoth(got.append)
        await until(lambda: list(marks.iterdir()))
        await run("systemctl", "kill", "--signal=KILL", UNIT, check=True)
        self.assertTrue(await until(lambda: got), await self.relay.log())
        self.assertIn("unknown", str(got[0].details.error))
        self.assertEqual(await self.relay.property("NRestarts"), "1")
        self.assertEqual(len(list(marks.iterdir())), 1)

    async def test_stop_drains(self) -> None:
        """A command that runs when the relay is stopped ends first, and its result arrives."""
        await self.started()
        got: list[Any] = []
        from twisted.internet.defer import ensureDeferred

        ensureDeferred(self.relay.execute(command="sleep 2; echo end")).addBoth(got.append)
        await deferLater(reactor, 0.7)
        await run("systemctl", "stop", UNIT, check=True)
        self.assertEqual(got[0].stdout, "end")
        self.assertEqual(await self.relay.property("ActiveState"), "inactive")
        self.assertEqual(await self.relay.property("Result"), "success")

    async def test_watchdog(self) -> None:
        """systemd ends a relay whose event loop stands still, and starts it again."""
        await self.relay.drop_in("[Service]\nWatchdogSec=2s\nRestartSec=100ms\n")
        await self.started()
        await deferLater(reactor, 4)
        self.assertEqual(await self.relay.property("NRestarts"), "0")
        pid = await self.main_pid()
        await run("kill", "-STOP", str(pid), check=True)

        async def again() -> bool:
            return await self.relay.property("NRestarts") == "1" and await self.relay.property("SubState") == "running"

        self.assertTrue(await until(again), await self.relay.log())
        self.assertNotEqual(await self.main_pid(), pid)
        self.assertTrue(await self.says("Watchdog timeout"))

    async def test_sandbox(self) -> None:
        """What the unit takes away is gone: system calls, capabilities, root, other directories, homes."""
        Path("/home/ops").mkdir(exist_ok=True)
        await self.started()
        pid = await self.main_pid()
        status = dict(
            line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
        )
        self.assertEqual((status["Seccomp"], status["NoNewPrivs"]), ("2", "1"))
        self.assertEqual((status["CapEff"], status["CapBnd"]), ("0" * 16, "0" * 16))
        self.assertGreaterEqual(int(status["Uid"].split()[0]), 61184)  # one of systemd's dynamic users
        within = ["nsenter", "-t", str(pid), "-m", "-U", "--preserve-credentials", "-S", status["Uid"].split()[0]]
        for path in ("/etc", "/usr/bin", "/home", "/root", "/var/lib", "/opt/relayd"):
            done = await run(*within, "touch", f"{path}/x")
            self.assertNotEqual(done.code, 0, path)
        for path in ("/var/lib/relayd", "/var/log/relayd", "/run/relayd", "/tmp"):
            done = await run(*within, "touch", f"{path}/x")
            self.assertEqual(done.code, 0, done.output)
        self.assertNotIn("ops", (await run(*within, "ls", "/home")).output)
        self.assertFalse(Path("/tmp/x").exists())
        report = (await run("systemd-analyze", "security", "--no-pager", UNIT, check=True)).output
        exposure = re.search(r"Overall exposure level for \S+ ([\d.]+)", report)
        assert exposure is not None, report
        self.assertLess(float(exposure[1]), 2.0)
        [documented] = re.findall(
            r"``systemd-analyze security relayd`` shows ([\d.]+)", (ROOT / "docs" / "operations.rst").read_text()
        )
        self.assertLess(abs(float(exposure[1]) - float(documented)), 0.3)  # versions of systemd count differently

    async def test_credential(self) -> None:
        """The key is root's alone; the relay gets a copy that only it can read, and no variable holds it."""
        self.assertEqual((ETC / "api-key").stat().st_mode & 0o777, 0o600)
        await self.started()
        copy = Path(f"/run/credentials/{UNIT}/api-key")
        pid = await self.main_pid()
        self.assertEqual(copy.stat().st_mode & 0o777, 0o400)
        self.assertEqual(copy.read_text().strip(), API_KEY)
        self.assertEqual(copy.stat().st_uid, Path(f"/proc/{pid}").stat().st_uid)
        self.assertNotIn(API_KEY.encode(), Path(f"/proc/{pid}/environ").read_bytes())
        self.assertNotIn(API_KEY.encode(), Path(f"/proc/{pid}/cmdline").read_bytes())


class PackageTests(InstalledCase):
    """The package beside a relay that runs."""

    async def test_upgrade_and_purge(self) -> None:
        await run("systemctl", "enable", UNIT, check=True)
        await self.started()
        before = await self.main_pid()
        await self.relay.install(again=True)
        await until(lambda: self.is_another(before))
        self.assertNotEqual(await self.main_pid(), before)
        await until(lambda: self.relay.property("ActiveState"))
        result = await self.relay.execute()
        self.assertEqual(result.stdout, "done")

        await run("dpkg", "--remove", "relayd", check=True)
        self.assertEqual(await self.relay.property("ActiveState"), "inactive")
        self.assertTrue(Path("/var/lib/private/relayd").exists())
        self.assertTrue((ETC / "relayd.toml").exists())
        await run("dpkg", "--purge", "relayd", check=True)
        Installation.installed = False
        left = [
            *Path("/etc/systemd/system").rglob("*relayd*"),
            *(path for folder in ("/etc", "/var/lib", "/var/log", "/run", "/opt") for path in self.of_relayd(folder)),
        ]
        self.assertEqual([path for path in left if "systemd" not in str(path) or "wants" in str(path)], [])

    @staticmethod
    def of_relayd(folder: str) -> list[Path]:
        """What is left of it below one directory."""
        return [*Path(folder).glob("relayd*"), *Path(folder, "private").glob("relayd*")]

    async def is_another(self, pid: int) -> bool:
        """Whether another process than *pid* runs, and the main server has accepted it."""
        running = await self.relay.property("SubState") == "running"
        return running and await self.main_pid() not in (0, pid) and PROXY_ID in self.server.hub.relays
