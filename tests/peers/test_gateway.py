"""
The uplink against the known main server with its faults (``tests/node/gateway.js``), on npm's socket.io.
"""

from __future__ import annotations

import re
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from tests.peers.test_main_servers import KEY, PeerCase, order, said
from tests.support.chaos import ChaosProxy
from tests.support.node import NodeServer
from tests.support.receiver import RecordingReceiver

NAME = "proxy 1"


class GatewayCase(PeerCase):
    """A relay at the known main server, through a proxy that breaks things."""

    async def begin(self, **options: Any) -> None:
        self.server: NodeServer = await self.serve("gateway.js", apiKey=KEY, **options)
        self.between = ChaosProxy(self.server.port)
        self.between.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.between.stop()))

    def dial_through(self, **settings: Any) -> RecordingReceiver:
        return self.dial(f"http://127.0.0.1:{self.between.port}", dialect="socketio", **settings)

    def connections(self) -> int:
        return sum(line == {"connected": NAME} for line in self.server.lines)

    async def until_connections(self, number: int, deadline: float = 30) -> None:
        until = reactor.seconds() + deadline
        while self.connections() < number:
            self.assertLess(reactor.seconds(), until, f"{self.connections()} connections, {self.logged()[-5:]}")
            await deferLater(reactor, 0.02)

    async def execute(self, command_id: str) -> dict[str, Any]:
        """What the main server's user is told."""
        self.server.send({"proxyId": NAME, "data": order(command_id)})
        answer: dict[str, Any] = await self.server.wait_for(said(answer=command_id))
        return answer

    async def reset_on_one_side(self) -> None:
        """The relay's connection is gone, and the main server knows nothing of it."""
        link = self.between.newest
        link.stop()
        link.client.transport.abortConnection()
        await self.until_connections(self.connections() + 1)


class Forgotten(GatewayCase):
    async def test_reset_on_one_side(self) -> None:
        """The old connection times out, and takes the row of the new one with it: the relay is back within 10 s."""
        await self.begin(pingInterval=500, pingTimeout=1000)
        receiver = self.dial_through()
        await self.until_connections(1)
        await self.reset_on_one_side()
        self.assertEqual((await self.execute("c1"))["stdout"], "ran uname")
        await self.server.wait_for(said(dropped=NAME))
        self.assertEqual((await self.execute("c2"))["error"], "relay not connected")
        await self.until_connections(3, deadline=10)
        self.assertEqual((await self.execute("c3"))["stdout"], "ran uname")
        reasons = [line["reason"] for line in self.server.lines if "dropped" in line]
        self.assertEqual(reasons, ["ping timeout", "client namespace disconnect"], "the second in good order")
        self.assertIn(
            "said that this relay is offline although it was connected",
            await self.until_logged("relayd connects again. "),
        )
        await deferLater(reactor, 2)
        self.assertEqual(self.connections(), 3, "once")
        self.assertEqual(receiver.words().count("command"), 2)

    async def test_slow_to_forget(self) -> None:
        """It drops the row some time after a connection has ended, and so that of the next: that one waits for it."""
        await self.begin(pingInterval=500, pingTimeout=1000, slow=700)
        self.dial_through()
        await self.until_connections(1)
        await self.reset_on_one_side()
        await self.until_connections(4)
        await deferLater(reactor, 3)
        self.assertEqual((await self.execute("c1"))["stdout"], "ran uname")
        self.assertEqual(self.connections(), 4)

    async def test_two_of_one_name(self) -> None:
        """They do not take turns: who is told that the other one is back leaves it at that."""
        await self.begin()
        self.dial_through()
        await self.until_connections(1)
        self.dial_through()
        await self.until_logged("another relay may use this name")
        await self.until_connections(2)
        self.between.newest.cut()  # and with it the row of both
        await self.until_connections(3)
        await deferLater(reactor, 3)
        self.assertLessEqual(self.connections(), 5)
        self.assertEqual((await self.execute("c1"))["stdout"], "ran uname")

    async def test_others(self) -> None:
        """What is told of other relays changes nothing."""
        await self.begin()
        self.dial_through()
        await self.until_connections(1)
        self.dial_through(proxy_id="proxy 2")
        await self.server.wait_for(said(connected="proxy 2"))
        await self.uplink.stopService()
        await self.server.wait_for(said(dropped="proxy 2"))
        await deferLater(reactor, 1.5)
        self.assertEqual(self.connections(), 1)


class PushedOut(GatewayCase):
    async def test_two_of_one_name(self) -> None:
        """Each pushes the other one out: the key, which has just served, is not blamed, and the pause grows."""
        await self.begin(pushOut=True)
        self.dial_through(reconnect_delay=0.7)
        await self.until_connections(1)
        self.assertEqual((await self.execute("c1"))["stdout"], "ran uname")
        self.dial_through(reconnect_delay=0.7)
        await self.until_connections(2)
        self.assertEqual((await self.execute("c2"))["stdout"], "ran uname")
        await self.until_connections(7)
        lines = [line for line in self.logged() if "Next attempt" in line]
        for line in lines:
            self.assertIn("although it had accepted this relay", line)
            self.assertIn("another relay may use the same name: give each relay its own --proxy-id", line)
            self.assertNotIn("compare", line)
        pauses = [float(re.findall(r"Next attempt in ([0-9.]+) s", line)[0]) for line in lines]
        self.assertGreater(pauses[4], 1.6)  # 0.7 s, 1.4 s, 2.8 s of each in turn, and 40 % less at least
