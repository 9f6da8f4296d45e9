"""
Whether the server at the other end of a connection is still there: it is probed while it says nothing.
"""

from __future__ import annotations

from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from relayd.language.texts import Text
from relayd.ssh.channels.table import ChannelTable
from relayd.ssh.transport.transport import ClientTransport

#: Probes without an answer after which the server counts as gone.
MAX_MISSED_PROBES = 2
#: Seconds after which the keys are renewed (RFC 4253, section 9).
REKEY_AFTER = 3600.0


class Probed(Protocol):
    """
    A connection that is probed.

    :ivar heard: packets that have come.
    """

    heard: int
    transport: ClientTransport

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
        self._call: IDelayedCall | None = clock.callLater(interval, self._look)

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
        else:
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
