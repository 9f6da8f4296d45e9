"""
Which relays are connected, and which acknowledgements are awaited on each link.  Decisions only, no I/O and no time.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Generic, TypeVar

LinkT = TypeVar("LinkT")


class LinkTable(Generic[LinkT]):
    """
    The table of connected relays; links may be of any kind.

    An acknowledgement belongs to the link on which the command was sent, and is awaited until the command ends.
    """

    def __init__(self) -> None:
        self._links: dict[str, LinkT] = {}
        #: On each link: the command of each awaited acknowledgement, and the other way round.
        self._commands: dict[LinkT, dict[int, str]] = {}
        self._numbers: dict[LinkT, dict[str, int]] = {}
        #: The link of each connected relay, by ``proxyId``.
        self.relays: Mapping[str, LinkT] = MappingProxyType(self._links)

    def connect(self, proxy_id: str, link: LinkT) -> LinkT | None:
        """
        Note that a relay was accepted on *link*.

        :return: the older link of that relay, which is to be closed.
        """
        replaced = self._links.get(proxy_id)
        if replaced is not None:
            self._forget_all(replaced)
        self._links[proxy_id] = link
        return replaced

    def disconnect(self, proxy_id: str, link: LinkT) -> bool:
        """
        Note that *link* is gone.

        :return: whether its relay is gone too; it is not when a newer link has replaced *link*.
        """
        self._forget_all(link)
        if self._links.get(proxy_id) is not link:
            return False
        del self._links[proxy_id]
        return True

    def expect(self, link: LinkT, number: int, command_id: str) -> None:
        """Note that a command was sent on *link* and will be acknowledged with that number."""
        self.forget(link, command_id)
        self._commands.setdefault(link, {})[number] = command_id
        self._numbers.setdefault(link, {})[command_id] = number

    def acknowledged(self, link: LinkT, number: int) -> str | None:
        """
        Note that the relay sent an acknowledgement.

        :return: the ``commandId`` of the command, where its acknowledgement is still awaited.
        """
        command_id = self._commands.get(link, {}).pop(number, None)
        if command_id is not None:
            del self._numbers[link][command_id]
        return command_id

    def forget(self, link: LinkT | None, command_id: str) -> None:
        """A command has ended: an acknowledgement of it means nothing any more."""
        if link is not None and (number := self._numbers.get(link, {}).pop(command_id, None)) is not None:
            del self._commands[link][number]

    def _forget_all(self, link: LinkT) -> None:
        self._commands.pop(link, None)
        self._numbers.pop(link, None)
