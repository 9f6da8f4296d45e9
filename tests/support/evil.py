"""
An SSH server that plays by the rules as far as a test wants it to: each step of it can be replaced.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from twisted.conch.ssh.common import NS, getNS
from twisted.conch.ssh.factory import SSHFactory
from twisted.conch.ssh.keys import Key
from twisted.conch.ssh.transport import SSHServerTransport
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IListeningPort, IPullProducer
from twisted.python.failure import Failure
from zope.interface import implementer

from relayd.ssh import Completed
from relayd.ssh.errors import SSHError
from relayd.ssh.target import Credential, Target
from tests.support.ssh import DEADLINE, ServerTestCase, key_pair

SERVICE_REQUEST, SERVICE_ACCEPT = 5, 6
USERAUTH_REQUEST, USERAUTH_FAILURE, USERAUTH_SUCCESS, USERAUTH_BANNER, USERAUTH_INFO_REQUEST = 50, 51, 52, 53, 60
GLOBAL_REQUEST = 80
CHANNEL_OPEN, OPEN_CONFIRMATION, OPEN_FAILURE, WINDOW_ADJUST = 90, 91, 92, 93
CHANNEL_DATA, EXTENDED_DATA, CHANNEL_EOF, CHANNEL_CLOSE = 94, 95, 96, 97
CHANNEL_REQUEST, CHANNEL_SUCCESS, CHANNEL_FAILURE = 98, 99, 100

#: What an honest server lets a client send, in bytes, and the longest packet.
WINDOW, MAX_PACKET = 2**21, 32768
#: What the client logs in with where it is asked to; no error may show it.
PASSWORD = "pass-w0rd-of-the-evil-tests"
#: Characters of an error that somebody is to read, at most.
MAX_MESSAGE = 1000


def uint32(*values: int) -> bytes:
    """Integers of 32 bits, one after another."""
    return struct.pack(f">{len(values)}L", *values)


def plain_packet(message: int, payload: bytes = b"") -> bytes:
    """A packet before there are keys (RFC 4253, section 6)."""
    body = bytes([message]) + payload
    padding = 8 - (5 + len(body)) % 8
    padding += 8 if padding < 4 else 0
    return uint32(1 + len(body) + padding) + bytes([padding]) + body + bytes(padding)


@implementer(IPullProducer)
class Flood:
    """Writes what *chunk* gives as fast as the other side, or the system's buffers, will take it."""

    def __init__(self, write: Callable[[], object]) -> None:
        self._write = write

    def resumeProducing(self) -> None:
        self._write()

    def stopProducing(self) -> None:
        """The connection is gone."""


class Evil(SSHServerTransport):
    """
    One connection; this class itself is honest: it lets everybody in and answers each command with ``ok``.

    :ivar segment: while not ``None``, what is sent is collected here, to leave as one segment.
    """

    factory: Any
    transport: Any
    segment: list[bytes] | None = None
    flooding = False

    # Steps; each is to be replaced

    def begin(self) -> None:
        """The client has connected."""
        super().connectionMade()

    def secured(self) -> None:
        """Everything is encrypted from here on."""

    def service_requested(self, name: bytes) -> None:
        self.sendPacket(SERVICE_ACCEPT, NS(name))

    def login_requested(self, method: bytes) -> None:
        self.sendPacket(USERAUTH_SUCCESS, b"")

    def channel_requested(self, channel: int) -> None:
        self.confirm(channel)

    def command_requested(self, channel: int) -> None:
        self.accept(channel)
        self.output(channel, b"ok")
        self.end(channel)

    # What steps are made of

    def confirm(self, channel: int, window: int = WINDOW, max_packet: int = MAX_PACKET) -> None:
        """Open the client's channel; ours has the same number."""
        self.sendPacket(OPEN_CONFIRMATION, uint32(channel, channel, window, max_packet))

    def accept(self, channel: int) -> None:
        self.sendPacket(CHANNEL_SUCCESS, uint32(channel))

    def output(self, channel: int, data: bytes) -> None:
        self.sendPacket(CHANNEL_DATA, uint32(channel) + NS(data))

    def status(self, channel: int, status: int = 0) -> None:
        self.sendPacket(CHANNEL_REQUEST, uint32(channel) + NS(b"exit-status") + b"\0" + uint32(status))

    def end(self, channel: int) -> None:
        """End the command well."""
        self.status(channel)
        self.sendPacket(CHANNEL_EOF, uint32(channel))
        self.sendPacket(CHANNEL_CLOSE, uint32(channel))

    def flood(self, write: Callable[[], object]) -> None:
        """Call *write* again and again, until the connection is gone."""
        if not self.flooding:
            self.flooding = True
            self.transport.registerProducer(Flood(write), False)

    def in_one_segment(self, write: Callable[[], object]) -> None:
        """All that *write* sends arrives at once."""
        self.segment = []
        write()
        whole, self.segment = b"".join(self.segment), None
        self.transport.write(whole)

    # How it works

    def connectionMade(self) -> None:
        self.factory.connections.append(self)
        self.begin()

    def connectionLost(self, reason: Failure | None = None) -> None:
        self.factory.connections.remove(self)

    def sendPacket(self, messageType: int, payload: bytes) -> None:
        if self.segment is None:
            super().sendPacket(messageType, payload)
            return
        transport, self.transport = self.transport, _Collector(self.segment)
        try:
            super().sendPacket(messageType, payload)
        finally:
            self.transport = transport

    def ssh_NEWKEYS(self, packet: bytes) -> None:
        super().ssh_NEWKEYS(packet)
        self.secured()

    def dispatchMessage(self, messageNum: int, payload: bytes) -> None:
        if messageNum == SERVICE_REQUEST:
            self.service_requested(getNS(payload)[0])
        elif messageNum == USERAUTH_REQUEST:
            self.login_requested(getNS(payload, 3)[2])
        elif messageNum == CHANNEL_OPEN:
            self.channel_requested(struct.unpack(">L", getNS(payload)[1][:4])[0])
        elif messageNum == CHANNEL_REQUEST and getNS(payload[4:])[0] == b"exec":
            self.command_requested(struct.unpack(">L", payload[:4])[0])
        elif messageNum == GLOBAL_REQUEST:
            self.sendPacket(82, b"")  # as every server does; the client's probes are answered
        elif messageNum < USERAUTH_REQUEST:
            super().dispatchMessage(messageNum, payload)
        # What else a client sends for a command is of no interest here.


class _Collector:
    def __init__(self, parts: list[bytes]) -> None:
        self.write = parts.append


class EvilServer(SSHFactory):
    """
    Listens on a free port of the loopback interface.

    :param kind: what each connection does.
    :ivar connections: those that are open.
    :ivar accepted: how many there ever were.
    :ivar target: somebody on it, with `PASSWORD`.
    """

    def __init__(self, reactor: Any, kind: type[Evil]) -> None:
        key = Key.fromString(key_pair()[0].encode())
        self.privateKeys = {b"ssh-ed25519": key}
        self.publicKeys = {b"ssh-ed25519": key.public()}
        self.protocol = kind
        self.connections: list[Evil] = []
        self._listening: IListeningPort = reactor.listenTCP(0, self, interface="127.0.0.1")
        self.accepted = 0
        port = cast(Any, self._listening.getHost()).port
        self.target = Target("127.0.0.1", port, "somebody", Credential(password=PASSWORD))

    def buildProtocol(self, addr: object) -> Evil:
        self.accepted += 1
        connection: Evil = self.protocol()
        connection.factory = self
        connection.supportedPublicKeys = [b"ssh-ed25519"]
        return connection

    def stop(self) -> Deferred[None] | None:
        """Stop listening and hang up."""
        for connection in list(self.connections):
            connection.transport.abortConnection()
        return self._listening.stopListening()


def repeated(packet: tuple[int, bytes], size: int = 65536) -> Callable[[Evil], None]:
    """A step of a flood: sends as many of *packet* at a time as are some *size* bytes on the wire."""
    message, payload = packet
    count = max(1, size // (len(payload) + 32))

    def write(connection: Evil) -> None:
        connection.in_one_segment(lambda: _send_all(connection, [(message, payload)] * count))

    return write


def _send_all(connection: Evil, packets: Sequence[tuple[int, bytes]]) -> None:
    for message, payload in packets:
        connection.sendPacket(message, payload)


class EvilTestCase(ServerTestCase):
    """
    Commands on bad servers, all at a time, beside others on a good one that has to stay of use throughout.
    """

    async def outcomes(
        self, *kinds: type[Evil], timeout: float = DEADLINE, **settings: Any
    ) -> list[Completed | SSHError]:
        """
        What becomes of one command on each of *kinds*.  When they have ended nothing of them may be left.

        :param timeout: of each command, in seconds.
        """
        client = self.make_client(host_keys="ignore", **settings)
        good = EvilServer(self.reactor, Evil)
        servers = [EvilServer(self.reactor, kind) for kind in kinds]
        for server in (good, *servers):
            self.addCleanup(server.stop)
        running: list[Deferred[Any]] = [self.run_command(client, server.target, "true", timeout) for server in servers]
        gathered = gatherResults([each.addErrback(lambda failure: failure.value) for each in running])
        while not gathered.called:
            done = await self.run_command(client, good.target, "true")
            self.assertEqual((done.stdout.text(), done.error), ("ok", None), "a command on another host")
            await self.sleep(0.05)
        outcomes: list[Any] = await gathered
        self.assertEqual(client.counts().waiting, 0)
        await client.close()
        self.assertEqual([str(call) for call in self.reactor.getDelayedCalls() if "relayd" in str(call)], [])
        await self.until(
            lambda: not any(server.connections for server in (good, *servers)), "every connection is closed"
        )
        return outcomes

    async def check_errors(self, expected: Mapping[type[Evil], tuple[type[SSHError], str]], **settings: Any) -> None:
        """
        Each of the servers ends its command with an error of the kind that is named, which says the words.

        :param settings: as for `outcomes`.
        """
        outcomes = await self.outcomes(*expected, **settings)
        wrong = []
        for (kind, (error, words)), outcome in zip(expected.items(), outcomes, strict=True):
            found = outcome.error if isinstance(outcome, Completed) else outcome
            if type(found) is not error or words not in str(found) or not str(found).isprintable():
                wrong.append(f"{kind.__name__}: {found!r}")
            elif PASSWORD in str(found) or len(str(found)) > MAX_MESSAGE:
                wrong.append(f"{kind.__name__}: its error says too much")
        self.assertEqual(wrong, [])
