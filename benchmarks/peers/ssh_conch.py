"""
Driver of plain Twisted Conch, as one would write it with care: one connection a host, one channel a command.
See benchmarks/ssh.py.
"""

from __future__ import annotations

import sys
from typing import Any

from twisted.conch.ssh.channel import SSHChannel
from twisted.conch.ssh.common import NS
from twisted.conch.ssh.connection import EXTENDED_DATA_STDERR, SSHConnection
from twisted.conch.ssh.keys import Key
from twisted.conch.ssh.transport import SSHClientTransport
from twisted.conch.ssh.userauth import SSHUserAuthClient
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol

from benchmarks.peers.tally import Failed, check, read_setup
from benchmarks.peers.twisted_driver import One, serve


class _Login(SSHUserAuthClient):
    def __init__(self, user: str, service: SSHConnection, key: Key) -> None:
        super().__init__(user.encode(), service)
        self._key = key
        self._offered = False

    def getPublicKey(self) -> Key | None:
        offered, self._offered = self._offered, True
        return None if offered else self._key.public()

    def getPrivateKey(self) -> Deferred[Key]:
        return succeed(self._key)


class _Connection(SSHConnection):
    def __init__(self) -> None:
        super().__init__()
        self.started: Deferred[None] = Deferred()

    def serviceStarted(self) -> None:
        super().serviceStarted()
        self.started.callback(None)


class _Transport(SSHClientTransport):
    """Takes any host key, as the other clients that are measured here do."""

    def __init__(self, user: str, key: Key) -> None:
        self.commands = _Connection()
        self._user = user
        self._key = key

    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.setTcpNoDelay(True)
        super().connectionMade()

    def verifyHostKey(self, hostKey: bytes, fingerprint: bytes) -> Deferred[bool]:
        return succeed(True)

    def connectionSecure(self) -> None:
        self.requestService(_Login(self._user, self.commands, self._key))


class _Command(SSHChannel):
    name = b"session"
    conn: SSHConnection

    def __init__(self, command: bytes) -> None:
        super().__init__()
        self.done: Deferred[None] = Deferred()
        self._command = command
        self._stdout: list[bytes] = []
        self._stderr: list[bytes] = []
        self._status: int | None = None

    def channelOpen(self, specificData: bytes) -> None:
        accepted = self.conn.sendRequest(self, b"exec", NS(self._command), wantReply=True)
        accepted.addErrback(lambda _: self.loseConnection())
        self.conn.sendEOF(self)

    def openFailed(self, reason: Any) -> None:
        self.done.errback(Failed(f"open failed: {reason}"))

    def dataReceived(self, data: bytes) -> None:
        self._stdout.append(data)

    def extReceived(self, dataType: int, data: bytes) -> None:
        if dataType == EXTENDED_DATA_STDERR:
            self._stderr.append(data)

    def request_exit_status(self, data: bytes) -> None:
        self._status = int.from_bytes(data[:4], "big")

    def closed(self) -> None:
        if self.done.called:
            return
        try:
            check(self._status, b"".join(self._stdout).decode())
        except Failed as error:
            self.done.errback(error)
        else:
            self.done.callback(None)


async def make(reactor: Any) -> One:
    """Connect to the first target."""
    setup = read_setup(sys.argv[1])
    key = Key.fromFile(setup["key"])
    host, port = setup["targets"][0]
    transport: Protocol = _Transport(setup["user"], key)
    assert isinstance(transport, _Transport)
    await connectProtocol(TCP4ClientEndpoint(reactor, host, port), transport)
    await transport.commands.started
    command = setup["command"].encode()

    async def one(number: int) -> None:
        channel = _Command(command)
        transport.commands.openChannel(channel)
        await channel.done

    return one


if __name__ == "__main__":
    serve(make)
