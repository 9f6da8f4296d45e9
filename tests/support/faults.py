"""
What the fault suite shares: a relay process between a real main server and real SSH servers, with a `ChaosProxy` on
either side of it, and the count of what was lost and what ran twice.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from tests.support.chaos import ChaosProxy
from tests.support.node import NodeServer
from tests.support.relays import Relayd
from tests.support.schemas import wrong
from tests.support.sshd import OpenSSHServer

#: Seconds in which anything must have happened, on a slow machine too.
DEADLINE = 60.0

SOCKETIO, NATIVE = "socketio_server.js", "ws_server.js"
DIALECTS = {SOCKETIO: "socketio", NATIVE: "native"}

Result = tuple[str, str, int]


class FaultCase(TestCase):
    """
    One relay of its own for each test.  `orders` are the commands that the main server has given; each appends its id
    to a file on the host as the first thing it does, which is how executions are counted.
    """

    timeout = 3 * DEADLINE

    def setUp(self) -> None:
        from twisted.internet import reactor  # trial's, which is chosen before any test runs

        self.reactor: Any = reactor
        self.directory = Path(tempfile.mkdtemp(prefix="relayd-faults-"))
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)
        self.directory.chmod(0o755)
        self.marker = self.directory / "ran"
        self.marker.touch()
        self.marker.chmod(0o666)  # the account of the tests writes to it
        self.orders: dict[str, dict[str, Any]] = {}
        self._links: list[Any] = []

    # The parts

    async def start_sshd(self, *config_lines: str, **settings: Any) -> OpenSSHServer:
        """A real sshd."""
        sshd = OpenSSHServer(config_lines, **settings)
        await sshd.start()
        self.addCleanup(sshd.stop)
        return sshd

    async def proxy(self, port: int) -> ChaosProxy:
        """A proxy before a port of the loopback interface."""
        proxy = ChaosProxy(port)
        proxy.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(proxy.stop()))
        return proxy

    async def start_server(self, script: str = SOCKETIO, **options: Any) -> None:
        """The main server, as `server`, and a proxy before it, as `uplink`."""
        self.script = script
        self.options = {"apiKey": Relayd.api_key, **options}
        self.server = NodeServer(script, json.dumps(self.options))
        self.addCleanup(self.stop_server)
        self.uplink = await self.proxy(await self.server.start())

    def stop_server(self) -> Deferred[int]:
        """The one of the moment: a test may have put another in its place."""
        return self.server.stop()

    #: What the relay's process may have; 0: as usual.
    descriptors = 0

    def make_relay(self, url: str, *options: str) -> Relayd:
        """A relay process."""
        relay = Relayd(url, "--reconnect-delay", "0.5s", *options)
        if self.descriptors:
            relay.limit_descriptors(self.descriptors)
        self.addCleanup(relay.remove)
        relay.start()
        return relay

    async def start_relay(self, *options: str) -> None:
        """The relay, connected through `uplink`."""
        self.relay = self.make_relay(
            f"http://127.0.0.1:{self.uplink.port}", "--dialect", DIALECTS[self.script], *options
        )
        await self.connected()

    async def begin(self, script: str = SOCKETIO, *options: str, **server: Any) -> None:
        """All of it: one sshd behind a proxy, as `sshd` and `host`."""
        self.sshd = await self.start_sshd()
        self.host = await self.proxy(self.sshd.port)
        await self.start_server(script, **server)
        await self.start_relay(*options)

    # Waiting

    async def sleep(self, seconds: float) -> None:
        """Let the reactor run."""
        await deferLater(self.reactor, seconds)

    async def until(self, condition: Callable[[], object], what: str, deadline: float = DEADLINE) -> None:
        """Wait until *condition* holds; fail when it does not within *deadline* seconds."""
        end = self.reactor.seconds() + deadline
        while not condition():
            if self.reactor.seconds() > end:
                self.fail(f"still not so after {deadline:g} s: {what}\n{self._log()}")
            await self.sleep(0.02)

    def _log(self) -> str:
        return self.relay.log[-4000:] if hasattr(self, "relay") else ""

    def connections(self) -> int:
        """How often a relay has connected to the main server."""
        return sum("connected" in line for line in self.server.lines)

    async def connected(self, times: int = 1) -> None:
        """Wait until a relay has connected so often."""
        await self.until(lambda: self.connections() >= times, f"connected for the {times}th time")

    async def logged(self, words: str) -> str:
        """The first line of the relay's log with *words* in it."""
        await self.until(lambda: words in self.relay.log, f"the log says {words!r}")
        return next(line for line in self.relay.output if words in line)

    # Commands

    def order(
        self,
        command_id: str,
        command: str = "true",
        *,
        sshd: OpenSSHServer | None = None,
        fields: Mapping[str, Any] | None = None,
        **changes: Any,
    ) -> None:
        """
        Give a command.

        :param fields: what else the message has, as ``changes``; the relay refuses it because of them.
        """
        sshd = sshd or self.sshd
        port = self.host.port if hasattr(self, "host") and sshd is self.sshd else sshd.port
        self.orders[command_id] = {
            "commandId": command_id,
            "serverId": 1,
            "host": sshd.host,
            "port": port,
            "username": sshd.user,
            "privateKey": sshd.key,
            "command": f"echo {command_id} >> {self.marker}; {command}",
            "timeout": 40_000,
            **changes,
        }
        if fields is not None:
            self.orders[command_id] = wrong({**self.orders[command_id], **fields})
        self.server.send({"op": "execute", "ack": True, "data": self.orders[command_id]})

    def order_again(self) -> None:
        """What a main server does that is not sure whether its commands arrived: give those without a result again."""
        self.server.send({"op": "again"})

    def results(self) -> dict[str, list[Result]]:
        """The results that arrived, by command; more than one where one was sent again."""
        found: dict[str, list[Result]] = {}
        for line in self.server.lines:
            if "result" in line:
                found.setdefault(line["result"], []).append((line["stdout"], line["stderr"], line["exitCode"]))
            elif line.get("event") == "command_result":
                result = line["data"]["result"]
                found.setdefault(line["data"]["commandId"], []).append(
                    (result["stdout"], result["stderr"], result["exitCode"])
                )
        return found

    async def result(self, command_id: str, deadline: float = DEADLINE) -> Result:
        """The first result of a command."""
        await self.until(lambda: command_id in self.results(), f"a result of {command_id}", deadline)
        return self.results()[command_id][0]

    async def settled(self, command_ids: Iterable[str] | None = None, deadline: float = DEADLINE) -> None:
        """Wait until these commands, or all, have results."""
        wanted = set(self.orders if command_ids is None else command_ids)
        await self.until(
            lambda: wanted <= self.results().keys(), f"results of all, not only of {len(self.results())}", deadline
        )

    def runs(self) -> Counter[str]:
        """How often each command was really run on its host."""
        return Counter(self.marker.read_text().split())

    def running(self, command_id: str) -> Callable[[], bool]:
        """Whether a command has begun."""
        return lambda: command_id in self.runs()

    async def check(self, *, not_run: Iterable[str] = (), succeed: bool = True) -> None:
        """
        Nothing is lost, nothing ran twice, and the relay works: one more command runs.

        :param not_run: the commands that must not have run.
        :param succeed: whether all others must have run well.
        """
        await self.settled()
        await self.works()
        results, runs, never = self.results(), self.runs(), set(not_run)
        self.assertEqual([each for each in self.orders if each not in results], [], "lost")
        self.assertEqual({each: times for each, times in runs.items() if times > 1}, {}, "run twice")
        self.assertEqual(sorted(never & runs.keys()), [], "ran although they must not")
        self.assertEqual([each for each in results if len(set(results[each])) > 1], [], "results that change")
        if succeed:
            failed = {each: results[each] for each in self.orders if each not in never and results[each][0][2] != 0}
            self.assertEqual(failed, {}, "failed")
            self.assertEqual(set(self.orders) - never - set(runs), set(), "did not run")
        self.assertNotIn("Traceback", self.relay.log)
        self.assertNotIn("Internal error", self.relay.log)

    async def works(self) -> None:
        """The relay runs a new command."""
        probe = f"probe-{len(self.orders)}"
        self.order(probe, "echo it works")
        self.assertEqual(await self.result(probe), ("it works", "", 0))
