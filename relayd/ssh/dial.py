"""
From a target to a connection that is logged in: name, TCP, key exchange, login, each with its own limit.
"""

from __future__ import annotations

import os
from typing import Any, Protocol

from twisted.internet import error
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.protocol import Factory

from relayd.spelling import read_address
from relayd.ssh.addresses import AddressCheck, CheckedNames, allow_all
from relayd.ssh.algorithms import POLICIES, AlgorithmPolicy
from relayd.ssh.connection import Connection, ConnectionOwner
from relayd.ssh.errors import (
    AddressForbidden,
    ConnectRefused,
    ConnectTimeout,
    HiddenAddressForbidden,
    KeyExchangeTimeout,
    LoginTimeout,
    NameNotFound,
    NoCommonAlgorithm,
    SSHError,
    Unreachable,
)
from relayd.ssh.filecheck import FileChecks, ShownKey
from relayd.ssh.forward import Forward
from relayd.ssh.identities import AGENT_TIMEOUT, Identities, IdentityLoader
from relayd.ssh.keys import KeyStore
from relayd.ssh.login import LoginService
from relayd.ssh.settings import SSHSettings
from relayd.ssh.target import Target
from relayd.ssh.transport import ClientTransport
from relayd.texts import Text


class DialOwner(ConnectionOwner, Protocol):
    """Who has connections opened."""

    def forward(self, via: Target, host: str, port: int) -> Deferred[Forward]:
        """Open a way to another host through a connection to *via*; fails with an `SSHError`."""


class _OneTransport(Factory):
    """
    What `connectProtocol` does, without a class made for each connection, which takes time and stays as long as that.
    """

    noisy = False

    def __init__(self, transport: ClientTransport) -> None:
        self._transport = transport

    def buildProtocol(self, addr: object) -> ClientTransport:
        return self._transport


class Dialer:
    """
    Opens connections.

    :param reactor: provides time, TCP and name resolution.
    :param checks: of host keys.
    :param allows: to which addresses.
    """

    def __init__(
        self,
        reactor: Any,
        settings: SSHSettings,
        checks: FileChecks,
        keys: KeyStore,
        allows: AddressCheck = allow_all,
    ) -> None:
        self._reactor = reactor
        self._checks = checks
        self._keys = keys
        self.configure(settings, allows)

    def configure(self, settings: SSHSettings, allows: AddressCheck) -> None:
        """What counts for the connections that are opened from now on."""
        self._settings = settings
        self._allows = allows
        agent_timeout = min(AGENT_TIMEOUT, settings.connect_timeout / 2)
        self._identities = IdentityLoader(self._reactor, self._keys, agent_timeout)

    async def dial(self, target: Target, owner: DialOwner) -> Connection:
        """
        Connect and log in.

        :raises SSHError: naming the phase that failed.
        """
        # First of all: what is not allowed, or a key that nobody can read, is no reason to trouble any host.
        if target.via is not None:
            self._check_hidden(target)
        identities = await self._identities.load(target)
        policy = POLICIES[self._settings.algorithms]
        try:
            return await self._dial(target, identities, policy, owner)
        except NoCommonAlgorithm:
            if policy.last_resort is None:
                raise
            return await self._dial(target, identities, policy.last_resort, owner)

    async def _dial(
        self, target: Target, identities: Identities, policy: AlgorithmPolicy, owner: DialOwner
    ) -> Connection:
        begun = self._reactor.seconds()
        verifier = await self._checks.begin(target, self._settings.connect_timeout)
        transport = ClientTransport(self._reactor, target.host, target.port, verifier, policy)
        if target.via is None:
            await self._connect(target, transport)
        else:
            # The address that was checked, and not a spelling of which the jump host may make another one.
            host = str(read_address(target.dialled) or target.dialled)
            forward = await owner.forward(target.via, host, target.port)
            transport.pace.way = forward.pace
            forward.connect(transport)
        connected = self._reactor.seconds()
        try:
            await self._exchange_keys(target, transport)
            if isinstance(verifier, ShownKey):
                await self._check_host_key(target, transport, verifier)
            secured = self._reactor.seconds()
            connection = await self._log_in(target, transport, identities, owner)
        except BaseException:
            transport.abort()
            raise
        connection.timings = {
            "connect": connected - begun,
            "keyExchange": secured - connected,
            "login": self._reactor.seconds() - secured,
        }
        return connection

    def _check_hidden(self, target: Target) -> None:
        """Of a host behind a jump host nobody here learns the address, unless that is how it is named."""
        address = read_address(target.host)
        if not target.trusted and not self._allows(target.host, target.port, address):
            kind = HiddenAddressForbidden if address is None else AddressForbidden
            raise kind(host=target.host, port=target.port)

    async def _connect(self, target: Target, transport: ClientTransport) -> None:
        host, port = target.host, target.port
        timeout = self._settings.connect_timeout
        names = CheckedNames(self._reactor, allow_all if target.trusted else self._allows)
        endpoint: TCP4ClientEndpoint | TCP6ClientEndpoint | HostnameEndpoint
        address = read_address(target.dialled)
        if address is None:
            endpoint = HostnameEndpoint(names, target.dialled, port, timeout)
        elif names.allows(host, port, address):  # no name, so no thread of the resolver
            kind = TCP4ClientEndpoint if address.version == 4 else TCP6ClientEndpoint
            endpoint = kind(self._reactor, str(address), port, timeout)
        else:
            raise AddressForbidden(host=host, port=port)
        try:
            # The endpoint's own limit is for TCP: looking up the name has none.
            await endpoint.connect(_OneTransport(transport)).addTimeout(timeout + 1, self._reactor)
        except error.DNSLookupError:
            if names.forbade:
                raise AddressForbidden(host=host, port=port) from None
            raise NameNotFound(host=host) from None
        except error.ConnectionRefusedError:
            raise ConnectRefused(host=host, port=port) from None
        except (error.TimeoutError, TimeoutError):
            raise ConnectTimeout(host=host, port=port, seconds=timeout) from None
        except error.ConnectError as reason:
            raise Unreachable(host=host, port=port, reason=_system_words(reason)) from None
        except (OSError, ValueError) as reason:
            # Such as a network that is down, no free descriptor, or a name that cannot be one.
            raise Unreachable(host=host, port=port, reason=_first_line(reason)) from None

    async def _exchange_keys(self, target: Target, transport: ClientTransport) -> None:
        timeout = self._settings.connect_timeout
        try:
            await transport.secure.addTimeout(timeout, self._reactor)
        except TimeoutError:
            raise KeyExchangeTimeout(host=target.host, port=target.port, seconds=timeout) from None

    async def _check_host_key(self, target: Target, transport: ClientTransport, shown: ShownKey) -> None:
        """Nothing is asked of the host before this has ended, and it may hang up meanwhile."""
        failed: list[SSHError] = []
        transport.on_failure = failed.append
        await self._checks.check(target, shown, self._settings.connect_timeout)
        transport.on_failure = None
        if failed:
            raise failed[0]

    async def _log_in(
        self, target: Target, transport: ClientTransport, identities: Identities, owner: ConnectionOwner
    ) -> Connection:
        timeout = self._settings.connect_timeout
        connection = Connection(self._reactor, owner, self._settings.keepalive_interval)
        logged_in: Deferred[None] = Deferred()

        def finish(result: SSHError | None) -> None:
            transport.on_failure = None
            if not logged_in.called:
                if result is None:
                    transport.setService(connection)
                    logged_in.callback(None)
                else:
                    logged_in.errback(result)

        transport.on_failure = finish
        transport.requestService(
            LoginService(
                host=target.host,
                port=target.port,
                username=target.username,
                password=target.credential.password,
                identities=identities.usable,
                remarks=identities.remarks,
                on_success=lambda: finish(None),
                on_failure=finish,
            )
        )
        try:
            await logged_in.addTimeout(timeout, self._reactor)
        except TimeoutError:
            raise LoginTimeout(host=target.host, port=target.port, username=target.username, seconds=timeout) from None
        return connection


def _system_words(reason: error.ConnectError) -> str:
    """What the system says of a connection that did not come about; Twisted has its number."""
    return Text(os.strerror(reason.osError)) if isinstance(reason.osError, int) else _first_line(reason)


def _first_line(reason: BaseException) -> str:
    return (str(reason) or type(reason).__name__).splitlines()[0]
