"""
Many channels over one SSH connection: the client side of the SSH connection protocol, for commands and jump hosts.

Source: RFC 4254.  Conch's `SSHConnection` serves every kind of channel in both roles; this one does a single thing and
costs less for each command: no log event, Deferred or string formatting on its way.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from typing import ClassVar, Protocol

from twisted.conch.ssh.common import NS, getNS
from twisted.conch.ssh.service import SSHService
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from relayd.language.texts import Text, printable_bytes
from relayd.ssh.channels.channel import MAX_PACKET, SMALL_WINDOW, WINDOW, Channel, ChannelUser, Nobody, State
from relayd.ssh.channels.leftovers import Leftovers
from relayd.ssh.channels.session import Session, signal_request
from relayd.ssh.errors import SSHError
from relayd.ssh.transport.breach import Breach
from relayd.ssh.transport.numbers import (
    EXTENDED_DATA_STDERR,
    MSG_CHANNEL_CLOSE,
    MSG_CHANNEL_DATA,
    MSG_CHANNEL_EOF,
    MSG_CHANNEL_EXTENDED_DATA,
    MSG_CHANNEL_FAILURE,
    MSG_CHANNEL_OPEN,
    MSG_CHANNEL_OPEN_CONFIRMATION,
    MSG_CHANNEL_OPEN_FAILURE,
    MSG_CHANNEL_REQUEST,
    MSG_CHANNEL_SUCCESS,
    MSG_CHANNEL_WINDOW_ADJUST,
    MSG_GLOBAL_REQUEST,
    MSG_REQUEST_FAILURE,
    OPEN_ADMINISTRATIVELY_PROHIBITED,
)
from relayd.ssh.transport.pacing import WORTH_SHIFT, Pacer
from relayd.ssh.transport.transport import ClientTransport

#: The smallest limit for packets, in bytes, that is taken of a server which is to get data. Known ones take thousands.
MIN_PACKET = 256
#: Probes without an answer after which the peer counts as gone.
MAX_MISSED_PROBES = 2
#: Seconds after which the keys are renewed (RFC 4253, section 9).
REKEY_AFTER = 3600.0

_MAX_UINT32 = 0xFFFFFFFF
_UINT32 = struct.Struct(">L")
_UINT32_2 = struct.Struct(">LL")
_UINT32_4 = struct.Struct(">LLLL")

#: Seconds that the end of a channel may wait for something else to be sent on the connection: alone it would cost both
#: sides as much as any other step of a command, and nobody waits for it. Less than the pool's COOL_DOWN.
CLOSE_LINGER = 0.004


class ConnectionOwner(Protocol):
    """What a connection tells the one that opened it."""

    def session_refused(self, connection: Connection, session: ChannelUser, code: int, reason: str) -> None:
        """
        The server opened no channel for *session*, which is waiting again: its command certainly did not run.

        :param code: RFC 4254, section 5.1.
        """

    def connection_answers(self, connection: Connection) -> None:
        """The server opened a channel that was given up meanwhile; it is closed again, unused."""

    def session_closed(self, connection: Connection, session: ChannelUser) -> None:
        """The channel of *session* is closed on both sides."""

    def connection_lost(self, connection: Connection, interrupted: list[ChannelUser], reason: str) -> None:
        """
        The connection is gone.

        :param interrupted: what used its channels, as it stood: what is in state ``WAITING`` never ran.
        """


class Connection(SSHService):
    """
    A connection that is logged in.

    :ivar clock: tells the time.
    :ivar heard: packets that came.
    :ivar address: the host's, where its name was looked up for this connection, and led to all of *found*; else empty.
    :ivar opened: when it was logged in, in seconds of the clock.
    :ivar timings: seconds that it took to open, by phase: ``connect``, ``keyExchange``, ``login``.
    :ivar runs_nothing: what its account was found to be, when that is closed (`relayd.ssh.ending.account`).
    """

    name = b"ssh-connection"
    transport: ClientTransport

    def __init__(self, clock: IReactorTime, owner: ConnectionOwner, keepalive_interval: float) -> None:
        self.clock = clock
        self._owner = owner
        self.opened = clock.seconds()
        self.timings: dict[str, float] = {}
        self.runs_nothing: SSHError | None = None
        self._channels: dict[int, Channel] = {}
        # Which of them have commands that may run, in the order in which the server was told to run them
        self._executing: dict[Session, Channel] = {}
        self._next_channel = 0
        self._keepalive_interval = keepalive_interval
        self._probes_missed = 0
        self.heard = 1  # the login, just now
        self._heard_before = 0
        self.address = ""
        self.found: frozenset[str] = frozenset()
        self._rekey_at = clock.seconds() + REKEY_AFTER
        self._probe_call: IDelayedCall | None = None
        self._lost_reason: str = ""
        # Ends of channels that wait to be sent: the numbers of their channels at the server.
        self._farewells: list[int] = []
        self._farewell_call: IDelayedCall | None = None
        self._leftovers = Leftovers(clock, self._executing, self.call, self.is_held)

    @property
    def pace(self) -> Pacer:
        """What the server's bytes have cost."""
        return self.transport.pace

    # What the owner asks for

    def start(self, user: ChannelUser) -> None:
        """Open a channel for *user* and run its command on it."""
        number = self._next_channel
        self._next_channel = (number + 1) & 0xFFFFFFFF
        # What waits on a channel to another host is in the way of the others behind the same jump host.
        channel = self._channels[number] = Channel(user, WINDOW if isinstance(user, Session) else SMALL_WINDOW)
        self.transport.reset_flood_limit()
        self.transport.pace.asked()
        user.opening(self)
        if self._farewells:
            self._send_farewells()
        self.transport.sendPacket(
            MSG_CHANNEL_OPEN,
            NS(user.kind) + struct.pack(">LLL", number, channel.window, MAX_PACKET) + user.open_data,
        )

    def executing(self) -> list[Session]:
        """The commands that may be running now, in the order in which the server was told to run them."""
        return list(self._executing)

    def signal(self, user: ChannelUser, name: str) -> None:
        """Ask the server to send the command a signal. Older servers, and dropbear, ignore it."""
        channel = self._find(user)
        if channel is not None and channel.remote >= 0 and not channel.close_sent:
            self._send_request(channel, signal_request(name))

    def halt(self, user: ChannelUser, on: bool) -> None:
        """Give the server no more window (RFC 4254, section 5.2), or give it window again."""
        channel = self._find(user)
        if channel is not None:
            channel.halted = on
            self._refill(channel, 0, 0)

    def write(self, user: ChannelUser, data: bytes) -> int:
        """
        Send data, as soon as the server takes it.

        :return: how many bytes wait for that, with those before them.
        """
        channel = self._find(user)
        if channel is None:
            return 0
        if channel.remote >= 0 and not channel.close_sent:
            self._send(channel, data)
        return len(channel.outgoing)

    def output_complete(self, user: ChannelUser) -> bool:
        """Whether the server has said that no more output comes."""
        channel = self._find(user)
        return channel is not None and channel.eof

    def close(self, user: ChannelUser) -> None:
        """Close the channel of *user*, now or as soon as it is open."""
        channel = self._find(user)
        if channel is not None and not channel.close_sent:
            channel.close_sent = True
            channel.given_up = self.clock.seconds()
            if channel.remote >= 0:
                self.transport.sendPacket(MSG_CHANNEL_CLOSE, _UINT32.pack(channel.remote))

    def unanswered(self) -> list[ChannelUser]:
        """Those whose channels the server was asked for, and has neither opened nor refused."""
        return [channel.user for channel in self._channels.values() if channel.remote < 0 and not channel.close_sent]

    def release(self, user: ChannelUser) -> None:
        """
        Close the channel of *user*, one of the `unanswered`, as soon as it is open; *user* hears nothing of it any
        more, and waits again: it may have a channel of another connection.
        """
        self.close(user)
        channel = self._find(user)
        if channel is not None:
            channel.user = Nobody()
            user.state = State.WAITING

    def disconnect(self, reason: str) -> None:
        """End the connection, and every session on it."""
        self._lost_reason = reason
        self.transport.disconnect(reason)

    # Hooks of SSHService

    def serviceStarted(self) -> None:
        self.transport.backpressure.on_drained = self._send_waiting
        self.opened = self.clock.seconds()
        self._schedule_probe()

    def serviceStopped(self) -> None:
        self.transport.backpressure.on_drained = None
        for call in (self._probe_call, self._farewell_call):
            if call is not None:
                call.cancel()
        self._probe_call = self._farewell_call = None
        self._leftovers.stop()
        channels, self._channels = self._channels, {}
        self._executing.clear()
        interrupted: list[ChannelUser] = []
        ended: list[ChannelUser] = []
        for channel in channels.values():
            user = channel.user
            if user.state is State.OPENING:
                user.state = State.WAITING
            channel.close_sent = True
            (ended if user.survives(channel.eof) else interrupted).append(user)
        # First of all: who hears of an end may want to begin something else, and must not get it here.
        self._owner.connection_lost(self, interrupted, self._lost_reason or self.transport.lost_reason)
        for user in ended:
            user.ended()

    def packetReceived(self, message: int, packet: bytes) -> None:
        self.heard += 1
        handler = self._handlers.get(message)
        if handler is not None:
            handler(self, packet)
        else:  # left over are the answers to our probes
            self._leftovers.answered = True

    # Channels

    def _find(self, user: ChannelUser) -> Channel | None:
        return next((channel for channel in self._channels.values() if channel.user is user), None)

    def _channel(self, packet: bytes) -> Channel:
        """
        The open channel that a packet is for.

        :raises Breach: when there is none.
        """
        channel = self._channels.get(_UINT32.unpack_from(packet)[0])
        if channel is None or channel.remote < 0:
            raise Breach("a packet for a channel that is not open")
        return channel

    def _open_or_over(self, packet: bytes) -> Channel | None:
        """
        Likewise, for what does no harm when it comes late: ``None`` where the channel is closed already.  Servers made
        with paramiko answer a request after the end of a command that was quick, and OpenSSH's client does not mind.
        """
        number = _UINT32.unpack_from(packet)[0]
        return None if number not in self._channels and number < self._next_channel else self._channel(packet)

    def _opening(self, packet: bytes) -> Channel:
        """
        Likewise, the channel that is being opened: its command was not sent yet.

        :raises Breach: when there is none.
        """
        channel = self._channels.get(_UINT32.unpack_from(packet)[0])
        if channel is None or channel.remote >= 0:
            raise Breach("an answer for a channel that is not being opened")
        return channel

    def _send_request(self, channel: Channel, request: bytes) -> None:
        self.transport.sendPacket(MSG_CHANNEL_REQUEST, _UINT32.pack(channel.remote) + request)

    def _open_confirmed(self, packet: bytes) -> None:
        channel = self._opening(packet)
        _number, remote, window, max_packet = _UINT32_4.unpack_from(packet)
        channel.remote = remote
        channel.remote_window = window
        channel.max_packet = min(max_packet, MAX_PACKET)
        if channel.close_sent:  # given up while it was being opened
            self.transport.sendPacket(MSG_CHANNEL_CLOSE, _UINT32.pack(remote))
            self._owner.connection_answers(self)
            return
        user = channel.user
        if max_packet < MIN_PACKET and (user.stdin or user.stdin_open):
            # At a byte a packet, a megabyte would keep the relay busy for ten seconds.
            raise Breach("a limit of {size} bytes a packet", size=max_packet)
        user.when_permitted(partial(self._begin, channel))

    def _begin(self, channel: Channel) -> None:
        """Use a channel that is open."""
        if channel.close_sent:  # given up, or closed by the server, while there was no permission yet
            return
        user = channel.user
        if isinstance(user, Session):
            self._executing[user] = channel
        remote_number = _UINT32.pack(channel.remote)
        for request in user.opened():
            self.transport.sendPacket(MSG_CHANNEL_REQUEST, remote_number + request)
        channel.finished = not user.stdin_open
        self._send(channel, user.stdin)

    def _send(self, channel: Channel, data: bytes) -> None:
        """As much of *data* as the server takes now; the rest waits. After the last of it the server is told so."""
        if not channel.outgoing:
            data = data[self._send_now(channel, data) :]
        if data:
            channel.outgoing += data
        elif channel.finished:
            self.transport.sendPacket(MSG_CHANNEL_EOF, _UINT32.pack(channel.remote))

    def _send_now(self, channel: Channel, data: bytes | bytearray) -> int:
        start = 0
        # What a server has room for, and does not read, waits here, where it is counted.
        while (
            size := min(channel.remote_window, channel.max_packet, len(data) - start)
        ) > 0 and not self.transport.backpressure.full:
            self.transport.sendPacket(
                MSG_CHANNEL_DATA, _UINT32_2.pack(channel.remote, size) + data[start : start + size]
            )
            start += size
            channel.remote_window -= size
        return start

    def _window_adjusted(self, packet: bytes) -> None:
        channel = self._open_or_over(packet)
        if channel is None:
            return
        channel.remote_window = min(channel.remote_window + _UINT32.unpack_from(packet, 4)[0], _MAX_UINT32)
        self._send_rest(channel)

    def _send_rest(self, channel: Channel) -> None:
        """As much as the server takes now of what waits."""
        if channel.outgoing and not channel.close_sent:
            del channel.outgoing[: self._send_now(channel, channel.outgoing)]
            if not channel.outgoing:
                self._send(channel, b"")
                channel.user.drained()

    def _send_waiting(self) -> None:
        """The server reads again."""
        for channel in list(self._channels.values()):
            self._send_rest(channel)

    def _open_refused(self, packet: bytes) -> None:
        user = self._opening(packet).user
        del self._channels[_UINT32.unpack_from(packet)[0]]
        user.state = State.WAITING
        code = _UINT32.unpack_from(packet, 4)[0]
        self._owner.session_refused(self, user, code, printable_bytes(getNS(packet[8:])[0]))

    def _exec_accepted(self, packet: bytes) -> None:
        channel = self._open_or_over(packet)
        if channel is not None:
            channel.user.exec_answered(True)

    def _exec_refused(self, packet: bytes) -> None:
        channel = self._open_or_over(packet)
        if channel is not None and not channel.user.exec_answered(False):
            self.close(channel.user)
            # Some servers leave it at that, and nothing else is to come of the channel.
            channel.user.ended()

    def _data(self, packet: bytes) -> None:
        self._received(self._channel(packet), packet[8:], False)

    def _extended_data(self, packet: bytes) -> None:
        channel = self._channel(packet)
        if _UINT32.unpack_from(packet, 4)[0] == EXTENDED_DATA_STDERR:
            self._received(channel, packet[12:], True)
        else:
            self._refill(channel, len(packet) - 12, 0)

    def _received(self, channel: Channel, data: bytes, is_stderr: bool) -> None:
        size = len(data)
        channel.packets += 1
        self.transport.pace.owed -= size >> WORTH_SHIFT
        reading = channel.user.received(data, is_stderr)
        if reading is None:
            self._refill(channel, size, 0)
        else:
            self._refill(channel, size, size)
            reading.addBoth(lambda _: self._refill(channel, 0, -size))

    def _refill(self, channel: Channel, arrived: int, unread: int) -> None:
        """
        Let the server send more, as far as its data is read.

        :param arrived: bytes that came.
        :param unread: by how many those grow that wait for their reader.
        """
        channel.window -= arrived
        channel.unread += unread
        if channel.window < -MAX_PACKET:  # a packet too much is not worth a quarrel
            raise Breach("more data than it may send")
        if not channel.close_sent and (room := channel.refill()):
            self.transport.sendPacket(MSG_CHANNEL_WINDOW_ADJUST, _UINT32_2.pack(channel.remote, room))

    def _channel_request(self, packet: bytes) -> None:
        channel = self._open_or_over(packet)
        if channel is None:
            return
        name, rest = getNS(packet[4:])
        channel.user.request_received(name, rest[1:])
        if name.startswith(b"exit-"):
            self._leftovers.expect()
        if rest[:1] != b"\0" and not channel.close_sent:  # such as OpenSSH's own probes
            self.transport.flood_limit.count_request()
            self.transport.sendPacket(MSG_CHANNEL_FAILURE, _UINT32.pack(channel.remote))

    def _eof(self, packet: bytes) -> None:
        self._channel(packet).eof = True

    def _close_received(self, packet: bytes) -> None:
        channel = self._channel(packet)
        del self._channels[_UINT32.unpack_from(packet)[0]]
        given_up = channel.close_sent
        if not given_up:
            channel.close_sent = True
            self._farewells.append(channel.remote)
            if self._farewell_call is None:
                self._farewell_call = self.clock.callLater(CLOSE_LINGER, self._linger_ended)
        user = channel.user
        if user.state is State.OPENING and not given_up:  # it was not used yet
            user.state = State.WAITING
            self._owner.session_refused(self, user, 0, "it closed the session again")
            return
        if isinstance(user, Session):
            self._executing.pop(user, None)
        # The place first: who hears of the end may send the next command at once.
        self._owner.session_closed(self, user)
        if user.state in (State.STARTING, State.RUNNING):
            user.ended()

    def _linger_ended(self) -> None:
        self._farewell_call = None
        self._send_farewells()

    def _send_farewells(self) -> None:
        for remote in self._farewells:
            self.transport.sendPacket(MSG_CHANNEL_CLOSE, _UINT32.pack(remote))
        self._farewells.clear()

    # What a server may ask of us: nothing is granted

    def _open_requested(self, packet: bytes) -> None:
        _kind, rest = getNS(packet)
        self.transport.flood_limit.count_request()
        self.transport.sendPacket(
            MSG_CHANNEL_OPEN_FAILURE,
            rest[:4] + _UINT32.pack(OPEN_ADMINISTRATIVELY_PROHIBITED) + NS(b"not accepted") + NS(b""),
        )

    def _global_request(self, packet: bytes) -> None:
        _name, rest = getNS(packet)
        if rest[:1] != b"\0":
            self.transport.flood_limit.count_request()
            self.transport.sendPacket(MSG_REQUEST_FAILURE, b"")

    # Probing a silent peer

    def _schedule_probe(self) -> None:
        self._probe_call = self.clock.callLater(self._keepalive_interval, self._probe)

    def _probe(self) -> None:
        self._probe_call = None
        self.transport.reset_flood_limit()
        if self.heard != self._heard_before:
            self._heard_before = self.heard
            self._probes_missed = 0
        else:
            self._probes_missed += 1
        if self._probes_missed >= MAX_MISSED_PROBES:
            self._lost_reason = Text("it did not answer any more")
            self.transport.abort()
            return
        if self._is_stuck():
            self._lost_reason = Text("it did not close what was given up")
            self.transport.abort()
            return
        if self.clock.seconds() >= self._rekey_at:
            self._rekey_at += REKEY_AFTER
            self.transport.renew_keys()
        self.call()
        self._schedule_probe()

    def call(self) -> None:
        """Have the server say something: every one answers a global request, be it to say that it does not know it."""
        self.transport.sendPacket(MSG_GLOBAL_REQUEST, NS(b"keepalive@openssh.com") + b"\1")

    def is_held(self) -> bool:
        """Whether something that has arrived may wait here to be read."""
        return self.transport.pace.holding

    def _is_stuck(self) -> bool:
        """
        Whether nothing is left here but channels that the server neither opens nor closes: they would take up their
        places for as long as it answers probes.
        """
        latest = self.clock.seconds() - MAX_MISSED_PROBES * self._keepalive_interval
        channels = self._channels.values()
        return bool(channels) and all(channel.close_sent and channel.given_up <= latest for channel in channels)

    #: By message; of the class, as a bound method of each would take its place in every connection.
    _handlers: ClassVar[dict[int, Callable[[Connection, bytes], None]]] = {
        MSG_CHANNEL_DATA: _data,
        MSG_CHANNEL_EXTENDED_DATA: _extended_data,
        MSG_CHANNEL_REQUEST: _channel_request,
        MSG_CHANNEL_OPEN_CONFIRMATION: _open_confirmed,
        MSG_CHANNEL_SUCCESS: _exec_accepted,
        MSG_CHANNEL_FAILURE: _exec_refused,
        MSG_CHANNEL_EOF: _eof,
        MSG_CHANNEL_CLOSE: _close_received,
        MSG_CHANNEL_OPEN_FAILURE: _open_refused,
        MSG_CHANNEL_WINDOW_ADJUST: _window_adjusted,
        MSG_GLOBAL_REQUEST: _global_request,
        MSG_CHANNEL_OPEN: _open_requested,
    }
