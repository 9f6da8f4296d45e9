"""
Finds out which dialect a main server speaks: the attempts of one round, and what to say when all of them fail.
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

#: Seconds for the handshake of the first dialect while the dialect is not known: silence is an answer then.
SHORT: Final = 5.0
_BAD_REQUEST: Final = 400
# RFC 6585: the server does not want one more request
_TOO_MANY: Final = 429

#: The stages in which nothing has been said in the dialect yet, or not enough to recognise it.
_EARLY: Final = (Stage.UPGRADING, Stage.GREETING)

#: Failures in a row after which the main server may speak another dialect than before.
DOUBT: Final = 3

#: Statuses that say nothing about WebSockets: an ordinary HTTP request would get the same.
_NO_HELP: Final = frozenset((401, 404, 407, 410, 414, _TOO_MANY))


class Attempt(Struct, frozen=True):
    """
    One attempt to connect.

    :ivar short: whether the handshake may take only `SHORT`.
    :ivar polling: whether it uses HTTP long-polling instead of a WebSocket.
    """

    dialect: str
    short: bool = False
    polling: bool = False

    def __str__(self) -> str:
        return f"{self.dialect} by HTTP long-polling" if self.polling else self.dialect


class Probing:
    """
    One round of attempts.

    :param server: the main server's name in errors.
    :param dialects: to try, in this order.
    :param known: whether the main server is known to speak the first of them.
    :param served: whether a WebSocket worked in it not long ago: then no other transport is tried.
    :param polled: whether the last connection that worked was HTTP long-polling.
    """

    def __init__(
        self, server: str, dialects: Sequence[str], *, known: bool, served: bool = False, polled: bool = False
    ) -> None:
        self._server = server
        self._dialects = dialects
        self._known = known
        self._served = served
        self._polled = polled
        #: Whether another dialect is worth an attempt.
        self._other = True
        #: Whether polling is worth an attempt, and whether that comes before another dialect.
        self._blocked = False
        self._certain = False
        #: How the latest attempt of each kind failed.
        self._errors: dict[str, RelayError] = {}

    def attempts(self) -> Iterator[Attempt]:
        """What to try next; ask for another one only where `note_outcome` said so."""
        first, *others = self._dialects
        if self._polled:
            yield Attempt(SOCKETIO, polling=True)
        yield Attempt(first, short=bool(others) and not self._known)
        if self._certain:
            yield Attempt(SOCKETIO, short=bool(others) and not self._known, polling=True)
        for each in others if self._other else ():
            yield Attempt(each)
        # No other dialect is spoken: the server's silence was not an answer, and the server may just be slow.
        if others and self._other and not self._known and isinstance(self._errors[first], UplinkTimeout):
            yield Attempt(first)
        if self._blocked and not self._certain and not self._polled:
            yield Attempt(SOCKETIO, polling=True)

    def note_outcome(self, attempt: Attempt, outcome: Outcome) -> bool:
        """
        A connection has ended.

        :return: whether another attempt makes sense: in another dialect, with more time, or over another transport.
        """
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
        # A server that says nothing, hangs up, or fails at a path that it may not know may speak the other dialect.
        return (
            not self._known
            and not outcome.recognised
            and outcome.stage in _EARLY
            and isinstance(outcome.error, UplinkTimeout | UplinkLost | UplinkRefused | UplinkUnreachable | UplinkBusy)
            and outcome.error.fields.get("status") != _TOO_MANY
        )

    def note_unreachable(self, attempt: Attempt, error: RelayError) -> None:
        """No TCP connection came about."""
        self._errors[str(attempt)] = error

    def error(self) -> RelayError:
        """Why there is no connection: how far each attempt came."""
        errors = list(self._errors.values())
        if len({str(error) for error in errors}) == 1:
            return errors[0]
        # A refusal, or a request to stay away, says more than that the other dialect is not spoken.
        decisive = next((error for error in errors if isinstance(error, UplinkRefused | UplinkBusy)), errors[0])
        words = "; ".join(f"{dialect}: {str(error).rstrip('.')}" for dialect, error in self._errors.items())
        return NeitherDialect(server=self._server, attempts=words, decisive=decisive)


def _stops_websockets(outcome: Outcome) -> bool:
    """
    Whether the main server, or something in front of it, may stop WebSockets and let other requests pass: it refuses to
    open one, drops it, or lets nothing through.
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
    Whether the main server behaves like an Engine.IO server without WebSockets: it answers 400, or its web server
    (gevent) opens any WebSocket and closes it at once.
    """
    closed = outcome.stage is Stage.GREETING and isinstance(outcome.error, UplinkLost | UplinkRefused)
    return closed or outcome.status == _BAD_REQUEST
