"""
Keeps one connection to the main server: dials, stays, waits, dials again, in the dialect that the server speaks.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

from msgspec import Struct
from msgspec.structs import replace
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from relayd.errors import RelayError, UplinkUnreachable
from relayd.interfaces import ICommandReceiver
from relayd.language.texts import span
from relayd.network.threads import in_pool
from relayd.uplink.connection import Outcome, UplinkConnection
from relayd.uplink.dialer import UplinkDialer
from relayd.uplink.endpoint import end_of_own_certificate, unused_proxy
from relayd.uplink.probing import Attempt
from relayd.uplink.renewal import Renewals
from relayd.uplink.retry import RetryPolicy
from relayd.uplink.server_profile import ServerProfile
from relayd.uplink.settings import ConnectionSettings, LiveUplinkSettings, ServerAddress, UplinkSettings
from relayd.uplink.stages import Timing
from relayd.uplink.wire import Wire
from relayd.wire.messages import Secret

_log = Logger("relayd.uplink")


class UplinkStatus(Struct, frozen=True, kw_only=True):
    """
    Whether the relay is connected to the main server, and why not.

    :ivar accepted: whether the main server has really accepted this relay, and the connection lives.
    :ivar dialect: the dialect of that connection; ``None`` without one.
    :ivar since: when *accepted* changed, or the service started, in seconds of the reactor's clock.
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
        server, source = str(self._address), random.Random()
        self._retry = RetryPolicy(settings.reconnect_delay, source)
        self._renewals = Renewals(reactor, server, settings.proxy_id, source)
        self._profile = ServerProfile(reactor, server, None if settings.dialect == "auto" else settings.dialect)
        #: How long the last connection was accepted, in seconds.
        self._lived = 0.0
        #: Whether the attempt that is under way is by HTTP long-polling.
        self._polling = False
        self._connection: UplinkConnection | None = None
        self._server_end: float | None = None
        self.status = UplinkStatus()
        self.ignored = 0
        self._life: Deferred[None] | None = None

    def startService(self) -> None:
        """Dial the main server, now and each time that the connection ends."""
        super().startService()
        self.status = replace(self.status, since=self._reactor.seconds())
        if unused := unused_proxy(self._address, self._settings):
            _log.info("{words}", words=unused)
        self._life = Deferred.fromCoroutine(self._live())

    def configure(self, settings: LiveUplinkSettings) -> None:
        """Use other settings from the next connection on."""
        self._settings = self._settings.changed(settings)
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
            _log.warn("{reason} Next attempt in {span}.", reason=_sentence(error), span=span(delay), delay=delay)
            await deferLater(self._reactor, delay)

    async def _connect_and_stay(self) -> RelayError:
        """
        Make one round of attempts, in each dialect that the main server may speak, and stay connected.

        :return: why there is no connection any more.
        """
        server = str(self._address)
        probing = self._profile.begin_round()
        try:
            key = self._settings.read_api_key()
            headers = self._settings.read_headers()
            dialer = UplinkDialer(self._reactor, self._settings, key, headers, self._on_end_seen)
            for attempt in probing.attempts():
                try:
                    outcome = await self._make_attempt(attempt, dialer, key)
                except UplinkUnreachable as error:
                    probing.note_unreachable(attempt, error)
                    break
                if not self.running or not probing.note_outcome(attempt, outcome):
                    return outcome.error
            return probing.error()
        except CancelledError:
            raise
        except RelayError as error:
            return error
        except Exception:
            _log.failure("Internal error: an attempt to reach {server} failed", server=server)
            return UplinkUnreachable(server=server, reason="an internal error, which the log describes")

    async def _make_attempt(self, attempt: Attempt, dialer: UplinkDialer, key: Secret) -> Outcome:
        """Make one connection, and stay with it to its end."""
        _log.info(
            "Connecting to {server} as {proxy_id} ({dialect})",
            server=str(self._address),
            proxy_id=self._settings.proxy_id,
            dialect=str(attempt),
        )
        self._polling = attempt.polling
        connection = await dialer.dial(
            attempt, lambda wire: self._make_connection(wire, attempt, dialer), upgrades=self._profile.upgrades
        )
        self._connection = connection
        try:
            outcome = await connection.finished
        finally:
            self._connection = None
            self._renewals.cancel()
            now, self._lived = self._reactor.seconds(), 0.0
            if self.status.accepted:
                self._lived = now - self.status.since
                self.status = replace(self.status, accepted=False, dialect=None, since=now)
        return self._profile.note_end(outcome, key, connection.link.upgraded_at)

    def _make_connection(self, wire: Wire, attempt: Attempt, dialer: UplinkDialer) -> UplinkConnection:
        settings = ConnectionSettings(
            server=str(self._address),
            path=dialer.path(attempt.dialect),
            timing=self._profile.timing_of(attempt, self._timing),
            max_result=self._settings.max_result,
            defer_to_thread=partial(in_pool, self._reactor),
            translate=self._settings.translate,
            describe=self._settings.describe,
            quote=dialer.quote,
        )
        dialect, limit = dialer.make_dialect(attempt.dialect), self._profile.limit_of(attempt.dialect)
        return UplinkConnection(self._reactor, wire, dialect, self._receiver, self, limit, settings)

    def certificate_ends(self) -> dict[str, float]:
        """
        When TLS certificates end, in seconds since 1970: that of the ``main_server`` as it was last seen, with those
        that it depends on, and the ``relay``'s own file, as it is now. The first end counts where there are several.
        """
        ends = {} if self._server_end is None else {"main_server": self._server_end}
        own = end_of_own_certificate(self._settings)
        return ends if own is None else ends | {"relay": own}

    def _on_end_seen(self, end: float) -> None:
        self._server_end = end

    # From the connection (relayd.uplink.connection.UplinkConnectionOwner)

    def on_connection_ready(self, connection: UplinkConnection) -> None:
        self._renewals.note_connected()
        _log.info(
            "Connected to {server} as {proxy_id} ({dialect})",
            server=str(self._address),
            proxy_id=self._settings.proxy_id,
            dialect=connection.dialect.name,
        )

    def on_message_ignored(self, connection: UplinkConnection) -> None:
        self.ignored += 1

    def on_connection_accepted(self, connection: UplinkConnection) -> None:
        dialect = connection.dialect.name
        _log.info(
            "Accepted by {server} as {proxy_id} ({dialect})",
            server=str(self._address),
            proxy_id=self._settings.proxy_id,
            dialect=dialect,
        )
        self._profile.note_accepted(dialect, polling=self._polling)
        self.status = replace(
            self.status, accepted=True, dialect=dialect, since=self._reactor.seconds(), last_error=None
        )
        self._retry.accepted()
        if self._on_accepted is not None:
            self._on_accepted(connection)

    def on_status_update(self, connection: UplinkConnection, data: object) -> None:
        if connection is self._connection:
            self._renewals.on_status_update(connection, data, self._retry.delay)


def _ignore_cancellation(failure: Failure) -> None:
    failure.trap(CancelledError)


def _sentence(error: RelayError) -> str:
    text = str(error)
    return text if text.endswith(".") else text + "."
