"""
Keeps one connection to the main server, for ever: dials, waits, dials again, in the dialect that it speaks.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final
from urllib.parse import urlsplit

from autobahn.websocket.types import ConnectingRequest
from msgspec import Struct
from msgspec.structs import replace
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from relayd import __version__
from relayd.dialects import native, socketio
from relayd.errors import (
    DialectMismatch,
    RelayError,
    UplinkDisplaced,
    UplinkLost,
    UplinkRefused,
    UplinkRenewed,
    UplinkTimeout,
    UplinkUnreachable,
)
from relayd.interfaces import ICommandReceiver
from relayd.messages import Secret
from relayd.texts import span
from relayd.uplink.connect import describe, make_endpoint
from relayd.uplink.connection import Connection, Outcome
from relayd.uplink.limits import MessageLimit
from relayd.uplink.machine import Stage, Timing
from relayd.uplink.presence import Presence, told_of
from relayd.uplink.protocol import WebSocketClient, WebSocketFactory
from relayd.uplink.retry import RetryPolicy
from relayd.uplink.settings import Address, UplinkSettings

_DIALECTS: Final[dict[str, ModuleType]] = {socketio.NAME: socketio, native.NAME: native}

_TIMING: Final = Timing()
#: While it is not known which dialect is spoken, silence is an answer, and need not be waited for as long.
_PROBING: Final = Timing(handshake=5.0)


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
    :ivar status: how things stand with the main server now.
    :ivar ignored: messages of the main server, so far, for which there was no use.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        receiver: ICommandReceiver,
        settings: UplinkSettings,
        on_accepted: Callable[[Connection], None] | None = None,
    ) -> None:
        self.setName("uplink")
        self._on_accepted = on_accepted
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
        #: What is known of the size of messages that the main server takes, by dialect.
        self._limits = {name: MessageLimit(reactor, str(self._address)) for name in _DIALECTS}
        self._connection: Connection | None = None
        self.status = UplinkStatus()
        self.ignored = 0
        self._life: Deferred[None] | None = None

    def startService(self) -> None:
        """Dial the main server, now and whenever the connection ends."""
        super().startService()
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
        errors: list[RelayError] = []
        probing = self._known is None
        try:
            key = self._settings.read_api_key()
            for name in self._candidates():
                outcome = self._judged(await self._connect_in(name, key, _PROBING if probing else _TIMING), key)
                errors.append(outcome.error)
                if not self.running or not _is_mismatch(outcome, probing):
                    return outcome.error
        except CancelledError:
            raise
        except RelayError as error:
            return error
        except Exception:
            self._log.failure("Internal error: an attempt to reach {server} failed", server=str(self._address))
            return UplinkUnreachable(server=str(self._address), reason="an internal error, which the log describes")
        # a refusal tells more than that the other dialect is not spoken
        return next((error for error in errors if isinstance(error, UplinkRefused)), errors[0])

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
        )

        def make_request() -> ConnectingRequest:
            url = urlsplit(dialect.url(self._settings.server, self._settings.proxy_id, key.reveal()))
            return ConnectingRequest(
                host=self._address.netloc.rpartition(":")[0],
                port=self._address.port,
                resource=f"{url.path}?{url.query}",
                useragent=f"relayd/{__version__}",
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
            self._stay()
            self._lived = self._reactor.seconds() - self.status.since if self.status.accepted else 0.0
            self.status = replace(self.status, accepted=False, dialect=None, since=self._reactor.seconds())

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
        self._known = connection.dialect.name
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


def _is_mismatch(outcome: Outcome, probing: bool) -> bool:
    """
    Whether the main server may speak the other dialect.

    :param probing: it is not known to speak this one: then a server that says nothing at all, or hangs up on the
        request, is worth a try in the other.
    """
    if isinstance(outcome.error, DialectMismatch):
        return True
    return (
        probing
        and not outcome.recognised
        and outcome.stage in (Stage.UPGRADING, Stage.GREETING)
        and isinstance(outcome.error, UplinkTimeout | UplinkLost | UplinkRefused)
    )


def _sentence(error: RelayError) -> str:
    text = str(error)
    return text if text.endswith(".") else text + "."
