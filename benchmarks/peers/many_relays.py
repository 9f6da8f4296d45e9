"""
Many relays in one process, for benchmarks of the hub: each has a socket of its own, and answers each command at once.

``python benchmarks/peers/many_relays.py HOST PORT KEYS``: KEYS is a file of lines ``NAME KEY``.  They speak Socket.IO,
tell that they are relayd, keep what they have run, and come back when their connection ends.  Lines of JSON on standard
output tell how many are connected, each time that this is all of them, and each second.
"""

from __future__ import annotations

import json
import random
import struct
import sys
from base64 import b64encode
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

#: As relayd's default ``--reconnect-delay``, varied by 40 %.
DELAY, JITTER = 5.0, 0.4
#: A mask of zeros is as good as any, and costs nothing.
_NO_MASK = bytes(4)

_encode = msgspec.json.encode
_decode = msgspec.json.decode


def frame(text: bytes) -> bytes:
    """A text frame of a client."""
    size = len(text)
    if size < 126:
        head = struct.pack(">BB", 0x81, 0x80 | size)
    elif size < 65536:
        head = struct.pack(">BBH", 0x81, 0xFE, size)
    else:
        head = struct.pack(">BBQ", 0x81, 0xFF, size)
    return head + _NO_MASK + text


class OneRelay(Protocol):
    """One connection of one relay."""

    transport: Any

    def __init__(self, owner: Relay) -> None:
        self._owner = owner
        self._data = b""
        self._upgraded = False

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)
        name, key = quote(self._owner.name), quote(self._owner.key)
        path = f"/socket.io/?EIO=4&transport=websocket&proxyId={name}&apiKey={key}"
        lines = (
            f"GET {path} HTTP/1.1",
            f"Host: {self._owner.all.host}:{self._owner.all.port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {b64encode(random.randbytes(16)).decode()}",
            "Sec-WebSocket-Version: 13",
            "",
            "",
        )
        self.transport.write("\r\n".join(lines).encode())

    def dataReceived(self, data: bytes) -> None:
        data = self._data + data
        if not self._upgraded:
            head, end, rest = data.partition(b"\r\n\r\n")
            if not end:
                self._data = data
                return
            if b" 101 " not in head.split(b"\r\n", 1)[0]:
                self.transport.loseConnection()
                return
            self._upgraded, data = True, rest
        at, size = 0, len(data)
        while size - at >= 2:
            length, begin = data[at + 1], at + 2
            if length == 126:
                begin += 2
                length = int.from_bytes(data[at + 2 : begin], "big") if size >= begin else size
            elif length == 127:
                begin += 8
                length = int.from_bytes(data[at + 2 : begin], "big") if size >= begin else size
            if size < begin + length:
                break
            self._frame(data[at] & 0x0F, data[begin : begin + length])
            at = begin + length
        self._data = data[at:]

    def _frame(self, opcode: int, payload: bytes) -> None:
        if opcode == 8:
            self.transport.loseConnection()
        elif opcode == 9:
            self.transport.write(struct.pack(">BB", 0x8A, 0x80 | len(payload)) + _NO_MASK + payload)
        elif opcode == 1:
            self._packet(payload)

    def _packet(self, text: bytes) -> None:
        if text == b"2":
            self.transport.write(frame(b"3"))
        elif text.startswith(b"0"):
            self.transport.write(frame(b"40/proxy,"))
        elif text.startswith(b"40/proxy,"):
            self._owner.joined(self)
        elif text.startswith(b"41"):
            self.transport.loseConnection()
        elif text.startswith(b"42/proxy,"):
            begin = text.index(b"[")
            name, *data = _decode(text[begin:])
            self._event(text[9:begin], name, data[0] if data else {})

    def _event(self, number: bytes, name: str, data: dict[str, Any]) -> None:
        if name == "relay_info":
            self._acknowledge(number, self._owner.info)
        elif name == "execute_command":
            self._acknowledge(number, None)
            self._result(data["commandId"])
        elif name == "command_result_received":
            self._owner.all.confirmed += 1
        else:
            self._acknowledge(number, {"error": "not known here"})

    def _acknowledge(self, number: bytes, data: object) -> None:
        if number:
            body = b"[]" if data is None else _encode([data])
            self.transport.write(frame(b"43/proxy," + number + body))

    def _result(self, command_id: str) -> None:
        everything = self._owner.all
        everything.twice += command_id in everything.ran
        everything.ran.add(command_id)
        result = {"stdout": f"done by {self._owner.name}", "stderr": "", "exitCode": 0}
        event = ["command_result", {"commandId": command_id, "result": result}]
        self.transport.write(frame(b"42/proxy," + _encode(event)))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._owner.lost(self)


class Relay(Factory):
    """One relay, which comes back."""

    noisy = False

    def __init__(self, everything: ManyRelays, name: str, key: str) -> None:
        self.all = everything
        self.name = name
        self.key = key
        limits = {
            "maxCommands": 100, "maxQueue": 10_000, "maxSessions": 10, "maxConnections": 4, "maxOutput": 1 << 20,
            "defaultTimeout": 60_000, "maxTimeout": 86_400_000,
        }  # fmt: skip
        self.info = {"version": "26.11.0", "uptime": 1.0, "limits": limits, "features": [], "journalId": f"j-{name}"}
        self._connection: OneRelay | None = None

    def dial(self) -> None:
        from twisted.internet import reactor
        from twisted.internet.endpoints import TCP4ClientEndpoint

        endpoint = TCP4ClientEndpoint(reactor, self.all.host, self.all.port)
        endpoint.connect(self).addErrback(lambda _: self._again())

    def buildProtocol(self, _address: object) -> OneRelay:
        return OneRelay(self)

    def joined(self, connection: OneRelay) -> None:
        self._connection = connection
        self.all.joined(self)

    def lost(self, connection: OneRelay) -> None:
        if self._connection is connection:
            self._connection = None
            self.all.left(self)
        self._again()

    def _again(self) -> None:
        from twisted.internet import reactor

        later: Any = reactor
        later.callLater(DELAY * random.uniform(1 - JITTER, 1 + JITTER), self.dial)


class ManyRelays:
    """
    All of them.

    :ivar ran: the commands that were run.
    :ivar twice: how often one came that had run before.
    :ivar confirmed: receipts that came.
    """

    def __init__(self, host: str, port: int, keys: dict[str, str]) -> None:
        self.host = host
        self.port = port
        self.ran: set[str] = set()
        self.twice = 0
        self.confirmed = 0
        self._connected: set[str] = set()
        self._relays = [Relay(self, name, key) for name, key in keys.items()]

    def start(self) -> None:
        from twisted.internet import reactor
        from twisted.internet.task import LoopingCall

        later: Any = reactor
        for number, relay in enumerate(self._relays):
            later.callLater(number / 500, relay.dial)
        LoopingCall(self.tell).start(1.0)

    def joined(self, relay: Relay) -> None:
        self._connected.add(relay.name)
        if len(self._connected) == len(self._relays):
            self.tell()

    def left(self, relay: Relay) -> None:
        self._connected.discard(relay.name)

    def tell(self) -> None:
        """Say how things stand."""
        line = {
            "connected": len(self._connected),
            "ran": len(self.ran),
            "twice": self.twice,
            "confirmed": self.confirmed,
        }
        print(json.dumps(line), flush=True)


def main(host: str, port: str, keys: str) -> None:
    """Run until the process is ended."""
    from twisted.internet import reactor

    pairs = dict(line.split() for line in Path(keys).read_text().splitlines())
    loop: Any = reactor
    loop.callWhenRunning(ManyRelays(host, int(port), pairs).start)
    loop.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
