"""
A network in memory: what an `relayd.ssh.SSHClient` takes for a reactor, with hosts that are not there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import ConnectError, ConnectionRefusedError, TimeoutError, UserError
from twisted.internet.interfaces import (
    IAddress,
    IConnector,
    IHostnameResolver,
    IHostResolution,
    IReactorPluggableNameResolver,
    IReactorTCP,
    IReactorTime,
    IResolutionReceiver,
)
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from relayd.network.lookup import EndedResolution
from relayd.network.spelling import read_address
from relayd.ssh.testing.behaviour import Misbehaviour
from relayd.ssh.testing.host import MemoryHost
from relayd.ssh.testing.transport import Place, connect

#: Addresses of hosts that have none of their own: TEST-NET-1 (RFC 5737), and ours.
_NETWORK, _OURS = "192.0.2.{}", "198.51.100.1"
_FIRST_PORT = 50000

HostT = TypeVar("HostT", bound=MemoryHost)


@implementer(IReactorTCP, IReactorTime, IReactorPluggableNameResolver, IHostnameResolver)
class MemoryNetwork:
    """
    Names, addresses and TCP in memory; threads, and the turns in which something happens, are those of *reactor*.

    :param reactor: the reactor that runs, such as trial's.
    :param clock: the time of everything that waits; by default the reactor's.
    """

    def __init__(self, reactor: Any, clock: Clock | None = None) -> None:
        self._reactor = reactor
        self._hosts: list[MemoryHost] = []
        self._ports = 0
        time = reactor if clock is None else clock
        self.seconds: Callable[[], float] = time.seconds
        self.callLater: Any = time.callLater
        self.getDelayedCalls: Any = time.getDelayedCalls
        self.callFromThread: Any = reactor.callFromThread
        self.getThreadPool: Any = reactor.getThreadPool
        self.connectUNIX: Any = reactor.connectUNIX

    def add(self, host: HostT) -> HostT:
        """
        Give *host* a place in this network; one whose name is not an address gets an address.

        :return: *host*.
        """
        self._hosts.append(host)
        host.join(self, str(read_address(host.name) or _NETWORK.format(len(self._hosts))))
        return host

    def call_soon(self, function: Callable[[], object]) -> None:
        """Call *function* in a later turn of the reactor, whatever the clock says."""
        self._reactor.callLater(0, function)

    # IReactorTCP

    def connectTCP(
        self, host: str, port: int, factory: Any, timeout: float = 30, bindAddress: tuple[str, int] | None = None
    ) -> IConnector:
        """See `IReactorTCP`."""
        self._ports += 1
        found = next((each for each in self._hosts if (each.address, each.port) == (host, port)), None)
        known = any(each.address == host for each in self._hosts)
        return _Connector(self, factory, timeout, found, known, _place(host, port), _FIRST_PORT + self._ports)

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        """Nothing listens here: `add` hosts instead."""
        raise NotImplementedError

    # IReactorPluggableNameResolver

    @property
    def nameResolver(self) -> IHostnameResolver:
        """See `IReactorPluggableNameResolver`."""
        return self

    def installNameResolver(self, resolver: IHostnameResolver) -> IHostnameResolver:
        """Names are those of the hosts: `add` some instead."""
        raise NotImplementedError

    def resolveHostName(
        self,
        resolutionReceiver: IResolutionReceiver,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Sequence[type[IAddress]] | None = None,
        transportSemantics: str = "TCP",
    ) -> IHostResolution:
        """See `IHostnameResolver`."""
        resolution = EndedResolution(hostName)
        resolutionReceiver.resolutionBegan(resolution)
        for address in dict.fromkeys(host.address for host in self._hosts if host.name == hostName):
            resolutionReceiver.addressResolved(_place(address, portNumber))
        resolutionReceiver.resolutionComplete()
        return resolution


@implementer(IConnector)
class _Connector:
    """One attempt to connect, which may fail as the host's `Misbehaviour` says."""

    def __init__(
        self,
        network: MemoryNetwork,
        factory: Any,
        timeout: float,
        host: MemoryHost | None,
        known: bool,
        there: Place,
        port: int,
    ) -> None:
        self._network = network
        self._factory = factory
        self._timeout = timeout
        self._host = host
        self._known = known
        self._there = there
        self._port = port
        self._waiting = True
        self._client_end: Any = None
        network.call_soon(self._begin)

    def _begin(self) -> None:
        if not self._waiting:
            return
        trouble = None if self._host is None else self._host.misbehaviour
        if self._host is None and not self._known:
            self._fail(ConnectError(osError=113, string="No route to host"))
        elif self._host is None or trouble is Misbehaviour.REFUSES_CONNECTIONS:
            self._fail(ConnectionRefusedError())
        elif trouble is Misbehaviour.UNREACHABLE:
            self._fail(ConnectError(osError=113, string="No route to host"))
        elif trouble is Misbehaviour.DOES_NOT_ANSWER:
            self._network.callLater(self._timeout, self._fail, TimeoutError())
        else:
            self._connect(self._host)

    def _connect(self, host: MemoryHost) -> None:
        self._waiting = False
        here = _place(_OURS, self._port)
        client, server = self._factory.buildProtocol(self._there), host.factory.buildProtocol(here)
        if client is not None:
            self._client_end, _ = connect(self._network.call_soon, client, server, here, self._there)

    def _fail(self, error: Exception) -> None:
        if self._waiting:
            self._waiting = False
            self._factory.clientConnectionFailed(self, Failure(error))

    # IConnector

    def stopConnecting(self) -> None:
        """See `IConnector`."""
        self._fail(UserError())

    def disconnect(self) -> None:
        """See `IConnector`."""
        if self._client_end is None:
            self.stopConnecting()
        else:
            self._client_end.loseConnection()

    def connect(self) -> None:
        """See `IConnector`; nobody connects again this way."""
        raise NotImplementedError

    def getDestination(self) -> Place:
        """See `IConnector`."""
        return self._there


def _place(address: str, port: int) -> Place:
    return (IPv6Address if ":" in address else IPv4Address)("TCP", address, port)
