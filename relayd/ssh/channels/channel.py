"""
What a connection keeps of each of its channels, and what it asks of those that use one.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from relayd.ssh.transport.pacing import Pacer

#: Bytes that a server may send before it has to wait for us: enough for 300 Mbit/s at 100 ms.
WINDOW = 4 * 1024 * 1024
#: The same at the beginning, and while its packets are small, of a channel for which many that wait are as bad as many
#: bytes: by then packets of an SSH connection, which have 36 bytes at least, are fewer than 2,000.
SMALL_WINDOW = 64 * 1024
#: So many packets may wait on such a channel, by the size of those before; of large ones a whole `WINDOW` may.
PACKETS = 512
#: Bytes in one packet (RFC 4253, section 6.1).
MAX_PACKET = 32768


class State(enum.Enum):
    """Where the user of a channel stands; it only moves down this list."""

    WAITING = enum.auto()  # no channel asked for yet, or the request was refused
    OPENING = enum.auto()  # CHANNEL_OPEN sent
    STARTING = enum.auto()  # exec sent, not answered: from here on the command may have run
    RUNNING = enum.auto()  # exec accepted
    ENDED = enum.auto()


class UsedConnection(Protocol):
    """
    A connection, as far as the users of its channels need it (`relayd.ssh.channels.connection.Connection`).

    :ivar clock: tells the time.
    """

    clock: IReactorTime

    @property
    def pace(self) -> Pacer:
        """What the server's bytes have cost."""

    def write(self, user: ChannelUser, data: bytes) -> int:
        """Send data, as soon as the server takes it; gives the bytes that wait until it does."""

    def close(self, user: ChannelUser) -> None:
        """Close the channel of *user*, now or as soon as it is open."""


class ChannelUser(Protocol):
    """
    What runs on a channel: a command (`relayd.ssh.channels.session.Session`) or a connection to another host
    (`relayd.ssh.channels.forward.Forward`).

    :ivar kind: type of the channel (RFC 4250, section 4.9.1).
    :ivar open_data: what its ``CHANNEL_OPEN`` holds beside the usual.
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
        The connection is lost; says whether that leaves nothing open, so that it has merely ended.

        :param eof: whether the server had said that no more data comes.
        """

    def opening(self, connection: UsedConnection) -> None:
        """A channel of *connection* is asked for."""

    def when_permitted(self, go: Callable[[], None]) -> None:
        """The channel is open; calls *go* when it may be used, unless another channel is asked for before that."""

    def opened(self) -> list[bytes]:
        """The channel may be used; gives the requests to send on it, each without the channel's number."""

    def exec_answered(self, accepted: bool) -> bool:
        """A request was answered; says whether the channel is still of use."""

    def received(self, data: bytes, is_stderr: bool) -> Deferred[None] | None:
        """Data arrived; a Deferred says when it has been read."""

    def request_received(self, name: bytes, rest: bytes) -> None:
        """The server sent a channel request."""

    def drained(self) -> None:
        """The server has taken all that waited for it."""

    def ended(self) -> None:
        """The channel has closed."""


class Nobody:
    """The user of a channel that nobody wants any more; nothing is ever sent on it."""

    kind = b"session"
    open_data = b""
    stdin = b""
    stdin_open = False

    def __init__(self) -> None:
        self.state = State.ENDED

    def survives(self, eof: bool) -> bool:
        return True

    def opening(self, connection: UsedConnection) -> None:
        """See `ChannelUser`; likewise the following."""

    def when_permitted(self, go: Callable[[], None]) -> None:
        """It never may."""

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


class Channel:
    """
    The numbers of one channel.

    :param first: bytes that the server may send at first; where these are fewer than `WINDOW`, it may send more as long
        as its packets are large.
    :ivar remote: its number at the server; -1 until it is open.
    :ivar window: bytes that the server may still send.
    :ivar most: bytes that it may send before it has to wait for us.
    :ivar packets: data packets that came since it was last given more.
    :ivar unread: bytes that arrived and that its reader has not taken.
    :ivar halted: whether the server gets no more window.
    :ivar remote_window: bytes that the server takes now.
    :ivar outgoing: bytes that wait for that.
    :ivar finished: no more will follow them; the server is to be told when they are gone.
    :ivar given_up: when we gave the channel up, in seconds of the clock.
    """

    __slots__ = (
        "close_sent", "eof", "finished", "first", "given_up", "halted", "max_packet", "most", "outgoing", "packets",
        "remote", "remote_window", "unread", "user", "window",
    )  # fmt: skip

    def __init__(self, user: ChannelUser, first: int) -> None:
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

    def refill(self) -> int:
        """
        How much more the server may send, once that is worth a message; what is not read yet is held back from it.
        """
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
