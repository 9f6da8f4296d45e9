"""
A connection of the SSH client in memory: the server's packets by hand, the client's recorded.
"""

from __future__ import annotations

import struct
from typing import cast

from twisted.conch.ssh.common import NS
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relayd.ssh.channels.channel import ChannelUser, State
from relayd.ssh.channels.connection import ClientConnection
from relayd.ssh.channels.session import Command, Session
from relayd.ssh.transport.numbers import MSG_CHANNEL_OPEN_CONFIRMATION, MSG_CHANNEL_SUCCESS
from relayd.ssh.transport.transport import ClientTransport
from tests.support.ssh import PacketRecorder

INTERVAL = 15.0


def numbers(*values: int) -> bytes:
    """Integers of 32 bits, one after another."""
    return struct.pack(f">{len(values)}L", *values)


def request(channel: int, name: bytes, rest: bytes, reply: bool = False) -> bytes:
    """A channel request (RFC 4254, section 5.4)."""
    return numbers(channel) + NS(name) + (b"\1" if reply else b"\0") + rest


class Owner:
    """Keeps what a connection tells the one that opened it, with the state of the session at that moment."""

    def __init__(self) -> None:
        self.takes = False
        self.not_run: list[ChannelUser] = []
        self.unusable: list[tuple[ChannelUser, int, State]] = []
        self.refused: list[tuple[ChannelUser, str, State]] = []
        self.closed: list[ChannelUser] = []
        self.lost: list[tuple[list[ChannelUser], str]] = []

    def connection_answers(self, connection: ClientConnection) -> None:
        pass

    def exec_refused(self, connection: ClientConnection, session: ChannelUser) -> bool:
        self.not_run.append(session)
        return self.takes

    def not_usable(self, connection: ClientConnection, session: ChannelUser, max_packet: int) -> None:
        self.unusable.append((session, max_packet, session.state))

    def session_refused(self, connection: ClientConnection, session: ChannelUser, code: int, reason: str) -> None:
        self.refused.append((session, reason, session.state))

    def session_closed(self, connection: ClientConnection, session: ChannelUser) -> None:
        self.closed.append(session)

    def connection_lost(self, connection: ClientConnection, interrupted: list[ChannelUser], reason: str) -> None:
        self.lost.append((interrupted, reason))


class ConnectionTestCase(SynchronousTestCase):
    """A connection in memory; channel *n* of ours is channel 100 + *n* of the server."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.owner = Owner()
        self.transport = PacketRecorder()
        self.connection = ClientConnection(self.clock, self.owner, INTERVAL)
        self.connection.transport = cast(ClientTransport, self.transport)
        self.connection.serviceStarted()
        self.events: list[str] = []

    def session(self, command: bytes = b"true", limit: int = 1000) -> Session:
        """A session that notes in `events` when its command is sent and when it has ended."""
        return Session(
            Command(command, limit), lambda: self.events.append("started"), lambda: self.events.append("ended")
        )

    def receive(self, message: int, packet: bytes) -> None:
        """The server sends a packet."""
        self.connection.packetReceived(message, packet)

    def confirm(self, number: int = 0) -> None:
        """The server opens a channel that was asked for."""
        self.receive(MSG_CHANNEL_OPEN_CONFIRMATION, numbers(number, 100 + number, 2**21, 32768))

    def running(self, command: bytes = b"true") -> Session:
        """A session whose command runs; none that was started before it has ended."""
        session = self.session(command)
        number = len(self.connection._channels.by_number)
        self.connection.start(session)
        self.confirm(number)
        self.receive(MSG_CHANNEL_SUCCESS, numbers(number))
        self.transport.take()
        return session
