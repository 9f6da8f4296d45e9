"""
Main servers that hang, or send a byte a second, at every stage of a connection: the relay's deadlines hold, and it
comes back by itself.  All of them at the same time, each with an uplink of its own, whose deadlines are a few seconds
(`tests.uplink.test_stages` has the usual ones); and one with a whole relay, amid a frame.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import LogEvent, formatEvent, globalLogPublisher

from relayd.uplink import endpoint
from relayd.uplink.service import UplinkService
from relayd.uplink.settings import UplinkSettings
from relayd.uplink.stages import Timing
from relayd.wire.messages import Secret
from tests.support.certificates import Authority
from tests.support.chaos import Pipe
from tests.support.faults import FaultCase
from tests.support.node import NodeServer
from tests.support.receiver import RecordingReceiver, echo
from tests.support.relays import Relayd
from tests.support.schemas import malformed

#: Bytes of the answer with which npm's server opens the WebSocket, but for its last line end.
UPGRADE = 127
#: Seconds for TCP and for TLS, and for each handshake behind them.
SHORT, LONGER = 2, 3
TIMING = Timing(securing=SHORT, handshake=LONGER, proved=LONGER)


def silent(pipe: Pipe) -> None:
    """Nothing more."""
    pipe.stop()


def dripping(pipe: Pipe) -> None:
    """A byte a second."""
    pipe.drip(1.0)


class SlowMainServerTests(FaultCase):
    """Each is npm's socket.io server behind a proxy."""

    def setUp(self) -> None:
        super().setUp()
        self.events: list[LogEvent] = []
        observer: Any = self.events.append
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.patch(endpoint, "CONNECT_TIMEOUT", SHORT)

    def dial(self, url: str, **settings: Any) -> None:
        """An uplink without the rest of a relay."""
        receiver = RecordingReceiver(echo)
        chosen: dict[str, Any] = {
            "proxy_id": Relayd.proxy_id,
            "reconnect_delay": 0.5,
            "dialect": "socketio",
            **settings,
        }
        chosen["read_api_key"] = lambda: Secret(Relayd.api_key)
        uplink = UplinkService(self.reactor, receiver, UplinkSettings(server=url, **chosen), timing=TIMING)
        uplink.startService()
        self.addCleanup(uplink.stopService)

    def said(self, port: int) -> list[str]:
        """What the uplink to the main server on *port* has logged."""
        lines = [formatEvent(event) for event in self.events if event["log_namespace"].startswith("relayd.uplink")]
        return [line for line in lines if f":{port}" in line]

    async def hangs(self, words: str, after: int, fault: Callable[[Pipe], None] = silent, *, tls: bool = False) -> None:
        """
        A main server whose answers hang after so many bytes; the relay gives up with these words, and finds it once it
        is well.

        :param after: 0: it does not even see the connection.
        """
        options: dict[str, Any] = {"apiKey": Relayd.api_key, "pingInterval": 2000, "pingTimeout": 3000}
        settings = {}
        if tls:
            authority = Authority(Path(self.mktemp()).resolve())
            certificate = authority.issue("localhost")
            options["tls"] = {"cert": certificate.cert, "key": certificate.key}
            settings["tls_ca"] = authority.path
        server = NodeServer("socketio_server.js", json.dumps(options))
        self.addCleanup(server.stop)
        proxy = await self.proxy(await server.start())
        if after:
            proxy.down.after(after, fault)
        else:
            proxy.holding = True
        self.dial(f"{'https' if tls else 'http'}://localhost:{proxy.port}", **settings)
        await self.until(lambda: any(words in line for line in self.said(proxy.port)), words)
        connected = sum("connected" in line for line in server.lines)
        proxy.holding = False
        proxy.down.heal()
        await self.until(lambda: sum("connected" in line for line in server.lines) > connected, "it is back")

    async def amid_a_frame(self) -> None:
        """No heartbeat can come through behind it; commands go on over the next link."""
        await self.begin(pingInterval=2000, pingTimeout=3000)
        self.uplink.newest.down.after(20, dripping)
        long = malformed("x" * 5000, "proxy_status_update")
        self.server.send({"op": "emit", "name": "proxy_status_update", "data": long})
        await self.logged("nothing arrived from it for 5 s")
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
            self.dial(f"http://127.0.0.1:{port}")
            words = f"no answer within {SHORT} s"
            await self.until(lambda: any(words in line for line in self.said(port)), words)
            for filler in fillers:
                filler.close()
        server = NodeServer("socketio_server.js", json.dumps({"apiKey": Relayd.api_key, "port": port}))
        self.addCleanup(server.stop)
        await server.start()
        await server.wait_for(lambda line: "connected" in line, 40)

    async def test_every_stage(self) -> None:
        """TCP, TLS, the HTTP answer, the handshake of the dialect, and a frame amid the exchange of events."""
        tls = f"did not finish the TLS handshake within {SHORT} s"
        upgrade = f"did not finish the HTTP handshake within {LONGER} s"
        greeting = f"did not finish the handshake of the dialect within {LONGER} s"
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
        everything = "\n".join(repr(event) + formatEvent(event) for event in self.events) + self.relay.log
        self.assertNotIn(Relayd.api_key, everything)
        self.assertNotIn("Traceback", everything)
