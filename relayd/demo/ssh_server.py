"""
A small SSH server on Conch that really executes commands, as the user who runs it: for the demo and for tests.

It has what such a command needs (RFC 4254, section 6): exec, standard input with EOF, both outputs, exit-status,
exit-signal, signal requests, and windows that hold back whichever side is too fast.  No terminals, no forwarding.
"""

from __future__ import annotations

import os
import shutil
import signal
import struct
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.conch.avatar import ConchUser
from twisted.conch.checkers import InMemorySSHKeyDB, SSHPublicKeyChecker
from twisted.conch.interfaces import IConchUser
from twisted.conch.ssh.channel import SSHChannel
from twisted.conch.ssh.common import NS, getNS
from twisted.conch.ssh.connection import EXTENDED_DATA_STDERR, SSHConnection
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
    IPushProducer,
    IReactorProcess,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from relayd.wire.messages import Secret

#: Signal names that a client may send (RFC 4254, section 6.10), with ours.
_SIGNALS = {
    name: getattr(signal, f"SIG{name}")
    for name in ("ABRT", "ALRM", "FPE", "HUP", "ILL", "INT", "KILL", "PIPE", "QUIT", "SEGV", "TERM", "USR1", "USR2")
}
_SIGNAL_NAMES = {number: name for name, number in _SIGNALS.items()}

#: Starts what follows in a process group of its own, so that a signal reaches all of a command's processes.
SETSID = (shutil.which("setsid") or "",)
#: The same for systems without setsid(1).
PYTHON_SETSID = (
    sys.executable,
    "-I",
    "-S",
    "-c",
    "import os, sys; os.setsid(); os.execv(sys.argv[1], sys.argv[1:])",
)
LAUNCHER: Sequence[str] = SETSID if SETSID[0] else PYTHON_SETSID


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
        self._sessions = _Sessions(reactor, launcher)
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
        """Stop listening, drop every connection, hang up on what still runs, and wait until all of that has ended."""
        if self._port is not None:
            await maybeDeferred(self._port.stopListening)
        await self._factory.drop_all()
        await self._sessions.end_all()


class _Sessions:
    """Starts commands, and knows which still run."""

    def __init__(self, reactor: IReactorProcess, launcher: Sequence[str]) -> None:
        self._reactor = reactor
        self._launcher = launcher
        self._running: set[_Command] = set()
        self._all_ended: Deferred[None] | None = None

    def start(self, channel: _SessionChannel, user: str, command: bytes) -> _Command:
        """
        Run *command* by the shell, in this process's working directory.

        :raises OSError: when no process can be made.
        """
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(Path.home()),
            "USER": user,
            "LOGNAME": user,
            "SHELL": "/bin/sh",
            "LANG": "C.UTF-8",
        }
        process = _Command(channel, self)
        arguments: list[str | bytes] = [*self._launcher, "/bin/sh", "-c", command]
        self._reactor.spawnProcess(process, self._launcher[0], arguments, environment)
        self._running.add(process)
        return process

    def ended(self, process: _Command) -> None:
        """*process* and its pipes are gone."""
        self._running.discard(process)
        if self._all_ended is not None and not self._running:
            self._all_ended.callback(None)

    async def end_all(self) -> None:
        """Kill what still runs."""
        if self._running:
            all_ended: Deferred[None] = Deferred()
            self._all_ended = all_ended
            for process in list(self._running):
                process.signal(signal.SIGKILL)
                process.abandon()
            await all_ended


@implementer(IPushProducer)
class _Command(ProcessProtocol):
    """
    One command: its process, joined to its channel.

    The channel is told to hold back the client's input while the process does not read it, for which this is the
    "producer" of the process's standard input.
    """

    transport: Any

    def __init__(self, channel: _SessionChannel, sessions: _Sessions) -> None:
        self._channel: _SessionChannel | None = channel
        self._sessions = sessions
        #: Also its process group; ``None`` once the process has been reaped, when the number may be another's.
        self._group: int | None = None

    def connectionMade(self) -> None:
        self._group = self.transport.pid
        self.transport.registerProducer(self, True)

    def outReceived(self, data: bytes) -> None:
        if self._channel is not None:
            self._channel.write(data)

    def errReceived(self, data: bytes) -> None:
        if self._channel is not None:
            self._channel.writeExtended(EXTENDED_DATA_STDERR, data)

    def processExited(self, reason: Failure) -> None:
        """Told at once, as OpenSSH does: the process's children may keep its pipes open for longer."""
        self._group = None
        if self._channel is not None:
            end: Any = reason.value  # ProcessDone or ProcessTerminated
            self._channel.process_exited(end.exitCode, end.signal, end.status)

    def processEnded(self, reason: Failure) -> None:
        if self._channel is not None:
            self._channel.output_ended()
        self._sessions.ended(self)

    def signal(self, number: int) -> None:
        """Send a signal to the command's process group, while there surely is one."""
        if self._group is not None:
            try:
                os.killpg(self._group, number)
            except ProcessLookupError:
                # the launcher has not made the group yet: then its one process is all there is
                self.transport.signalProcess(number)

    def abandon(self) -> None:
        """Nobody feeds it or reads its output any more."""
        self._channel = None
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def end_input(self) -> None:
        """Close its standard input after what was written."""
        # first, because a pipe with a paused producer would stay open for ever
        self.transport.unregisterProducer()
        self.transport.closeStdin()

    def pauseProducing(self) -> None:
        if self._channel is not None:
            self._channel.hold_input()

    def resumeProducing(self) -> None:
        if self._channel is not None:
            self._channel.take_input()

    def stopProducing(self) -> None:
        """The process reads no more input: what still arrives is swallowed."""
        self.resumeProducing()


class _SessionChannel(SSHChannel):
    """A session that runs one command."""

    name = b"session"
    conn: Any

    def __init__(self, sessions: _Sessions, user: str, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._sessions = sessions
        self._user = user
        self._command: _Command | None = None
        self._output_ended = False
        self._holding = False
        #: Bytes by which the client's window should have been opened while `_holding`.
        self._owed = 0

    # Requests of the client

    def request_exec(self, data: bytes) -> bool:
        if self._command is not None:
            return False
        command: bytes = getNS(data)[0]
        if b"\0" in command:
            return False
        try:
            self._command = self._sessions.start(self, self._user, command)
        except OSError:
            self._log.failure("Could not run a command")
            return False
        return True

    def request_signal(self, data: bytes) -> bool:
        number = _SIGNALS.get(getNS(data)[0].decode("ascii", "replace"))
        if self._command is None or number is None:
            return False
        self._command.signal(number)
        return True

    # Input

    def dataReceived(self, data: bytes) -> None:
        if self._command is not None:
            self._command.transport.write(data)

    def eofReceived(self) -> None:
        if self._command is not None:
            self._command.end_input()

    def hold_input(self) -> None:
        """The process does not read: let the client's window run out."""
        self._holding = True

    def take_input(self) -> None:
        """The process reads again."""
        self._holding = False
        owed, self._owed = self._owed, 0
        if owed:
            self.conn.adjustWindow(self, owed)

    def withholds(self, count: int) -> bool:
        """Asked before the window is opened by *count* bytes; when true, that happens later."""
        if self._holding:
            self._owed = count  # each time it is all that is missing
        return self._holding

    # Output

    def stopWriting(self) -> None:
        if self._command is not None:
            self._command.transport.pauseProducing()

    def startWriting(self) -> None:
        if self._command is not None and not self._output_ended:
            self._command.transport.resumeProducing()

    def addWindowBytes(self, data: int) -> None:
        super().addWindowBytes(data)
        self._finish_when_sent()

    # The end

    def process_exited(self, code: int | None, number: int | None, status: int) -> None:
        """Tell the client how (RFC 4254, section 6.10)."""
        if number is None:
            self.conn.sendRequest(self, b"exit-status", struct.pack(">L", (code or 0) & 0xFF))
        else:
            name = _SIGNAL_NAMES.get(number, f"{number}@{sys.platform}")
            dumped = bytes([os.WCOREDUMP(status)])
            self.conn.sendRequest(self, b"exit-signal", NS(name.encode()) + dumped + NS(b"") + NS(b""))

    def output_ended(self) -> None:
        """Both pipes are closed: close the channel after what the client still has to take."""
        self._output_ended = True
        self._finish_when_sent()

    def _finish_when_sent(self) -> None:
        if self._output_ended and not self.closing and not self.buf and not self.extBuf:
            self.conn.sendEOF(self)
            self.loseConnection()

    def closeReceived(self) -> None:
        """The client takes no more."""
        self.buf, self.extBuf = b"", []
        super().closeReceived()

    def closed(self) -> None:
        """The client hung up, or all has been said."""
        command, self._command = self._command, None
        if command is not None and not self._output_ended:
            command.signal(signal.SIGHUP)
            command.abandon()


class _Connection(SSHConnection):
    def adjustWindow(self, channel: SSHChannel, bytesToAdd: int) -> None:
        if not (isinstance(channel, _SessionChannel) and channel.withholds(bytesToAdd)):
            super().adjustWindow(channel, bytesToAdd)


class _User(ConchUser):
    """Whoever logged in: may open sessions."""

    def __init__(self, name: str, sessions: _Sessions) -> None:
        super().__init__()
        self._name = name
        self._sessions = sessions
        self.channelLookup[b"session"] = self._session

    def _session(self, **arguments: Any) -> _SessionChannel:
        return _SessionChannel(self._sessions, self._name, **arguments)


@implementer(IRealm)
class _Realm:
    def __init__(self, sessions: _Sessions) -> None:
        self._sessions = sessions

    def requestAvatar(self, avatarId: bytes | tuple[()], mind: object, *interfaces: Any) -> tuple[Any, _User, Any]:
        return IConchUser, _User(bytes(avatarId).decode("utf-8", "replace"), self._sessions), lambda: None


@implementer(ICredentialsChecker)
class _PasswordChecker:
    """Compares in constant time, unlike Twisted's own."""

    credentialInterfaces = (IUsernamePassword,)

    def __init__(self, passwords: Mapping[bytes, Secret]) -> None:
        self._passwords = passwords

    def requestAvatarId(self, credentials: Any) -> Deferred[bytes | tuple[()]]:
        expected = self._passwords.get(credentials.username)
        if expected is not None and expected == Secret(credentials.password.decode("utf-8", "replace")):
            return succeed(credentials.username)
        return fail(UnauthorizedLogin())


class _UserAuth(SSHUserAuthServer):
    #: Conch's second of delay protects a public server from guessing; here nobody guesses.
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
