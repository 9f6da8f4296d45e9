"""
relayctl try-server against real main servers: what it must find, and what it must not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.trial.unittest import TestCase

from relayd.ctl import tryout
from relayd.hub import Hub
from relayd.uplink import server_profile
from relayd.uplink.settings import UplinkSettings
from relayd.uplink.stages import Timing
from relayd.wire.messages import ExecuteCommand, Secret
from tests.peers.test_main_servers import KEY, order
from tests.support.node import SharedNodeServer
from tests.support.script import ScriptServer


class TryServerTests(TestCase):
    """What each probe finds, by its name, as ``level text``."""

    timeout = 120

    def setUp(self) -> None:
        self.patch(tryout, "RECEIPT_PATIENCE", 1.0)
        self.patch(tryout, "WATCH", 1.0)
        self.patch(server_profile, "SHORT", 1.0)

    async def serve(self, script: str, options: str) -> ScriptServer:
        server = SharedNodeServer(script, options)
        self.addCleanup(server.stop)
        await server.start()
        return server

    async def look(self, url: str, send: Callable[[str], object], **settings: Any) -> dict[str, str]:
        """Try the main server at *url*; *send* has it send one command of that id."""
        found: dict[str, str] = {}

        def report(level: str, what: str, text: str) -> None:
            self.assertNotIn(KEY, text)
            found[what] = f"{level} {text}"

        def ask(text: str) -> None:
            if text.startswith("Now"):
                self.asked += 1
                send(f"try-{self.asked}")

        self.asked = 0
        chosen: dict[str, Any] = {"server": url, "proxy_id": "proxy-1", "read_api_key": lambda: Secret(KEY)} | settings
        timing = Timing(probation=0.5)
        trial = tryout.Tryout(reactor, UplinkSettings(**chosen), report, ask, patience=5.0, longest=10.0, timing=timing)
        await trial.run()
        return found

    def faults(self, found: dict[str, str]) -> set[str]:
        return {what for what, text in found.items() if text.startswith("fault")}

    async def test_socketio(self) -> None:
        server = await self.serve("socketio_server.js", f'{{"apiKey": "{KEY}"}}')

        def send(command_id: str) -> None:
            server.send({"op": "execute", "ack": True, "data": order(command_id, timeout=1000)})

        found = await self.look(f"http://127.0.0.1:{server.port}", send)
        self.assertEqual(self.faults(found), set(), found)
        self.assertEqual(found["connection"], "ok accepted (socketio)")
        self.assertIn("does not name its command", found["receipt"])
        self.assertIn("ok a result after the command's timeout is confirmed", found["late result"])
        self.assertIn("ok it takes an acknowledgement with an error", found["refusal"])
        self.assertIn("1000000 bytes at most", found["large result"])
        self.assertIn("lets the older connection live; commands come", found["older connection"])
        self.assertIn("the command is not sent again", found["lost connection"])
        self.assertIn("ok is refused", found["wrong key"])

    async def test_ws(self) -> None:
        """Native: no acknowledgements, and a main server whose messages have a bound that it does not tell."""
        server = await self.serve("ws_server.js", f'{{"apiKey": "{KEY}", "maxPayload": 200000}}')

        def send(command_id: str) -> None:
            server.send({"op": "execute", "data": order(command_id, timeout=120000)})

        found = await self.look(f"ws://127.0.0.1:{server.port}", send, dialect="native")
        self.assertEqual(self.faults(found), {"large result"}, found)
        self.assertIn("ends the connection", found["large result"])
        self.assertIn("skipped the command's timeout is 2 min;", found["late result"])
        self.assertIn("skipped it asks for no acknowledgement", found["refusal"])

    async def test_known_gateway(self) -> None:
        """It drops a relay from its table when an older connection of the same name ends."""
        server = await self.serve("gateway.js", f'{{"apiKey": "{KEY}"}}')

        def send(command_id: str) -> None:
            server.send({"proxyId": "proxy-1", "data": order(command_id, timeout=1000)})

        found = await self.look(f"http://127.0.0.1:{server.port}", send)
        self.assertEqual(self.faults(found), {"older connection"}, found)
        self.assertIn("another connection with this name has ended there", found["older connection"])
        self.assertIn("the command is not sent again", found["lost connection"])

    async def test_known_gateway_mended(self) -> None:
        server = await self.serve("gateway.js", f'{{"apiKey": "{KEY}", "pushOut": true}}')

        def send(command_id: str) -> None:
            server.send({"proxyId": "proxy-1", "data": order(command_id, timeout=1000)})

        found = await self.look(f"http://127.0.0.1:{server.port}", send)
        self.assertEqual(self.faults(found), set(), found)
        self.assertIn("closes the older connection at once", found["older connection"])

    async def test_hub(self) -> None:
        hub = Hub(reactor, {"proxy-1": KEY})
        self.addCleanup(hub.close)
        port = await hub.listen(TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"))

        def send(command_id: str) -> None:
            command = ExecuteCommand(command_id=command_id, host="192.0.2.1", port=22, username="root", command="true")
            hub.execute("proxy-1", command, timeout=1.0).addErrback(lambda _: None)

        found = await self.look(f"ws://127.0.0.1:{port.getHost().port}", send)
        self.assertEqual(self.faults(found), set(), found)
        self.assertIn("comes, and names its command", found["receipt"])
        self.assertIn("closes the older connection at once", found["older connection"])

    async def test_nobody_orders_a_command(self) -> None:
        """Its user is asked once, and told what was not tried."""
        server = await self.serve("socketio_server.js", f'{{"apiKey": "{KEY}"}}')
        found = await self.look(f"http://127.0.0.1:{server.port}", lambda _: None)
        self.assertEqual(self.asked, 1)
        self.assertIn("skipped no command came within 5 s", found["receipt"])
        self.assertIn("ok is refused", found["wrong key"])

    async def test_wrong_key_is_taken(self) -> None:
        class Careless(Hub):
            def accepts(self, proxy_id: str, api_key: str) -> bool:
                return True

        hub = Careless(reactor, {})
        self.addCleanup(hub.close)
        port = await hub.listen(TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"))
        found = await self.look(f"ws://127.0.0.1:{port.getHost().port}", lambda _: None)
        self.assertEqual(found["wrong key"], "fault a relay with a key that is not right is accepted")

    async def test_nobody_there(self) -> None:
        """A wrong key that gets no answer was not refused."""
        found = await self.look("ws://127.0.0.1:1", lambda _: None)
        self.assertEqual(set(found), {"connection", "everything else"})
        self.assertIn("fault The main server ws://127.0.0.1:1 cannot be reached", found["connection"])
