"""
Connections to hosts by their names, whatever names the system's resolver knows.

Twisted's `HostnameEndpoint` takes only what IDNA allows: no ``my_host``, no ``r4--a``, no hyphen at the end of a label.
Such names stand in the hosts files and name servers of many sites.
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

#: What the endpoint is told in the place of the name, which it would refuse; nobody ever looks it up (RFC 6761).
_STAND_IN: Final = "name.invalid"


class NoNameService(Exception):
    """Whether a name has an address could not be found out in time."""


@implementer(IStreamClientEndpoint)
class NamedEndpoint:
    """
    *port* at the host *name*, in ASCII. Connections fail with ``DNSLookupError`` where no address is known, and with
    `NoNameService` where nobody says; otherwise with what one of the addresses met.

    :param reactor: provides time, TCP and name resolution.
    :param timeout: seconds for the look-up, and for all of the addresses.
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

        # Of many addresses that do not answer, each would have its own time, and each begins later than the one before.
        endpoint = HostnameEndpoint(name, _STAND_IN, self._port, self._timeout)
        connecting: Deferred[IProtocol] = endpoint.connect(protocolFactory)
        return connecting.addTimeout(self._timeout, self._reactor, too_late)  # type: ignore[arg-type]


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
