"""
Hosts that keep a relay busy: each, in a process of its own, does one kind of it for as long as it is connected.

    python -m tests.support.floods KIND...      prints for each the port that it listens on, on 127.0.0.1

`KINDS` has them all; one more is a class and a line there.
"""

from __future__ import annotations

import hmac
import struct
import sys
from base64 import b64encode
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import Struct
from twisted.conch.ssh.common import NS
from twisted.internet.defer import Deferred
from twisted.internet.task import react

from relayd.ssh.target import Credential
from relayd.ssh.transport.key_exchange_methods import modp_prime
from tests.support.costly import SelfCertified
from tests.support.evil import (
    CHANNEL_DATA,
    CHANNEL_REQUEST,
    CHANNEL_SUCCESS,
    GLOBAL_REQUEST,
    PASSWORD,
    USERAUTH_BANNER,
    WINDOW_ADJUST,
    Evil,
    EvilServer,
    plain_packet,
    uint32,
)

DISCONNECT, IGNORE, UNIMPLEMENTED, DEBUG, EXT_INFO = 1, 2, 3, 4, 7
#: Bytes of one write of a flood, and of the longest packets that a relay takes: with keys, and before.
BURST, LONG, LONG_PLAIN = 1 << 17, 255 * 1024, 34_900


def no_extensions(size: int) -> bytes:
    """An ``EXT_INFO`` of as many empty extensions as go into *size* bytes."""
    return uint32(size // 8) + bytes(size)


class Flooding(Evil):
    """Sends packets as fast as they are taken."""

    def packets(self, message: int, payload: bytes) -> bytes:
        """A `BURST` of one packet, over and over, made faster than Conch makes one by one."""
        secret = self.currentEncryptions
        block = secret.encBlockSize
        padding = block - (6 + len(payload)) % block
        padding += block if padding < 4 else 0
        plain = struct.pack(">LBB", 2 + len(payload) + padding, padding, message) + payload + bytes(padding)
        count = max(1, BURST // len(plain))
        first, self.outgoingPacketSequence = self.outgoingPacketSequence, self.outgoingPacketSequence + count
        sealed = secret.encrypt(plain * count)
        module, *_ = secret.outMAC
        if module is None:
            return bytes(sealed)
        key, name, size = secret.outMAC.key, module().name, len(plain)
        return b"".join(
            sealed[at * size : at * size + size]
            + hmac.digest(key, ((first + at) & 0xFFFFFFFF).to_bytes(4, "big") + plain, name)
            for at in range(count)
        )

    def flood_with(self, message: int, payload: bytes) -> None:
        self.flood(lambda: self.transport.write(self.packets(message, payload)))


def after_the_command(message: int, payload: bytes) -> type[Evil]:
    """A host that floods when a command runs; what is on channels is on that of the first command."""

    class AfterTheCommand(Flooding):
        def command_requested(self, channel: int) -> None:
            self.accept(channel)
            self.flood_with(message, payload)

    return AfterTheCommand


def before_the_login(message: int, payload: bytes) -> type[Evil]:
    """A host that floods instead of answering the login."""

    class BeforeTheLogin(Flooding):
        def login_requested(self, method: bytes) -> None:
            self.flood_with(message, payload)

    return BeforeTheLogin


class ExtensionsFirst(Flooding):
    """Its first packet with keys is as many extensions as go into it."""

    def secured(self) -> None:
        self.sendPacket(EXT_INFO, no_extensions(LONG))
        self.flood_with(EXT_INFO, no_extensions(LONG))


class BeforeTheKeys(Flooding):
    """Floods before there are any keys: whoever is on the way can do that."""

    payload = b""

    def begin(self) -> None:
        self.transport.write(b"SSH-2.0-Flood\r\n")
        burst = plain_packet(IGNORE, self.payload) * max(1, BURST // (len(self.payload) + 16))
        self.flood(lambda: self.transport.write(burst))

    def dataReceived(self, data: bytes) -> None:
        pass


class LongBeforeTheKeys(BeforeTheKeys):
    payload = bytes(LONG_PLAIN)


class Bytes(BeforeTheKeys):
    """Each byte of a packet is a segment of its own."""

    def begin(self) -> None:
        self.transport.setTcpNoDelay(True)
        self.transport.socket.send(b"SSH-2.0-Flood\r\n")
        self._packet = plain_packet(IGNORE, bytes(LONG_PLAIN - 20))
        self._at = 0
        self._send()

    def _send(self) -> None:
        from twisted.internet import reactor

        if not self.connected:
            return
        pause = 0.0
        try:
            for _ in range(500):
                self.transport.socket.send(self._packet[self._at : self._at + 1])
                self._at = (self._at + 1) % len(self._packet)
        except BlockingIOError:
            pause = 0.002  # it is not read: to try all the time would only take the processor from the good host
        except OSError:
            return
        self._call = reactor.callLater(pause, self._send)


class Lines(Bytes):
    """Lines without anything, in segments of their own, where its version should be."""

    def begin(self) -> None:
        self.transport.setTcpNoDelay(True)
        self._packet, self._at = b"\n", 0
        self._send()


class Rekeys(Flooding):
    """Renews the keys for ever, by the dearest method, with 16 KiB of nothing in between."""

    methods: ClassVar[list[bytes]] = [b"diffie-hellman-group-exchange-sha256"]
    again = False
    between = 17 * 1024

    def begin(self) -> None:
        self.supportedKeyExchanges = self.methods
        super().begin()

    def command_requested(self, channel: int) -> None:
        self.accept(channel)
        if not self.again:
            self.again = True
            self.begin_again()

    def secured(self) -> None:
        if self.again:
            self.begin_again()

    def begin_again(self) -> None:
        self.sendPacket(IGNORE, NS(bytes(self.between)))
        self.sendKexInit()


class QuickRekeys(Rekeys):
    """Likewise, by the cheapest one, and with nothing in between."""

    methods: ClassVar[list[bytes]] = [b"curve25519-sha256"]
    between = 0


class LongKEXINITs(Rekeys):
    """Offers thousands of algorithms each time."""

    methods: ClassVar[list[bytes]] = [b"curve25519-sha256", *(b"m%d" % number for number in range(5000))]


class NeverReads(Flooding):
    """Takes standard input without an end, a byte at a time, and reads none of it."""

    def channel_requested(self, channel: int) -> None:
        self.confirm(channel, window=0)

    def command_requested(self, channel: int) -> None:
        self.accept(channel)
        self.transport.pauseProducing()
        self.flood_with(WINDOW_ADJUST, uint32(channel, 1))


class Kind(Struct, frozen=True):
    """
    One kind of host that means no good.

    :ivar what: it does, in a few words.
    :ivar host: what each connection does.
    :ivar credential: makes what a command on it logs in with.
    :ivar stdin: of that command.
    :ivar serve: makes the server, where it needs more than `host`.
    :ivar known_hosts: a line that the relay's file of known host keys has.
    """

    what: str
    host: type[Evil]
    credential: Callable[[], Credential] = lambda: Credential(password=PASSWORD)
    stdin: bytes = b""
    serve: Callable[[Any], EvilServer] | None = None
    known_hosts: str = ""


#: The public key of an authority that everybody trusts; of no private key that anybody has.
AUTHORITY = NS(b"ssh-ed25519") + NS(Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key().public_bytes_raw())

#: Every kind, by a name for the command line.
KINDS: dict[str, Kind] = {
    "extensions": Kind("EXT_INFO of 255 KiB after the keys", ExtensionsFirst),
    "late-extensions": Kind("EXT_INFO of 8 KiB on and on", before_the_login(EXT_INFO, no_extensions(8192))),
    "rekeys": Kind("new keys by the dearest method, on and on", Rekeys),
    "quick-rekeys": Kind("new keys by the cheapest method, on and on", QuickRekeys),
    "long-kexinits": Kind("new keys, from thousands of algorithms", LongKEXINITs),
    "bytes": Kind("packets before the keys, a byte at a time", Bytes),
    "lines": Kind("empty lines instead of a version, a byte at a time", Lines),
    "plain-ignore": Kind("empty packets before the keys", BeforeTheKeys),
    "plain-long": Kind("packets of 35,000 bytes before the keys", LongBeforeTheKeys),
    "banners": Kind("short banners during the login", before_the_login(USERAUTH_BANNER, NS(b"") * 2)),
    "long-banners": Kind("banners of 255 KiB during the login", before_the_login(USERAUTH_BANNER, NS(bytes(LONG)))),
    "ignore": Kind("empty packets", after_the_command(IGNORE, NS(b""))),
    "long-ignore": Kind("packets of 255 KiB that mean nothing", after_the_command(IGNORE, NS(bytes(LONG)))),
    "debug": Kind("DEBUG of 255 KiB", after_the_command(DEBUG, b"\1" + NS(b" key options:" * 20_000) + NS(b""))),
    "unimplemented": Kind("UNIMPLEMENTED", after_the_command(UNIMPLEMENTED, bytes(4))),
    "unknown": Kind("messages that nobody knows, to be answered", after_the_command(19, b"")),
    "output": Kind("output, a byte a packet", after_the_command(CHANNEL_DATA, uint32(0) + NS(b"y"))),
    "empty-output": Kind("output packets without output", after_the_command(CHANNEL_DATA, uint32(0) + NS(b""))),
    "window": Kind("window adjusts of a byte", after_the_command(WINDOW_ADJUST, uint32(0, 1))),
    "answers": Kind("answers to nothing", after_the_command(CHANNEL_SUCCESS, uint32(0))),
    "requests": Kind(
        "channel requests of 255 KiB", after_the_command(CHANNEL_REQUEST, uint32(0) + NS(bytes(LONG)) + b"\0")
    ),
    "signals": Kind(
        "exit-signal with a name of 250 KB",
        after_the_command(CHANNEL_REQUEST, uint32(0) + NS(b"exit-signal") + b"\0" + NS(b"\xff" * 250_000)),
    ),
    "global-requests": Kind(
        "global requests", after_the_command(GLOBAL_REQUEST, NS(b"hostkeys-00@openssh.com") + b"\0")
    ),
    "probes": Kind(
        "global requests to be answered", after_the_command(GLOBAL_REQUEST, NS(b"keepalive@openssh.com") + b"\1")
    ),
    "never-reads": Kind(
        "room for a byte of standard input, on and on, never reading", NeverReads, stdin=bytes(1_000_000)
    ),
    "certificates": Kind(
        "certificates for 250 patterns, which nobody signed",
        Evil,
        serve=lambda reactor: SelfCertified(reactor, AUTHORITY),
        known_hosts=f"@cert-authority * ssh-ed25519 {b64encode(AUTHORITY).decode()}\n",
    ),
}


async def serve(reactor: Any, names: Sequence[str]) -> None:
    """Be those hosts until the process is ended."""
    for name in names:
        kind = KINDS[name]
        server = EvilServer(reactor, kind.host) if kind.serve is None else kind.serve(reactor)
        server.primes = {4096: [(2, modp_prime(4096))]}
        print(server.target.port, flush=True)
    await Deferred()


def main(reactor: Any, *names: str) -> Deferred[None]:
    """The hosts that the command line names."""
    return Deferred.fromCoroutine(serve(reactor, names))


if __name__ == "__main__":
    react(main, sys.argv[1:])
