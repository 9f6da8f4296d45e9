"""
relayd.ssh.testing.transport, with turns of the reactor that the test takes.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IConsumer, IPushProducer, ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from relayd.ssh.testing.transport import connect


class Recorder(Protocol):
    """Keeps what arrives, and why the connection ended."""

    def __init__(self) -> None:
        self.received = b""
        self.lost: list[type[BaseException]] = []

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.append(reason.type)


class TransportTests(SynchronousTestCase):
    """Both ends of a connection."""

    def setUp(self) -> None:
        self.turns: list[Callable[[], object]] = []
        self.client, self.server = Recorder(), Recorder()
        here, there = (IPv4Address("TCP", "192.0.2.1", port) for port in (50000, 22))
        self.near, self.far = connect(self.turns.append, self.client, self.server, here, there)

    def go(self) -> None:
        """Take turns until there is nothing left to do."""
        while self.turns:
            self.turns.pop(0)()

    def test_interfaces(self) -> None:
        for interface in (ITCPTransport, IConsumer, IPushProducer):
            verifyObject(interface, self.near)
        self.assertEqual((self.near.getHost(), self.near.getPeer()), (self.far.getPeer(), self.far.getHost()))

    def test_nothing_arrives_in_the_turn_in_which_it_is_written(self) -> None:
        self.near.write(b"a")
        self.near.writeSequence([b"b", b"c"])
        self.assertEqual(self.server.received, b"")
        self.go()
        self.assertEqual((self.server.received, self.client.received), (b"abc", b""))

    def test_close(self) -> None:
        """What was written before arrives; nothing that is written after does."""
        self.near.write(b"last")
        self.near.loseConnection()
        self.near.loseConnection()
        self.near.write(b"late")
        self.go()
        self.assertEqual(self.server.received, b"last")
        self.assertEqual((self.client.lost, self.server.lost), ([ConnectionDone], [ConnectionDone]))
        self.far.write(b"too late")
        self.assertEqual(self.turns, [])

    def test_abort(self) -> None:
        self.far.write(b"lost")
        self.near.abortConnection()
        self.go()
        self.assertEqual(self.client.received, b"")
        self.assertEqual((self.client.lost, self.server.lost), ([ConnectionAborted], [ConnectionLost]))

    def test_pause(self) -> None:
        self.far.pauseProducing()
        self.near.write(b"x")
        self.near.loseConnection()
        self.go()
        self.assertEqual((self.server.received, self.server.lost), (b"", []))
        self.far.resumeProducing()
        self.go()
        self.assertEqual((self.server.received, self.server.lost), (b"x", [ConnectionDone]))
