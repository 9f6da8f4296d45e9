"""
Whether the server at the other end of a connection is still there: it is probed while it says nothing.

Some servers never answer a probe, and live on. So a server is judged by probes only after it has answered one; for all
others the kernel asks the other machine's (`judge_by_tcp`), as far as it is the host's: a jump host's answers for those
behind it.
"""

from __future__ import annotations

import socket
from typing import Final, Protocol, cast

from twisted.internet.interfaces import IDelayedCall, IReactorTime, ISystemHandle

from relayd.language.texts import Text
from relayd.ssh.channels.table import ChannelTable
from relayd.ssh.transport.transport import ClientTransport

#: Probes without an answer after which the server counts as gone.
MAX_MISSED_PROBES = 2
#: Seconds until the first probe, by which it is soon known whether a server answers them.
FIRST_PROBE = 1.0
#: Seconds after which the keys are renewed (RFC 4253, section 9).
REKEY_AFTER = 3600.0


class Probed(Protocol):
    """
    A connection that is probed.

    :ivar heard: packets that have come.
    :ivar answers_probes: whether the server has answered one.
    """

    answers_probes: bool
    transport: ClientTransport

    @property
    def heard(self) -> int: ...

    def probe(self) -> None:
        """Have the server send an answer."""

    def give_up(self, reason: Text) -> None:
        """Close the connection at once, as its server has stopped doing its part."""


class Keepalive:
    """
    The timer of one connection: probes its server, gives it up, renews its keys.

    :param channels: those of the connection.
    :param interval: seconds between two probes.
    """

    __slots__ = ("_call", "_channels", "_clock", "_connection", "_heard", "_interval", "_missed", "_rekey_at")

    def __init__(self, clock: IReactorTime, connection: Probed, channels: ChannelTable, interval: float) -> None:
        self._clock = clock
        self._connection = connection
        self._channels = channels
        self._interval = interval
        self._heard = 0
        self._missed = 0
        self._rekey_at = clock.seconds() + REKEY_AFTER
        self._call: IDelayedCall | None = clock.callLater(min(FIRST_PROBE, interval), self._look)

    def stop(self) -> None:
        """The connection is gone: probe no more."""
        call, self._call = self._call, None
        if call is not None:
            call.cancel()

    def _look(self) -> None:
        self._call = None
        connection = self._connection
        connection.transport.reset_flood_limit()
        if connection.heard != self._heard:
            self._heard = connection.heard
            self._missed = 0
        elif connection.answers_probes:
            self._missed += 1
        if self._missed >= MAX_MISSED_PROBES:
            connection.give_up(Text("it stopped answering"))
            return
        # Channels that the server neither opens nor closes would take up their places for as long as it answers probes.
        if self._channels.all_given_up(self._clock.seconds() - MAX_MISSED_PROBES * self._interval):
            connection.give_up(Text("it did not close channels that were given up"))
            return
        if self._clock.seconds() >= self._rekey_at:
            self._rekey_at += REKEY_AFTER
            connection.transport.renew_keys()
        connection.probe()
        self._call = self._clock.callLater(self._interval, self._look)


#: The options of a socket that `judge_by_tcp` sets, by their names in `socket`: not every system has all of them.
_TCP_OPTIONS: Final = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")


def judge_by_tcp(tcp: object, interval: float) -> None:
    """
    Have the kernel end a connection when the other machine acknowledges nothing any more, as soon as probes would.

    :param tcp: below the transport; nothing is done where it is no socket of this machine.
    :param interval: seconds between two probes.
    """
    if not ISystemHandle.providedBy(tcp):
        return
    pause = max(1, round(interval))
    # tcp(7): seconds, seconds, a number, milliseconds
    values = (pause, pause, MAX_MISSED_PROBES, round((MAX_MISSED_PROBES + 1) * max(1.0, interval) * 1000))
    handle = cast(socket.socket, tcp.getHandle())
    for name, value in zip(_TCP_OPTIONS, values, strict=True):
        option = getattr(socket, name, None)
        if option is not None:
            handle.setsockopt(socket.IPPROTO_TCP, option, value)
