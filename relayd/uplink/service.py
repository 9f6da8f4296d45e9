"""
Keeps one connection to the main server, for ever: dials, waits, dials again, in the dialect that it speaks.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from msgspec import Struct
from msgspec.structs import replace
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from relayd import __version__
from relayd.errors import RelayError, UplinkDisplaced, UplinkLost, UplinkRefused, UplinkRenewed, UplinkUnreachable
from relayd.interfaces import ICommandReceiver
from relayd.language.texts import span
from relayd.uplink.connection import Connection, Outcome
from relayd.uplink.endpoint import describe, make_endpoint, unused_proxy
from relayd.uplink.headers import Headers, subprotocols, with_session
from relayd.uplink.idle import ALIKE, IdleWatch
from relayd.uplink.message_limit import MessageLimit
from relayd.uplink.polling.factory import SHORT_LIVED, STAY_POLLING, polling_factory
from relayd.uplink.presence import Presence, told_of
from relayd.uplink.probing import DOUBT, SHORT, Attempt, Probing
from relayd.uplink.quoting import Quoting, words_of_header, words_of_query
from relayd.uplink.request import Request
from relayd.uplink.retry import RetryPolicy
from relayd.uplink.settings import Address, UplinkSettings
from relayd.uplink.stages import Stage, Timing
from relayd.uplink.websocket import WebSocketClient, WebSocketFactory
from relayd.wire.dialects import native, socketio
from relayd.wire.dialects.events import IDialect
from relayd.wire.messages import Secret

_DIALECTS: Final = (socketio.NAME, native.NAME)


class UplinkStatus(Struct, frozen=True, kw_only=True):
    """
    How things stand with the main server.

    :ivar accepted: whether it has really accepted this relay, and the connection lives.
    :ivar dialect: in which dialect, then.
    :ivar since: when that came to be so, in seconds of the reactor's clock.
    :ivar losses: attempts that failed and connections that were lost, so far.
    :ivar last_error: why there is no connection, since the last one that was accepted.
    """

    accepted: bool = False
    dialect: str | None = None
    since: float = 0.0
    losses: int = 0
    last_error: str | None = None


class UplinkService(Service):
    """
    :param reactor: clock and network.
    :param receiver: told of what arrives.
    :param on_accepted: is called when the main server has accepted the relay, before the receiver is told of anything
        that was ordered: a connection that is closed in it takes no order.
    :param timing: where it shall be another than usual.
    :ivar status: how things stand with the main server now.
    :ivar ignored: messages of the main server, so far, for which there was no use.
    """

    _log = Logger("relayd.uplink")

    def __init__(
        self,
        reactor: Any,
        receiver: ICommandReceiver,
        settings: UplinkSettings,
        on_accepted: Callable[[Connection], None] | None = None,
        timing: Timing | None = None,
    ) -> None:
        self.setName("uplink")
        self._on_accepted = on_accepted
        self._timing = timing or Timing()
        self._reactor = reactor
        self._receiver = receiver
        self._settings = settings
        self._address = Address.of(settings.server)
        source = random.Random()
        self._retry = RetryPolicy(settings.reconnect_delay, source)
        self._presence = Presence(source)
        self._renewal: IDelayedCall | None = None
        #: The key with which the main server accepted us last, and how long that connection lived, in seconds.
        self._accepted_key: Secret | None = None
        self._lived = 0.0
        #: The dialect in which the main server accepted us last.
        self._known: str | None = None if settings.dialect == "auto" else settings.dialect
        #: Attempts without success since then; whether it was over a WebSocket, and whether by HTTP long-polling.
        self._failures = 0
        self._served = self._polled = False
        #: Until when a polling session stays one: the WebSocket that the last one became did not live.
        self._no_upgrade_until = 0.0
        #: What is known of the size of messages that the main server takes, by dialect.
        self._limits = {name: MessageLimit(reactor, str(self._address)) for name in _DIALECTS}
        self._idle = IdleWatch()
        self._connection: Connection | None = None
        self._attempt: Attempt
        self.status = UplinkStatus()
        self.ignored = 0
        self._life: Deferred[None] | None = None

    def startService(self) -> None:
        """Dial the main server, now and whenever the connection ends."""
        super().startService()
        if unused := unused_proxy(self._address, self._settings):
            self._log.info("{words}", words=unused)
        self._life = Deferred.fromCoroutine(self._live())

    def configure(self, settings: UplinkSettings) -> None:
        """Other settings from the next connection on; main server, name there and dialect must be as before."""
        self._settings = settings
        self._retry.delay = settings.reconnect_delay

    def stopService(self) -> Deferred[None]:
        """
        Take leave of the main server.

        :return: fires when the connection is gone, which takes 5 s at most.
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
            life.addErrback(lambda failure: failure.trap(CancelledError) and None)
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
        """One attempt, in each dialect that it may take; ends with the connection: why there is none any more."""
        server = str(self._address)
        known = self._known is not None and self._failures < DOUBT
        served = self._served and self._failures < DOUBT
        probing = Probing(server, self._candidates(), known=known, served=served, polled=self._polled)
        self._polled = False  # until it serves again
        self._failures += 1  # until it is accepted
        try:
            key, headers = self._settings.read_api_key(), self._settings.read_headers()
            for attempt in probing.attempts():
                timing = self._timing_of(attempt)
                try:
                    outcome = self._judged(await self._connect_in(attempt, key, headers, timing), key)
                except UplinkUnreachable as error:
                    probing.unreachable(attempt, error)
                    break
                self._look_at_silence(outcome)
                if not self.running or not probing.ended(attempt, outcome):
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

    def _look_at_silence(self, outcome: Outcome) -> None:
        if self._idle.ended(outcome.silence):
            self._log.warn(
                "Something between this relay and {server} seems to close idle connections: the last {number} ended "
                "after {silence} without a word. From now on relayd sends a ping every {pings}.",
                server=str(self._address),
                number=ALIKE,
                silence=span(self._idle.seconds or 0.0),
                pings=span(self._idle.ping_interval or 0.0),
            )

    def _judged(self, outcome: Outcome, key: Secret) -> Outcome:
        """What it ended with, in the light of what was before: a key that has just served is not to blame."""
        if outcome.stage is Stage.ACCEPTED:
            self._accepted_key = key
        elif (
            outcome.stage is Stage.PROBATION and isinstance(outcome.error, UplinkRefused) and self._accepted_key == key
        ):
            error = UplinkDisplaced(server=str(self._address), reason=outcome.error.fields["reason"])
            return replace(outcome, error=error)
        return outcome

    def _candidates(self) -> list[str]:
        """Dialects to try, in this order."""
        if self._settings.dialect != "auto":
            return [self._settings.dialect]
        return sorted(_DIALECTS, key=lambda name: name != (self._known or socketio.NAME))

    def _dialect(self, name: str, key: Secret) -> IDialect:
        if name == socketio.NAME:
            return socketio.RelayDialect(lambda: {"proxyId": self._settings.proxy_id, "apiKey": key.reveal()})
        return native.RelayDialect()

    def _url(self, dialect: str, key: str, **parameters: str) -> str:
        server, proxy_id = self._settings.server, self._settings.proxy_id
        if dialect == socketio.NAME:
            return socketio.url(server, proxy_id, key, **parameters)
        return native.url(server, proxy_id, key, self._settings.native_path)

    async def _connect_in(self, attempt: Attempt, key: Secret, headers: Headers, timing: Timing) -> Outcome:
        """One connection from its TCP handshake to its end."""
        name = attempt.dialect
        server = str(self._address)
        ours = [word for _, value in headers for word in words_of_header(value)]
        quote = Quoting(key.reveal(), *ours, *words_of_query(self._settings.server))
        connection = Connection(
            self._reactor,
            self._receiver,
            self,
            self._dialect(name, key),
            server=server,
            path=urlsplit(self._url(name, "")).path,
            timing=timing,
            defer_to_thread=self._defer_to_thread,
            max_result=self._settings.max_result,
            limit=self._limits[name],
            translate=self._settings.translate,
            quote=quote,
        )

        def make_request(parameters: Mapping[str, str], more: Mapping[str, str]) -> Request:
            url = urlsplit(self._url(name, key.reveal(), **parameters))
            return Request(
                resource=f"{url.path}?{url.query}",
                host=self._address.authority,
                user_agent=f"relayd/{__version__}",
                headers=with_session(headers, more),
            )

        def build() -> WebSocketClient:
            tls_host = self._address.host if self._address.secure else None
            client = WebSocketClient(connection, lambda: make_request({}, {}), tls_host=tls_host)
            connection.attach(client)
            return client

        self._log.info(
            "Connecting to {server} as {proxy_id} ({dialect})",
            server=server,
            proxy_id=self._settings.proxy_id,
            dialect=str(attempt),
        )
        endpoint = make_endpoint(self._reactor, self._address, self._settings)
        max_frame, protocols = self._settings.max_frame, subprotocols(headers)
        if attempt.polling:
            upgrades = self._reactor.seconds() >= self._no_upgrade_until
            factory = polling_factory(
                self._reactor,
                connection,
                endpoint,
                self._address,
                make_request,
                quote,
                max_frame=max_frame,
                protocols=protocols,
                upgrades=upgrades,
            )
        else:
            factory = WebSocketFactory(self._reactor, build, max_frame, protocols)
        try:
            await endpoint.connect(factory)
        except CancelledError:
            raise
        except Exception as error:
            raise UplinkUnreachable(server=server, reason=describe(error)) from None
        self._connection, self._attempt = connection, attempt
        try:
            return self._upgraded_in_vain(connection, await connection.finished)
        finally:
            self._connection = None
            self._stay()
            self._lived = self._reactor.seconds() - self.status.since if self.status.accepted else 0.0
            self.status = replace(self.status, accepted=False, dialect=None, since=self._reactor.seconds())

    def _upgraded_in_vain(self, connection: Connection, outcome: Outcome) -> Outcome:
        """Where a session was lost soon after it became a WebSocket, the next ones had better stay with polling."""
        now, moved = self._reactor.seconds(), connection.upgraded_at
        if moved is not None and now < moved + SHORT_LIVED and isinstance(outcome.error, UplinkLost):
            self._no_upgrade_until = now + STAY_POLLING
        return outcome

    def _defer_to_thread(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), function, *args)

    # What a connection tells (relayd.uplink.connection.Host)

    def on_connection_ready(self, connection: Connection) -> None:
        self._presence.connected(self._reactor.seconds())
        self._log.info(
            "Connected to {server} as {proxy_id} ({dialect})",
            server=str(self._address),
            proxy_id=self._settings.proxy_id,
            dialect=connection.dialect.name,
        )

    def on_connection_ignored(self, connection: Connection) -> None:
        self.ignored += 1

    def on_connection_accepted(self, connection: Connection) -> None:
        self._known, self._failures = connection.dialect.name, 0
        self._polled = self._attempt.polling
        self._served = not self._polled
        self.status = replace(
            self.status, accepted=True, dialect=self._known, since=self._reactor.seconds(), last_error=None
        )
        self._retry.accepted()
        if self._on_accepted is not None:
            self._on_accepted(connection)

    def on_status_told(self, connection: Connection, data: Any) -> None:
        online = told_of(data, self._settings.proxy_id)
        if online is None or connection is not self._connection:
            return
        now = self._reactor.seconds()
        if online:
            self._stay()
            if self._presence.came_online(now):
                self._log.warn(
                    "{server} says that {proxy_id} came online, while this relay was: another relay may use this name",
                    server=str(self._address),
                    proxy_id=self._settings.proxy_id,
                )
        elif self._renewal is None:
            pause = self._presence.went_offline(now, self._retry.delay)
            self._log.info(
                "{server} says that {proxy_id} is offline. If it sends no command within {span}, the connection "
                "is made anew",
                server=str(self._address),
                proxy_id=self._settings.proxy_id,
                span=span(pause),
            )
            self._renewal = self._reactor.callLater(pause, self._renew, connection, connection.orders)

    def _stay(self) -> None:
        """The connection is of use as it is, or there is none."""
        renewal, self._renewal = self._renewal, None
        if renewal is not None:
            renewal.cancel()

    def _renew(self, connection: Connection, orders: int) -> None:
        self._renewal = None
        if connection.orders == orders:  # who is sent commands is known there
            # In good order, and to its end, before the next one: it would take the row of that with it.
            connection.close(UplinkRenewed(server=str(self._address), settle=self._presence.settle))


def _sentence(error: RelayError) -> str:
    text = str(error)
    return text if text.endswith(".") else text + "."
