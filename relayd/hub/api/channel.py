"""
One HTTP connection, bounded in everything that a client can make large or long.

Twisted's channel parses; what it says to a client that breaks the rules, and how long it waits for one, is ours.  It
has no hook for the moment when a request's headers are there, so this uses ``_command`` and ``_path`` of it.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

from msgspec import Struct
from twisted.internet.interfaces import IDelayedCall, ISSLTransport
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.http_headers import Headers

from relayd.hub.api.headers import response_headers, secure_headers
from relayd.hub.api.problems import (
    PROBLEM_JSON,
    HeadersTooLarge,
    MalformedRequest,
    Problem,
    RequestTimeout,
    UriTooLong,
)
from relayd.language.texts import Text

_DONE: Final = connectionDone


class Bounds(Struct, frozen=True, kw_only=True):
    """
    Bounds of connections.

    :ivar connections: at a time; more are closed at once.
    :ivar from_one_address: of these, from one address that is no trusted proxy.
    :ivar line: bytes of a request line, and of one header.
    :ivar head: bytes of a request line and all headers.
    :ivar headers: how many of them.
    :ivar bodies: bytes of all bodies that are held at a time.
    :ivar head_seconds: for a request's line and headers to arrive.
    :ivar body_seconds: for its body.
    :ivar idle_seconds: for the next request on a connection.
    :ivar stall_seconds: for a client to take what waits for it.
    :ivar linger_seconds: for a client to read why its request is refused, and for a closed connection to end.
    """

    connections: int = 1000
    from_one_address: int = 200
    line: int = 8 * 1024
    head: int = 32 * 1024
    headers: int = 100
    bodies: int = 64 * 2**20
    head_seconds: float = 15.0
    body_seconds: float = 60.0
    idle_seconds: float = 60.0
    stall_seconds: float = 60.0
    linger_seconds: float = 3.0


class ChannelOwner(Protocol):
    """What makes channels, and counts what they hold: `relayd.hub.api.server.ApiFactory`."""

    clock: Any
    bounds: Bounds
    stopping: bool

    def opened(self, channel: Any) -> str:
        """A connection was made; this is its address."""

    def closed(self, channel: Any) -> None:
        """A connection is gone."""

    def count(self, status: int, route: str | None = None) -> None:
        """A request is answered."""

    def date(self) -> str:
        """Now, for the header ``Date``."""

    def next_request_id(self) -> str:
        """A name for one request."""


class ApiChannel(http.HTTPChannel):
    """
    See the module.

    :ivar stalled: whether the client does not take what waits for it.
    :ivar busy: whether a request is being answered.
    """

    factory: ChannelOwner
    transport: Any
    timeOut = None

    def __init__(self) -> None:
        super().__init__()
        self.stalled = False
        self.busy = False
        self._refused = False
        self._arriving = False
        self._wait: IDelayedCall | None = None
        self._stall: IDelayedCall | None = None

    # Hooks of Twisted

    def connectionMade(self) -> None:
        """Twisted calls this when the connection is made."""
        bounds = self.factory.bounds
        self.MAX_LENGTH = bounds.line
        self.totalHeadersSize, self.maxHeaders = bounds.head, bounds.headers
        self.address = self.factory.opened(self)
        super().connectionMade()
        self._wait_for(bounds.head_seconds, self._late)

    def connectionLost(self, reason: Failure = _DONE) -> None:
        """Twisted calls this when the connection is gone."""
        self._wait_for(None)
        _cancel(self._stall)
        self._stall = None
        self.factory.closed(self)
        super().connectionLost(reason)

    def dataReceived(self, data: bytes) -> None:
        """Twisted calls this with what has arrived."""
        if self._refused:
            return
        if not self.busy and not self._arriving:
            self._arriving = True
            self._wait_for(self.factory.bounds.head_seconds, self._late)
        super().dataReceived(data)

    def lineReceived(self, line: bytes) -> object:
        """Twisted calls this with each line of the head; something true makes it stop."""
        if not self._refused:
            super().lineReceived(line)
        return self._refused

    def lineLengthExceeded(self, line: bytes) -> None:
        """Twisted calls this with a line that is too long."""
        bounds = self.factory.bounds
        begun = "_command" in self.__dict__
        self.refuse(HeadersTooLarge(limit=bounds.line) if begun else UriTooLong(limit=bounds.line))

    def rawDataReceived(self, data: bytes) -> None:
        """Twisted calls this with what is no line."""
        if not self._refused:
            super().rawDataReceived(data)

    def allHeadersReceived(self) -> None:
        """Twisted calls this when the head is there, before it says ``100 Continue``."""
        if self._refused:
            return
        self._wait_for(self.factory.bounds.body_seconds, self._late)
        request = self.requests[-1]
        problem = request.begin(self._command, self._path, self._version, self.length)
        if problem is not None:
            self.refuse(problem, request)
            return
        super().allHeadersReceived()

    def allContentReceived(self) -> None:
        """Twisted calls this when the request is there."""
        if self._refused:
            return
        self._wait_for(None)
        self._arriving, self.busy = False, True
        super().allContentReceived()

    def requestDone(self, request: http.Request) -> None:
        """A request calls this when it was answered."""
        self.busy = False
        if self.factory.stopping:
            self.persistent = False
        if self.persistent:
            self._wait_for(self.factory.bounds.idle_seconds, self.loseConnection)
        super().requestDone(request)

    def pauseProducing(self) -> None:
        """The transport calls this when the client does not take what is written."""
        self.stalled = True
        if self._stall is None:
            self._stall = self.factory.clock.callLater(self.factory.bounds.stall_seconds, self.abort)
        super().pauseProducing()

    def resumeProducing(self) -> None:
        """The transport calls this when the client has taken it."""
        self.stalled = False
        _cancel(self._stall)
        self._stall = None
        super().resumeProducing()

    def loseConnection(self) -> None:
        """Close it once what was written is sent, but do not wait for that for ever."""
        self._wait_for(max(self.factory.bounds.linger_seconds, self.factory.bounds.stall_seconds), self.abort)
        super().loseConnection()

    def _respondToBadRequestAndDisconnect(self) -> None:
        """Twisted calls this for what is not HTTP."""
        bounds = self.factory.bounds
        if self._receivedHeaderSize > bounds.head or self._receivedHeaderCount > bounds.headers:
            self.refuse(HeadersTooLarge(limit=bounds.head))
        else:
            self.refuse(MalformedRequest(reason=Text("its line, a header or the length of its body is wrong")))

    # What requests and the factory ask of it

    @property
    def refused(self) -> bool:
        """Whether nothing more is read."""
        return self._refused

    def refuse(self, problem: Problem, request: Any = None) -> None:
        """
        Answer with *problem* before the request is there, and close.

        What the client still sends is read for a while: closing at once would reset the connection, and the client
        might never see the answer.
        """
        if self._refused:
            return
        self._refused, self.persistent = True, False
        body = problem.body(self.factory.next_request_id() if request is None else request.request_id)
        headers = Headers()
        secure = self.isSecure()
        for name, value in (
            response_headers(self.factory.date()) + secure_headers(secure) + list(problem.headers.items())
        ):
            headers.setRawHeaders(name, [value])
        headers.setRawHeaders("Content-Type", [PROBLEM_JSON])
        headers.setRawHeaders("Content-Length", [str(len(body))])
        headers.setRawHeaders("Connection", ["close"])
        reason = http.RESPONSES.get(problem.status, b"Error")
        self.writeHeaders(b"HTTP/1.1", str(problem.status).encode(), reason, headers)
        if request is None or request.method != b"HEAD":
            self.transport.write(body)
        self.factory.count(problem.status)
        if not ISSLTransport.providedBy(self.transport) and hasattr(self.transport, "loseWriteConnection"):
            self.transport.loseWriteConnection()
        self._wait_for(self.factory.bounds.linger_seconds, self.loseConnection)

    def abort(self) -> None:
        """End it now; what was written and not taken is lost."""
        self.transport.abortConnection()

    # Its own

    def _late(self) -> None:
        if self._arriving:
            self.refuse(RequestTimeout(seconds=round(self._allowed)))
        else:
            self.abort()

    def _wait_for(self, seconds: float | None, then: Any = None) -> None:
        """There is one deadline at a time."""
        _cancel(self._wait)
        self._wait = None
        if seconds is not None:
            self._allowed = seconds
            self._wait = self.factory.clock.callLater(seconds, then)


def _cancel(call: IDelayedCall | None) -> None:
    if call is not None and call.active():
        call.cancel()
