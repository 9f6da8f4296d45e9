"""
The whole of it: ``twistd relayd --dialect auto``, npm's socket.io and ws as main servers, real SSH servers.
"""

from __future__ import annotations

import json
import signal
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from tests.support.node import NodeServer
from tests.support.relays import Relayd
from tests.support.sshd import OpenSSHServer


class EndToEnd(TestCase):
    """Every test has a main server, an SSH server and a relay of its own."""

    timeout = 90

    async def begin(self, script: str, *options: str, sshd: tuple[str, ...] = ()) -> None:
        self.sshd = OpenSSHServer(sshd)
        await self.sshd.start()
        self.addCleanup(self.sshd.stop)
        self.server = NodeServer(script, json.dumps({"apiKey": Relayd.api_key}))
        self.addCleanup(self.stop_server)
        port = await self.server.start()
        self.relay = Relayd(f"http://127.0.0.1:{port}", "--dialect", "auto", *options)
        self.addCleanup(self.relay.remove)
        self.relay.start()
        await self.server.wait_for(lambda line: line.get("connected") == Relayd.proxy_id)

    def stop_server(self) -> Deferred[int]:
        """The one of the moment: a test may have put another in its place."""
        return self.server.stop()

    def order(self, command_id: str, command: str, **changes: Any) -> None:
        data = {
            "commandId": command_id,
            "serverId": 1,
            "host": self.sshd.host,
            "port": self.sshd.port,
            "username": self.sshd.user,
            "privateKey": self.sshd.key,
            "command": command,
            "timeout": 30_000,
        }
        self.server.send({"op": "execute", "ack": True, "data": data | changes})

    def socketio_result(self, command_id: str, timeout: float = 40) -> Deferred[dict[str, Any]]:
        return self.server.wait_for(lambda line: line.get("result") == command_id, timeout)

    async def test_socketio(self) -> None:
        await self.begin("socketio_server.js")
        self.order("c1", "pwd; id -un; echo oops >&2; exit 3")
        acknowledged = await self.server.wait_for(lambda line: line.get("ack") == "c1")
        self.assertEqual(acknowledged["answer"], [])
        result = await self.socketio_result("c1")
        self.assertEqual((result["stdout"], result["stderr"], result["exitCode"]), (f"/\n{self.sshd.user}", "oops", 3))

    async def test_native(self) -> None:
        await self.begin("ws_server.js")
        self.order("c1", "pwd; id -un; echo oops >&2; exit 3")
        line = await self.server.wait_for(lambda line: line.get("event") == "command_result", 40)
        result = {"stdout": f"/\n{self.sshd.user}", "stderr": "oops", "exitCode": 3}
        self.assertEqual(line["data"], {"commandId": "c1", "result": result})

    async def test_more_output_than_the_link_takes(self) -> None:
        """3 MB to a socket.io server with its default maxHttpBufferSize of 1 MB."""
        await self.begin("socketio_server.js")
        self.order("big", "head -c 3000000 /dev/zero | tr '\\0' x")
        result = await self.socketio_result("big")
        self.assertEqual(result["exitCode"], 0)
        self.assertLess(result["length"], 1_000_000)
        self.assertGreater(result["length"], 900_000)
        self.assertRegex(result["cut"], r"relayd: 2,\d{3},\d{3} bytes cut")
        self.order("next", "echo still here")
        self.assertEqual((await self.socketio_result("next"))["stdout"], "still here")
        self.assertNotIn("disconnected", str(self.server.lines))

    async def test_main_server_restarted(self) -> None:
        """The relay is back by itself, and the result of a command that ended meanwhile is not lost."""
        await self.begin("socketio_server.js")
        self.order("c1", "sleep 2; echo survived")
        await self.server.wait_for(lambda line: line.get("ack") == "c1")
        port = self.server.port
        await self.server.kill()
        self.server = NodeServer("socketio_server.js", json.dumps({"apiKey": Relayd.api_key, "port": port}))
        await self.server.start()
        restarted = reactor.seconds()
        await self.server.wait_for(lambda line: line.get("connected") == Relayd.proxy_id)
        self.assertLess(reactor.seconds() - restarted, 8)  # the specification's 5 s, and jitter
        self.assertEqual((await self.socketio_result("c1"))["stdout"], "survived")

    async def test_sigterm(self) -> None:
        """What runs is finished and delivered; what comes then is refused; the exit code is 0."""
        await self.begin("socketio_server.js")
        self.order("c1", "echo started; sleep 3; echo finished")
        await self.server.wait_for(lambda line: line.get("ack") == "c1")
        while not any("Starting session" in line for line in self.sshd.log_lines):
            await deferLater(reactor, 0.05)
        ended = self.relay.signal(signal.SIGTERM)
        await deferLater(reactor, 0.5)
        self.order("c2", "echo too late")
        refused = await self.server.wait_for(lambda line: line.get("ack") == "c2")
        self.assertIn("shutting down", refused["answer"][0]["error"])
        self.assertEqual((await self.socketio_result("c1"))["stdout"], "started\nfinished")
        self.assertEqual(await ended, 0, self.relay.log)
        self.assertNotIn("Traceback", self.relay.log)

    async def many_at_a_time(self, *sshd: str) -> None:
        await self.begin("socketio_server.js", sshd=sshd)
        for number in range(64):
            self.order(f"c{number}", f"echo {number}; sleep 0.1")
        results = await gatherResults([self.socketio_result(f"c{number}", 60) for number in range(64)])
        self.assertEqual(
            [(result["stdout"], result["exitCode"]) for result in results], [(str(number), 0) for number in range(64)]
        )

    async def test_64_at_a_time(self) -> None:
        await self.many_at_a_time("MaxSessions 10")

    async def test_64_at_a_time_where_two_are_allowed(self) -> None:
        await self.many_at_a_time("MaxSessions 2")
