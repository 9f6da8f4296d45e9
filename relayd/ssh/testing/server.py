"""
The server's side of SSH connections, of which a test replaces whichever step it wants to fail.
"""

from __future__ import annotations

import struct
from typing import Any

from twisted.conch.ssh.common import NS, getNS
from twisted.conch.ssh.factory import SSHFactory
from twisted.conch.ssh.keys import Key
from twisted.conch.ssh.transport import SSHServerTransport
from twisted.python.failure import Failure

from relayd.ssh.transport.numbers import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_EOF,
    MSG_CHANNEL_OPEN,
    MSG_CHANNEL_OPEN_CONFIRMATION,
    MSG_CHANNEL_OPEN_FAILURE,
    MSG_CHANNEL_REQUEST,
    MSG_CHANNEL_SUCCESS,
    MSG_GLOBAL_REQUEST,
    MSG_REQUEST_FAILURE,
    MSG_SERVICE_ACCEPT,
    MSG_SERVICE_REQUEST,
    MSG_USERAUTH_REQUEST,
    MSG_USERAUTH_SUCCESS,
)

#: Bytes that the client may send on a channel, and bytes in its longest packet.
WINDOW, MAX_PACKET = 2**21, 32768


def uint32(*values: int) -> bytes:
    """Integers of 32 bits, one after another."""
    return struct.pack(f">{len(values)}L", *values)


class ServerConnection(SSHServerTransport):
    """
    One connection.  This class is a good server: it lets everybody in, and answers each command with ``ok``.

    Each of its steps is a method to replace in a subclass.
    """

    factory: Any
    transport: Any

    # Steps

    def begin(self) -> None:
        """The client has connected: send version and algorithms."""
        super().connectionMade()

    def secured(self) -> None:
        """The keys are exchanged: everything is encrypted from here on."""

    def service_requested(self, name: bytes) -> None:
        """The client asks for a service: ``ssh-userauth``."""
        self.sendPacket(MSG_SERVICE_ACCEPT, NS(name))

    def userauth_requested(self, username: bytes, method: bytes, rest: bytes) -> None:
        """The client tries to log in; *rest* is what the method adds (RFC 4252, section 5)."""
        self.sendPacket(MSG_USERAUTH_SUCCESS, b"")

    def open_requested(self, kind: bytes, channel: int, window: int, max_packet: int) -> None:
        """The client asks for a channel, on which it accepts *window* bytes, in packets of *max_packet*."""
        self.confirm(channel)

    def exec_requested(self, channel: int, command: bytes) -> None:
        """The client asks to run a command."""
        self.accept(channel)
        self.output(channel, b"ok")
        self.end(channel)

    def probed(self) -> None:
        """The client asks for something that no server knows, to see whether this one is there."""
        self.sendPacket(MSG_REQUEST_FAILURE, b"")

    def channel_message(self, message: int, channel: int, rest: bytes) -> None:
        """Anything else that the client sends on a channel: data, window, requests, its end."""

    # What steps are made of

    def confirm(self, channel: int, window: int = WINDOW, max_packet: int = MAX_PACKET) -> None:
        """Open the client's channel; ours has the same number."""
        self.sendPacket(MSG_CHANNEL_OPEN_CONFIRMATION, uint32(channel, channel, window, max_packet))

    def refuse(self, channel: int, code: int, reason: bytes) -> None:
        """Open no channel (RFC 4254, section 5.1)."""
        self.sendPacket(MSG_CHANNEL_OPEN_FAILURE, uint32(channel, code) + NS(reason) + NS(b""))

    def accept(self, channel: int) -> None:
        """Grant what the client asked for on a channel."""
        self.sendPacket(MSG_CHANNEL_SUCCESS, uint32(channel))

    def output(self, channel: int, data: bytes) -> None:
        """Send output of the command."""
        self.sendPacket(MSG_CHANNEL_DATA, uint32(channel) + NS(data))

    def status(self, channel: int, status: int = 0) -> None:
        """Say that the command exited."""
        self.sendPacket(MSG_CHANNEL_REQUEST, uint32(channel) + NS(b"exit-status") + b"\0" + uint32(status))

    def end(self, channel: int) -> None:
        """End the command well."""
        self.status(channel)
        self.close_channel(channel)

    def close_channel(self, channel: int) -> None:
        """Say that there is no more output, and close."""
        self.sendPacket(MSG_CHANNEL_EOF, uint32(channel))
        self.sendPacket(MSG_CHANNEL_CLOSE, uint32(channel))

    # How it works

    def connectionMade(self) -> None:
        """Twisted calls this when the client has connected."""
        self.factory.connections.append(self)
        self.begin()

    def connectionLost(self, reason: Failure | None = None) -> None:
        """Twisted calls this when the connection is gone."""
        self.factory.connections.remove(self)

    def ssh_NEWKEYS(self, packet: bytes) -> None:
        """Conch calls this when the client uses the new keys."""
        super().ssh_NEWKEYS(packet)
        self.secured()

    def dispatchMessage(self, messageNum: int, payload: bytes) -> None:
        """Conch calls this with each message."""
        if messageNum == MSG_SERVICE_REQUEST:
            self.service_requested(getNS(payload)[0])
        elif messageNum == MSG_USERAUTH_REQUEST:
            username, _service, method, rest = getNS(payload, 3)
            self.userauth_requested(username, method, rest)
        elif messageNum == MSG_CHANNEL_OPEN:
            kind, rest = getNS(payload)
            self.open_requested(kind, *struct.unpack(">LLL", rest[:12]))
        elif messageNum == MSG_CHANNEL_REQUEST and getNS(payload[4:])[0] == b"exec":
            rest = getNS(payload[4:])[1]
            self.exec_requested(_first_uint32(payload), getNS(rest[1:])[0])
        elif messageNum == MSG_GLOBAL_REQUEST:
            self.probed()
        elif messageNum > MSG_CHANNEL_OPEN:
            self.channel_message(messageNum, _first_uint32(payload), payload[4:])
        elif messageNum < MSG_USERAUTH_REQUEST:
            super().dispatchMessage(messageNum, payload)


class ServerFactory(SSHFactory):
    """
    Makes connections of one kind.

    :param key: the host key, an Ed25519 one.
    :ivar connections: those that are open.
    :ivar accepted: how many there were ever.
    """

    noisy = False
    primes: Any = None

    def __init__(self, kind: type[ServerConnection], key: Key) -> None:
        self.protocol = kind
        self.set_key(key)
        self.connections: list[ServerConnection] = []
        self.accepted = 0

    def set_key(self, key: Key) -> None:
        """Show this host key on the connections that come from now on."""
        self.privateKeys = {b"ssh-ed25519": key}
        self.publicKeys = {b"ssh-ed25519": key.public()}

    def buildProtocol(self, addr: object) -> ServerConnection:
        """Twisted calls this for each connection."""
        self.accepted += 1
        connection: ServerConnection = self.protocol()
        connection.factory = self
        connection.supportedPublicKeys = [b"ssh-ed25519"]
        return connection

    def drop_connections(self) -> None:
        """Close every connection at once, without a word."""
        for connection in list(self.connections):
            connection.transport.abortConnection()


def _first_uint32(payload: bytes) -> int:
    value: int = struct.unpack(">L", payload[:4])[0]
    return value
