"""
What befalls the relay's own process: no descriptors left, SIGTERM under load; and that it has one link at a time.
"""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path

from tests.support.faults import DIALECTS, NATIVE, SOCKETIO, FaultCase


class DescriptorTests(FaultCase):
    """RLIMIT_NOFILE as if somebody else held all descriptors, on the relay that runs."""

    def limit(self, most: int) -> None:
        """Let the relay have no descriptor that is not below *most*."""
        resource.prlimit(self.relay.pid, resource.RLIMIT_NOFILE, (most, self.usual))

    def cpu(self) -> float:
        """Seconds of processor time that the relay has taken (proc(5), /proc/PID/stat)."""
        fields = Path(f"/proc/{self.relay.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def test_none_left(self) -> None:
        await self.begin()
        self.usual = resource.prlimit(self.relay.pid, resource.RLIMIT_NOFILE)[1]
        self.order("first")
        await self.settled()
        ways = [await self.proxy(self.sshd.port) for _ in range(30)]
        self.limit(max(map(int, os.listdir(f"/proc/{self.relay.pid}/fd"))) + 5)
        for number, way in enumerate(ways):
            self.order(f"c{number}", "sleep 1; echo ok", port=way.port)
            self.order(f"known-{number}", "echo ok")  # on a connection that is open: needs no descriptor
        await self.settled()
        results = self.results()
        # Those that are idle make room for the others.
        self.assertEqual({result[0] for result in results.values()}, {("ok", "", 0), ("", "", 0)})
        self.assertEqual(self.connections(), 1, "the uplink stays")

        # and now the uplink is lost, and cannot be made again
        self.limit(3)
        self.uplink.newest.cut()
        await self.logged("Too many open files")
        before = self.cpu()
        await self.sleep(3)
        self.assertLess(self.cpu() - before, 1.0, "busy")
        self.limit(self.usual)
        await self.connected(2)
        await self.check(succeed=False)


class FewDescriptorsTests(FaultCase):
    """A relay that was started with very few of them (``ulimit -n``)."""

    descriptors = 64

    async def test_more_hosts_than_descriptors(self) -> None:
        """It says so at its start, and idle connections make room for others: each of 100 hosts gets its turn."""
        await self.begin()
        await self.logged(
            "may open only 64 files, too few for --max-total-connections 1000: it keeps at most 24 connections"
        )
        ways = [await self.proxy(self.sshd.port) for _ in range(100)]
        for number, way in enumerate(ways):
            self.order(f"c{number}", "echo ok", port=way.port)
        await self.settled()
        self.assertEqual({result[0] for result in self.results().values()}, {("ok", "", 0)})
        self.assertNotIn("Traceback", self.relay.log)
        await self.check()

    async def test_hosts_that_stay_busy(self) -> None:
        """What gets no place in time says why, and was not run."""
        self.descriptors = 46
        await self.begin()
        ways = [await self.proxy(self.sshd.port) for _ in range(40)]
        few = max(map(int, os.listdir(f"/proc/{self.relay.pid}/fd"))) + 4
        resource.prlimit(self.relay.pid, resource.RLIMIT_NOFILE, (few, self.descriptors))
        for number, way in enumerate(ways):
            self.order(f"c{number}", "sleep 30", port=way.port, timeout=5000)
        await self.settled()
        words = [results[0][1] for results in self.results().values()]
        waited = [each for each in words if "timed out after 5 s while it waited" in each]
        self.assertGreater(len(waited), 30, words)
        short = [each for each in waited if "this relay's limit is" in each]
        self.assertGreater(len(short), 10, words)
        self.assertLess(len(self.runs()), 10)


class TerminationTests(FaultCase):
    """SIGTERM while 50 commands run and wait."""

    async def under_load(self, script: str) -> None:
        """All that was acknowledged has a result, done or cancelled; the exit status is 0."""
        await self.begin(script, "--max-commands", "20", "--drain-timeout", "4s")
        for number in range(50):
            self.order(f"c{number:02}", f"sleep {(0.3, 1.5, 60)[number % 3]}; echo done")
        await self.until(lambda: len(self.runs()) >= 15, "many run")
        if script == SOCKETIO:
            await self.until(lambda: sum("ack" in line for line in self.server.lines) == 50, "all are acknowledged")
        ended = self.relay.signal(signal.SIGTERM)
        self.assertEqual(await ended, 0, self.relay.log)
        await self.settled()
        results, runs = self.results(), self.runs()
        self.assertEqual(max(runs.values()), 1)
        done = [each for each in self.orders if results[each][0] == ("done", "", 0)]
        self.assertGreater(len(done), 5)
        self.assertLessEqual(set(done), runs.keys())
        for each in set(self.orders) - set(done):
            stderr = results[each][0][1]
            self.assertRegex(stderr, "cancelled")
            if each in runs:
                self.assertIn("while it ran", stderr)
        self.assertNotIn("Traceback", self.relay.log)
        self.relay = self.make_relay(f"http://127.0.0.1:{self.uplink.port}", "--dialect", DIALECTS[script])
        await self.connected(2)
        await self.works()

    async def test_socketio(self) -> None:
        await self.under_load(SOCKETIO)

    async def test_native(self) -> None:
        await self.under_load(NATIVE)


class OneLinkTests(FaultCase):
    """A stale link of our own."""

    async def test_is_closed_before_another_is_made(self) -> None:
        """Whether the main server is silent or does not take leave: the old connection is gone when the new comes."""
        await self.begin(pingInterval=500, pingTimeout=1500)
        for times in (2, 3):
            stale = self.uplink.newest
            stale.stop()
            await self.connected(times)
            stale.heal()  # whoever it was hears of the end now
            await self.until(lambda stale=stale: stale not in self.uplink.links, "the old one is closed")  # type: ignore[misc]
            self.assertEqual(len(self.uplink.links), 1)
        await self.check()

    async def test_main_server_that_does_not_close(self) -> None:
        """It breaks the protocol, then says no good-bye: the relay waits for 5 s, and no longer."""
        await self.begin(NATIVE)
        stale = self.uplink.newest
        stale.up.stop()
        self.server.send({"op": "raw", "text": "{" + "x" * 100_000})  # shorter ones are passed over
        await self.logged("malformed JSON")
        self.assertEqual(self.uplink.accepted, 1)
        await self.connected(2)
        stale.heal()
        await self.until(lambda: len(self.uplink.links) == 1, "the old one is closed")
        await self.check()
