"""
Main servers that hang, or send a byte a second, at every stage of a connection: the relay's deadlines hold, and it
comes back by itself.  All of them at the same time, each with a relay of its own, because the deadlines are long.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, gatherResults

from tests.support.certificates import Authority
from tests.support.chaos import Pipe
from tests.support.faults import FaultCase
from tests.support.node import NodeServer
from tests.support.relays import Relayd
from tests.support.schemas import malformed

#: Bytes of the answer with which npm's server opens the WebSocket, but for its last line end.
UPGRADE = 127


def silent(pipe: Pipe) -> None:
    """Nothing more."""
    pipe.stop()


def dripping(pipe: Pipe) -> None:
    """A byte a second."""
    pipe.drip(1.0)


class SlowMainServerTests(FaultCase):
    """Each is npm's socket.io server behind a proxy."""

    async def hangs(self, words: str, after: int, fault: Callable[[Pipe], None] = silent, *, tls: bool = False) -> None:
        """
        A main server whose answers hang after so many bytes; the relay gives up with these words, and finds it once it
        is well.

        :param after: 0: it does not even see the connection.
        """
        options: dict[str, Any] = {"apiKey": Relayd.api_key, "pingInterval": 2000, "pingTimeout": 3000}
        chosen = ["--dialect", "socketio"]
        if tls:
            authority = Authority(Path(self.mktemp()).resolve())
            certificate = authority.issue("localhost")
            options["tls"] = {"cert": certificate.cert, "key": certificate.key}
            chosen += ["--tls-ca", authority.path]
        server = NodeServer("socketio_server.js", json.dumps(options))
        self.addCleanup(server.stop)
        proxy = await self.proxy(await server.start())
        if after:
            proxy.down.after(after, fault)
        else:
            proxy.holding = True
        relay = self.make_relay(f"{'https' if tls else 'http'}://localhost:{proxy.port}", *chosen)
        await self.gives_up(relay, words)
        connected = sum("connected" in line for line in server.lines)
        proxy.holding = False
        proxy.down.heal()
        await self.until(lambda: sum("connected" in line for line in server.lines) > connected, "it is back")

    async def gives_up(self, relay: Relayd, words: str) -> None:
        await self.until(lambda: words in relay.log, words)
        self.assertNotIn("Traceback", relay.log)
        self.assertNotIn(Relayd.api_key, relay.log)

    async def amid_a_frame(self) -> None:
        """No heartbeat can come through behind it; commands go on over the next link."""
        await self.begin(pingInterval=2000, pingTimeout=3000)
        self.uplink.newest.down.after(20, dripping)
        long = malformed("x" * 5000, "proxy_status_update")
        self.server.send({"op": "emit", "name": "proxy_status_update", "data": long})
        await self.gives_up(self.relay, "nothing arrived from it for 5 s")
        await self.connected(2)
        await self.check()

    async def full_backlog(self) -> None:
        """Nobody accepts, and the queue of the listening socket is full: TCP's handshake itself does not end."""
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            listening.listen(0)
            port = listening.getsockname()[1]
            fillers = [socket.socket() for _ in range(3)]
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", port))
            relay = self.make_relay(f"http://127.0.0.1:{port}", "--dialect", "socketio")
            await self.gives_up(relay, "no answer within 15 s")
            for filler in fillers:
                filler.close()
        server = NodeServer("socketio_server.js", json.dumps({"apiKey": Relayd.api_key, "port": port}))
        self.addCleanup(server.stop)
        await server.start()
        await server.wait_for(lambda line: "connected" in line, 40)

    async def test_every_stage(self) -> None:
        """TCP, TLS, the HTTP answer, the handshake of the dialect, and a frame amid the exchange of events."""
        tls = "did not finish the TLS handshake within 15 s"
        upgrade = "did not finish the HTTP handshake within 20 s"
        greeting = "did not finish the handshake of the dialect within 20 s"
        cases = [
            self.full_backlog(),
            self.hangs(tls, 0, tls=True),
            self.hangs(tls, 100, dripping, tls=True),
            self.hangs(upgrade, 0),
            self.hangs(upgrade, 30, dripping),
            self.hangs(greeting, UPGRADE + 2),
            self.hangs(greeting, UPGRADE + 12, dripping),
            self.amid_a_frame(),
        ]
        await gatherResults([Deferred.fromCoroutine(case) for case in cases])
