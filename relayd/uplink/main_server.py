"""
One main server as the relay dials it: rounds of attempts, in each dialect that it may speak, and what they have taught.
"""

from __future__ import annotations

import random
from functools import partial
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from relayd.errors import RelayError, UplinkUnreachable
from relayd.interfaces import ICommandReceiver
from relayd.network.threads import in_pool
from relayd.uplink.connection import Outcome, UplinkConnection
from relayd.uplink.dialer import UplinkDialer
from relayd.uplink.endpoint import unused_proxy
from relayd.uplink.probing import Attempt
from relayd.uplink.renewal import Renewals
from relayd.uplink.retry import RetryPolicy
from relayd.uplink.server_profile import ServerProfile
from relayd.uplink.settings import ConnectionSettings, LiveUplinkSettings, ServerAddress, UplinkSettings
from relayd.uplink.stages import Timing
from relayd.uplink.wire import Wire
from relayd.wire.messages import Secret

_log = Logger("relayd.uplink")


class Caller(Protocol):
    """Has main servers dialled, and hears from them."""

    def on_accepted(self, server: MainServer, connection: UplinkConnection) -> None:
        """A main server has accepted the relay. A connection that is closed in this takes no command."""

    def on_lost(self, server: MainServer) -> None:
        """The connection to a main server is over."""

    def on_message_ignored(self) -> None:
        """A main server sent something that relayd does not use."""


class MainServer:
    """
    One main server. There is at most one connection to it, or one attempt, at a time.

    :param caller: has it dialled.
    :param timing: the usual deadlines.
    :param several: whether the relay has other main servers.
    :ivar address: where it is; as text, its name in errors and logs.
    :ivar attempts: connections that were tried, so far.
    :ivar connection: the one that there is, from its TCP handshake on.
    :ivar lived: for how many seconds the last connection was accepted.
    :ivar leaving: whether the relay wants to end the round that is under way.
    :ivar end_seen: when its certificate ends, as it was last seen, in seconds since 1970.
    """

    def __init__(
        self,
        reactor: Any,
        receiver: ICommandReceiver,
        settings: UplinkSettings,
        caller: Caller,
        timing: Timing,
        source: random.Random,
        *,
        several: bool,
    ) -> None:
        self._reactor = reactor
        self._receiver = receiver
        self._caller = caller
        self._timing = timing
        self._several = several
        self.settings = settings
        self.address = ServerAddress.of(settings.server)
        name = str(self.address)
        self.retry = RetryPolicy(settings.reconnect_delay, source)
        self.renewals = Renewals(reactor, name, settings.proxy_id, source)
        self.profile = ServerProfile(reactor, name, None if settings.dialect == "auto" else settings.dialect)
        self.attempts = 0
        self.connection: UplinkConnection | None = None
        self.lived = 0.0
        self.leaving = False
        self.end_seen: float | None = None
        self._accepted_at: float | None = None
        #: Whether the attempt that is under way is by HTTP long-polling.
        self._polling = False
        self._round: Deferred[RelayError] | None = None

    def note_unused_proxy(self) -> None:
        """Log it where the environment names a proxy that is not used for this main server."""
        if unused := unused_proxy(self.address, self.settings):
            _log.info("{words}", words=unused)

    def configure(self, settings: LiveUplinkSettings) -> None:
        """Use other settings from the next connection on."""
        self.settings = self.settings.changed(settings)
        self.retry.delay = settings.reconnect_delay

    def dial(self, *, aside: bool) -> Deferred[RelayError]:
        """
        Make one round of attempts, in each dialect that the main server may speak, and stay connected.

        :param aside: whether the relay is connected to another main server.
        :return: fires with the reason why there is no connection any more; fails with ``CancelledError`` where `leave`
            ended the round before there was one.
        """
        self.leaving = False
        self._round = Deferred.fromCoroutine(self._connect_and_stay(aside))
        return self._round

    def leave(self, error: RelayError | None = None) -> None:
        """
        End the round that is under way: close the connection politely, or give up the attempt.

        :param error: why; by default because the relay wants to.
        """
        self.leaving = True
        if self.connection is not None:
            self.connection.close(error)
        elif self._round is not None:
            self._round.cancel()

    async def _connect_and_stay(self, aside: bool) -> RelayError:
        server = str(self.address)
        probing = self.profile.begin_round()
        try:
            key = self.settings.read_api_key()
            headers = self.settings.read_headers()
            dialer = UplinkDialer(self._reactor, self.settings, key, headers, self._on_end_seen)
            for attempt in probing.attempts():
                try:
                    outcome = await self._make_attempt(attempt, dialer, key, aside)
                except UplinkUnreachable as error:
                    probing.note_unreachable(attempt, error)
                    break
                if self.leaving or not probing.note_outcome(attempt, outcome):
                    return outcome.error
            return probing.error()
        except CancelledError:
            raise
        except RelayError as error:
            return error
        except Exception:
            _log.failure("Internal error: an attempt to reach {server} failed", server=server)
            return UplinkUnreachable(server=server, reason="an internal error, which the log describes")

    async def _make_attempt(self, attempt: Attempt, dialer: UplinkDialer, key: Secret, aside: bool) -> Outcome:
        """Make one connection, and stay with it to its end."""
        self._say("Connecting to {server} as {proxy_id} ({dialect})", str(attempt))
        self._polling = attempt.polling
        self.attempts += 1
        connection = await dialer.dial(
            attempt, lambda wire: self._make_connection(wire, attempt, dialer, aside), upgrades=self.profile.upgrades
        )
        self.connection = connection
        try:
            outcome = await connection.finished
        finally:
            self.connection = None
            self.renewals.cancel()
            self.lived = 0.0
            if self._accepted_at is not None:
                self.lived, self._accepted_at = self._reactor.seconds() - self._accepted_at, None
                self._caller.on_lost(self)
        return self.profile.note_end(outcome, key, connection.link.upgraded_at)

    def _make_connection(self, wire: Wire, attempt: Attempt, dialer: UplinkDialer, aside: bool) -> UplinkConnection:
        settings = ConnectionSettings(
            server=str(self.address),
            path=dialer.path(attempt.dialect),
            timing=self.profile.timing_of(attempt, self._timing),
            max_result=self.settings.max_result,
            defer_to_thread=partial(in_pool, self._reactor),
            translate=self.settings.translate,
            describe=self.settings.describe,
            quote=dialer.quote,
            aside=aside,
            origin=str(self.address) if self._several else "",
        )
        dialect, limit = dialer.make_dialect(attempt.dialect), self.profile.limit_of(attempt.dialect)
        return UplinkConnection(self._reactor, wire, dialect, self._receiver, self, limit, settings)

    def _on_end_seen(self, end: float) -> None:
        self.end_seen = end

    def _say(self, what: str, dialect: str) -> None:
        _log.info(what, server=str(self.address), proxy_id=self.settings.proxy_id, dialect=dialect)

    # From the connection (relayd.uplink.connection.UplinkConnectionOwner)

    def on_connection_ready(self, connection: UplinkConnection) -> None:
        self.renewals.note_connected()
        self._say("Connected to {server} as {proxy_id} ({dialect})", connection.dialect.name)

    def on_message_ignored(self, connection: UplinkConnection) -> None:
        self._caller.on_message_ignored()

    def on_connection_accepted(self, connection: UplinkConnection) -> None:
        dialect = connection.dialect.name
        self._say("Accepted by {server} as {proxy_id} ({dialect})", dialect)
        self.profile.note_accepted(dialect, polling=self._polling)
        self.retry.accepted()
        self._accepted_at = self._reactor.seconds()
        self._caller.on_accepted(self, connection)

    def on_status_update(self, connection: UplinkConnection, data: object) -> None:
        if connection is self.connection:
            self.renewals.on_status_update(connection, data, self.retry.delay)
