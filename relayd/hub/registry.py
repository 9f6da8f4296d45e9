"""
Who is connected to a main server, and which commands have no result yet: decisions only, no I/O and no time.
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
    #: Where the relay was asked to acknowledge the command: on which link, and by which number.
    link: LinkT | None = None
    ack_id: int | None = None


class Registry(Generic[LinkT, OrderT]):
    """
    The table of relays and of pending orders, for any kind of link and of order.

    An order is pending until it is taken, whatever happens to the link: a relay sends its results again after it has
    reconnected.  An acknowledgement belongs to the one link on which it was asked for.
    """

    def __init__(self) -> None:
        self._links: dict[str, LinkT] = {}
        self._pending: dict[tuple[str, str], _Pending[LinkT, OrderT]] = {}
        self._acks: dict[LinkT, dict[int, tuple[str, str]]] = {}
        #: The link of each connected relay, by ``proxyId``.
        self.relays: Mapping[str, LinkT] = MappingProxyType(self._links)

    def connect(self, proxy_id: str, link: LinkT) -> LinkT | None:
        """
        A relay has been accepted on *link*.

        :return: the link that it replaces, which is to be closed.
        """
        replaced = self._links.get(proxy_id)
        if replaced is not None:
            self._acks.pop(replaced, None)
        self._links[proxy_id] = link
        return replaced

    def disconnect(self, proxy_id: str, link: LinkT) -> bool:
        """
        *link* is gone.

        :return: whether its relay is gone with it; not so when a newer link has replaced it.
        """
        self._acks.pop(link, None)
        if self._links.get(proxy_id) is not link:
            return False
        del self._links[proxy_id]
        return True

    def add(self, proxy_id: str, command_id: str, order: OrderT) -> None:
        """
        *order* is pending from now on.

        :raises CommandInFlight: when another one is, with the same id for the same relay.
        """
        key = (proxy_id, command_id)
        if key in self._pending:
            raise CommandInFlight(proxy_id=proxy_id, command_id=command_id)
        self._pending[key] = _Pending(order)

    def expect_ack(self, proxy_id: str, command_id: str, link: LinkT, ack_id: int) -> None:
        """The pending command was sent on *link*, asking for acknowledgement *ack_id*."""
        pending = self._pending[proxy_id, command_id]
        pending.link, pending.ack_id = link, ack_id
        self._acks.setdefault(link, {})[ack_id] = (proxy_id, command_id)

    def acknowledged(self, link: LinkT, ack_id: int) -> str | None:
        """
        The relay acknowledged number *ack_id*.

        :return: the ``commandId`` it means, where that is still pending.
        """
        key = self._acks.get(link, {}).pop(ack_id, None)
        return None if key is None else key[1]

    def get(self, proxy_id: str, command_id: str) -> OrderT | None:
        """The order of that command, which stays pending; ``None`` when none is."""
        pending = self._pending.get((proxy_id, command_id))
        return None if pending is None else pending.order

    def take(self, proxy_id: str, command_id: str) -> OrderT | None:
        """
        The command has ended, one way or another.

        :return: its order, pending no longer; ``None`` when none was.
        """
        pending = self._pending.pop((proxy_id, command_id), None)
        if pending is None:
            return None
        if pending.link is not None and pending.ack_id is not None:
            self._acks.get(pending.link, {}).pop(pending.ack_id, None)
        return pending.order

    def take_all(self) -> list[OrderT]:
        """Every pending order, pending no longer: for shutting down."""
        orders = [pending.order for pending in self._pending.values()]
        self._pending.clear()
        self._acks.clear()
        return orders
