"""
Whether what was sent on a connection may be why it ended: such a result should not be sent again as it is.
"""

from __future__ import annotations

from relayd.errors import DialectMismatch, ProtocolError, RelayError, UplinkRefused, UplinkSilent, UplinkStuck
from relayd.interfaces import Blame
from relayd.uplink import closing
from relayd.uplink.message_limit import MessageLimit, UnderWay, says_too_big


class EndInquiry:
    """
    What one connection learns about the reason for its end.

    :param limit: learns from the connection how large a message may be.
    :param under_way: the messages that the main server is not known to have read.
    """

    def __init__(self, limit: MessageLimit, under_way: UnderWay) -> None:
        self._limit = limit
        self._under_way = under_way
        self._leaving = False
        self._too_big: str | None = None

    def note_leaving(self) -> None:
        """This relay closes the connection."""
        self._leaving = True

    def note_close(self, code: int | None, reason: str) -> bool:
        """
        The main server closes the WebSocket.

        :return: whether it turns the relay away with that.
        """
        self._leaving = code in closing.LEAVING
        self._too_big = reason if says_too_big(code, reason, self._under_way.largest_meant()) else None
        return closing.refuses(code) and self._too_big is None

    def note_too_big(self, reason: str) -> None:
        """The main server has refused a message as too large, with *reason*."""
        self._too_big = reason

    def blame_for(self, error: RelayError, *, unsent: bool) -> Blame:
        """
        Whether a message may be why the connection ended with *error*; not if the next one gets smaller messages.

        :param unsent: whether some of what was sent has not left yet.
        """
        if self._leaving or isinstance(error, UplinkSilent | UplinkStuck | ProtocolError | DialectMismatch):
            return Blame.NONE
        if self._too_big is not None:
            smaller = self._limit.too_big(self._under_way.largest_meant(), self._too_big)
        else:
            smaller = self._limit.connection_lost(self._under_way.suspect(unsent=unsent))
        if smaller:
            return Blame.NONE
        return Blame.REFUSED if isinstance(error, UplinkRefused) else Blame.POSSIBLE
