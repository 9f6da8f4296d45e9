"""
A relay with two main servers that others wrote: npm's socket.io behind each URL, relayd under twistd, a real sshd.
"""

from __future__ import annotations

import json
from typing import Any

from twisted.internet import reactor
from twisted.internet.task import deferLater

from tests.support.node import NodeServer
from tests.support.relays import Relayd
from tests.support.scratch import PATIENCE, ScratchCase


class StandbyTests(ScratchCase):
    """Each server knows nothing of the other, and forgets all when it goes."""

    def main_server(self, port: int = 0) -> NodeServer:
        server = NodeServer("socketio_server.js", json.dumps({"apiKey": Relayd.api_key, "port": port}))
        self.addCleanup(server.stop)
        return server

    async def connected(self, server: NodeServer) -> None:
        await server.wait_for(lambda line: "connected" in line, PATIENCE)

    async def begin(self, server: NodeServer, command_id: str) -> None:
        """A command that goes on until there is a file ``go-ID``, and leaves a sign of each time that it runs."""
        order = self.make_order(command_id, f"until [ -e {self.scratch}/go-{command_id} ]; do sleep 0.05; done")
        server.send({"op": "execute", "data": order.to_wire()})
        until = reactor.seconds() + PATIENCE  # type: ignore[attr-defined]
        while not self.runs(command_id):
            self.assertLess(reactor.seconds(), until, command_id)  # type: ignore[attr-defined]
            await deferLater(reactor, 0.05)  # type: ignore[arg-type]

    def finish(self, command_id: str) -> None:
        (self.scratch / f"go-{command_id}").touch()

    async def result(self, server: NodeServer, command_id: str) -> Any:
        return await server.wait_for(lambda line: line.get("result") == command_id, PATIENCE)

    def results(self, *servers: NodeServer) -> list[str]:
        return [line["result"] for server in servers for line in server.lines if "result" in line]

    async def test_the_first_is_away(self) -> None:
        """The second takes over; the relay returns to the first, brings it its result, and nothing runs twice."""
        first, second = self.main_server(), self.main_server()
        urls = [f"http://127.0.0.1:{await server.start()}" for server in (first, second)]
        relay = Relayd(urls[0], "--server", urls[1], "--failover-delay", "1s", "--reconnect-delay", "300ms")
        self.addCleanup(relay.remove)
        relay.start()
        await self.connected(first)
        await self.begin(first, "a1")
        await first.kill()
        await self.connected(second)
        self.finish("a1")
        await self.begin(second, "b1")
        again = self.main_server(first.port)
        await again.start()
        self.finish("b1")
        self.assertEqual((await self.result(second, "b1"))["exitCode"], 0)
        self.assertEqual((await self.result(again, "a1"))["exitCode"], 0)
        again.send({"op": "execute", "data": self.make_order("a2").to_wire()})
        self.assertEqual((await self.result(again, "a2"))["exitCode"], 0)
        self.assertEqual((self.results(first, again), self.results(second)), (["a1", "a2"], ["b1"]))
        self.assertEqual([self.runs(each) for each in ("a1", "a2", "b1")], [1, 1, 1])
        self.assertIn({"disconnected": "client namespace disconnect"}, second.lines)
        self.assertEqual(sum("connected" in line for line in second.lines), 1)
        self.assertEqual(await relay.stop(), 0)
