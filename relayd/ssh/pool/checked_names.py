"""
To which addresses connections may be opened: the addresses of names are checked too, by a function of the user's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import (
    IAddress,
    IHostnameResolver,
    IHostResolution,
    IReactorPluggableNameResolver,
    IResolutionReceiver,
)
from zope.interface import implementer

from relayd.network.lookup import ReactorWithResolver
from relayd.network.spelling import Address, read_address

#: Whether a connection may be opened: host as it was named, port, and the address; ``None`` where a jump host will look
#: up the name.
AddressCheck = Callable[[str, int, Address | None], bool]


def allow_all(host: str, port: int, address: Address | None) -> bool:
    """The `AddressCheck` that allows everything."""
    return True


def address_in(address: IAddress) -> Address | None:
    """The IP address in one of Twisted's addresses; ``None`` where there is none."""
    return read_address(address.host) if isinstance(address, IPv4Address | IPv6Address) else None


@implementer(IReactorPluggableNameResolver, IHostnameResolver)
class CheckedNames(ReactorWithResolver):
    """
    A name resolver for `HostnameEndpoint` that gives allowed addresses only.

    The endpoint connects to the addresses that it gets from here, and looks nothing up again: a name server that
    changes its answer gains nothing.

    :ivar forbade: whether any address was left out.
    :ivar found: every address that was found, allowed or not.
    """

    def __init__(self, reactor: Any, allows: AddressCheck) -> None:
        super().__init__(reactor)
        self.allows = allows
        self.forbade = False
        self.found: set[str] = set()

    def resolveHostName(
        self,
        resolutionReceiver: IResolutionReceiver,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Sequence[type[IAddress]] | None = None,
        transportSemantics: str = "TCP",
    ) -> IHostResolution:
        """See `IHostnameResolver`."""
        receiver = _Allowed(resolutionReceiver, self, hostName, portNumber)
        resolver = self._reactor.nameResolver
        found: IHostResolution = resolver.resolveHostName(
            receiver, hostName, portNumber, addressTypes, transportSemantics
        )
        return found


@implementer(IResolutionReceiver)
class _Allowed:
    """Passes on those addresses of a host that are allowed."""

    def __init__(self, receiver: IResolutionReceiver, names: CheckedNames, host: str, port: int) -> None:
        self._names = names
        self._host = host
        self._port = port
        self._receiver = receiver
        self.resolutionBegan = receiver.resolutionBegan
        self.resolutionComplete = receiver.resolutionComplete

    def addressResolved(self, address: IAddress) -> None:
        found = address_in(address)
        if found is not None:
            self._names.found.add(str(found))
        if found is not None and self._names.allows(self._host, self._port, found):
            kind = IPv4Address if found.version == 4 else IPv6Address
            # Made from the address that was checked, rather than the original, which might only look like it.
            self._receiver.addressResolved(kind("TCP", str(found), self._port))
        else:
            self._names.forbade = True
