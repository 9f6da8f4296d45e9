"""
A host in memory, which runs no processes: a function says what comes of each command.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.conch.ssh.common import NS, getNS
from twisted.conch.ssh.keys import FingerprintFormats, Key
from twisted.internet.interfaces import IReactorTime

from relayd.ssh.ending.processes import SHELL
from relayd.ssh.target import Credential, Target
from relayd.ssh.testing.behaviour import Habit, Misbehaviour, ReceivedCommand, Reply
from relayd.ssh.testing.channel import CommandChannel
from relayd.ssh.testing.server import ServerConnection, ServerFactory, uint32
from relayd.ssh.transport.numbers import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_FAILURE,
    MSG_CHANNEL_REQUEST,
    MSG_CHANNEL_WINDOW_ADJUST,
    MSG_IGNORE,
    MSG_UNIMPLEMENTED,
    MSG_USERAUTH_FAILURE,
    MSG_USERAUTH_METHOD,
    MSG_USERAUTH_REQUEST,
    MSG_USERAUTH_SUCCESS,
    OPEN_ADMINISTRATIVELY_PROHIBITED,
    OPEN_RESOURCE_SHORTAGE,
)


def _nothing(command: bytes) -> Reply:
    return Reply()


class MemoryHost:
    """
    An SSH server in a `relayd.ssh.testing.MemoryNetwork`, with one account.

    :param name: the host's name, or its address.
    :param run: says what comes of a command; by default each ends with status 0 and no output.  It does not see the
        shells that a client starts to end a command early; these are refused.
    :param public_key: a line of ``authorized_keys``: the account may log in with that key, too.
    :ivar address: the host's address, once it is in a network.
    :ivar misbehaviour: how the host fails from now on; ``None`` when it does not.
    :ivar habit: what the host does in its own way from now on; ``None`` when there is nothing special.
    :ivar received: the commands that it was asked to run, the oldest first.
    """

    def __init__(
        self,
        name: str = "host.example",
        port: int = 22,
        *,
        run: Callable[[bytes], Reply] = _nothing,
        username: str = "user",
        password: str = "password",
        public_key: str | None = None,
    ) -> None:
        self.name = name
        self.port = port
        self.run = run
        self.username = username
        self.password = password
        self.address = ""
        self.misbehaviour: Misbehaviour | None = None
        self.habit: Habit | None = None
        self.received: list[ReceivedCommand] = []
        self.authorized = None if public_key is None else Key.fromString(public_key.encode())
        self.clock: IReactorTime
        self.factory = _HostFactory(self)

    @property
    def host_key(self) -> str:
        """The fingerprint of the host key, as `relayd.ssh.Target.host_key` has it."""
        return self.factory.fingerprint

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self.factory.connections)

    def target(self, **changes: Any) -> Target:
        """The account, with its password; *changes* are fields of `relayd.ssh.Target`."""
        fields: dict[str, Any] = {
            "host": self.name,
            "port": self.port,
            "username": self.username,
            "credential": Credential(password=self.password),
            **changes,
        }
        return Target(**fields)

    def renew_key(self) -> None:
        """Show another host key on the connections that come from now on."""
        self.factory.set_key(_new_key())

    def drop_connections(self) -> None:
        """Close every connection at once, as a host that loses its power does."""
        self.factory.drop_connections()

    def open_shell(self, write: Callable[[bytes], None], close: Callable[[], None]) -> Callable[[bytes], None] | None:
        """
        The client asks for a shell.

        :param write: sends output.
        :param close: ends the session.
        :return: what takes the client's input; ``None``: there is no shell.
        """
        return None

    def join(self, clock: IReactorTime, address: str) -> None:
        """`relayd.ssh.testing.MemoryNetwork.add` calls this."""
        self.clock = clock
        self.address = address


def _new_key() -> Key:
    return Key(Ed25519PrivateKey.generate())


class _HostFactory(ServerFactory):
    """Makes the connections of a `MemoryHost`."""

    def __init__(self, host: MemoryHost) -> None:
        super().__init__(_HostConnection, _new_key())
        self.host = host

    @property
    def fingerprint(self) -> str:
        """That of the host key."""
        key: Key = self.publicKeys[b"ssh-ed25519"]
        return f"SHA256:{key.fingerprint(FingerprintFormats.SHA256_BASE64).rstrip('=')}"


class _HostConnection(ServerConnection):
    """One connection to a `MemoryHost`, which fails as the host says."""

    def __init__(self) -> None:
        self._sessions: dict[int, CommandChannel] = {}
        self._username = ""
        self._begun = False
        # How many sessions and commands there were
        self._opened = 0
        self._ran = 0

    @property
    def _host(self) -> MemoryHost:
        host: MemoryHost = self.factory.host
        return host

    def _fails(self, misbehaviour: Misbehaviour) -> bool:
        return self._host.misbehaviour is misbehaviour

    def _has(self, habit: Habit) -> bool:
        return self._host.habit is habit

    def begin(self) -> None:
        if self._fails(Misbehaviour.IS_SILENT):
            return
        if self._fails(Misbehaviour.SPEAKS_HTTP):
            self.transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            self.transport.loseConnection()
            return
        if self._fails(Misbehaviour.HANGS_UP):
            self.transport.loseConnection()
            return
        if self._fails(Misbehaviour.HAS_OLD_CIPHERS):
            self.supportedCiphers = [b"aes128-cbc"]
        self._begun = True
        super().begin()

    def dataReceived(self, data: bytes) -> None:
        """Twisted calls this with what the client sends."""
        if self._begun:
            super().dataReceived(data)

    def userauth_requested(self, username: bytes, method: bytes, rest: bytes) -> None:
        if self._fails(Misbehaviour.STALLS_LOGINS):
            return
        if self._fails(Misbehaviour.CLOSES_LOGINS) and method != b"none":
            self.transport.loseConnection()
        elif method == b"password" and self._fails(Misbehaviour.WANTS_NEW_PASSWORD):
            self.sendPacket(MSG_USERAUTH_METHOD, NS(b"Your password has expired.") + NS(b""))
        elif username == self._host.username.encode() and method == b"publickey":
            self._check_key(username, rest)
        elif (username, method, rest) == (
            self._host.username.encode(),
            b"password",
            b"\0" + NS(self._host.password.encode()),
        ):
            self._let_in(username)
        else:
            self._refuse_login()

    def _check_key(self, username: bytes, rest: bytes) -> None:
        """RFC 4252, section 7."""
        algorithm, blob, signature = getNS(rest[1:], 2)
        key = self._host.authorized
        if key is None or key.blob() != blob:
            self._refuse_login()
        elif not rest[0]:
            self.sendPacket(MSG_USERAUTH_METHOD, NS(algorithm) + NS(blob))
        else:
            head = NS(self.sessionID or b"") + bytes([MSG_USERAUTH_REQUEST]) + NS(username) + NS(b"ssh-connection")
            signed = head + NS(b"publickey") + b"\1" + NS(algorithm) + NS(blob)
            if key.verify(getNS(signature)[0], signed):
                self._let_in(username)
            else:
                self._refuse_login()

    def _let_in(self, username: bytes) -> None:
        self._username = username.decode()
        self.sendPacket(MSG_USERAUTH_SUCCESS, b"")

    def _refuse_login(self) -> None:
        methods = b"password" if self._host.authorized is None else b"publickey,password"
        self.sendPacket(MSG_USERAUTH_FAILURE, NS(methods) + b"\0")

    def open_requested(self, kind: bytes, channel: int, window: int, max_packet: int) -> None:
        if kind != b"session":
            self.refuse(channel, OPEN_ADMINISTRATIVELY_PROHIBITED, b"only sessions here")
        elif self._fails(Misbehaviour.REFUSES_SESSIONS):
            self.refuse(channel, OPEN_ADMINISTRATIVELY_PROHIBITED, b"no more sessions")
        elif self._opened and self._has(Habit.REFUSES_SECOND_SESSION):
            self.refuse(channel, OPEN_RESOURCE_SHORTAGE, b"one session")
        elif not (self._sessions and self._has(Habit.IGNORES_SECOND_SESSION)):
            self._opened += 1
            self._sessions[channel] = CommandChannel(self, channel, window, max_packet, self._gives_status)
            self.confirm(channel, window=2**31)  # enough never to open it again

    def exec_requested(self, channel: int, command: bytes) -> None:
        session, host = self._sessions.get(channel), self._host
        used = self._ran and self._has(Habit.REFUSES_SECOND_COMMAND)
        if session is None or used or self._fails(Misbehaviour.REFUSES_COMMANDS) or SHELL in command:
            self.sendPacket(MSG_CHANNEL_FAILURE, uint32(channel))
            return
        self._ran += 1
        session.command = ReceivedCommand(username=self._username, command=command, env=session.env)
        host.received.append(session.command)
        self.accept(channel)
        if self._fails(Misbehaviour.DROPS_COMMANDS):
            self.transport.abortConnection()
        elif not self._fails(Misbehaviour.NEVER_ENDS):
            reply = host.run(command)
            session.write(reply)
            host.clock.callLater(reply.after, session.finish, reply.exit_code)

    def close_channel(self, channel: int) -> None:
        if self._has(Habit.CLOSES_INSTEAD_OF_SESSION):
            self.transport.loseConnection()
            return
        super().close_channel(channel)
        if self._has(Habit.CLOSES_WITH_ANY_SESSION):
            self.transport.loseConnection()

    def probed(self) -> None:
        if self._has(Habit.SENDS_IGNORE):
            self.sendPacket(MSG_IGNORE, NS(b""))
        elif self._has(Habit.SENDS_UNIMPLEMENTED):
            self.sendPacket(MSG_UNIMPLEMENTED, uint32(0))
        elif not self._has(Habit.IGNORES_PROBES):
            super().probed()

    def _gives_status(self) -> bool:
        """Whether the host says how commands end."""
        return not self._fails(Misbehaviour.GIVES_NO_STATUS)

    def channel_message(self, message: int, channel: int, rest: bytes) -> None:
        session = self._sessions.get(channel)
        if session is None:
            return
        if message == MSG_CHANNEL_CLOSE:
            del self._sessions[channel]
            session.closed()
        elif message == MSG_CHANNEL_WINDOW_ADJUST:
            session.window += int.from_bytes(rest[:4])
            session.flush()
        elif message == MSG_CHANNEL_DATA and session.typed is not None:
            session.typed(getNS(rest)[0])
        elif message == MSG_CHANNEL_DATA and session.command is not None:
            session.command.stdin += getNS(rest)[0]
        elif message == MSG_CHANNEL_REQUEST and getNS(rest)[0] == b"shell":
            self._open_shell(channel, session)
        elif message == MSG_CHANNEL_REQUEST:
            session.requested(*getNS(rest))

    def _open_shell(self, channel: int, session: CommandChannel) -> None:
        def write(data: bytes) -> None:
            session.write(Reply(stdout=data))

        session.typed = self._host.open_shell(write, lambda: session.finish(0))
        if session.typed is None:
            self.sendPacket(MSG_CHANNEL_FAILURE, uint32(channel))
        else:
            self.accept(channel)
