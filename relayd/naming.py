"""
Connections to hosts by their names, whatever names the system's resolver knows.

Twisted's `HostnameEndpoint` takes only what IDNA allows: no ``my_host``, no ``r4--a``, no hyphen at the end of a label.
Such names stand in the hosts files and name servers of many sites.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import (
    IAddress,
    IHostnameResolver,
    IHostResolution,
    IReactorPluggableNameResolver,
    IResolutionReceiver,
)
from zope.interface import implementer

#: What the endpoint is told in the place of the name, which it would refuse; nobody ever looks it up (RFC 6761).
_STAND_IN: Final = "name.invalid"


def name_endpoint(reactor: Any, name: str, port: int, timeout: float) -> HostnameEndpoint:
    """
    The endpoint of *port* at the host *name*, in ASCII; ``DNSLookupError`` is what its connections fail with where no
    address is known.

    :param reactor: provides time, TCP and name resolution.
    :param timeout: seconds for TCP.
    """
    return HostnameEndpoint(_OneName(reactor, name), _STAND_IN, port, timeout)


class NamesOfOurOwn:
    """
    What `HostnameEndpoint` needs of a reactor, but for what names lead to: ``resolveHostName`` of a subclass says that.

    :param reactor: provides time, TCP and name resolution.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self.seconds = reactor.seconds
        self.callLater = reactor.callLater
        self.connectTCP = reactor.connectTCP

    @property
    def nameResolver(self) -> Any:
        """See `IReactorPluggableNameResolver`."""
        return self

    def installNameResolver(self, resolver: IHostnameResolver) -> IHostnameResolver:
        """See `IReactorPluggableNameResolver`; it is for the reactor itself to have another one."""
        raise NotImplementedError


@implementer(IReactorPluggableNameResolver, IHostnameResolver)
class _OneName(NamesOfOurOwn):
    """Looks up one name, whatever it is asked for."""

    def __init__(self, reactor: Any, name: str) -> None:
        super().__init__(reactor)
        self._name = name

    def resolveHostName(
        self,
        resolutionReceiver: IResolutionReceiver,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Sequence[type[IAddress]] | None = None,
        transportSemantics: str = "TCP",
    ) -> IHostResolution:
        """See `IHostnameResolver`."""
        if not _can_be_asked(self._name):
            resolution = _Nothing(self._name)
            resolutionReceiver.resolutionBegan(resolution)
            resolutionReceiver.resolutionComplete()
            return resolution
        found: IHostResolution = self._reactor.nameResolver.resolveHostName(
            resolutionReceiver, self._name, portNumber, addressTypes, transportSemantics
        )
        return found


@implementer(IHostResolution)
class _Nothing:
    """The look-up of a name that cannot be looked up."""

    def __init__(self, name: str) -> None:
        self.name = name

    def cancel(self) -> None:
        """It is over."""


def _can_be_asked(name: str) -> bool:
    """Whether Python asks the system: of a label of more than 63 characters it raises an error that Twisted loses."""
    try:
        name.encode("idna")
    except UnicodeError:
        return False
    return True
