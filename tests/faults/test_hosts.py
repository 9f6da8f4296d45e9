"""
Hosts that hang, restart, reboot, are cut off, or show another key, while commands run: each has one result, runs once
at most, and commands on other hosts do not notice.
"""

from __future__ import annotations

import re
import signal
from typing import Any

from twisted.internet.task import LoopingCall

from tests.support.chaos import ChaosProxy, Pipe
from tests.support.faults import FaultCase

#: Seconds that the commands of these tests have, and that a step of a connection has.
SHORT, STEP = 8, 4

UNKNOWN = "Whether it completed is not known"


class HostCase(FaultCase):
    """Many ways to one sshd, which count as hosts of their own, beside a good one."""

    async def begin_with_ways(self, count: int, *sshd: str) -> list[ChaosProxy]:
        # They are one server, which by default drops at random what comes beyond ten that have not logged in.
        self.far = await self.start_sshd(*sshd, "MaxStartups 1000")
        self.sshd = await self.start_sshd()
        await self.start_server()
        await self.start_relay("--connect-timeout", f"{STEP}s", "--max-commands", "200")
        return [await self.proxy(self.far.port) for _ in range(count)]

    def go(self, command_id: str, way: ChaosProxy, command: str = "true", **changes: Any) -> None:
        """Give a command to the host behind a proxy."""
        self.order(command_id, command, sshd=self.far, port=way.port, **changes)

    def keep_busy(self) -> LoopingCall:
        """Commands on the good host, all the time, which have to run well: `undisturbed`."""
        busy = LoopingCall(lambda: self.order(f"busy-{len(self.orders)}", "echo busy"))
        busy.start(0.25)
        self.addCleanup(lambda: busy.running and busy.stop())
        return busy

    async def undisturbed(self, busy: LoopingCall) -> int:
        """
        The good host's commands all succeeded.

        :return: how many there were.
        """
        busy.stop()
        mine = [each for each in self.orders if each.startswith("busy-")]
        await self.settled(mine)
        self.assertEqual([self.results()[each][0] for each in mine], [("busy", "", 0)] * len(mine))
        return len(mine)

    async def all_well(self, ways: list[ChaosProxy]) -> None:
        """The faults are gone, and a command runs on each of the hosts."""
        for number, way in enumerate(ways):
            for faulty in (way, *way.links):
                faulty.up.heal()
                faulty.down.heal()
            self.go(f"after-{number}", way)
        await self.settled()
        self.assertEqual({self.results()[f"after-{number}"][0] for number in range(len(ways))}, {("", "", 0)})

    async def sweep(self) -> int:
        """How many bytes a server says for one command on a connection of its own."""
        way = await self.proxy(self.far.port)
        self.go("measure", way)
        await self.settled(["measure"])
        return way.newest.down.passed


class SlowHosts(HostCase):
    async def test_every_stage(self) -> None:
        """
        Silent, or a byte a second, after any part of what a good server says: before its version, in it, in the key
        exchange, the login, the opening of a channel, the answer to exec, the output, the exit status.
        """
        ways = await self.begin_with_ways(32)
        total = await self.sweep()
        busy = self.keep_busy()
        cases = {}
        for index, way in enumerate(ways):
            after = (index // 2) * total // 16
            fault = Pipe.stop if index % 2 else lambda pipe: pipe.drip(1.0)
            way.down.after(max(1, after), fault)
            cases[f"slow-{after}-{'silent' if index % 2 else 'drip'}"] = way
        begun = self.reactor.seconds()
        for command_id, way in cases.items():
            self.go(command_id, way, timeout=SHORT * 1000)
        await self.settled(cases, deadline=SHORT + 30)
        took = self.reactor.seconds() - begun
        self.assertGreater(await self.undisturbed(busy), took, "commands on the good host")
        results, runs = self.results(), self.runs()
        for command_id, way in cases.items():
            ((_, stderr, code),) = set(results[command_id])
            if code == 0:  # nothing but the server's last words were missing
                self.assertEqual(runs[command_id], 1)
                continue
            self.assertRegex(stderr, rf"timed out|within {STEP} s|not known", command_id)
            self.assertIn(f":{way.port}", stderr) if command_id not in runs else None
        await self.all_well(ways)
        await self.check(succeed=False)


class BrokenHosts(HostCase):
    async def test_cut_after_any_number_of_bytes(self) -> None:
        """Reset or closed, from either direction: what had not begun is tried again, what had is unknown."""
        ways = await self.begin_with_ways(32)
        total = await self.sweep()
        busy = self.keep_busy()
        for index, way in enumerate(ways):
            pipe = way.down if index % 4 < 2 else way.up
            pipe.cut_after(max(1, (index // 4) * total // 8), "rst" if index % 2 else "fin")
            self.go(f"cut-{index}", way, "sleep 0.2")
        await self.settled()
        self.assertGreater(await self.undisturbed(busy), 0)
        results, runs = self.results(), self.runs()
        for index in range(len(ways)):
            ((_, stderr, code),) = set(results[f"cut-{index}"])
            if code:
                self.assertRegex(stderr, r"not known|closed the connection|was lost|cannot be reached", f"cut-{index}")
            if f"cut-{index}" in runs and code:
                self.assertIn("not known", stderr)
        await self.all_well(ways)
        await self.check(succeed=False)

    async def test_restart_between_commands(self) -> None:
        (way,) = await self.begin_with_ways(1)
        for number in range(5):
            self.go(f"c{number}", way, "echo ok")
            self.assertEqual((await self.result(f"c{number}"))[0], "ok")
            await self.far.restart()
        await self.check()

    async def test_restart_during_commands(self) -> None:
        """Their outcome is not known, which each result says; none is run again."""
        (way,) = await self.begin_with_ways(1)
        busy = self.keep_busy()
        for number in range(20):
            self.go(f"c{number}", way, "sleep 60")
        await self.until(lambda: sum(each.startswith("c") for each in self.runs()) == 20, "all run")
        await self.far.restart()
        for number in range(20):
            _, stderr, code = await self.result(f"c{number}")
            self.assertEqual(code, 1)
            self.assertIn(UNKNOWN, stderr)
        self.go("next", way, "echo ok")
        self.assertEqual((await self.result("next"))[0], "ok")
        self.assertGreater(await self.undisturbed(busy), 0)
        await self.check(succeed=False)

    async def test_silent_between_commands(self) -> None:
        """
        A connection that was idle is gone without a word, as behind a firewall that forgot it: the next commands run
        on another one, once each, long before anybody gives up; what the old one says later changes nothing.
        """
        (way,) = await self.begin_with_ways(1)
        self.go("first", way)
        await self.settled()
        stale = way.newest
        stale.stop()
        for number in range(5):
            self.go(f"c{number}", way, f"echo {number}", timeout=15_000)
        for number in range(5):
            self.assertEqual(await self.result(f"c{number}"), (str(number), "", 0))
        self.assertEqual(way.accepted, 2)
        await self.logged("does not answer; another one is opened beside it")
        stale.heal()
        self.go("late", way)
        await self.check()

    async def test_reboot(self) -> None:
        """Reset connections, then nobody there, then a host that is back."""
        (way,) = await self.begin_with_ways(1)
        for number in range(8):
            self.go(f"c{number}", way, "sleep 60")
        await self.until(lambda: len(self.runs()) == 8, "all run")
        await way.stop()
        self.far.drop_connections(signal.SIGKILL)
        self.go("away", way)
        self.assertIn("refused the connection", (await self.result("away"))[1])
        for number in range(8):
            self.assertIn(UNKNOWN, (await self.result(f"c{number}"))[1])
        way.start()
        self.go("next", way, "echo ok")
        self.assertEqual((await self.result("next"))[0], "ok")
        await self.check(succeed=False, not_run=["away"])


class ChangedHosts(HostCase):
    async def test_another_host_key(self) -> None:
        """Refused in clear words, and nothing of a login reaches whoever it is; the old host is welcome again."""
        (way,) = await self.begin_with_ways(1, "LogLevel DEBUG1")
        self.go("before", way)
        await self.settled()
        other = await self.start_sshd("LogLevel DEBUG1")
        way.server_port = other.port
        for link in list(way.links):
            link.cut()
        seen = len(other.log_lines)
        refused = [f"refused-{number}" for number in range(5)]
        for command_id in refused:
            self.go(command_id, way)
            stderr = (await self.result(command_id))[1]
            self.assertIn("has changed: the known key is", stderr)
            self.assertIn("nothing was sent", stderr)
        await self.until(lambda: any("[preauth]" in line for line in other.log_lines[seen:]), "it saw somebody")
        log = "\n".join(other.log_lines[seen:])
        for words in ("userauth", "Accepted", "Failed", other.user):
            self.assertNotIn(words, log)
        way.server_port = self.far.port
        self.go("again", way)
        await self.check(not_run=refused)


class StormTests(HostCase):
    async def test_wrong_passwords(self) -> None:
        """200 commands with a wrong password, among good ones on the same host and on others."""
        (way,) = await self.begin_with_ways(1, "MaxAuthTries 6")
        wrong, good = [], []
        for number in range(200):
            wrong.append(f"wrong-{number}")
            self.go(wrong[-1], way, privateKey=None, password="not-the-password")
            if number % 10 == 0:
                good += [f"same-{number}", f"other-{number}"]
                self.go(good[-2], way, "echo good")
                self.order(good[-1], "echo good")
            await self.sleep(0.02)  # longer in all than many failed logins take
        await self.settled()
        results = self.results()
        self.assertEqual({results[each][0] for each in good}, {("good", "", 0)})
        for each in wrong:
            self.assertRegex(results[each][0][1], r"(?i)refused|login", each)
        attempts = sum("Failed password" in line for line in self.far.log_lines)
        self.assertTrue(1 <= attempts <= 3, f"{attempts} attempts")
        opened = sum(bool(re.match(r"Connection from ", line)) for line in self.far.log_lines)
        self.assertLess(opened, 12, "connections")
        await self.check(not_run=wrong)
