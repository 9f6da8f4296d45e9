"""
Opens a connection to a target and logs in: name, TCP, key exchange, login, each with its own time limit.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Protocol, cast

from msgspec.structs import replace
from twisted.internet import error
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Factory

from relayd.language.texts import Text, span
from relayd.network.descriptors import is_shortage, shortage, words_for, words_of
from relayd.network.lookup import NamedEndpoint, NoNameService
from relayd.network.spelling import read_address
from relayd.network.steady_clock import steady_seconds
from relayd.ssh.channels.connection import ClientConnection, ConnectionOwner
from relayd.ssh.channels.forward import Forward
from relayd.ssh.errors import (
    AddressForbidden,
    ConnectRefused,
    ConnectTimeout,
    HiddenAddressForbidden,
    KeyExchangeTimeout,
    LoginRefused,
    LoginTimeout,
    NameNotFound,
    NameTimeout,
    NoCommonAlgorithm,
    NoDescriptor,
    PasswordExpired,
    SSHError,
    Unreachable,
)
from relayd.ssh.host_keys.threaded_check import FileChecks, ShownKey
from relayd.ssh.keys.private import KeyStore
from relayd.ssh.login.identities import AGENT_TIMEOUT, Identities, IdentityLoader
from relayd.ssh.login.login import LoginService
from relayd.ssh.pool.checked_names import AddressCheck, CheckedNames, address_in, allow_all
from relayd.ssh.settings import LiveSettings, settings_for
from relayd.ssh.target import Target
from relayd.ssh.transport.algorithms import POLICIES, AlgorithmPolicy
from relayd.ssh.transport.transport import ClientTransport

#: How many targets are remembered where the password is to be tried first.
MOST = 4096


class DialOwner(ConnectionOwner, Protocol):
    """The pool, for which connections are opened."""

    def forward(self, via: Target, host: str, port: int) -> Deferred[Forward]:
        """Open a way to another host through a connection to *via*; fails with an `SSHError`."""

    def login_refused(self, target: Target) -> None:
        """The host has refused one part of the credential, and another part was tried after it."""


class _OneTransport(Factory):
    """
    Does what `connectProtocol` does, without making a class for each connection.
    """

    noisy = False

    def __init__(self, transport: ClientTransport) -> None:
        self._transport: ClientTransport | None = transport

    def buildProtocol(self, addr: object) -> ClientTransport | None:
        return self._transport

    def forget(self) -> None:
        """Let the connection go: Twisted keeps the factory longer, in a circle with its connector."""
        self._transport = None


class Dialer:
    """
    Opens connections.

    :param reactor: provides time, TCP and name resolution.
    :param clock: the time of the connections.
    :param checks: of host keys.
    :param allows: to which addresses.
    """

    def __init__(
        self,
        reactor: Any,
        clock: IReactorTime,
        settings: LiveSettings,
        checks: FileChecks,
        keys: KeyStore,
        allows: AddressCheck = allow_all,
    ) -> None:
        self._reactor = reactor
        self._clock = clock
        self._checks = checks
        self._keys = keys
        # Targets that refused a key and took the password on a second connection: digests, as they outlive connections
        self._password_first: OrderedDict[bytes, None] = OrderedDict()
        self.configure(settings, allows)

    def configure(self, settings: LiveSettings, allows: AddressCheck) -> None:
        """Change the settings for the connections that are opened from now on."""
        self._settings = settings
        self._allows = allows
        agent_timeout = min(AGENT_TIMEOUT, settings.connect_timeout / 2)
        self._identities = IdentityLoader(self._reactor, self._keys, agent_timeout)

    async def dial(self, target: Target, owner: DialOwner) -> ClientConnection:
        """
        Connect and log in.

        :raises SSHError: naming the phase that failed.
        """
        try:
            return await self._dial_as_known(target, owner)
        except SSHError as error:
            # Whatever the descriptor was for: the connection, known hosts, keys or agents.
            if is_shortage(error.fields.get("reason")) and not isinstance(error, NoDescriptor):
                raise NoDescriptor(host=target.host, port=target.port, reason=error.fields["reason"]) from None
            raise

    async def _dial_as_known(self, target: Target, owner: DialOwner) -> ClientConnection:
        # First, before any host is contacted: is it allowed, and can the key be read?
        if target.via is not None:
            self._check_hidden(target)
        identities = await self._identities.load(target)
        digest = target.digest()
        by_password = digest in self._password_first
        try:
            return await self._dial_by_policy(
                target, replace(identities, usable=()) if by_password else identities, owner
            )
        except LoginRefused as refusal:
            if by_password:
                self._password_first.pop(digest, None)
            return await self._dial_once_more(target, identities, refusal, owner)

    async def _dial_once_more(
        self, target: Target, identities: Identities, refusal: LoginRefused, owner: DialOwner
    ) -> ClientConnection:
        """
        The host closed the connection after one attempt, or a few (``MaxAuthTries``): try what is left on another one.

        The password comes first, if there is one: it may be that none of the other keys is meant for this host.
        """
        if refusal.keys_tried is None:
            raise refusal
        left = () if refusal.password_left else identities.usable[refusal.keys_tried :]
        if not left and not refusal.password_left:
            raise refusal
        tried = cast(Text, refusal.fields["tried"])
        try:
            connection = await self._dial_by_policy(target, Identities(left, tried_before=(tried,)), owner)
        except (LoginRefused, PasswordExpired):
            owner.login_refused(target)
            raise
        except SSHError:
            raise refusal from None  # which says more than the new error, such as that the host is busy now
        owner.login_refused(target)
        if refusal.password_left:
            # The key would be one more failed attempt on each further connection.
            self._password_first[target.digest()] = None
            if len(self._password_first) > MOST:
                self._password_first.popitem(last=False)
        return connection

    async def _dial_by_policy(self, target: Target, identities: Identities, owner: DialOwner) -> ClientConnection:
        settings = settings_for(self._settings, target.host, target.port, target.username)
        policy = POLICIES[settings.algorithms]
        try:
            return await self._dial(target, identities, policy, owner, settings)
        except NoCommonAlgorithm:
            if policy.last_resort is None:
                raise
            return await self._dial(target, identities, policy.last_resort, owner, settings)

    async def _dial(
        self,
        target: Target,
        identities: Identities,
        policy: AlgorithmPolicy,
        owner: DialOwner,
        settings: LiveSettings,
    ) -> ClientConnection:
        begun, timeout = steady_seconds(self._reactor), settings.connect_timeout
        verifier = await self._checks.begin(target, timeout, settings.host_keys)
        transport = ClientTransport(self._clock, target.host, target.port, verifier, policy)
        found: frozenset[str] = frozenset()
        try:
            if target.via is None:
                found = await self._connect(target, transport, timeout)
            else:
                # The address that was checked: the jump host might read another spelling of it differently.
                host = str(read_address(target.dialled) or target.dialled)
                forward = await owner.forward(target.via, host, target.port)
                transport.pace.way = forward.pace
                forward.connect(transport)
            connected = steady_seconds(self._reactor)
            await self._exchange_keys(target, transport, timeout)
            if isinstance(verifier, ShownKey):
                await self._check_host_key(target, transport, verifier, timeout)
            secured = steady_seconds(self._reactor)
            connection = await self._log_in(target, transport, identities, owner, settings)
        except BaseException:
            transport.abort()
            transport.pace.stop()  # connectionLost does not come where there was no connection at all
            raise
        address = _address_of(transport)
        if address in found:
            connection.address, connection.found = address, found
        connection.timings = {
            "connect": connected - begun,
            "keyExchange": secured - connected,
            "login": steady_seconds(self._reactor) - secured,
        }
        return connection

    def _check_hidden(self, target: Target) -> None:
        """The relay never learns the address of a host behind a jump host, unless the host is named by it."""
        address = read_address(target.host)
        if not target.trusted and not self._allows(target.host, target.port, address):
            kind = HiddenAddressForbidden if address is None else AddressForbidden
            raise kind(host=target.host, port=target.port)

    async def _connect(self, target: Target, transport: ClientTransport, timeout: float) -> frozenset[str]:
        """
        Open the connection.

        :return: all addresses of the host, if it had to be looked up.
        """
        names = CheckedNames(self._reactor, allow_all if target.trusted else self._allows)
        endpoint = self._endpoint(target, names, timeout)
        factory = _OneTransport(transport)
        try:
            await endpoint.connect(factory)
        except error.DNSLookupError:
            raise _lookup_error(target, names) from None
        except (error.ConnectError, NoNameService, OSError, ValueError) as reason:
            raise _connect_error(reason, target, timeout) from None
        finally:
            factory.forget()
        return frozenset(names.found)

    def _endpoint(
        self, target: Target, names: CheckedNames, timeout: float
    ) -> TCP4ClientEndpoint | TCP6ClientEndpoint | NamedEndpoint:
        """
        Where to connect to.

        :raises AddressForbidden: when that is an address which is not allowed.
        """
        address = read_address(target.dialled)
        if address is None:
            return NamedEndpoint(names, target.dialled, target.port, timeout)
        if not names.allows(target.host, target.port, address):
            raise AddressForbidden(host=target.host, port=target.port)
        # No name, so no thread of the resolver
        kind = TCP4ClientEndpoint if address.version == 4 else TCP6ClientEndpoint
        return kind(self._reactor, str(address), target.port, timeout)

    async def _exchange_keys(self, target: Target, transport: ClientTransport, timeout: float) -> None:
        try:
            await transport.secure.addTimeout(timeout, self._reactor)
        except TimeoutError:
            raise KeyExchangeTimeout(
                host=target.host, port=target.port, time=span(timeout), reason=transport.last_words()
            ) from None

    async def _check_host_key(
        self, target: Target, transport: ClientTransport, shown: ShownKey, timeout: float
    ) -> None:
        """Nothing is asked of the host before this is done; meanwhile it may hang up."""
        failed: list[SSHError] = []
        transport.on_failure = failed.append
        await self._checks.check(target, shown, timeout)
        transport.on_failure = None
        if failed:
            raise failed[0]

    async def _log_in(
        self,
        target: Target,
        transport: ClientTransport,
        identities: Identities,
        owner: ConnectionOwner,
        settings: LiveSettings,
    ) -> ClientConnection:
        timeout = settings.connect_timeout
        logged_in: Deferred[ClientConnection] = Deferred()

        def finish(result: SSHError | None) -> None:
            transport.on_failure = None
            if not logged_in.called:
                if result is None:
                    connection = ClientConnection(self._clock, owner, settings.keepalive_interval)
                    transport.setService(connection)
                    logged_in.callback(connection)
                else:
                    logged_in.errback(result)

        transport.on_failure = finish
        login = LoginService(target, identities, lambda: finish(None), finish)
        transport.requestService(login)
        try:
            return await logged_in.addTimeout(timeout, self._reactor)
        except TimeoutError:
            words = login.words()
            raise LoginTimeout(
                host=target.host,
                port=target.port,
                username=target.username,
                time=span(timeout),
                reason=Text("it said “{words}”", words=words) if words else Text("it said nothing"),
            ) from None


def _lookup_error(target: Target, names: CheckedNames) -> SSHError:
    """Why a name led to no address to connect to."""
    host, port = target.host, target.port
    if names.forbade:
        return AddressForbidden(host=host, port=port)
    if (words := shortage()) is not None:  # looking up a name takes a descriptor, too
        return NoDescriptor(host=host, port=port, reason=words)
    return NameNotFound(host=host)


def _connect_error(reason: Exception, target: Target, timeout: float) -> SSHError:
    """Why there is no connection: *reason*, which an endpoint failed with, as an error of ours."""
    host, port = target.host, target.port
    if isinstance(reason, NoNameService):
        return NameTimeout(host=host, time=span(timeout))
    if isinstance(reason, error.ConnectionRefusedError):
        return ConnectRefused(host=host, port=port)
    if isinstance(reason, error.TimeoutError):
        return ConnectTimeout(host=host, port=port, time=span(timeout))
    if isinstance(reason, error.ConnectError):
        return Unreachable(host=host, port=port, reason=_system_words(reason))
    # Such as a network that is down, or a name that cannot be one.
    why = words_of(reason, _first_line(reason)) if isinstance(reason, OSError) else _first_line(reason)
    return Unreachable(host=host, port=port, reason=why)


def _address_of(transport: ClientTransport) -> str:
    """The address at the other end; empty where there is none."""
    found = address_in(transport.transport.getPeer()) if transport.transport is not None else None
    return "" if found is None else str(found)


def _system_words(reason: error.ConnectError) -> str:
    """The system's words for a failed connection, of which Twisted has the number."""
    return words_for(reason.osError) if isinstance(reason.osError, int) else _first_line(reason)


def _first_line(reason: BaseException) -> str:
    return (str(reason) or type(reason).__name__).splitlines()[0]
