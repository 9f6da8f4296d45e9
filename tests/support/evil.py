"""
SSH servers that break the rules: those of `relayd.ssh.testing`, on real TCP, with steps that a test replaces.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from twisted.conch.ssh.keys import Key
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IListeningPort, IPullProducer
from zope.interface import implementer

from relayd.ssh import Completed
from relayd.ssh.errors import SSHError
from relayd.ssh.target import Credential, Target
from relayd.ssh.testing import ServerConnection, ServerFactory
from relayd.ssh.testing.server import uint32 as _uint32
from tests.support.ssh import DEADLINE, ServerTestCase, key_pair

SERVICE_REQUEST, SERVICE_ACCEPT = 5, 6
USERAUTH_REQUEST, USERAUTH_FAILURE, USERAUTH_SUCCESS, USERAUTH_BANNER, USERAUTH_INFO_REQUEST = 50, 51, 52, 53, 60
GLOBAL_REQUEST = 80
CHANNEL_OPEN, OPEN_CONFIRMATION, OPEN_FAILURE, WINDOW_ADJUST = 90, 91, 92, 93
CHANNEL_DATA, EXTENDED_DATA, CHANNEL_EOF, CHANNEL_CLOSE = 94, 95, 96, 97
CHANNEL_REQUEST, CHANNEL_SUCCESS, CHANNEL_FAILURE = 98, 99, 100

uint32 = _uint32

#: What the client logs in with where it is asked to; no error may show it.
PASSWORD = "pass-w0rd-of-the-evil-tests"
#: Characters of an error that somebody is to read, at most.
MAX_MESSAGE = 1000


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


class Evil(ServerConnection):
    """
    One connection, which is good until a subclass replaces a step.

    :ivar segment: while not ``None``, what is sent is collected here, to leave as one segment.
    """

    segment: list[bytes] | None = None
    flooding = False

    # Steps, with what most tests need to know of them

    def userauth_requested(self, username: bytes, method: bytes, rest: bytes) -> None:
        self.login_requested(method)

    def login_requested(self, method: bytes) -> None:
        self.sendPacket(USERAUTH_SUCCESS, b"")

    def open_requested(self, kind: bytes, channel: int, window: int, max_packet: int) -> None:
        self.channel_requested(channel)

    def channel_requested(self, channel: int) -> None:
        self.confirm(channel)

    def exec_requested(self, channel: int, command: bytes) -> None:
        self.command_requested(channel)

    def command_requested(self, channel: int) -> None:
        self.accept(channel)
        self.output(channel, b"ok")
        self.end(channel)

    # What bad steps are made of

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

    def sendPacket(self, messageType: int, payload: bytes) -> None:
        if self.segment is None:
            super().sendPacket(messageType, payload)
            return
        transport, self.transport = self.transport, _Collector(self.segment)
        try:
            super().sendPacket(messageType, payload)
        finally:
            self.transport = transport


class _Collector:
    def __init__(self, parts: list[bytes]) -> None:
        self.write = parts.append


class EvilServer(ServerFactory):
    """
    Listens on a free port of the loopback interface.

    :param kind: what each connection does.
    :ivar target: somebody on it, with `PASSWORD`.
    """

    def __init__(self, reactor: Any, kind: type[Evil]) -> None:
        super().__init__(kind, Key.fromString(key_pair()[0].encode()))
        self._listening: IListeningPort = reactor.listenTCP(0, self, interface="127.0.0.1")
        port = cast(Any, self._listening.getHost()).port
        self.target = Target("127.0.0.1", port, "somebody", Credential(password=PASSWORD))

    def stop(self) -> Deferred[None] | None:
        """Stop listening and hang up."""
        self.drop_connections()
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
