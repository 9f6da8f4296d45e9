"""
A name server of the test's own: it answers what the test says, and otherwise the next time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet._resolver import HostResolution
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import (
    IAddress,
    IHostnameResolver,
    IHostResolution,
    IReactorPluggableNameResolver,
    IResolutionReceiver,
)
from twisted.internet.testing import MemoryReactorClock
from zope.interface import implementer


@implementer(IHostnameResolver)
class ScriptedNames:
    """
    Answers at once.

    :param answers: of each look-up, in order; the last one is given again and again.
    :ivar asked: the names that were looked up.
    """

    def __init__(self, *answers: Sequence[str]) -> None:
        self.asked: list[str] = []
        self._answers = list(answers)

    def resolveHostName(
        self,
        resolutionReceiver: IResolutionReceiver,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Sequence[type[IAddress]] | None = None,
        transportSemantics: str = "TCP",
    ) -> IHostResolution:
        """See `IHostnameResolver`."""
        self.asked.append(hostName)
        resolution: IHostResolution = HostResolution(hostName)
        resolutionReceiver.resolutionBegan(resolution)
        for address in self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]:
            kind = IPv6Address if ":" in address else IPv4Address
            resolutionReceiver.addressResolved(kind("TCP", address, portNumber))
        resolutionReceiver.resolutionComplete()
        return resolution


@implementer(IReactorPluggableNameResolver)
class NamedReactor(MemoryReactorClock):
    """A reactor in memory with such a name server."""

    def __init__(self, names: ScriptedNames) -> None:
        super().__init__()
        self.nameResolver = names

    def installNameResolver(self, resolver: Any) -> Any:
        """See `IReactorPluggableNameResolver`."""
        self.nameResolver, before = resolver, self.nameResolver
        return before

    def dialled(self) -> list[tuple[str, int]]:
        """Hosts and ports of all connections that were tried."""
        return [(str(client[0]), int(client[1])) for client in self.tcpClients]
