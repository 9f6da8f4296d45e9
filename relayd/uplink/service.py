"""
Keeps one connection to the main server: dials, stays, waits, dials again, in the dialect that the server speaks.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure

from relayd.errors import RelayError, UplinkDisplaced, UplinkLost, UplinkRefused, UplinkRenewed, UplinkUnreachable
from relayd.interfaces import ICommandReceiver
from relayd.language.texts import span
from relayd.uplink.connection import Outcome, UplinkConnection
from relayd.uplink.dialer import UplinkDialer
from relayd.uplink.endpoint import unused_proxy
from relayd.uplink.idle import ALIKE, IdleWatch
from relayd.uplink.message_limit import MessageLimit
from relayd.uplink.presence import Presence, told_of
from relayd.uplink.probing import DOUBT, SHORT, Attempt, Probing
from relayd.uplink.retry import RetryPolicy
from relayd.uplink.settings import ConnectionSettings, ServerAddress, UplinkSettings
from relayd.uplink.stages import Stage, Timing
from relayd.uplink.wire import Wire
from relayd.wire.dialects import native, socketio
from relayd.wire.messages import Secret

_DIALECTS: Final = (socketio.NAME, native.NAME)

#: A session that was lost sooner than this many seconds after its move to a WebSocket keeps the next ones with polling,
#: for so many seconds: something in between may let WebSockets through and then end them.
SHORT_LIVED: Final = 60.0
STAY_POLLING: Final = 3600.0


class UplinkStatus(Struct, frozen=True, kw_only=True):
    """
    Whether the relay is connected to the main server, and why not.

    :ivar accepted: whether the main server has really accepted this relay, and the connection lives.
    :ivar dialect: the dialect of that connection; ``None`` without one.
    :ivar since: when *accepted* changed, in seconds of the reactor's clock.
    :ivar losses: attempts that failed and connections that were lost, so far.
    :ivar last_error: why the last attempt or connection failed, since one was accepted.
    """

    accepted: bool = False
    dialect: str | None = None
    since: float = 0.0
    losses: int = 0
    last_error: str | None = None


class UplinkService(Service):
    """
    The connection to the main server, kept for as long as the service runs.

    :param reactor: clock and network.
    :param receiver: hears what the main server orders.
    :param on_accepted: is called when the main server has accepted the relay, before the receiver hears of any command:
        a connection that is closed in it takes none.
    :param timing: deadlines that differ from the usual ones.
    :ivar status: whether there is a connection now.
    :ivar ignored: messages of the main server, so far, that relayd did not use.
    """

    _log = Logger("relayd.uplink")

    def __init__(
        self,
        reactor: Any,
        receiver: ICommandReceiver,
        settings: UplinkSettings,
        on_accepted: Callable[[UplinkConnection], None] | None = None,
        timing: Timing | None = None,
    ) -> None:
        self.setName("uplink")
        self._on_accepted = on_accepted
        self._timing = timing or Timing()
        self._reactor = reactor
        self._receiver = receiver
        self._settings = settings
        self._address = ServerAddress.of(settings.server)
        source = random.Random()
        self._retry = RetryPolicy(settings.reconnect_delay, source)
        self._presence = Presence(source)
        self._renewal: IDelayedCall | None = None
        #: The key that the main server accepted last, and how long that connection lived, in seconds.
        self._accepted_key: Secret | None = None
        self._lived = 0.0
        #: The dialect in which the main server accepted the relay last.
        self._known: str | None = None if settings.dialect == "auto" else settings.dialect
        #: Attempts without success since then.
        self._failures = 0
        #: Whether that connection was a WebSocket, and whether it was HTTP long-polling.
        self._served = False
        self._polled = False
        #: Until when a polling session does not move to a WebSocket.
        self._no_upgrade_until = 0.0
        #: Whether the attempt that is under way is by HTTP long-polling.
        self._polled_now = False
        #: What is known of the largest message that the main server takes, by dialect.
        self._limits = {name: MessageLimit(reactor, str(self._address)) for name in _DIALECTS}
        self._idle = IdleWatch()
        self._connection: UplinkConnection | None = None
        self.status = UplinkStatus()
        self.ignored = 0
        self._life: Deferred[None] | None = None

    def startService(self) -> None:
        """Dial the main server, now and each time that the connection ends."""
        super().startService()
        if unused := unused_proxy(self._address, self._settings):
            self._log.info("{words}", words=unused)
        self._life = Deferred.fromCoroutine(self._live())

    def configure(self, settings: UplinkSettings) -> None:
        """Use other settings from the next connection on; main server, name there and dialect must be the same."""
        self._settings = settings
        self._retry.delay = settings.reconnect_delay

    def stopService(self) -> Deferred[None]:
        """
        Close the connection.

        :return: fires when the connection is gone, after 5 s at most.
        """
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        life, self._life = self._life, None
        if life is None:
            return
        if self._connection is not None:
            self._connection.close()
        else:
            life.addErrback(_ignore_cancellation)
            life.cancel()
        await life

    async def _live(self) -> None:
        while self.running:
            error = await self._connect_and_stay()
            if not self.running:
                return
            delay = self._retry.delay_after(error, self._lived)
            self.status = replace(self.status, losses=self.status.losses + 1, last_error=str(error))
            self._log.warn("{reason} Next attempt in {span}.", reason=_sentence(error), span=span(delay), delay=delay)
            await deferLater(self._reactor, delay)

    async def _connect_and_stay(self) -> RelayError:
        """
        Make one round of attempts, in each dialect that the main server may speak, and stay connected.

        :return: why there is no connection any more.
        """
        server = str(self._address)
        known = self._known is not None and self._failures < DOUBT
        served = self._served and self._failures < DOUBT
        probing = Probing(server, self._candidates(), known=known, served=served, polled=self._polled)
        self._polled = False  # until it serves again
        self._failures += 1  # until it is accepted
        try:
            key = self._settings.read_api_key()
            dialer = UplinkDialer(self._reactor, self._settings, key, self._settings.read_headers())
            for attempt in probing.attempts():
                try:
                    outcome = self._without_displacement(await self._make_attempt(attempt, dialer), key)
                except UplinkUnreachable as error:
                    probing.note_unreachable(attempt, error)
                    break
                self._note_silence(outcome)
                if not self.running or not probing.note_outcome(attempt, outcome):
                    return outcome.error
            return probing.error()
        except CancelledError:
            raise
        except RelayError as error:
            return error
        except Exception:
            self._log.failure("Internal error: an attempt to reach {server} failed", server=server)
            return UplinkUnreachable(server=server, reason="an internal error, which the log describes")

    def _timing_of(self, attempt: Attempt) -> Timing:
        timing = replace(self._timing, handshake=SHORT) if attempt.short else self._timing
        if (pings := self._idle.ping_interval) is None:
            return timing
        return replace(timing, own_pings=pings, ping_interval=min(pings, timing.ping_interval))

    def _note_silence(self, outcome: Outcome) -> None:
        if self._idle.note_end(outcome.silence):
            self._log.warn(
                "Something between this relay and {server} seems to close idle connections: the last {number} ended "
                "after {silence} of silence. From now on relayd sends a ping every {pings}.",
                server=str(self._address),
                number=ALIKE,
                silence=span(self._idle.seconds or 0.0),
                pings=span(self._idle.ping_interval or 0.0),
            )

    def _without_displacement(self, outcome: Outcome, key: Secret) -> Outcome:
        """*outcome*, in which a key that the main server has just accepted is not taken for a wrong one."""
        if outcome.stage is Stage.ACCEPTED:
            self._accepted_key = key
        elif (
            outcome.stage is Stage.PROBATION and isinstance(outcome.error, UplinkRefused) and self._accepted_key == key
        ):
            error = UplinkDisplaced(server=str(self._address), reason=outcome.error.fields["reason"])
            return replace(outcome, error=error)
        return outcome

    def _candidates(self) -> list[str]:
        """The dialects to try, in this order."""
        if self._settings.dialect != "auto":
            return [self._settings.dialect]
        return sorted(_DIALECTS, key=lambda name: name != (self._known or socketio.NAME))

    async def _make_attempt(self, attempt: Attempt, dialer: UplinkDialer) -> Outcome:
        """Make one connection, and stay with it to its end."""
        self._log.info(
            "Connecting to {server} as {proxy_id} ({dialect})",
            server=str(self._address),
            proxy_id=self._settings.proxy_id,
            dialect=str(attempt),
        )
        self._polled_now = attempt.polling
        connection = await dialer.dial(
            attempt,
            lambda wire: self._make_connection(wire, attempt, dialer),
            upgrades=self._reactor.seconds() >= self._no_upgrade_until,
        )
        self._connection = connection
        try:
            return self._upgraded_in_vain(connection, await connection.finished)
        finally:
            self._connection = None
            self._cancel_renewal()
            now = self._reactor.seconds()
            self._lived = now - self.status.since if self.status.accepted else 0.0
            self.status = replace(self.status, accepted=False, dialect=None, since=now)

    def _make_connection(self, wire: Wire, attempt: Attempt, dialer: UplinkDialer) -> UplinkConnection:
        settings = ConnectionSettings(
            server=str(self._address),
            path=dialer.path(attempt.dialect),
            timing=self._timing_of(attempt),
            max_result=self._settings.max_result,
            defer_to_thread=self._defer_to_thread,
            translate=self._settings.translate,
            quote=dialer.quote,
        )
        dialect, limit = dialer.make_dialect(attempt.dialect), self._limits[attempt.dialect]
        return UplinkConnection(self._reactor, wire, dialect, self._receiver, self, limit, settings)

    def _upgraded_in_vain(self, connection: UplinkConnection, outcome: Outcome) -> Outcome:
        """*outcome*; where the session was lost soon after it moved to a WebSocket, the next ones stay with polling."""
        now, moved = self._reactor.seconds(), connection.link.upgraded_at
        if moved is not None and now < moved + SHORT_LIVED and isinstance(outcome.error, UplinkLost):
            self._no_upgrade_until = now + STAY_POLLING
        return outcome

    def _defer_to_thread(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), function, *args)

    # From the connection (relayd.uplink.connection.UplinkConnectionOwner)

    def on_connection_ready(self, connection: UplinkConnection) -> None:
        self._presence.connected(self._reactor.seconds())
        self._log.info(
            "Connected to {server} as {proxy_id} ({dialect})",
            server=str(self._address),
            proxy_id=self._settings.proxy_id,
            dialect=connection.dialect.name,
        )

    def on_message_ignored(self, connection: UplinkConnection) -> None:
        self.ignored += 1

    def on_connection_accepted(self, connection: UplinkConnection) -> None:
        self._known, self._failures = connection.dialect.name, 0
        self._polled = self._polled_now
        self._served = not self._polled
        self.status = replace(
            self.status, accepted=True, dialect=self._known, since=self._reactor.seconds(), last_error=None
        )
        self._retry.accepted()
        if self._on_accepted is not None:
            self._on_accepted(connection)

    def on_status_update(self, connection: UplinkConnection, data: object) -> None:
        online = told_of(data, self._settings.proxy_id)
        if online is None or connection is not self._connection:
            return
        now = self._reactor.seconds()
        if online:
            self._cancel_renewal()
            if self._presence.came_online(now):
                self._log.warn(
                    "{server} says that {proxy_id} came online while this relay was online already: another relay may "
                    "use this name",
                    server=str(self._address),
                    proxy_id=self._settings.proxy_id,
                )
        elif self._renewal is None:
            pause = self._presence.went_offline(now, self._retry.delay)
            self._log.info(
                "{server} says that {proxy_id} is offline. If it sends no command within {span}, relayd connects again",
                server=str(self._address),
                proxy_id=self._settings.proxy_id,
                span=span(pause),
            )
            self._renewal = self._reactor.callLater(pause, self._renew, connection, connection.orders.commands)

    def _cancel_renewal(self) -> None:
        """The connection need not be renewed, or there is none."""
        renewal, self._renewal = self._renewal, None
        if renewal is not None:
            renewal.cancel()

    def _renew(self, connection: UplinkConnection, commands: int) -> None:
        self._renewal = None
        if connection.orders.commands == commands:  # a relay that gets commands is not offline
            # Its end, when the main server notices it, drops the row of this relay. So it comes before the next one.
            connection.close(UplinkRenewed(server=str(self._address), settle=self._presence.settle))


def _ignore_cancellation(failure: Failure) -> None:
    failure.trap(CancelledError)


def _sentence(error: RelayError) -> str:
    text = str(error)
    return text if text.endswith(".") else text + "."
