"""
What earlier connections have taught about the main server: the next ones are made accordingly.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from relayd.errors import UplinkDisplaced, UplinkLost, UplinkRefused
from relayd.language.texts import span
from relayd.uplink.connection import Outcome
from relayd.uplink.idle import ALIKE, IdleWatch
from relayd.uplink.message_limit import MessageLimit
from relayd.uplink.probing import DOUBT, SHORT, Attempt, Probing
from relayd.uplink.stages import Stage, Timing
from relayd.wire.dialects import native, socketio
from relayd.wire.messages import Secret

_log = Logger("relayd.uplink")

#: A session that is lost sooner than this many seconds after its move to a WebSocket keeps the next ones with polling,
#: for so many seconds: something in between may let WebSockets through and then end them.
SHORT_LIVED: Final = 60.0
STAY_POLLING: Final = 3600.0

_DIALECTS: Final = (socketio.NAME, native.NAME)


class ServerProfile:
    """
    The dialect of one main server, its transports, the key that it accepts, its limits, and how long it may be idle.

    :param server: the main server's name in errors and logs.
    :param dialect: the only one to try; ``None``: each of them.
    """

    def __init__(self, clock: IReactorTime, server: str, dialect: str | None) -> None:
        self._clock = clock
        self._server = server
        self._dialects = _DIALECTS if dialect is None else (dialect,)
        #: The dialect in which the main server accepted the relay last.
        self._known = dialect
        #: The key that it accepted last.
        self._accepted_key: Secret | None = None
        #: Rounds of attempts without success since then.
        self._failures = 0
        #: Whether that connection was a WebSocket, and whether it was HTTP long-polling.
        self._served = False
        self._polled = False
        #: Until when a polling session does not move to a WebSocket.
        self._no_upgrade_until = 0.0
        self._limits = {name: MessageLimit(clock, server) for name in _DIALECTS}
        self._idle = IdleWatch()

    def begin_round(self) -> Probing:
        """Begin a round of attempts, in the dialects and over the transports that make sense now."""
        certain = self._failures < DOUBT
        dialects = sorted(self._dialects, key=lambda name: name != (self._known or socketio.NAME))
        known, served = self._known is not None and certain, self._served and certain
        probing = Probing(self._server, dialects, known=known, served=served, polled=self._polled)
        self._polled = False  # until it serves again
        self._failures += 1  # until the main server accepts the relay
        return probing

    def limit_of(self, dialect: str) -> MessageLimit:
        """What is known of the largest message that the main server takes in that dialect."""
        return self._limits[dialect]

    def timing_of(self, attempt: Attempt, usual: Timing) -> Timing:
        """The deadlines of *attempt*, with pings that keep the connection from being closed as idle."""
        timing = replace(usual, handshake=SHORT) if attempt.short else usual
        pings = self._idle.ping_interval
        if pings is None:
            return timing
        return replace(timing, own_pings=pings, ping_interval=min(pings, timing.ping_interval))

    @property
    def upgrades(self) -> bool:
        """Whether a polling session should move to a WebSocket."""
        return self._clock.seconds() >= self._no_upgrade_until

    def note_accepted(self, dialect: str, *, polling: bool) -> None:
        """The main server has accepted the relay in *dialect*; *polling*: by HTTP long-polling."""
        self._known, self._failures = dialect, 0
        self._polled, self._served = polling, not polling

    def note_end(self, outcome: Outcome, key: Secret, upgraded_at: float | None) -> Outcome:
        """
        A connection has ended.

        :param key: the API key that it was made with.
        :param upgraded_at: when it moved from polling to a WebSocket, by the clock.
        :return: *outcome*, in which a key that the main server has just accepted is not taken for a wrong one.
        """
        now = self._clock.seconds()
        if upgraded_at is not None and now < upgraded_at + SHORT_LIVED and isinstance(outcome.error, UplinkLost):
            self._no_upgrade_until = now + STAY_POLLING
        if self._idle.note_end(outcome.silence):
            self._warn_of_idle_limit()
        if outcome.stage is Stage.ACCEPTED:
            self._accepted_key = key
        turned_away = outcome.stage is Stage.PROBATION and isinstance(outcome.error, UplinkRefused)
        if not turned_away or self._accepted_key != key:
            return outcome
        error = UplinkDisplaced(server=self._server, reason=outcome.error.fields["reason"])
        return replace(outcome, error=error)

    def _warn_of_idle_limit(self) -> None:
        _log.warn(
            "Something between this relay and {server} seems to close idle connections: the last {number} ended "
            "after {silence} of silence. From now on relayd sends a ping every {pings}.",
            server=self._server,
            number=ALIKE,
            silence=span(self._idle.seconds or 0.0),
            pings=span(self._idle.ping_interval or 0.0),
        )
