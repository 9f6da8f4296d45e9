"""
relayd.hub.service.one_port: one port for relays and for people.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.protocol import Protocol, ServerFactory
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from relayd.hub.service import one_port
from relayd.hub.service.one_port import PATIENCE, OnePort, is_for_relays

RELAYS = (
    b"GET /proxy?proxyId=a&apiKey=b HTTP/1.1\r\n",
    b"GET /proxy HTTP/1.1\r\n",
    b"GET /proxy/ HTTP/1.1\r\n",
    b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\n",
    b"POST /socket.io/?EIO=4&transport=polling HTTP/1.1\r\n",
)
OTHERS = (
    b"GET / HTTP/1.1\r\n",
    b"GET /api/v1/runs HTTP/1.1\r\n",
    b"GET /proxyx HTTP/1.1\r\n",
    b"GET /socket.iox HTTP/1.1\r\n",
    b"GET /api/proxy HTTP/1.1\r\n",
    b"GET http://hub/proxy HTTP/1.1\r\n",
    b"\r\nGET /proxy HTTP/1.1\r\n",
    b"X" * 100,
    b"\x16\x03\x01" + bytes(40),
)


class Kept(Protocol):
    """Keeps what it gets."""

    def __init__(self) -> None:
        self.received = b""
        self.lost = 0

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Any = None) -> None:
        self.lost += 1


class Keeper(ServerFactory):
    """Keeps its connections; of more than *most*, none is made."""

    def __init__(self, most: int = 10) -> None:
        self.made: list[Kept] = []
        self.most = most

    def buildProtocol(self, addr: Any) -> Any:
        if len(self.made) >= self.most:
            return None
        self.made.append(Kept())
        return self.made[-1]


class Pipe(StringTransport):
    """A transport that knows its protocol, as Twisted's do."""

    aborted = False

    def __init__(self, protocol: Any) -> None:
        super().__init__()
        self.protocol = protocol
        protocol.makeConnection(self)

    def receive(self, data: bytes) -> None:
        """Data arrives."""
        self.protocol.dataReceived(data)

    def abortConnection(self) -> None:
        self.aborted = True
        super().abortConnection()
        self.protocol.connectionLost(None)


class OnePortTests(SynchronousTestCase):
    """`OnePort`."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.relays, self.others = Keeper(), Keeper()
        self.port = OnePort(self.clock, self.relays, self.others)

    def connect(self) -> Pipe:
        return Pipe(self.port.buildProtocol(None))

    @given(st.sampled_from([*((text, True) for text in RELAYS), *((text, False) for text in OTHERS)]), st.data())
    def test_in_any_pieces(self, case: tuple[bytes, bool], data: Any) -> None:
        """However it arrives, it goes to one of the two, whole."""
        text, for_relays = case
        self.relays, self.others = Keeper(), Keeper()
        self.port = OnePort(self.clock, self.relays, self.others)
        pipe = self.connect()
        rest = text
        while rest:
            size = data.draw(st.integers(1, len(rest)))
            pipe.receive(rest[:size])
            rest = rest[size:]
        mine, theirs = (self.relays, self.others) if for_relays else (self.others, self.relays)
        self.assertEqual([each.received for each in mine.made], [text])
        self.assertEqual(theirs.made, [])

    def test_what_is_not_known_yet(self) -> None:
        for beginning in (b"", b"GE", b"GET ", b"GET /", b"GET /pro", b"POST /socket.io"):
            self.assertIsNone(is_for_relays(beginning), beginning)

    def test_the_deadline(self) -> None:
        silent, relay = self.connect(), self.connect()
        relay.receive(RELAYS[0])
        self.clock.advance(PATIENCE - 0.1)
        self.assertFalse(silent.aborted)
        silent.receive(b"GET /pr")
        self.clock.advance(0.2)
        self.assertTrue(silent.aborted)
        self.assertFalse(relay.aborted)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_bound(self) -> None:
        self.patch(one_port, "MOST_WAITING", 2)
        self.port = OnePort(self.clock, self.relays, self.others)
        pipes = [self.connect() for _ in range(3)]
        self.assertEqual(sum(pipe.aborted for pipe in pipes), 1)

    def test_a_factory_that_has_too_many(self) -> None:
        self.others.most = 0
        pipe = self.connect()
        pipe.receive(OTHERS[0])
        self.assertTrue(pipe.aborted)

    def test_the_end_goes_to_whom_it_is_for(self) -> None:
        pipe = self.connect()
        pipe.receive(OTHERS[0])
        pipe.protocol.connectionLost(None)
        self.assertEqual(self.others.made[0].lost, 1)
        self.connect().protocol.connectionLost(None)
        self.assertEqual(self.clock.getDelayedCalls(), [])
