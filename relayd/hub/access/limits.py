"""
On which hosts an operator may run commands, and what is said of those that are outside.  No I/O.

A selector in an order of an operator means hosts within the limit only.  Everybody who has the permission
``inventory:read`` sees all hosts, also an operator who may run commands on some of them only; so to name the hosts that
are outside tells them nothing new.  A token without that permission learns only how many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

from relayd.hub.access.errors import HostsForbidden, Unusable
from relayd.hub.access.permissions import Permission, Principal
from relayd.language.texts import Fault, Text


class Named(Protocol):
    """A host."""

    @property
    def name(self) -> str:
        """Its name in the inventory."""


HostT = TypeVar("HostT", bound=Named)

#: Whether a host is one of those that a selector means: the selector's text is read once, then it is asked of each
#: host.
ReadSelector = Callable[[str], Callable[[HostT], bool]]


def allowed(principal: Principal, read: ReadSelector[HostT]) -> Callable[[HostT], bool] | None:
    """
    Whether somebody may run commands on a host, as it is now; ``None``: on all of them.

    :param read: reads a selector of *principal*; what cannot be read any more means no host.
    """
    if principal.limits is None:
        return None
    limits: list[Callable[[HostT], bool]] = []
    for text in principal.limits:
        try:
            limits.append(read(text))
        except Fault:
            continue
    return lambda host: any(matches(host) for matches in limits)


def outside(principal: Principal, hosts: Iterable[HostT], read: ReadSelector[HostT]) -> list[HostT]:
    """Those of *hosts* on which *principal* may run no commands."""
    may_use = allowed(principal, read)
    return [] if may_use is None else [host for host in hosts if not may_use(host)]


def forbidden(principal: Principal, hosts: Sequence[Named]) -> HostsForbidden:
    """What is said of *hosts* on which *principal* may run no commands; it names them to whoever may see them."""
    names = [host.name for host in hosts] if principal.may(Permission.INVENTORY_READ) else []
    return HostsForbidden(principal=principal.name, names=names, count=len(hosts))


def may_stop(principal: Principal, created_by: str, hosts: Iterable[HostT], read: ReadSelector[HostT]) -> bool:
    """
    Whether somebody who has ``runs:write`` may also pause or cancel a run: it is their own, or all of its hosts are
    within their limits.  To stop what one began is never refused, whatever became of the hosts and the limits.

    :param created_by: who ordered the run.
    :param hosts: of the run; those that were deleted since are within nobody's limits.
    """
    own = created_by == f"user:{principal.user}" or created_by.startswith(f"token:{principal.user}/")
    return own or not outside(principal, hosts, read)


def check_selectors(
    selectors: Iterable[str] | None, read: Callable[[str], object], most: int = 100
) -> tuple[str, ...] | None:
    """
    The selectors of an operator, if they can be used.

    :param selectors: ``None``: all hosts.
    :raises Unusable: when one of them cannot be read, or there is none.
    """
    if selectors is None:
        return None
    found = tuple(selectors)
    if not found:
        raise Unusable(field=Text("selectors"), reason=Text('with none, nothing is allowed; "all" means all hosts'))
    if len(found) > most:
        raise Unusable(field=Text("selectors"), reason=Text("there are more than {most}", most=most))
    for text in found:
        try:
            read(text)
        except Fault as fault:
            raise Unusable(field=Text("selectors"), reason=fault.text) from None
    return found
