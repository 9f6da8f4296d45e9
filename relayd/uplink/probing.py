"""
Which dialect a main server speaks: the attempts that find out, and what to say when none of them gets through.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from msgspec import Struct

from relayd.errors import (
    DialectMismatch,
    NeitherDialect,
    RelayError,
    UplinkBusy,
    UplinkLost,
    UplinkRefused,
    UplinkTimeout,
    UplinkUnreachable,
)
from relayd.uplink.connection import Outcome
from relayd.uplink.stages import Stage
from relayd.wire.dialects.socketio import NAME as SOCKETIO

#: Seconds for the handshake of the first dialect while it is not known which is spoken: silence is an answer then.
SHORT: Final = 5.0
_BAD_REQUEST: Final = 400
# RFC 6585: one request more is what it does not want
_TOO_MANY: Final = 429

#: Where nothing has been said in the dialect yet, or not enough.
_EARLY: Final = (Stage.UPGRADING, Stage.GREETING)

#: Failures in a row after which the dialect that the main server spoke may no longer be the one that it speaks.
DOUBT: Final = 3


#: Answers to the request for a WebSocket that say nothing of WebSockets: an HTTP request would get the same.
_NO_HELP: Final = frozenset((401, 404, 407, 410, 414, _TOO_MANY))


class Attempt(Struct, frozen=True):
    """
    :ivar short: whether it may take `SHORT` only.
    :ivar polling: by HTTP long-polling instead of a WebSocket.
    """

    dialect: str
    short: bool = False
    polling: bool = False

    def __str__(self) -> str:
        return f"{self.dialect} by HTTP long-polling" if self.polling else self.dialect


class Probing:
    """
    One round of attempts.

    :param dialects: to try, in this order.
    :param known: whether the first of them is known to be spoken.
    :param served: whether a WebSocket served in it before, and not long ago: then no other transport is thought of.
    :param polled: whether HTTP long-polling is what served last.
    """

    def __init__(
        self, server: str, dialects: Sequence[str], *, known: bool, served: bool = False, polled: bool = False
    ) -> None:
        self._server = server
        self._dialects = dialects
        self._known = known
        self._served = served
        self._polled = polled
        #: Whether another dialect is worth a try; whether polling is, and whether it is the likely way.
        self._other = True
        self._blocked = False
        self._certain = False
        #: What became of each way, as far as the latest attempt on it tells.
        self._errors: dict[str, RelayError] = {}

    def attempts(self) -> Iterator[Attempt]:
        """What to try next; ask only after `ended` said to go on."""
        first, *others = self._dialects
        if self._polled:
            yield Attempt(SOCKETIO, polling=True)
        yield Attempt(first, short=bool(others) and not self._known)
        if self._certain:
            yield Attempt(SOCKETIO, short=bool(others) and not self._known, polling=True)
        for each in others if self._other else ():
            yield Attempt(each)
        # No other dialect is spoken: then its silence was no answer, and it may only be slow.
        if others and self._other and not self._known and isinstance(self._errors[first], UplinkTimeout):
            yield Attempt(first)
        if self._blocked and not self._certain and not self._polled:
            yield Attempt(SOCKETIO, polling=True)

    def ended(self, attempt: Attempt, outcome: Outcome) -> bool:
        """Whether the main server may still speak a dialect, be slow in one, or be reached another way."""
        self._errors[str(attempt)] = outcome.error
        if attempt.polling:
            return outcome.stage in _EARLY
        self._other = self._may_be_other(outcome)
        if attempt.dialect == SOCKETIO:
            self._blocked = not self._served and not self._polled and _stops_websockets(outcome)
            self._certain = self._certain or (self._blocked and _offers_none(outcome))
        return self._other or (attempt.dialect == SOCKETIO and self._blocked)

    def _may_be_other(self, outcome: Outcome) -> bool:
        if isinstance(outcome.error, DialectMismatch):
            return True
        # A server that says nothing at all, hangs up on the request, or fails at a path that it may not even know, is
        # worth a try in the other dialect.
        return (
            not self._known
            and not outcome.recognised
            and outcome.stage in _EARLY
            and isinstance(outcome.error, UplinkTimeout | UplinkLost | UplinkRefused | UplinkUnreachable | UplinkBusy)
            and outcome.error.fields.get("status") != _TOO_MANY
        )

    def unreachable(self, attempt: Attempt, error: RelayError) -> None:
        """There was no connection at all."""
        self._errors[str(attempt)] = error

    def error(self) -> RelayError:
        """Why there is no connection: of each dialect that was tried how far it came."""
        errors = list(self._errors.values())
        if len({str(error) for error in errors}) == 1:
            return errors[0]
        # A refusal, or a plea to stay away, tells more than that the other dialect is not spoken.
        decisive = next((error for error in errors if isinstance(error, UplinkRefused | UplinkBusy)), errors[0])
        words = "; ".join(f"{dialect}: {str(error).rstrip('.')}" for dialect, error in self._errors.items())
        return NeitherDialect(server=self._server, attempts=words, decisive=decisive)


def _stops_websockets(outcome: Outcome) -> bool:
    """
    Whether the main server, or something before it, may have no use for WebSockets only: it refuses to open one, drops
    it, or lets nothing through.
    """
    if outcome.stage is Stage.GREETING:
        return not outcome.recognised and isinstance(outcome.error, UplinkTimeout | UplinkLost | UplinkRefused)
    if outcome.stage is not Stage.UPGRADING or isinstance(outcome.error, UplinkBusy):
        return False
    status = outcome.status
    if status is None:  # silence, or a connection that is dropped
        return True
    return status not in _NO_HELP and (200 <= status < 300 or status >= 400)


def _offers_none(outcome: Outcome) -> bool:
    """
    Whether it is what Engine.IO servers do that have no WebSockets to offer: they answer with 400, or what runs them
    (gevent) opens a WebSocket, whatever is asked for, and closes it without a word.
    """
    closed = outcome.stage is Stage.GREETING and isinstance(outcome.error, UplinkLost | UplinkRefused)
    return closed or outcome.status == _BAD_REQUEST
