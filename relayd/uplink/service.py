"""
Keeps one connection to the main server, for ever: dials, waits, dials again, in the dialect that it speaks.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final
from urllib.parse import urlsplit

from msgspec import Struct
from msgspec.structs import replace
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from relayd import __version__
from relayd.dialects import native, socketio
from relayd.errors import RelayError, UplinkUnreachable
from relayd.interfaces import ICommandReceiver
from relayd.messages import Secret
from relayd.uplink.connect import describe, make_endpoint, unused_proxy
from relayd.uplink.connection import Connection, Outcome
from relayd.uplink.idle import ALIKE, IdleWatch
from relayd.uplink.limits import MessageLimit
from relayd.uplink.machine import Timing
from relayd.uplink.probing import DOUBT, SHORT, Attempt, Probing
from relayd.uplink.protocol import WebSocketClient, WebSocketFactory
from relayd.uplink.quoting import Quoting
from relayd.uplink.request import Request
from relayd.uplink.retry import RetryPolicy
from relayd.uplink.settings import Address, UplinkSettings

_DIALECTS: Final[dict[str, ModuleType]] = {socketio.NAME: socketio, native.NAME: native}


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
    """

    _log = Logger()

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
        self._retry = RetryPolicy(settings.reconnect_delay, random.Random())
        #: The dialect in which the main server accepted us last.
        self._known: str | None = None if settings.dialect == "auto" else settings.dialect
        #: Attempts without success since then.
        self._failures = 0
        #: What is known of the size of messages that the main server takes, by dialect.
        self._limits = {name: MessageLimit(reactor, str(self._address)) for name in _DIALECTS}
        self._idle = IdleWatch()
        self._connection: Connection | None = None
        self.status = UplinkStatus()
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
            delay = self._retry.delay_after(error)
            self.status = replace(self.status, losses=self.status.losses + 1, last_error=str(error))
            self._log.warn("{reason} Next attempt in {delay:.1f} s.", reason=_sentence(error), delay=delay)
            await deferLater(self._reactor, delay)

    async def _connect_and_stay(self) -> RelayError:
        """One attempt, in each dialect that it may take; ends with the connection: why there is none any more."""
        server = str(self._address)
        known = self._known is not None and self._failures < DOUBT
        probing = Probing(server, self._candidates(), known=known)
        self._failures += 1  # until it is accepted
        try:
            key = self._settings.read_api_key()
            for attempt in probing.attempts():
                timing = self._timing_of(attempt)
                try:
                    outcome = await self._connect_in(attempt.dialect, key, timing)
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
                "after {seconds:.0f} s without a word. From now on relayd sends a ping every {pings:.1f} s.",
                server=str(self._address),
                number=ALIKE,
                seconds=self._idle.seconds,
                pings=self._idle.ping_interval,
            )

    def _candidates(self) -> list[str]:
        """Dialects to try, in this order."""
        if self._settings.dialect != "auto":
            return [self._settings.dialect]
        return sorted(_DIALECTS, key=lambda name: name != (self._known or socketio.NAME))

    async def _connect_in(self, name: str, key: Secret, timing: Timing) -> Outcome:
        """One connection from its TCP handshake to its end."""
        server, dialect = str(self._address), _DIALECTS[name]
        parts = urlsplit(dialect.url(self._settings.server, self._settings.proxy_id, ""))
        connection = Connection(
            self._reactor,
            self._receiver,
            self,
            dialect.RelayDialect(),
            server=server,
            path=parts.path,
            timing=timing,
            defer_to_thread=self._defer_to_thread,
            max_result=self._settings.max_result,
            limit=self._limits[name],
            translate=self._settings.translate,
            quote=Quoting(key.reveal()),
        )

        def make_request() -> Request:
            url = urlsplit(dialect.url(self._settings.server, self._settings.proxy_id, key.reveal()))
            return Request(
                resource=f"{url.path}?{url.query}",
                host=self._address.authority,
                user_agent=f"relayd/{__version__}",
            )

        def build() -> WebSocketClient:
            tls_host = self._address.host if self._address.secure else None
            client = WebSocketClient(connection, make_request, tls_host=tls_host)
            connection.attach(client)
            return client

        self._log.info(
            "Connecting to {server} as {proxy_id} ({dialect})",
            server=server,
            proxy_id=self._settings.proxy_id,
            dialect=name,
        )
        endpoint = make_endpoint(self._reactor, self._address, self._settings)
        factory = WebSocketFactory(self._reactor, build, self._settings.max_frame)
        try:
            await endpoint.connect(factory)
        except CancelledError:
            raise
        except Exception as error:
            raise UplinkUnreachable(server=server, reason=describe(error)) from None
        self._connection = connection
        try:
            return await connection.finished
        finally:
            self._connection = None
            self.status = replace(self.status, accepted=False, dialect=None, since=self._reactor.seconds())

    def _defer_to_thread(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), function, *args)

    # What a connection tells (relayd.uplink.connection.Host)

    def on_connection_ready(self, connection: Connection) -> None:
        self._log.info(
            "Connected to {server} as {proxy_id} ({dialect})",
            server=str(self._address),
            proxy_id=self._settings.proxy_id,
            dialect=connection.dialect.name,
        )

    def on_connection_accepted(self, connection: Connection) -> None:
        self._known, self._failures = connection.dialect.name, 0
        self.status = replace(
            self.status, accepted=True, dialect=self._known, since=self._reactor.seconds(), last_error=None
        )
        self._retry.accepted()
        if self._on_accepted is not None:
            self._on_accepted(connection)


def _sentence(error: RelayError) -> str:
    text = str(error)
    return text if text.endswith(".") else text + "."
