"""
The uplink by HTTP long-polling, against npm's socket.io: where it offers nothing else, and behind what breaks WebSockets.
"""

from __future__ import annotations

from typing import Any

from relayd.messages import CommandResult, ExecuteCommand
from tests.test_uplink_peers import KEY, PeerCase, has, order, said


class PollingOnly(PeerCase):
    """``transports: ["polling"]``."""

    async def begin(self, **options: Any) -> None:
        self.server = await self.serve("socketio_server.js", apiKey=KEY, transports=["polling"], **options)

    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    async def test_commands(self) -> None:
        await self.begin()
        receiver = self.dial(self.url())
        await self.server.wait_for(said(connected="proxy 1"))
        self.server.send({"op": "execute", "ack": True, "data": order("c1")})
        self.assertEqual((await self.server.wait_for(said(ack="c1")))["answer"], [])
        result = await self.server.wait_for(said(result="c1"))
        self.assertEqual((result["stdout"], result["exitCode"]), ("ran uname", 0))
        receipt = receiver.next("receipt")
        self.server.send({"op": "execute", "data": order("c2")})
        await self.server.wait_for(said(result="c2"))
        self.assertTrue((await receipt).success)
        await self.uplink.stopService()
        gone = await self.server.wait_for(has("disconnected"))
        self.assertEqual(gone["disconnected"], "client namespace disconnect")
