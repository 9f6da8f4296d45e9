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
from relayd.uplink.machine import Stage

#: Seconds for the handshake of the first dialect while it is not known which is spoken: silence is an answer then.
SHORT: Final = 5.0
# RFC 6585: one request more is what it does not want
_TOO_MANY: Final = 429

#: Failures in a row after which the dialect that the main server spoke may no longer be the one that it speaks.
DOUBT: Final = 3


class Attempt(Struct, frozen=True):
    """
    :ivar short: whether it may take `SHORT` only.
    """

    dialect: str
    short: bool = False


class Probing:
    """
    One round of attempts.

    :param dialects: to try, in this order.
    :param known: whether the first of them is known to be spoken.
    """

    def __init__(self, server: str, dialects: Sequence[str], *, known: bool) -> None:
        self._server = server
        self._dialects = dialects
        self._known = known
        #: What became of each dialect, as far as the latest attempt in it tells.
        self._errors: dict[str, RelayError] = {}

    def attempts(self) -> Iterator[Attempt]:
        """What to try next; ask only after `ended` said to go on."""
        first, *others = self._dialects
        yield Attempt(first, short=bool(others) and not self._known)
        for each in others:
            yield Attempt(each)
        # No other dialect is spoken: then its silence was no answer, and it may only be slow.
        if others and not self._known and isinstance(self._errors[first], UplinkTimeout):
            yield Attempt(first)

    def ended(self, attempt: Attempt, outcome: Outcome) -> bool:
        """Whether the main server may still speak a dialect, or be slow in one."""
        self._errors[attempt.dialect] = outcome.error
        if isinstance(outcome.error, DialectMismatch):
            return True
        # A server that says nothing at all, hangs up on the request, or fails at a path that it may not even know, is
        # worth a try in the other dialect.
        return (
            not self._known
            and not outcome.recognised
            and outcome.stage in (Stage.UPGRADING, Stage.GREETING)
            and isinstance(outcome.error, UplinkTimeout | UplinkLost | UplinkRefused | UplinkUnreachable | UplinkBusy)
            and outcome.error.fields.get("status") != _TOO_MANY
        )

    def unreachable(self, attempt: Attempt, error: RelayError) -> None:
        """There was no connection at all."""
        self._errors[attempt.dialect] = error

    def error(self) -> RelayError:
        """Why there is no connection: of each dialect that was tried how far it came."""
        errors = list(self._errors.values())
        if len(errors) == 1:
            return errors[0]
        # A refusal, or a plea to stay away, tells more than that the other dialect is not spoken.
        decisive = next((error for error in errors if isinstance(error, UplinkRefused | UplinkBusy)), errors[0])
        words = "; ".join(f"{dialect}: {str(error).rstrip('.')}" for dialect, error in self._errors.items())
        return NeitherDialect(server=self._server, attempts=words, decisive=decisive)
