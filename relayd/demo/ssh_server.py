"""
A small SSH server on Conch that really runs commands, as the user who starts it: for the demonstration and for tests.

It supports what a command needs (RFC 4254, section 6): exec, standard input with EOF, both outputs, exit-status,
exit-signal, signal requests, and windows that slow down the faster side.  It has no terminals and no forwarding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.conch.avatar import ConchUser
from twisted.conch.checkers import InMemorySSHKeyDB, SSHPublicKeyChecker
from twisted.conch.interfaces import IConchUser
from twisted.conch.ssh.channel import SSHChannel
from twisted.conch.ssh.connection import SSHConnection
from twisted.conch.ssh.factory import SSHFactory
from twisted.conch.ssh.keys import Key
from twisted.conch.ssh.transport import SSHServerTransport
from twisted.conch.ssh.userauth import SSHUserAuthServer
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import IRealm, Portal
from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.interfaces import (
    IListeningPort,
    IReactorProcess,
    IStreamServerEndpoint,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from relayd.demo.sessions import LAUNCHER, SessionChannel, Sessions
from relayd.wire.messages import Secret


class ExecutingSSHServer:
    """
    An SSH server with a host key of its own.

    :param users: passwords by user name.
    :param keys: public keys by user name, as lines of authorized_keys; such a user needs no password.
    :param launcher: argument vector that starts a command in a process group of its own.
    :ivar host_key: the public host key, as ``TYPE BASE64``.
    """

    def __init__(
        self,
        reactor: IReactorProcess,
        users: Mapping[str, str],
        keys: Mapping[str, Iterable[str]] | None = None,
        launcher: Sequence[str] = LAUNCHER,
    ) -> None:
        host_key = Key(Ed25519PrivateKey.generate())
        self.host_key = host_key.public().toString("openssh").decode()
        authorized = {name.encode(): [Key.fromString(line) for line in lines] for name, lines in (keys or {}).items()}
        self._sessions = Sessions(reactor, launcher)
        portal = Portal(
            _Realm(self._sessions),
            [
                _PasswordChecker({name.encode(): Secret(password) for name, password in users.items()}),
                SSHPublicKeyChecker(InMemorySSHKeyDB(authorized)),
            ],
        )
        self._factory = _Factory(host_key, portal)
        self._port: IListeningPort | None = None

    async def listen(self, endpoint: IStreamServerEndpoint) -> IListeningPort:
        """Accept connections at *endpoint*, until `close`."""
        self._port = await endpoint.listen(self._factory)
        return self._port

    async def close(self) -> None:
        """Stop listening, drop every connection, kill what still runs, and wait until all of that has ended."""
        if self._port is not None:
            await maybeDeferred(self._port.stopListening)
        await self._factory.drop_all()
        await self._sessions.end_all()


class _Connection(SSHConnection):
    def adjustWindow(self, channel: SSHChannel, bytesToAdd: int) -> None:
        if not (isinstance(channel, SessionChannel) and channel.withholds(bytesToAdd)):
            super().adjustWindow(channel, bytesToAdd)


class _User(ConchUser):
    """A user who has logged in, and may open sessions."""

    def __init__(self, name: str, sessions: Sessions) -> None:
        super().__init__()
        self._name = name
        self._sessions = sessions
        self.channelLookup[b"session"] = self._session

    def _session(self, **arguments: Any) -> SessionChannel:
        return SessionChannel(self._sessions, self._name, **arguments)


@implementer(IRealm)
class _Realm:
    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def requestAvatar(self, avatarId: bytes | tuple[()], mind: object, *interfaces: Any) -> tuple[Any, _User, Any]:
        return IConchUser, _User(bytes(avatarId).decode("utf-8", "replace"), self._sessions), lambda: None


@implementer(ICredentialsChecker)
class _PasswordChecker:
    """Compares passwords in constant time, unlike Twisted's own."""

    credentialInterfaces = (IUsernamePassword,)

    def __init__(self, passwords: Mapping[bytes, Secret]) -> None:
        self._passwords = passwords

    def requestAvatarId(self, credentials: Any) -> Deferred[bytes | tuple[()]]:
        expected = self._passwords.get(credentials.username)
        if expected is not None and expected == Secret(credentials.password.decode("utf-8", "replace")):
            return succeed(credentials.username)
        return fail(UnauthorizedLogin())


class _UserAuth(SSHUserAuthServer):
    #: Conch's delay of a second protects a public server from guessing; nobody guesses here.
    passwordDelay = 0


class _Transport(SSHServerTransport):
    factory: _Factory
    transport: Any

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)
        self.factory.connections.add(self)
        super().connectionMade()

    def connectionLost(self, reason: Failure | None = None) -> None:
        super().connectionLost(reason)
        self.factory.connection_lost(self)


class _Factory(SSHFactory):
    noisy = False
    protocol = _Transport
    services = {b"ssh-userauth": _UserAuth, b"ssh-connection": _Connection}  # noqa: RUF012  # Conch's hook
    primes = None  # no moduli file: fixed groups only

    def __init__(self, host_key: Key, portal: Portal) -> None:
        self.publicKeys = {host_key.sshType(): host_key.public()}
        self.privateKeys = {host_key.sshType(): host_key}
        self.portal = portal
        self.connections: set[_Transport] = set()
        self._all_lost: Deferred[None] | None = None

    def connection_lost(self, connection: _Transport) -> None:
        self.connections.discard(connection)
        if self._all_lost is not None and not self.connections:
            self._all_lost.callback(None)

    async def drop_all(self) -> None:
        """Drop every connection, and wait until they are gone."""
        if self.connections:
            all_lost: Deferred[None] = Deferred()
            self._all_lost = all_lost
            for connection in list(self.connections):
                connection.transport.abortConnection()
            await all_lost
