"""
One port for relays and for people: the path of a connection's first request says who it is.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.internet.protocol import Protocol, ServerFactory, connectionDone
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure

from relayd.hub.links.doorway import Doorway

#: The paths at which relays connect.
RELAY_PATHS: Final = (b"/proxy", b"/socket.io")
#: Bytes of the longest method of HTTP that anybody knows.
_LONGEST_METHOD: Final = 20
#: Seconds within which a connection must have begun its first request; TLS counts too.
PATIENCE: Final = 10.0
#: Connections at a time that have not.
MOST_WAITING: Final = 1000


def is_for_relays(beginning: bytes) -> bool | None:
    """Whether a connection that begins so is a relay's; ``None``: that is not known yet."""
    method, blank, target = beginning.partition(b" ")
    if b"\n" in method or len(method) > _LONGEST_METHOD:
        return False
    if not blank:
        return None
    for path in RELAY_PATHS:
        if path.startswith(target):
            return None
        if target.startswith(path) and target[len(path) : len(path) + 1] in (b"/", b"?", b" "):
            return True
    return False


class OnePort(ServerFactory):
    """
    Gives each connection to the factory that it is for.

    :param relays: makes the connections of relays.
    :param others: makes all others.
    """

    noisy = False

    def __init__(self, clock: IReactorTime, relays: ServerFactory, others: ServerFactory) -> None:
        self.clock = clock
        self.relays = relays
        self.others = others
        #: The connections of which it is not known yet.
        self.doorway: Doorway[FirstRequest] = Doorway(MOST_WAITING)

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        return FirstRequest(self, addr)

    def doStart(self) -> None:
        super().doStart()
        self.relays.doStart()
        self.others.doStart()

    def doStop(self) -> None:
        super().doStop()
        self.relays.doStop()
        self.others.doStop()


class FirstRequest(Protocol):
    """A connection until it is known whom it is for."""

    transport: Any

    def __init__(self, port: OnePort, address: IAddress | None) -> None:
        self._port = port
        self._address = address
        self._received = b""
        self._deadline: IDelayedCall | None = None

    def connectionMade(self) -> None:
        clock = self._port.clock
        self._deadline = clock.callLater(PATIENCE, self._too_late)
        host = getattr(self.transport.getPeer(), "host", "")
        leaving = self._port.doorway.enter(self, str(host), clock.seconds())
        if leaving is not None:
            leaving.transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        self._received += data
        for_relays = is_for_relays(self._received)
        if for_relays is not None:
            self._leave()
            self._hand_over(self._port.relays if for_relays else self._port.others)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._leave()

    def _hand_over(self, factory: ServerFactory) -> None:
        protocol: Any = factory.buildProtocol(self._address)
        if protocol is None:  # it has too many
            self.transport.abortConnection()
            return
        transport = self.transport
        if isinstance(transport, ProtocolWrapper):  # TLS
            transport.wrappedProtocol = protocol
        else:
            transport.protocol = protocol
        protocol.makeConnection(transport)
        protocol.dataReceived(self._received)

    def _leave(self) -> None:
        self._port.doorway.leave(self)
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()

    def _too_late(self) -> None:
        self.transport.abortConnection()
