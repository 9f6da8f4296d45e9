"""
Many channels over one SSH connection: the client side of the SSH connection protocol, for commands and jump hosts.

Source: RFC 4254.  Conch's `SSHConnection` serves every kind of channel in both roles; this one does a single thing and
costs less for each command: no log event, Deferred or string formatting on its way.

This module is long as it has each message of that protocol, and what a user of a channel may ask, one method each.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from math import inf
from typing import ClassVar, Protocol

from twisted.conch.ssh.common import NS, getNS
from twisted.conch.ssh.service import SSHService
from twisted.internet.interfaces import IReactorTime

from relayd.language.texts import Text, printable_bytes
from relayd.ssh.channels.channel import MAX_PACKET, Channel, ChannelUser, Nobody, State
from relayd.ssh.channels.closes import DelayedCloses
from relayd.ssh.channels.declined import decline_channel, decline_request
from relayd.ssh.channels.keepalive import Keepalive, judge_by_tcp
from relayd.ssh.channels.leftovers import Leftovers
from relayd.ssh.channels.session import Session, signal_request
from relayd.ssh.channels.table import ChannelTable
from relayd.ssh.errors import SSHError
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
)
from relayd.ssh.transport.pacing import Pacer
from relayd.ssh.transport.transport import ClientTransport

#: Seconds after the end of a command in which the end of its connection belongs to it: some servers do both at once.
TOGETHER = 1.0
#: The smallest limit for packets, in bytes, that is taken of a server which is to get data. Known ones take thousands.
MIN_PACKET = 256

_UINT32 = struct.Struct(">L")
_UINT32_4 = struct.Struct(">LLLL")


class ConnectionOwner(Protocol):
    """What a connection reports to the pool that opened it."""

    def session_refused(self, connection: ClientConnection, session: ChannelUser, code: int, reason: str) -> None:
        """
        The server opened no channel for *session*, which is in state ``WAITING`` again: its command did not run.

        :param code: RFC 4254, section 5.1.
        """

    def exec_refused(self, connection: ClientConnection, session: ChannelUser) -> bool:
        """
        The server refused to run the command of *session*, which has said nothing.

        :return: whether *session* is taken to another connection; its state is ``WAITING`` again then.
        """

    def not_usable(self, connection: ClientConnection, session: ChannelUser, max_packet: int) -> None:
        """The server takes no packets of data of a size that *session* could use; its state is ``WAITING`` again."""

    def connection_answers(self, connection: ClientConnection) -> None:
        """The server opened a channel that was given up meanwhile; it is closed again, unused."""

    def session_closed(self, connection: ClientConnection, session: ChannelUser) -> None:
        """The channel of *session* is closed on both sides."""

    def connection_lost(self, connection: ClientConnection, interrupted: list[ChannelUser], reason: str) -> None:
        """
        The connection is gone.

        :param interrupted: the users of its channels, in the state that they were in: those ``WAITING`` never ran.
        """


class ClientConnection(SSHService):
    """
    A connection that is logged in: opens channels, and hands on what arrives for each.

    More than 25 methods, as the server's messages and the requests of users meet here; most of them handle one message,
    in a few lines. What has a state of its own is elsewhere: `ChannelTable`, `Channel`, `Keepalive`, `DelayedCloses`,
    `Leftovers`.

    :ivar clock: tells the time.
    :ivar answers_probes: whether the server has answered a probe.
    :ivar has_run: whether the server has run a command.
    :ivar ended_with_session: whether the server ended the connection when a command had ended, or right after that.
    :ivar address: the host's, where its name was looked up for this connection, and led to all of *found*; else empty.
    :ivar opened: when it was logged in, in seconds of the clock.
    :ivar timings: seconds that it took to open, by phase: ``connect``, ``keyExchange``, ``login``.
    :ivar runs_nothing: the error by which its account turned out to be closed (`relayd.ssh.ending.account`).
    """

    name = b"ssh-connection"
    transport: ClientTransport

    def __init__(self, clock: IReactorTime, owner: ConnectionOwner, keepalive_interval: float) -> None:
        self.clock = clock
        self.opened = clock.seconds()
        self.answers_probes = False
        self.has_run = False
        self.ended_with_session = False
        self._heard = 1  # the login, just now
        self._session_ended = -inf
        self.address = ""
        self.found: frozenset[str] = frozenset()
        self.timings: dict[str, float] = {}
        self.runs_nothing: SSHError | None = None
        self._owner = owner
        self._keepalive_interval = keepalive_interval
        self._lost_reason: str = ""
        self._channels = ChannelTable()
        self._closes = DelayedCloses(clock)
        # These know the connection, so it has them only while it is open.
        self._keepalive: Keepalive | None = None
        self._leftovers: Leftovers | None = None

    @property
    def pace(self) -> Pacer:
        """What the server's bytes have cost."""
        return self.transport.pace

    @property
    def heard(self) -> int:
        """How many packets have come."""
        return self._heard + self.transport.heard

    # What the pool and the users of channels ask for

    def start(self, user: ChannelUser) -> None:
        """Open a channel for *user* and run its command on it."""
        transport = self.transport
        channel = self._channels.add(transport, user)
        transport.reset_flood_limit()
        transport.pace.asked()
        user.opening(self)
        if self._closes.waiting:
            self._closes.send()
        channel.send_open()

    def executing(self) -> list[Session]:
        """The commands that may be running now, in the order in which the server was told to run them."""
        return list(self._channels.executing)

    def signal(self, user: ChannelUser, name: str) -> None:
        """Ask the server to send the command a signal. Older servers, and dropbear, ignore it."""
        self.request(user, signal_request(name))

    def request(self, user: ChannelUser, request: bytes) -> None:
        """Send a channel request, which is given without the channel's number."""
        channel = self._channels.of(user)
        if channel is not None and channel.usable:
            channel.send_request(request)

    def halt(self, user: ChannelUser, on: bool) -> None:
        """Stop enlarging the server's window (RFC 4254, section 5.2), or start again."""
        channel = self._channels.of(user)
        if channel is not None:
            channel.halt(on)

    def write(self, user: ChannelUser, data: bytes) -> int:
        """
        Send data, as soon as the server takes it.

        :return: how many bytes wait for that, with those before them.
        """
        channel = self._channels.of(user)
        if channel is None:
            return 0
        if channel.usable:
            channel.send(data)
        return len(channel.outgoing)

    def finish(self, user: ChannelUser) -> None:
        """Nothing follows what was sent: the server gets an EOF after it."""
        channel = self._channels.of(user)
        if channel is not None and channel.usable and not channel.finished:
            channel.finished = True
            if not channel.outgoing:
                channel.send(b"")

    def output_complete(self, user: ChannelUser) -> bool:
        """Whether the server has said that no more output comes."""
        channel = self._channels.of(user)
        return channel is not None and channel.eof

    def close(self, user: ChannelUser) -> None:
        """Close the channel of *user*, now or as soon as it is open."""
        channel = self._channels.of(user)
        if channel is not None:
            self._give_up(channel)

    def unanswered(self) -> list[ChannelUser]:
        """The users of channels that the server was asked for, and has neither opened nor refused."""
        return self._channels.unanswered()

    def release(self, user: ChannelUser) -> None:
        """
        Close the channel of *user*, one of the `unanswered`, as soon as it is open; *user* hears nothing of it any
        more, and is in state ``WAITING`` again: it may have a channel of another connection.
        """
        channel = self._channels.of(user)
        if channel is not None:
            self._give_up(channel)
            channel.user = Nobody()
            user.state = State.WAITING

    def probe(self) -> None:
        """Have the server send an answer: most answer global requests, if only to say that they do not know them."""
        self.transport.sendPacket(MSG_GLOBAL_REQUEST, NS(b"keepalive@openssh.com") + b"\1")

    def is_held(self) -> bool:
        """Whether something that has arrived may wait here to be read."""
        return self.transport.pace.holding

    def disconnect(self, reason: str) -> None:
        """End the connection, and every session on it."""
        self._lost_reason = reason
        self.transport.disconnect(reason)

    def give_up(self, reason: Text) -> None:
        """Close the connection at once, as its server has stopped doing its part."""
        self._lost_reason = reason
        self.transport.abort()

    # Hooks of SSHService

    def serviceStarted(self) -> None:
        self.transport.backpressure.on_drained = self._channels.send_waiting
        self.opened = self.clock.seconds()
        self.transport.on_unimplemented = self._probe_answered
        judge_by_tcp(self.transport.transport, self._keepalive_interval)
        self._keepalive = Keepalive(self.clock, self, self._channels, self._keepalive_interval)
        self._leftovers = Leftovers(self.clock, self._channels.executing, self.probe, self.is_held)

    def serviceStopped(self) -> None:
        self.transport.backpressure.on_drained = self.transport.on_unimplemented = None
        self._closes.stop()
        if self._keepalive is not None and self._leftovers is not None:
            self._keepalive.stop()
            self._leftovers.stop()
        self._keepalive = self._leftovers = None
        interrupted: list[ChannelUser] = []
        ended: list[ChannelUser] = []
        theirs = not self._lost_reason and not self.transport.at_fault
        if theirs and self.clock.seconds() - self._session_ended <= TOGETHER:
            self.ended_with_session = True
        for channel in self._channels.clear():
            user = channel.user
            if theirs and isinstance(user, Session) and user.exit.status is not None:
                self.ended_with_session = True
            if user.state is State.OPENING:
                user.state = State.WAITING
            channel.close_sent = True
            if user.survives(channel.eof):
                ended.append(user)
            else:
                interrupted.append(user)
        # The owner first: a user that hears of its end may want to start something else, and must not get it here.
        self._owner.connection_lost(self, interrupted, self._lost_reason or self.transport.lost_reason)
        for user in ended:
            user.ended()

    def packetReceived(self, message: int, packet: bytes) -> None:
        self._heard += 1
        handler = self._handlers.get(message)
        if handler is not None:
            handler(self, packet)
        else:  # left over are the answers to our probes
            self._probe_answered()

    def _probe_answered(self) -> None:
        self.answers_probes = True
        if self._leftovers is not None:
            self._leftovers.answered = True

    # Messages of the server, one method each

    def _open_confirmed(self, packet: bytes) -> None:
        channel = self._channels.opening(packet)
        _number, channel.remote, channel.remote_window, max_packet = _UINT32_4.unpack_from(packet)
        channel.max_packet = min(max_packet, MAX_PACKET)
        if channel.close_sent:  # given up while it was being opened
            channel.send_close()
            self._owner.connection_answers(self)
            return
        user = channel.user
        if max_packet < MIN_PACKET and (user.stdin or user.stdin_open):
            # At a byte a packet, a megabyte would keep the relay busy for ten seconds.
            self._give_up(channel)
            channel.user = Nobody()
            user.state = State.WAITING
            self._owner.not_usable(self, user, max_packet)
            return
        user.when_permitted(partial(self._begin, channel))

    def _begin(self, channel: Channel) -> None:
        """Use a channel that is open."""
        if channel.close_sent:  # given up, or closed by the server, while there was no permission yet
            return
        user = channel.user
        if isinstance(user, Session):
            self._channels.executing[user] = channel
        for request in user.opened():
            channel.send_request(request)
        channel.finished = not user.stdin_open
        channel.send(user.stdin)

    def _open_refused(self, packet: bytes) -> None:
        channel = self._channels.opening(packet)
        self._channels.remove(channel)
        channel.user.state = State.WAITING
        code = _UINT32.unpack_from(packet, 4)[0]
        self._owner.session_refused(self, channel.user, code, printable_bytes(getNS(packet[8:])[0]))

    def _window_adjusted(self, packet: bytes) -> None:
        channel = self._channels.opened_or_closed(packet)
        if channel is not None:
            channel.window_adjusted(_UINT32.unpack_from(packet, 4)[0])

    def _exec_accepted(self, packet: bytes) -> None:
        channel = self._channels.opened_or_closed(packet)
        if channel is not None:
            user = channel.user
            user.exec_answered(True)
            # Not so when it is the terminal that was granted.
            self.has_run = self.has_run or user.state is not State.STARTING

    def _exec_refused(self, packet: bytes) -> None:
        channel = self._channels.opened_or_closed(packet)
        if channel is not None and not channel.user.exec_answered(False):
            self._give_up(channel)
            user = channel.user
            if isinstance(user, Session) and user.said_nothing and not user.terminal_refused:
                user.state = State.WAITING
                if self._owner.exec_refused(self, user):
                    self._channels.executing.pop(user, None)
                    channel.user = Nobody()
                    return
                user.state = State.STARTING
            # Some servers leave it at that, and nothing else is to come of the channel.
            user.ended()

    def _data(self, packet: bytes) -> None:
        self._channels.opened(packet).received(packet[8:], False)

    def _extended_data(self, packet: bytes) -> None:
        channel = self._channels.opened(packet)
        if _UINT32.unpack_from(packet, 4)[0] == EXTENDED_DATA_STDERR:
            channel.received(packet[12:], True)
        else:
            channel.account(len(packet) - 12, 0)

    def _channel_request(self, packet: bytes) -> None:
        channel = self._channels.opened_or_closed(packet)
        if channel is None:
            return
        end = 8 + int(_UINT32.unpack_from(packet, 4)[0])
        name, rest = packet[8:end], packet[end:]
        channel.user.request_received(name, rest[1:])
        if name.startswith(b"exit-") and self._leftovers is not None:
            self._leftovers.expect()
        if rest[:1] != b"\0" and not channel.close_sent:  # such as OpenSSH's own probes
            self.transport.flood_limit.count_request()
            channel.send_failure()

    def _eof(self, packet: bytes) -> None:
        self._channels.opened(packet).eof = True

    def _close_received(self, packet: bytes) -> None:
        channel = self._channels.opened(packet)
        self._channels.remove(channel)
        given_up = channel.close_sent
        if not given_up:
            channel.close_sent = True
            self._closes.add(channel)
        user = channel.user
        if isinstance(user, Session) and user.exit.status is not None:
            self._session_ended = self.clock.seconds()
        if user.state is State.OPENING and not given_up:  # it was not used yet
            user.state = State.WAITING
            self._owner.session_refused(self, user, 0, "it closed the session again")
            return
        # The owner first: a user that hears of its end may start the next command at once, and needs the place.
        self._owner.session_closed(self, user)
        if user.state in (State.STARTING, State.RUNNING):
            user.ended()

    def _give_up(self, channel: Channel) -> None:
        """Close a channel, now or as soon as it is open."""
        if not channel.close_sent:
            channel.close_sent = True
            channel.given_up = self.clock.seconds()
            if channel.remote >= 0:
                channel.send_close()

    def _channel_offered(self, packet: bytes) -> None:
        decline_channel(self.transport, packet)

    def _global_request(self, packet: bytes) -> None:
        decline_request(self.transport, packet)

    #: By message; of the class, as a bound method of each would take its place in every connection.
    _handlers: ClassVar[dict[int, Callable[[ClientConnection, bytes], None]]] = {
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
        MSG_CHANNEL_OPEN: _channel_offered,
    }
