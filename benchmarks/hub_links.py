"""
What connected relays cost a hub: its memory for each, and how soon all are back after it was started anew.

``python benchmarks/hub_links.py --relays 1000``.  The hub's links, keys and store (SQLite on disk) run in a process of
their own, over real sockets.  The relays are simulated here, speak the native dialect, and dial again as relayd does:
5 s after a loss, half as much more or less.  The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.protocol import ClientFactory, ProcessProtocol, Protocol, connectionDone
from twisted.internet.task import deferLater, react
from twisted.python.failure import Failure

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.ssh import raise_limits
from relayd.wire.parsing import FEATURES

#: Seconds after which a relay dials again, and by how much of it more or less.
DELAY, JITTER = 5.0, 0.5
#: Seconds that it may take at all.
PATIENCE = 300.0
INFO = {
    "version": "1.0.0",
    "uptime": 1.0,
    "limits": {
        "maxCommands": 64,
        "maxQueue": 10000,
        "maxSessions": 10,
        "maxConnections": 4,
        "maxOutput": 8388608,
        "defaultTimeout": 300000,
        "maxTimeout": 86400000,
    },
    "features": list(FEATURES),
    "journalId": "5ca1ab1e" * 4,
}


# The hub -------------------------------------------------------------------------------------------------------------


async def serve(reactor: Any, folder: Path, count: int) -> None:
    """Be the hub: writes the port, the keys, and each second how many relays are there and the resident memory."""
    from relayd.hub.links.links import Links
    from relayd.hub.relays.administration import RelayAdministration
    from relayd.hub.relays.authentication import RelayAuthenticator
    from relayd.hub.relays.enrolment import Enrolment
    from relayd.hub.relays.presence import Presence
    from relayd.hub.store.store import open_store

    def now() -> int:
        return time.time_ns() // 1000

    store = await open_store(reactor, str(folder / "hub.sqlite3"))
    observer = _Observer()
    links = Links(reactor, RelayAuthenticator(store, now, reactor.seconds).authenticate, observer)
    observer.presence = presence = Presence(reactor, store, links, now)
    keys = folder / "keys.json"
    if not keys.exists():
        administration, enrolment, made = RelayAdministration(store, links, now), Enrolment(store, now), {}
        for number in range(count):
            await administration.add(f"relay-{number}")
            made[f"relay-{number}"] = (await enrolment.rotate(f"relay-{number}")).key.reveal()
        keys.write_text(json.dumps(made))
    port: Any = await links.listen(TCP4ServerEndpoint(reactor, observer.port(folder), 2000, "127.0.0.1"))
    (folder / "port").write_text(str(port.getHost().port))
    presence.startService()
    print(json.dumps({"listening": resident()}), flush=True)
    stopped: Deferred[None] = Deferred()
    reactor.addSystemEventTrigger("before", "shutdown", lambda: Deferred.fromCoroutine(links.close()))
    while not stopped.called:
        await deferLater(reactor, 0.25)
        state = {
            "there": len(links.relays),
            "known": observer.known,
            "resident": resident(),
            "cpu": time.process_time(),
        }
        print(json.dumps(state), flush=True)


class _Observer:
    """Notes relays; nothing is ordered."""

    presence: Any = None
    known = 0

    def port(self, folder: Path) -> int:
        path = folder / "port"
        return int(path.read_text()) if path.exists() else 0

    def relay_connected(self, link: Any) -> None:
        self.known += link.joins_duplicates
        self.presence.relay_connected(link)

    def relay_lost(self, link: Any) -> None:
        self.known -= link.joins_duplicates

    def accepted(self, *_: object) -> None:
        """Nothing is sent."""

    refused = output = accepted

    def result(self, *_: object) -> None:
        """Nothing is sent."""


def resident() -> float:
    """Megabytes of this process."""
    fields = Path("/proc/self/status").read_text().split("VmRSS:")[1].split()
    return int(fields[0]) / 1000


# The relays ----------------------------------------------------------------------------------------------------------


class SimulatedRelay(Protocol):
    """One relay in the native dialect: says what it is, and answers pings."""

    transport: Any

    def __init__(self, name: str, key: str) -> None:
        self._name, self._key = name, key
        self._data = b""
        self._open = False

    def connectionMade(self) -> None:
        self.transport.write(
            f"GET /proxy?proxyId={self._name}&apiKey={self._key} HTTP/1.1\r\nHost: hub\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )

    def dataReceived(self, data: bytes) -> None:
        self._data += data
        if not self._open:
            _head, end, rest = self._data.partition(b"\r\n\r\n")
            if not end:
                return
            self._open, self._data = True, rest
        while len(self._data) >= 2:
            code, length = self._data[0] & 15, self._data[1]
            start = 4 if length == 126 else 2
            size = int.from_bytes(self._data[2:4], "big") if length == 126 else length
            if len(self._data) < start + size:
                return
            payload, self._data = self._data[start : start + size], self._data[start + size :]
            self._frame(code, payload)

    def _frame(self, code: int, payload: bytes) -> None:
        if code == 9:
            self._send(10, payload)
        elif code == 8:
            self._send(8, payload)
        elif b"relay_info" in payload:
            self._send(1, json.dumps({"event": "relay_info", "data": INFO}).encode())

    def _send(self, code: int, payload: bytes) -> None:
        size = bytes((128 | len(payload),)) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2, "big")
        self.transport.write(bytes((128 | code,)) + size + bytes(4) + payload)


class Relays(ClientFactory):
    """A relay that is there again and again."""

    noisy = False

    def __init__(self, reactor: Any, name: str, key: str, port: int) -> None:
        self._reactor, self._name, self._key, self._port = reactor, name, key, port

    def dial(self) -> None:
        self._reactor.connectTCP("127.0.0.1", self._port, self)

    def buildProtocol(self, address: Any) -> SimulatedRelay:
        return SimulatedRelay(self._name, self._key)

    def clientConnectionLost(self, connector: Any, reason: Failure = connectionDone) -> None:
        self._reactor.callLater(random.uniform(DELAY * (1 - JITTER), DELAY * (1 + JITTER)), self.dial)

    clientConnectionFailed = clientConnectionLost


class HubProcess(ProcessProtocol):
    """
    The hub.

    :ivar states: what it has said.
    """

    transport: Any

    def __init__(self, reactor: Any, folder: Path, count: int) -> None:
        self.states: list[dict[str, float]] = []
        self.ended: Deferred[None] = Deferred()
        self._reactor = reactor
        self._rest = b""
        words = [sys.executable, __file__, "--serve", str(folder), "--relays", str(count)]
        reactor.spawnProcess(self, words[0], words, env=None, childFDs={0: "w", 1: "r", 2: 2})

    def outReceived(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        self.states += [json.loads(line) for line in lines]

    def processEnded(self, reason: Failure) -> None:
        reason.trap(ProcessDone, ProcessTerminated)
        self.ended.callback(None)

    async def until(self, name: str, least: float) -> float:
        """Wait until what it says has *name* of at least so much; gives the seconds that took."""
        begin = time.monotonic()
        while not (self.states and self.states[-1].get(name, -1) >= least):
            if time.monotonic() - begin > PATIENCE or self.ended.called:
                raise AssertionError(f"no {name} of {least}: {self.states[-1:]}")
            await deferLater(self._reactor, 0.05)
        return time.monotonic() - begin


async def measure(reactor: Any, count: int) -> None:
    """Connect all relays, stop the hub and start it anew, and kill it and start it anew."""
    folder = Path(tempfile.mkdtemp(prefix="relayd-hub-links-"))
    try:
        hub = HubProcess(reactor, folder, count)
        await hub.until("listening", 0)
        port, keys = int((folder / "port").read_text()), json.loads((folder / "keys.json").read_text())
        empty = hub.states[0]["listening"]
        for name, key in keys.items():
            Relays(reactor, name, key, port).dial()
        found = {"relays": count, "empty_mb": empty, "first_s": await hub.until("known", count)}
        await deferLater(reactor, 30)  # a heartbeat of each
        found["full_mb"] = hub.states[-1]["resident"]
        found["each_kb"] = (found["full_mb"] - empty) * 1000 / count
        for word, signal in (("stopped", "TERM"), ("killed", "KILL")):
            hub.transport.signalProcess(signal)
            await hub.ended
            begin = time.monotonic()
            hub = HubProcess(reactor, folder, count)
            await hub.until("known", count)
            found[f"back_after_{word}_s"] = time.monotonic() - begin
            found[f"cpu_after_{word}_ms_each"] = hub.states[-1]["cpu"] * 1000 / count
            found[f"full_after_{word}_mb"] = hub.states[-1]["resident"]
        hub.transport.signalProcess("KILL")
        await hub.ended
        print(json.dumps({name: round(value, 2) for name, value in found.items()}))
    finally:
        shutil.rmtree(folder)


async def main(reactor: Any) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--relays", type=int, default=1000)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    raise_limits()
    if options.serve is not None:
        await serve(reactor, options.serve, options.relays)
    else:
        await measure(reactor, options.relays)


if __name__ == "__main__":
    react(main)
