"""
The channel of a command on a host in memory.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.conch.ssh.common import NS, getNS

from relayd.ssh.testing.behaviour import ReceivedCommand, Reply
from relayd.ssh.testing.server import ServerConnection, uint32
from relayd.ssh.transport.numbers import (
    EXTENDED_DATA_STDERR,
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_EXTENDED_DATA,
    MSG_CHANNEL_FAILURE,
    MSG_CHANNEL_REQUEST,
)


class CommandChannel:
    """
    One command's channel: sends the command's output as the client's window allows (RFC 4254, section 5.2).

    :param gives_status: whether the server says how commands end.
    :ivar window: bytes that the client accepts now.
    :ivar env: variables that the client has sent.
    :ivar command: the command, once it is accepted.
    :ivar typed: takes what the client sends to a shell, where it has one.
    """

    def __init__(
        self,
        connection: ServerConnection,
        channel: int,
        window: int,
        max_packet: int,
        gives_status: Callable[[], bool],
    ) -> None:
        self._connection = connection
        self._channel = channel
        self.window = window
        self._max_packet = max_packet
        self._gives_status = gives_status
        self.env: dict[str, bytes] = {}
        self.command: ReceivedCommand | None = None
        self.typed: Callable[[bytes], None] | None = None
        #: What the client's window does not allow yet: whether it is of stderr, and the bytes.
        self._waiting: list[tuple[bool, bytes]] = []
        #: The request that says how the command ended, once it has.
        self._exit: bytes | None = None
        self._over = False

    def requested(self, name: bytes, rest: bytes) -> None:
        """The client wants something besides a command."""
        if name == b"env":
            variable, value, _ = getNS(rest[1:], 2)
            self.env[variable.decode()] = value
        elif name == b"signal" and self.command is not None:
            signal = getNS(rest[1:])[0]
            self.command.signals.append(signal.decode())
            self._end(NS(b"exit-signal") + b"\0" + NS(signal) + b"\0" + NS(b"") + NS(b""))
        elif rest[:1] == b"\1":
            self._connection.sendPacket(MSG_CHANNEL_FAILURE, uint32(self._channel))

    def write(self, reply: Reply) -> None:
        """Send the output."""
        self._waiting += [(False, reply.stdout), (True, reply.stderr)]
        self.flush()

    def finish(self, exit_code: int) -> None:
        """The command exits."""
        self._end(NS(b"exit-status") + b"\0" + uint32(exit_code))

    def _end(self, request: bytes) -> None:
        if self._exit is None:
            self._exit = request
            self.flush()

    def closed(self) -> None:
        """The client has closed the channel."""
        if not self._over:
            self._over = True
            self._connection.sendPacket(MSG_CHANNEL_CLOSE, uint32(self._channel))

    def flush(self) -> None:
        """Send what the window allows, and the end after all of it."""
        while self._waiting and not self._over:
            is_stderr, data = self._waiting.pop(0)
            part = data[: min(self.window, self._max_packet)]
            if part:
                self._send(is_stderr, part)
            if rest := data[len(part) :]:
                self._waiting.insert(0, (is_stderr, rest))
                if not self.window:
                    return
        if self._exit is not None and not self._over:
            self._over = True
            if self._gives_status():
                self._connection.sendPacket(MSG_CHANNEL_REQUEST, uint32(self._channel) + self._exit)
            self._connection.close_channel(self._channel)

    def _send(self, is_stderr: bool, data: bytes) -> None:
        self.window -= len(data)
        if is_stderr:
            self._connection.sendPacket(
                MSG_CHANNEL_EXTENDED_DATA, uint32(self._channel, EXTENDED_DATA_STDERR) + NS(data)
            )
        else:
            self._connection.output(self._channel, data)
