"""
Connections to hosts by any name that the system's resolver knows.

Twisted's `HostnameEndpoint` accepts only names of IDNA: no ``my_host``, no ``r4--a``, no hyphen at the end of a label.
Such names are in the hosts files and name servers of many sites.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from twisted.internet import error
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import (
    IAddress,
    IHostnameResolver,
    IHostResolution,
    IProtocol,
    IProtocolFactory,
    IReactorPluggableNameResolver,
    IResolutionReceiver,
    IStreamClientEndpoint,
)
from twisted.python.failure import Failure
from zope.interface import implementer

#: The name that the endpoint gets instead of the real one, which it would refuse. Nobody has it (RFC 6761).
_STAND_IN: Final = "name.invalid"


class NoNameService(Exception):
    """The look-up of a name did not end in time."""


@implementer(IStreamClientEndpoint)
class NamedEndpoint:
    """
    A TCP endpoint by name.

    Connections fail with ``DNSLookupError`` where the name has no address, with `NoNameService` where the look-up does
    not end, and otherwise with the error of one of the addresses.

    :param reactor: provides time, TCP and name resolution.
    :param name: in ASCII.
    :param timeout: seconds for the look-up and all addresses together.
    """

    def __init__(self, reactor: Any, name: str, port: int, timeout: float) -> None:
        self._reactor = reactor
        self._name = name
        self._port = port
        self._timeout = timeout

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """See `IStreamClientEndpoint`."""
        name = _OneName(self._reactor, self._name)

        def too_late(outcome: object, _: float) -> object:
            if not isinstance(outcome, Failure):
                return outcome
            raise NoNameService() if name.looking else error.TimeoutError()

        # The endpoint gives each address the whole time, and begins each one later than the one before.
        endpoint = HostnameEndpoint(name, _STAND_IN, self._port, self._timeout)
        connecting: Deferred[IProtocol] = endpoint.connect(protocolFactory)
        return connecting.addTimeout(self._timeout, self._reactor, too_late)  # type: ignore[arg-type]


class ReactorWithResolver:
    """
    What `HostnameEndpoint` needs of a reactor, with another name resolution: ``resolveHostName`` of a subclass.

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
        """See `IReactorPluggableNameResolver`. Only the reactor itself can get another one."""
        raise NotImplementedError


@implementer(IReactorPluggableNameResolver, IHostnameResolver)
class _OneName(ReactorWithResolver):
    """Looks up one name, whichever name it is asked for."""

    def __init__(self, reactor: Any, name: str) -> None:
        super().__init__(reactor)
        self._name = name
        self.looking = True
        self.connectTCP = self._dial

    def _dial(self, *args: Any, **more: Any) -> Any:
        self.looking = False
        return self._reactor.connectTCP(*args, **more)

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
            resolution = EndedResolution(self._name)
            resolutionReceiver.resolutionBegan(resolution)
            resolutionReceiver.resolutionComplete()
            return resolution
        found: IHostResolution = self._reactor.nameResolver.resolveHostName(
            resolutionReceiver, self._name, portNumber, addressTypes, transportSemantics
        )
        return found


@implementer(IHostResolution)
class EndedResolution:
    """A look-up that has ended by the time it is given: everything was reported before."""

    def __init__(self, name: str) -> None:
        self.name = name

    def cancel(self) -> None:
        """There is nothing to cancel."""


def _can_be_asked(name: str) -> bool:
    """Whether Python can look *name* up: for a label of more than 63 characters it raises, and Twisted hides that."""
    try:
        name.encode("idna")
    except UnicodeError:
        return False
    return True
