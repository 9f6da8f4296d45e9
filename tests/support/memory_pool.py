"""
A pool of the SSH client whose connections are in memory, and are opened when a test says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from twisted.conch.ssh.common import NS
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relayd.ssh.channels.connection import ClientConnection
from relayd.ssh.channels.session import Command, Session
from relayd.ssh.errors import (
    LoginRefused,
    SSHError,
)
from relayd.ssh.pool.dialer import Dialer, DialOwner
from relayd.ssh.pool.jobs import Job
from relayd.ssh.pool.pool import Pool
from relayd.ssh.settings import SSHSettings
from relayd.ssh.target import Target
from relayd.ssh.transport.numbers import MSG_CHANNEL_OPEN, MSG_CHANNEL_OPEN_CONFIRMATION, MSG_CHANNEL_OPEN_FAILURE
from relayd.ssh.transport.transport import ClientTransport
from tests.support.ssh import PacketRecorder
from tests.support.ssh_connection import numbers
from tests.support.ssh_pool import A


class Transport(PacketRecorder):
    """Below a pooled connection."""


class StandInDialer:
    """Dials when the test says so, and through jump hosts as the real one does."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.dialled: list[tuple[Target, Deferred[None]]] = []
        self.connections: list[ClientConnection] = []
        self.found: Sequence[str] = ()

    async def dial(self, target: Target, owner: DialOwner) -> ClientConnection:
        if target.via is not None:
            await owner.forward(target.via, target.host, target.port)
        let: Deferred[None] = Deferred()
        self.dialled.append((target, let))
        await let
        connection = ClientConnection(self.clock, owner, 1e9)
        connection.transport = cast(ClientTransport, Transport())
        if self.found:
            connection.address, connection.found = self.found[0], frozenset(self.found)
        connection.serviceStarted()
        self.connections.append(connection)
        return connection

    def targets(self) -> list[Target]:
        """Whom it waits to reach."""
        return [target for target, _ in self.dialled]

    def succeed(self) -> ClientConnection:
        """The oldest attempt succeeds."""
        self.dialled.pop(0)[1].callback(None)
        return self.connections[-1]

    def succeed_as(self, found: Sequence[str]) -> ClientConnection:
        """Likewise, to the first of the addresses that its name leads to."""
        self.found = found
        return self.succeed()

    def fail(self, error: Exception) -> None:
        """The oldest attempt fails."""
        self.dialled.pop(0)[1].errback(error)


def refusal(target: Target) -> LoginRefused:
    return LoginRefused(host=target.host, port=22, username=target.username, tried="password", offered="publickey")


class PoolTestCase(SynchronousTestCase):
    """A pool whose connections are in memory."""

    def setUp(self) -> None:
        self.make()

    def make(self, **settings: Any) -> None:
        self.clock = self.make_clock()
        self.dialer = StandInDialer(self.clock)
        self.settings = SSHSettings(known_hosts="", **settings)
        self.pool = Pool(self.clock, self.clock, cast(Dialer, self.dialer), self.settings)
        self.errors: list[SSHError] = []
        self.ended: list[str] = []

    def make_clock(self) -> Clock:
        """The pool's reactor."""
        return Clock()

    def job(self, target: Target = A, command: str = "true") -> Job:
        session = Session(Command(command.encode(), 100), lambda: None, lambda: self.ended.append(command))
        return Job(target, session, self.errors.append)

    def submit(self, target: Target = A, command: str = "true", near: ClientConnection | None = None) -> Job:
        job = self.job(target, command)
        self.pool.submit(job, near)
        return job

    def packets(self, connection: ClientConnection) -> list[tuple[int, bytes]]:
        return cast(Transport, connection.transport).take()

    def opens(self, connection: ClientConnection) -> int:
        """How many channels were asked for since the last look."""
        return sum(message == MSG_CHANNEL_OPEN for message, _ in self.packets(connection))

    def confirm(self, connection: ClientConnection, number: int = 0) -> None:
        connection.packetReceived(MSG_CHANNEL_OPEN_CONFIRMATION, numbers(number, 100 + number, 2**21, 32768))

    def refuse(self, connection: ClientConnection, number: int = 0, code: int = 4, reason: bytes = b"no") -> None:
        connection.packetReceived(MSG_CHANNEL_OPEN_FAILURE, numbers(number, code) + NS(reason) + NS(b""))

    def lose(self, connection: ClientConnection) -> None:
        connection.serviceStopped()

    def disconnected(self, connection: ClientConnection) -> str:
        """Why the pool had it disconnected, if it did."""
        return cast(Transport, connection.transport).disconnected
