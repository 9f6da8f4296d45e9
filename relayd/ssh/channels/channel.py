"""
One channel of an SSH connection: its windows and messages, and what a connection asks of the user of a channel.

Source: RFC 4254, section 5.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable
from typing import Final, Protocol

from twisted.conch.ssh.common import NS
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from relayd.ssh.transport.breach import Breach
from relayd.ssh.transport.numbers import (
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_EOF,
    MSG_CHANNEL_FAILURE,
    MSG_CHANNEL_OPEN,
    MSG_CHANNEL_REQUEST,
    MSG_CHANNEL_WINDOW_ADJUST,
)
from relayd.ssh.transport.pacing import WORTH_SHIFT, Pacer
from relayd.ssh.transport.transport import ClientTransport

#: Bytes that a server may send before it has to wait for us: enough for 300 Mbit/s at 100 ms.
WINDOW = 4 * 1024 * 1024
#: The window that the channel of a `Forward` begins with, and keeps while its packets are small: there, many waiting
#: packets are as bad as many bytes. Packets of an SSH connection have 36 bytes at least, so it holds fewer than 2,000.
SMALL_WINDOW = 64 * 1024
#: How many packets may wait on such a channel, by the size of those before; of large ones, a whole `WINDOW` may.
PACKETS = 512
#: Bytes in one packet (RFC 4253, section 6.1).
MAX_PACKET = 32768

_MAX_UINT32: Final = 0xFFFFFFFF
_UINT32 = struct.Struct(">L")
_UINT32_2 = struct.Struct(">LL")
_UINT32_3 = struct.Struct(">LLL")


class State(enum.Enum):
    """
    The state of the user of a channel. It only moves down this list, or back to ``WAITING``: from ``OPENING``, and from
    ``STARTING`` where the server refused the ``exec``, which says that nothing has run.
    """

    WAITING = enum.auto()  # no channel asked for yet, or the request was refused
    OPENING = enum.auto()  # CHANNEL_OPEN sent
    STARTING = enum.auto()  # exec sent, not answered: from here on the command may have run
    RUNNING = enum.auto()  # exec accepted
    ENDED = enum.auto()


class UsedConnection(Protocol):
    """
    A connection, as far as the users of its channels need it (`relayd.ssh.channels.connection.ClientConnection`).

    :ivar clock: tells the time.
    """

    clock: IReactorTime

    @property
    def pace(self) -> Pacer:
        """What the server's bytes have cost."""

    def write(self, user: ChannelUser, data: bytes) -> int:
        """Send data, as soon as the server takes it; gives the bytes that wait until it does."""

    def finish(self, user: ChannelUser) -> None:
        """Nothing follows what was sent: the server gets an EOF after it."""

    def request(self, user: ChannelUser, request: bytes) -> None:
        """Send a channel request, which is given without the channel's number."""

    def close(self, user: ChannelUser) -> None:
        """Close the channel of *user*, now or as soon as it is open."""


class ChannelUser(Protocol):
    """
    What runs on a channel: a command (`relayd.ssh.channels.session.Session`) or a connection to another host
    (`relayd.ssh.channels.forward.Forward`).

    :ivar kind: type of the channel (RFC 4250, section 4.9.1).
    :ivar open_data: what its ``CHANNEL_OPEN`` holds after the fields of every channel.
    :ivar stdin: what is sent as soon as it is open.
    :ivar stdin_open: whether more may follow.
    """

    state: State

    @property
    def kind(self) -> bytes: ...

    @property
    def open_data(self) -> bytes: ...

    @property
    def stdin(self) -> bytes: ...

    @property
    def stdin_open(self) -> bool: ...

    def survives(self, eof: bool) -> bool:
        """
        The connection is lost.

        :param eof: whether the server had said that no more data comes.
        :return: whether nothing is missing, so that this has ended rather than been interrupted.
        """

    def opening(self, connection: UsedConnection) -> None:
        """A channel of *connection* is asked for."""

    def when_permitted(self, go: Callable[[], None]) -> None:
        """The channel is open. Call *go* when it may be used, unless another channel is asked for before that."""

    def opened(self) -> list[bytes]:
        """The channel may be used. Gives the requests to send on it, each without the channel's number."""

    def exec_answered(self, accepted: bool) -> bool:
        """A request was answered; says whether the channel can still be used."""

    def received(self, data: bytes, is_stderr: bool) -> Deferred[None] | None:
        """Data arrived. A Deferred fires when it has been read."""

    def request_received(self, name: bytes, rest: bytes) -> None:
        """The server sent a channel request."""

    def drained(self) -> None:
        """The server has taken all that waited for it."""

    def ended(self) -> None:
        """The channel has closed."""


class Nobody:
    """The user of a channel that was given up before it was open; nothing is ever sent on it."""

    kind = b"session"
    open_data = b""
    stdin = b""
    stdin_open = False

    def __init__(self) -> None:
        self.state = State.ENDED

    def survives(self, eof: bool) -> bool:
        return True

    def opening(self, connection: UsedConnection) -> None:
        """See `ChannelUser`, for this and the following methods."""

    def when_permitted(self, go: Callable[[], None]) -> None:
        """It never is: *go* is not called."""

    def opened(self) -> list[bytes]:
        return []

    def exec_answered(self, accepted: bool) -> bool:
        return True

    def received(self, data: bytes, is_stderr: bool) -> Deferred[None] | None:
        return None

    def request_received(self, name: bytes, rest: bytes) -> None:
        pass

    def drained(self) -> None:
        pass

    def ended(self) -> None:
        pass


class WithoutCommand:
    """
    The part that users of a session have in common which ask for something else than a command; see `ChannelUser`.

    It has no ``opened``, ``received`` and ``ended``.
    """

    kind = b"session"
    open_data = b""
    stdin = b""
    stdin_open = True

    def __init__(self) -> None:
        self.state = State.WAITING
        self._refused = False
        self._connection: UsedConnection | None = None

    def opening(self, connection: UsedConnection) -> None:
        """See `ChannelUser`, for this and the following methods."""
        self.state = State.OPENING
        self._connection = connection

    def when_permitted(self, go: Callable[[], None]) -> None:
        go()

    def exec_answered(self, accepted: bool) -> bool:
        self._refused = not accepted
        return accepted

    def request_received(self, name: bytes, rest: bytes) -> None:
        """How the server ends says nothing."""

    def survives(self, eof: bool) -> bool:
        return False

    def drained(self) -> None:
        """There is nothing more to send."""


class Channel:
    """
    One channel: its numbers and windows, and the messages that are sent on it.

    :param number: its number at our side.
    :param first: bytes that the server may send at first; where these are fewer than `WINDOW`, it may send more as long
        as its packets are large.
    :ivar remote: its number at the server; -1 until it is open.
    :ivar window: bytes that the server may still send.
    :ivar most: bytes that it may send before it has to wait for us.
    :ivar packets: data packets that came since the window was last enlarged.
    :ivar unread: bytes that arrived and that their reader has not taken.
    :ivar halted: whether the window is not enlarged any more.
    :ivar remote_window: bytes that the server takes now.
    :ivar outgoing: bytes that wait until it takes more.
    :ivar finished: nothing follows them: the server gets an EOF when they are sent.
    :ivar given_up: when we gave the channel up, in seconds of the clock.
    :ivar eof: whether the server has said that no more data comes.
    """

    __slots__ = (
        "_transport", "close_sent", "eof", "finished", "first", "given_up", "halted", "max_packet", "most", "number",
        "outgoing", "packets", "remote", "remote_window", "unread", "user", "window",
    )  # fmt: skip

    def __init__(self, transport: ClientTransport, number: int, user: ChannelUser, first: int) -> None:
        self._transport = transport
        self.number = number
        self.user = user
        self.remote = -1
        self.first = self.most = self.window = first
        self.packets = 0
        self.unread = 0
        self.halted = False
        self.remote_window = 0
        self.max_packet = MAX_PACKET
        self.outgoing = bytearray()
        self.finished = False
        self.close_sent = False
        self.given_up = 0.0
        self.eof = False

    @property
    def usable(self) -> bool:
        """Whether something may be sent on it: it is open, and we have not closed it."""
        return self.remote >= 0 and not self.close_sent

    # Messages to the server

    def send_open(self) -> None:
        """Ask for the channel."""
        user = self.user
        numbers = _UINT32_3.pack(self.number, self.window, MAX_PACKET)
        self._transport.sendPacket(MSG_CHANNEL_OPEN, NS(user.kind) + numbers + user.open_data)

    def send_request(self, request: bytes) -> None:
        """
        Send a channel request.

        :param request: what follows the channel's number.
        """
        self._transport.sendPacket(MSG_CHANNEL_REQUEST, _UINT32.pack(self.remote) + request)

    def send_failure(self) -> None:
        """Refuse a channel request of the server."""
        self._transport.sendPacket(MSG_CHANNEL_FAILURE, _UINT32.pack(self.remote))

    def send_close(self) -> None:
        """Close our side, which is all that may be sent on the channel from then on."""
        self._transport.sendPacket(MSG_CHANNEL_CLOSE, _UINT32.pack(self.remote))

    # Data to the server

    def send(self, data: bytes) -> None:
        """Send as much of *data* as the server takes now; the rest waits. EOF follows the last of it."""
        if data and not self.outgoing:
            data = data[self._send_now(data) :]
        if data:
            self.outgoing += data
        elif self.finished:
            self._transport.sendPacket(MSG_CHANNEL_EOF, _UINT32.pack(self.remote))

    def send_waiting(self) -> None:
        """Send as much of what waits as the server takes now."""
        if self.outgoing and not self.close_sent:
            del self.outgoing[: self._send_now(self.outgoing)]
            if not self.outgoing:
                self.send(b"")
                self.user.drained()

    def window_adjusted(self, more: int) -> None:
        """The server takes *more* bytes."""
        self.remote_window = min(self.remote_window + more, _MAX_UINT32)
        if self.outgoing:
            self.send_waiting()

    def _send_now(self, data: bytes | bytearray) -> int:
        """Send the beginning of *data*; gives the bytes that were sent."""
        transport = self._transport
        sent = 0
        # What a server has room for, and does not read, waits here, where it is counted.
        while not transport.backpressure.full:
            size = min(self.remote_window, self.max_packet, len(data) - sent)
            if size <= 0:
                break
            transport.sendPacket(MSG_CHANNEL_DATA, _UINT32_2.pack(self.remote, size) + data[sent : sent + size])
            sent += size
            self.remote_window -= size
        return sent

    # Data from the server

    def received(self, data: bytes, is_stderr: bool) -> None:
        """Hand data on to the user; the window grows again as the data is read."""
        size = len(data)
        self.packets += 1
        self._transport.pace.owed -= size >> WORTH_SHIFT
        reading = self.user.received(data, is_stderr)
        if reading is None:
            self.account(size, 0)
        else:
            self.account(size, size)
            reading.addBoth(lambda _: self.account(0, -size))

    def account(self, arrived: int, unread: int) -> None:
        """
        Enlarge the window when enough of the data has been read.

        :param arrived: bytes that came.
        :param unread: by how many the bytes grow that wait for their reader.
        :raises Breach: when the server sent more than the window.
        """
        self.window -= arrived
        self.unread += unread
        if self.window < -MAX_PACKET:  # a packet too much is not worth a quarrel
            raise Breach("more data than it may send")
        if not self.close_sent and (room := self._refill()):
            self._transport.sendPacket(MSG_CHANNEL_WINDOW_ADJUST, _UINT32_2.pack(self.remote, room))

    def halt(self, on: bool) -> None:
        """Stop enlarging the window, or start again."""
        self.halted = on
        self.account(0, 0)

    def _refill(self) -> int:
        """How much more the server may send: 0 until that is worth a message. Unread data is held back from it."""
        room = self.most - self.window - self.unread
        if room < self.most // 2 or self.halted:
            return 0
        if self.first < WINDOW:
            size = room // max(1, self.packets)
            self.packets = 0
            self.most = min(WINDOW, 2 * self.most, max(self.first, PACKETS * size))
            room = max(0, self.most - self.window - self.unread)
        self.window += room
        return room
