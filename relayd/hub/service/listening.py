"""
The hub's ports: TCP or a UNIX socket, with TLS or without.
"""

from __future__ import annotations

import os
from typing import Any, Final

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IOpenSSLServerConnectionCreator
from twisted.internet.protocol import ServerFactory
from twisted.protocols.tls import TLSMemoryBIOFactory

from relayd.config.listen_address import ListenAddress
from relayd.config.listening import remove_stale, why_not
from relayd.errors import ConfigError
from relayd.hub.config.options import HUB_TABLE

#: Connections that wait to be accepted: 1,000 relays may come back at once.
BACKLOG: Final = 1024


class Ports:
    """
    The ports that are open.

    :param certificate: for TLS; ``None``: without. A UNIX socket is always without.
    """

    def __init__(self, reactor: Any, certificate: IOpenSSLServerConnectionCreator | None) -> None:
        self._reactor = reactor
        self._certificate = certificate
        self._ports: list[Any] = []

    def open(self, option: str, address: ListenAddress, factory: ServerFactory) -> IListeningPort:
        """
        Listen at *address*.

        :param option: for a message.
        :raises ConfigError: when that cannot be done.
        """
        try:
            port = self._unix(address, factory) if address.path else self._tcp(address, factory)
        except (CannotListenError, OSError) as error:
            raise ConfigError(option=option, reason=why_not(address, error, HUB_TABLE.program)) from None
        self._ports.append(port)
        return port

    def pause(self) -> None:
        """Accept nothing for now; who connects waits."""
        for port in self._ports:
            port.stopReading()

    def resume(self) -> None:
        """Accept again."""
        for port in self._ports:
            port.startReading()

    async def close(self) -> None:
        """Accept nothing more; the connections stay."""
        ports, self._ports = self._ports, []
        for port in ports:
            stopped: Deferred[object] = maybeDeferred(port.stopListening)
            await stopped

    def _tcp(self, address: ListenAddress, factory: Any) -> IListeningPort:
        if self._certificate is not None:
            factory = TLSMemoryBIOFactory(self._certificate, False, factory)
            factory.noisy = False
        port: IListeningPort = self._reactor.listenTCP(address.port, factory, backlog=BACKLOG, interface=address.host)
        return port

    def _unix(self, address: ListenAddress, factory: ServerFactory) -> IListeningPort:
        remove_stale(address.path)
        port: IListeningPort = self._reactor.listenUNIX(address.path, factory, backlog=BACKLOG, mode=address.mode)
        os.chmod(address.path, address.mode)
        return port
