"""
What could hold up the event loop of a relay, each at its bounds, and for how long it did: for a test and a benchmark.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any, NamedTuple

import msgspec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList, gatherResults
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.task import deferLater

from relayd.hub import Hub
from relayd.wire.messages import CommandResult, ExecuteCommand, Secret
from tests.support.costly import large_rsa, openssh_key
from tests.support.process import PeerFailed
from tests.support.relays import Relayd
from tests.support.sshd import OpenSSHServer

#: Bytes in the largest message that a relay takes.
LARGEST = 8 << 20

_STALL = re.compile(r"Longest stall of the event loop: ([0-9.]+ m?s), by relayd itself: ([0-9.]+ m?s); (.*)")


class Stalls(NamedTuple):
    """
    How the event loop of a relay fared.

    :ivar longest: its longest stall, in milliseconds.
    :ivar own: as much of one as the relay itself can have caused.
    :ivar beats: how late its beats came, in words.
    """

    longest: float
    own: float
    beats: str


class Load:
    """
    A main server, an SSH server and a relay.

    :param dialect: of the uplink.
    :param options: of the relay.
    :param commands: how many are many.
    """

    def __init__(self, dialect: str, *options: str, commands: int = 10_000) -> None:
        self.commands = commands
        self.sshd = OpenSSHServer()
        self.hub = Hub(reactor, {Relayd.proxy_id: Secret(Relayd.api_key)})
        self._dialect = dialect
        self._options = options
        self._ids = count(1)

    async def run(self, what: Callable[[Load], Awaitable[None]]) -> Stalls:
        """
        Do *what* to a new relay, and end all.

        """
        await self.sshd.start()
        port: Any = await self.hub.listen(TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"))
        url = f"ws://127.0.0.1:{port.getHost().port}"
        self.relay = Relayd(url, "--dialect", self._dialect, "--drain-timeout", "1s", *self._options)
        self.relay.start()
        try:
            await self.hub.when_connected(Relayd.proxy_id)
            await self.execute("true", extended=True)
            await what(self)
            await deferLater(reactor, 0.2)
            await self.relay.signal(signal.SIGTERM)
        finally:
            await self.relay.remove()
            await self.hub.close()
            await self.sshd.stop()
        return stalls_in(self.relay.log)

    def execute(self, command: str, **changes: Any) -> Deferred[CommandResult]:
        """Have the relay run a command."""
        order = ExecuteCommand(
            command_id=f"c{next(self._ids)}",
            server_id=1,
            host=self.sshd.host,
            port=self.sshd.port,
            username=self.sshd.user,
            command=command,
            private_key=Secret(self.sshd.key),
            timeout=60,
        )
        return self.hub.execute(Relayd.proxy_id, msgspec.structs.replace(order, **changes))

    def send_text(self, text: str) -> None:
        """Send the relay a text message of one's own."""
        self.hub.relays[Relayd.proxy_id].sendMessage(text.encode(), False)


def stalls_in(log: str) -> Stalls:
    """What a relay that has ended tells in its log."""
    found = _STALL.search(log)
    if found is None:
        raise PeerFailed(f"the relay did not tell how its event loop fared:\n{log[-2000:]}")
    return Stalls(_milliseconds(found[1]), _milliseconds(found[2]), found[3])


def _milliseconds(text: str) -> float:
    number, unit = text.split()
    return float(number) * (1 if unit == "ms" else 1000)


async def large_frames(load: Load) -> None:
    """Standard input that fills the largest message, as text and as base64."""
    for data, is_text in (
        (b"x" * (LARGEST - 8192), True),
        (("汉".encode() * (LARGEST // 3 - 4096)), True),
        (b"\xff\0" * (LARGEST // 8 * 3 - 8192), False),
    ):
        result = await load.execute("wc -c", stdin=data, stdin_is_text=is_text)
        if result.stdout != str(len(data)):
            raise PeerFailed(f"{result.stdout!r} of {len(data)} bytes came through: {result.stderr}")


async def large_outputs(load: Load) -> None:
    """Two outputs of 8 MB on one link that takes 1 MB: all is collected, decoded, trimmed and cut."""
    letters = "head -c 9000000 /dev/zero | tr '\\0' '{}'"
    both = "{0}; {0} >&2"
    await load.execute(both.format(letters.format("x")))
    await load.execute(both.format("yes 汉字汉字汉字汉字 | head -c 9000000"))
    await load.execute(both.format(letters.format("\\377")))
    await load.execute(both.format(letters.format("\\1")), encoding="base64")


async def costly_keys(load: Load) -> None:
    """Keys that take most of a second of work to read; none of them opens the door."""
    large = large_rsa()
    pem, ssh = Encoding.PEM, PrivateFormat.OpenSSH
    keys = [
        large.private_bytes(pem, ssh, NoEncryption()).decode(),
        large.private_bytes(pem, PrivateFormat.PKCS8, BestAvailableEncryption(b"passphrase")).decode(),
        *(openssh_key(rounds=80) for _ in range(3)),
    ]
    await DeferredList(
        [
            load.execute("true", private_key=Secret(key), passphrase=Secret("passphrase"), username=f"u{index}")
            for index, key in enumerate(keys)
        ],
        consumeErrors=True,
    )


async def many_commands(load: Load) -> None:
    """Many commands in one go, for a port where nobody listens."""
    done = [load.execute("true", port=1, host=f"127.0.1.{number % 100 + 1}") for number in range(load.commands)]
    await gatherResults(done)


async def many_values(load: Load) -> None:
    """JSON that is all structure: the relay may close the connection, and comes back."""
    for value, size in (("[]", 3), ("{}", 3), ("1", 2), ('"k"', 4)):
        body = f"{value}," * ((LARGEST - 4096) // size)
        load.send_text('{"event":"x","data":[' + body + "0]}")
        await deferLater(reactor, 1)
        await load.hub.when_connected(Relayd.proxy_id)


#: What there is, each with the dialect and the options of its relay.
LOADS: dict[str, tuple[Callable[[Load], Awaitable[None]], str, tuple[str, ...]]] = {
    "large frames, native": (large_frames, "native", ()),
    "large frames, socketio": (large_frames, "socketio", ()),
    "large outputs, native": (large_outputs, "native", ("--max-output", "8M")),
    "large outputs, socketio": (large_outputs, "socketio", ("--max-output", "8M")),
    "costly keys": (costly_keys, "native", ()),
    "many commands": (many_commands, "native", ("--max-queue", "20000")),
    "many commands, socketio": (many_commands, "socketio", ("--max-queue", "20000")),
    "many values": (many_values, "native", ("--reconnect-delay", "0.5s")),
}
