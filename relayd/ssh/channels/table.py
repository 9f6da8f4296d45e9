"""
The channels of one connection, by our number and by who uses them.

Source: RFC 4254, section 5.  What a server sends for a channel that it cannot mean is a breach of the protocol.
"""

from __future__ import annotations

import struct

from relayd.ssh.channels.channel import SMALL_WINDOW, WINDOW, Channel, ChannelUser
from relayd.ssh.channels.session import Session
from relayd.ssh.transport.breach import Breach
from relayd.ssh.transport.transport import ClientTransport

_UINT32 = struct.Struct(">L")


class ChannelTable:
    """
    Numbers the channels, and finds the one that a packet is for. Each packet begins with our number of its channel.

    :ivar by_number: those that the server was asked for, and that it has neither refused nor closed.
    :ivar executing: the channels of commands that may run, in the order in which the server was told to run them.
    """

    __slots__ = ("_next", "by_number", "executing")

    def __init__(self) -> None:
        self.by_number: dict[int, Channel] = {}
        self.executing: dict[Session, Channel] = {}
        self._next = 0

    def add(self, transport: ClientTransport, user: ChannelUser) -> Channel:
        """A new channel for *user*, which the server is not asked for yet."""
        number = self._next
        self._next = (number + 1) & 0xFFFFFFFF
        # What waits on a channel to another host delays all other traffic through the same jump host.
        window = WINDOW if isinstance(user, Session) else SMALL_WINDOW
        channel = self.by_number[number] = Channel(transport, number, user, window)
        return channel

    def remove(self, channel: Channel) -> None:
        """The server has refused or closed *channel*."""
        del self.by_number[channel.number]
        if isinstance(channel.user, Session):
            self.executing.pop(channel.user, None)

    def clear(self) -> list[Channel]:
        """The connection is gone; gives all channels that there were."""
        channels = list(self.by_number.values())
        self.by_number.clear()
        self.executing.clear()
        return channels

    # Which channel

    def of(self, user: ChannelUser) -> Channel | None:
        """The channel of *user*."""
        return next((channel for channel in self.by_number.values() if channel.user is user), None)

    def opened(self, packet: bytes) -> Channel:
        """
        The open channel that *packet* is for.

        :raises Breach: when there is none.
        """
        channel = self.by_number.get(_UINT32.unpack_from(packet)[0])
        if channel is None or channel.remote < 0:
            raise Breach("a packet for a channel that is not open")
        return channel

    def opened_or_closed(self, packet: bytes) -> Channel | None:
        """
        The open channel that *packet* is for, or ``None`` where that is closed already: for messages that do no harm
        when they come late. Servers made with paramiko answer a request after the end of a command that was quick, and
        OpenSSH's client does not mind.

        :raises Breach: when there never was such a channel, or it is not open yet.
        """
        number = _UINT32.unpack_from(packet)[0]
        channel = self.by_number.get(number)
        if channel is not None and channel.remote >= 0:
            return channel
        return None if channel is None and number < self._next else self.opened(packet)

    def opening(self, packet: bytes) -> Channel:
        """
        The channel that *packet* is for, and that is being opened: its command was not sent yet.

        :raises Breach: when there is none.
        """
        channel = self.by_number.get(_UINT32.unpack_from(packet)[0])
        if channel is None or channel.remote >= 0:
            raise Breach("an answer for a channel that is not being opened")
        return channel

    # All of them

    def unanswered(self) -> list[ChannelUser]:
        """The users of channels that the server was asked for, and has neither opened nor refused."""
        return [channel.user for channel in self.by_number.values() if channel.remote < 0 and not channel.close_sent]

    def all_given_up(self, by: float) -> bool:
        """Whether there are channels, and we gave up all of them by that time, in seconds of the clock."""
        channels = self.by_number.values()
        return bool(channels) and all(channel.close_sent and channel.given_up <= by for channel in channels)

    def send_waiting(self) -> None:
        """The server reads again: send what waits."""
        for channel in list(self.by_number.values()):
            channel.send_waiting()
