"""
Which relays are connected to a main server, and which commands have no result yet.  Decisions only, no I/O and no time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Generic, TypeVar

from relayd.hub.errors import CommandInFlight

LinkT = TypeVar("LinkT")
OrderT = TypeVar("OrderT")


@dataclass(slots=True)
class _Pending(Generic[LinkT, OrderT]):
    order: OrderT
    #: The link on which the command was sent and the number of its acknowledgement, where it has one.
    link: LinkT | None = None
    ack_id: int | None = None


class Registry(Generic[LinkT, OrderT]):
    """
    The tables of connected relays and of pending orders; links and orders may be of any kind.

    An order stays pending until it is taken, whatever happens to the link: a relay sends its results again after a
    reconnect.  An acknowledgement belongs to the link on which the order was sent.
    """

    def __init__(self) -> None:
        self._links: dict[str, LinkT] = {}
        self._pending: dict[tuple[str, str], _Pending[LinkT, OrderT]] = {}
        self._acks: dict[LinkT, dict[int, tuple[str, str]]] = {}
        #: The link of each connected relay, by ``proxyId``.
        self.relays: Mapping[str, LinkT] = MappingProxyType(self._links)

    def connect(self, proxy_id: str, link: LinkT) -> LinkT | None:
        """
        Note that a relay was accepted on *link*.

        :return: the older link of that relay, which is to be closed.
        """
        replaced = self._links.get(proxy_id)
        if replaced is not None:
            self._acks.pop(replaced, None)
        self._links[proxy_id] = link
        return replaced

    def disconnect(self, proxy_id: str, link: LinkT) -> bool:
        """
        Note that *link* is gone.

        :return: whether its relay is gone too; it is not when a newer link has replaced *link*.
        """
        self._acks.pop(link, None)
        if self._links.get(proxy_id) is not link:
            return False
        del self._links[proxy_id]
        return True

    def add(self, proxy_id: str, command_id: str, order: OrderT) -> None:
        """
        Make *order* pending.

        :raises CommandInFlight: when an order with the same id is pending for the same relay.
        """
        key = (proxy_id, command_id)
        if key in self._pending:
            raise CommandInFlight(proxy_id=proxy_id, command_id=command_id)
        self._pending[key] = _Pending(order)

    def expect_ack(self, proxy_id: str, command_id: str, link: LinkT, ack_id: int) -> None:
        """Note that the pending command was sent on *link* and will be acknowledged with number *ack_id*."""
        pending = self._pending[proxy_id, command_id]
        pending.link, pending.ack_id = link, ack_id
        self._acks.setdefault(link, {})[ack_id] = (proxy_id, command_id)

    def acknowledged(self, link: LinkT, ack_id: int) -> str | None:
        """
        Note that the relay sent acknowledgement *ack_id*.

        :return: the ``commandId`` of the command, where that is still pending.
        """
        key = self._acks.get(link, {}).pop(ack_id, None)
        return None if key is None else key[1]

    def get(self, proxy_id: str, command_id: str) -> OrderT | None:
        """The pending order of a command, which stays pending; ``None`` when there is none."""
        pending = self._pending.get((proxy_id, command_id))
        return None if pending is None else pending.order

    def take(self, proxy_id: str, command_id: str) -> OrderT | None:
        """
        Remove the order of a command that has ended, one way or another.

        :return: the order; ``None`` when it was not pending.
        """
        pending = self._pending.pop((proxy_id, command_id), None)
        if pending is None:
            return None
        if pending.link is not None and pending.ack_id is not None:
            self._acks.get(pending.link, {}).pop(pending.ack_id, None)
        return pending.order

    def take_all(self) -> list[OrderT]:
        """Remove and return every pending order, to shut down."""
        orders = [pending.order for pending in self._pending.values()]
        self._pending.clear()
        self._acks.clear()
        return orders
