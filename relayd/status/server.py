"""
The HTTP server of `relayd.status`: bounded in everything that a client can make large or long.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final, cast

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint, UNIXServerEndpoint
from twisted.internet.interfaces import IAddress, IListeningPort
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import http

from relayd.config.listen_address import ListenAddress
from relayd.config.listening import remove_stale, why_not
from relayd.errors import ConfigError
from relayd.status.responses import Responder, Response
from relayd.status.sources import StatusSources

_log = Logger("relayd.status")

#: Connections at a time; more are closed.
MAX_CONNECTIONS: Final = 32
#: Seconds that one may last, whatever its client does. Each carries one request.
MAX_SECONDS: Final = 10.0

_DONE: Final = connectionDone
_Respond = Callable[[str, str, list[str], str], Response]


class _Request(http.Request):
    """One request, which has no body."""

    def __init__(self, respond: _Respond, channel: http.HTTPChannel, queued: object = None) -> None:
        super().__init__(channel)
        self._respond = respond

    def gotLength(self, length: int | None) -> None:
        """Twisted calls this with the headers; *length* is ``None`` where it is not known beforehand."""
        super().gotLength(0)
        self._has_body = length != 0
        self.channel.persistent = False
        if self._has_body:
            self.clientproto = b"HTTP/1.1"
            self.code, self.code_message = 413, b"Content Too Large"
            self.setHeader("Connection", "close")
            self.setHeader("Content-Length", "0")
            self.write(b"")
            self.channel.loseConnection()

    def handleContentChunk(self, data: bytes) -> None:
        """Ignored: no request here has a body."""

    def process(self) -> None:
        """Twisted calls this when the request has arrived: respond to it."""
        if self._has_body:
            return
        headers = self.requestHeaders
        try:
            response = self._respond(
                self.method.decode("latin-1"),
                self.uri.decode("latin-1"),
                list(headers.getRawHeaders("host", [])),
                ", ".join(headers.getRawHeaders("accept", [])),
            )
        except Exception:
            _log.failure("Internal error: {path} cannot be shown", path=self.path.decode("latin-1")[:100])
            response = Response(500, "text/plain; charset=utf-8", b"Internal error: see relayd's log.\n")
        self.setResponseCode(response.code)
        for name, value in response.headers().items():
            self.setHeader(name, value)
        self.setHeader("Server", "relayd")
        self.setHeader("Connection", "close")
        if self.method != b"HEAD":
            self.write(response.body)
        self.finish()


class _Channel(http.HTTPChannel):
    """One connection, which ends after `MAX_SECONDS` at the latest."""

    factory: StatusFactory
    transport: Any

    def connectionMade(self) -> None:
        """Twisted calls this when the connection is made."""
        self._end = self.factory.clock.callLater(MAX_SECONDS, self._cut)
        self.factory.channels.add(self)
        super().connectionMade()

    def connectionLost(self, reason: Failure = _DONE) -> None:
        """Twisted calls this when the connection is gone."""
        self.factory.channels.discard(self)
        if self._end.active():
            self._end.cancel()
        super().connectionLost(reason)

    def _cut(self) -> None:
        self.transport.abortConnection()


class StatusFactory(http.HTTPFactory):
    """
    Makes plain HTTP/1 channels.

    :param respond: called with each request's method, target, ``Host`` headers and ``Accept`` header.
    :ivar channels: those that are open.
    """

    noisy = False
    protocol: Any = _Channel

    def __init__(self, respond: _Respond, reactor: Any) -> None:
        super().__init__(timeout=MAX_SECONDS, reactor=reactor)
        self.clock = reactor
        self.channels: set[_Channel] = set()
        self._respond = respond

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Twisted calls this for each connection, and closes the connection if it gives ``None``."""
        if len(self.channels) >= MAX_CONNECTIONS:
            return None
        channel: Any = super().buildProtocol(addr)
        channel.requestFactory = partial(_Request, self._respond)
        return channel

    def startFactory(self) -> None:
        """Twisted's own opens a log of requests here, with a clock for it; requests for the status are not logged."""

    def stopFactory(self) -> None:
        """There is no log to close."""

    def log(self, request: http.Request) -> None:
        """Requests for the status are not logged."""

    def cut(self) -> None:
        """Abort every open connection."""
        for channel in list(self.channels):
            channel.transport.abortConnection()


class StatusServer(Service):
    """
    The service that shows *sources* at *address*.

    :param reactor: provides time and network.
    """

    def __init__(self, reactor: Any, address: ListenAddress, sources: StatusSources) -> None:
        self.setName("status")
        self._reactor = reactor
        self._address = address
        responder = Responder(sources, check_host=address.is_local and not address.path)
        self._factory = StatusFactory(responder.respond, reactor)
        self._port: IListeningPort | None = None

    def startService(self) -> None:
        """
        Start to listen.

        :raises ConfigError: when the address cannot be listened at.
        """
        listening = self._listen()
        failures: list[Failure] = []
        listening.addCallbacks(self._listening, failures.append)
        if failures:
            raise ConfigError(option="--status", reason=why_not(self._address, failures[0].value)) from None
        super().startService()
        _log.info("Status and metrics are at {address}", address=str(self._address))
        if not self._address.is_local:
            _log.warn(
                "--status: other machines can reach {address} without a password. It shows hosts, users and ids of "
                "commands: protect it with a firewall, or with a proxy that authenticates",
                address=str(self._address),
            )

    def stopService(self) -> Deferred[None]:
        """Stop listening, and end the open connections."""
        super().stopService()
        port, self._port = self._port, None
        self._factory.cut()
        return succeed(None) if port is None else maybeDeferred(cast(Any, port.stopListening))

    def _listen(self) -> Deferred[Any]:
        address = self._address
        if address.path:
            remove_stale(address.path)
            endpoint: Any = UNIXServerEndpoint(self._reactor, address.path, mode=address.mode)
        else:
            make = TCP6ServerEndpoint if ":" in address.host else TCP4ServerEndpoint
            endpoint = make(self._reactor, address.port, interface=address.host)
        listening: Deferred[Any] = endpoint.listen(self._factory)
        return listening

    def _listening(self, port: IListeningPort) -> None:
        self._port = port
