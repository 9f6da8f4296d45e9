"""
The API over HTTP/1.1: makes calls of what arrives, and writes the answers; how it stops.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable
from email.utils import formatdate
from functools import partial
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IAddress, IPushProducer
from twisted.internet.protocol import ServerFactory, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import http
from zope.interface import implementer

from relayd.hub.api.application import Application, Head, Outgoing
from relayd.hub.api.calls import Gone
from relayd.hub.api.channel import ApiChannel, Bounds
from relayd.hub.api.headers import response_headers, secure_headers
from relayd.hub.api.problems import BodyTooLarge, LengthRequired, Problem, Unavailable
from relayd.language.texts import Text
from relayd.network.forwarded import is_within

_log = Logger("relayd.hub")
_DONE: Final = connectionDone
#: Bytes of a body where none is needed: some clients send an empty object.
_NO_BODY: Final = 64
#: Statuses whose answers have no body (RFC 9110, section 6.4.1).
_BODILESS: Final = frozenset({204, 304})


@implementer(IPushProducer)
class _Writer:
    """Where a stream's bytes go: see `relayd.hub.api.calls.Writer`."""

    def __init__(self, request: ApiRequest, factory: ApiFactory) -> None:
        self._request = request
        self._factory = factory
        self._paused = request.channel.stalled
        self._waiting: Deferred[None] | None = None
        self._gone = False

    async def write(self, data: bytes) -> None:
        """See `relayd.hub.api.calls.Writer`."""
        if self._gone:
            raise Gone
        self._request.write(data)
        if self._paused:
            self._waiting = Deferred()
            await self._waiting
        if self._gone:
            raise Gone

    @property
    def ending(self) -> bool:
        """See `relayd.hub.api.calls.Writer`."""
        return self._factory.stopping or self._gone

    def wake_when_ending(self, wake: Callable[[], None]) -> Callable[[], None]:
        """See `relayd.hub.api.calls.Writer`."""
        self._factory.wakes.add(wake)
        return partial(self._factory.wakes.discard, wake)

    def pauseProducing(self) -> None:
        """The channel calls this when the client does not take what is written."""
        self._paused = True

    def resumeProducing(self) -> None:
        """The channel calls this when it has."""
        self._paused = False
        self._go_on()

    def stopProducing(self) -> None:
        """The channel calls this when the client has gone."""
        self._gone = True
        self._go_on()

    def _go_on(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)


class ApiRequest(http.Request):
    """
    One request.

    :ivar request_id: names it in logs and in the answer.
    """

    channel: ApiChannel

    def __init__(self, channel: ApiChannel, queued: object = None) -> None:
        super().__init__(channel, parsePOSTFormSubmission=False)
        self._factory: ApiFactory = channel.factory  # type: ignore[assignment]
        self.request_id = self._factory.next_request_id()
        self._head: Head | None = None
        self._problem: Problem | None = None
        self._body = bytearray()
        self._limit = 0
        self._answering: Deferred[None] | None = None

    def begin(self, method: bytes, target: bytes, version: bytes, length: int | None) -> Problem | None:
        """
        The head has arrived.

        :param length: of the body; ``None`` where it comes in chunks.
        :return: why the body is not even read; a request without one is answered in `process`.
        """
        self.method, self.clientproto = method, version
        try:
            head = self._factory.application.read_head(
                method,
                target,
                version,
                self.requestHeaders,
                self.channel.address,
                self.channel.isSecure(),
                self.request_id,
            )
            self._limit = head.route.max_body if head.route.takes is not None else _NO_BODY
            if length is not None and length > self._limit:
                raise BodyTooLarge(limit=self._limit)
            if length == 0 and not head.has_length and head.route.takes is not None:
                raise LengthRequired(expected=" or ".join(head.route.media_types))
        except Problem as problem:
            self._problem = problem
        except Exception:
            self._problem = self._internal_error()
        else:
            self._head = head
        # what it cannot answer now, `process` answers
        return None if length == 0 else self._problem

    def gotLength(self, length: int | None) -> None:
        """Twisted would open a file for the body here."""

    def handleContentChunk(self, data: bytes) -> None:
        """Twisted calls this with each part of the body."""
        if self.channel.refused:
            return
        if len(self._body) + len(data) > self._limit:
            self.channel.refuse(BodyTooLarge(limit=self._limit), self)
        elif not self._factory.hold(len(data)):
            self.channel.refuse(Unavailable(reason=Text("too many bodies are arriving at a time")), self)
        else:
            self._body += data

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """Twisted calls this when the request is there; its own parses what is of no use here."""
        self.uri = self.path = path
        self.process()

    def process(self) -> None:
        """Answer it."""
        self._factory.answering += 1
        self._answering = Deferred.fromCoroutine(self._respond())
        self._answering.addErrback(self._lost)
        self._answering.addBoth(self._answered)

    def connectionLost(self, reason: Failure = _DONE) -> None:
        """Twisted calls this when the connection is gone: what only reads ends, what changes something goes on."""
        super().connectionLost(reason)
        self._release()
        if self._answering is not None and self.method in (b"GET", b"HEAD"):
            self._answering.cancel()

    async def _respond(self) -> None:
        problem, head = self._problem, self._head
        if problem is None and head is not None:
            body = bytes(self._body)
            self._release()
            outgoing = await self._factory.application.respond(head, body)
        else:
            outgoing = self._factory.application.outgoing_problem(problem or Problem(), self.request_id)
        if self._disconnected:
            return
        self._write_head(outgoing)
        if outgoing.stream is not None and self.method != b"HEAD" and outgoing.status not in _BODILESS:
            await self._send_stream(outgoing)
            return
        if outgoing.body:
            self.write(outgoing.body)
        self.finish()

    def _write_head(self, outgoing: Outgoing) -> None:
        factory = self._factory
        factory.count(outgoing.status, None if self._head is None else self._head.route.name)
        self.setResponseCode(outgoing.status)
        secure = self.channel.isSecure() if self._head is None else self._head.secure
        for name, value in [*response_headers(factory.date()), *secure_headers(secure), *outgoing.headers]:
            self.responseHeaders.setRawHeaders(name, [value])
        self.setHeader("X-Request-Id", self.request_id)
        if outgoing.cookies:
            self.responseHeaders.setRawHeaders("Set-Cookie", list(outgoing.cookies))
        if outgoing.status not in _BODILESS:
            length = outgoing.length if outgoing.stream is not None else len(outgoing.body)
            if length is not None:
                self.setHeader("Content-Length", str(length))
        if factory.stopping or (outgoing.stream is not None and self.clientproto != b"HTTP/1.1"):
            self.setHeader("Connection", "close")
            self.channel.persistent = False

    async def _send_stream(self, outgoing: Outgoing) -> None:
        writer = _Writer(self, self._factory)
        self.registerProducer(writer, True)
        whole = False
        try:
            assert outgoing.stream is not None
            await outgoing.stream(writer)
            whole = outgoing.length in (None, self.sentLength)
        except (Gone, CancelledError):
            pass
        except Exception:
            _log.failure("Request {request_id}: a stream broke off", request_id=self.request_id)
        if not self._disconnected:
            self.unregisterProducer()
            if not whole:  # the client must not take what it has for all
                self.channel.loseConnection()
                return
            self.finish()

    def _internal_error(self) -> Problem:
        _log.failure("Request {request_id}: internal error", request_id=self.request_id)
        return Problem()

    def _lost(self, failure: Failure) -> None:
        if failure.check(CancelledError) is None:
            _log.failure("Request {request_id}: internal error", failure=failure, request_id=self.request_id)
            if not self._disconnected:
                self.channel.abort()

    def _answered(self, ignored: object) -> None:
        self._factory.answered()

    def _release(self) -> None:
        self._factory.release(len(self._body))
        self._body.clear()


class ApiFactory(ServerFactory[Any]):
    """
    Makes the connections of the API, and counts what they hold.

    :ivar stopping: whether the hub stops: answers in the making are finished, streams end.
    :ivar wakes: what to call when the hub stops.
    """

    noisy = False

    def __init__(self, reactor: Any, application: Application, bounds: Bounds | None = None) -> None:
        self.clock = reactor
        self.application = application
        self.bounds = bounds or Bounds()
        self.stopping = False
        self.wakes: set[Callable[[], None]] = set()
        self.answering = 0
        self._channels: set[ApiChannel] = set()
        self._addresses: Counter[str] = Counter()
        self._held = 0
        self._stopped: Deferred[None] | None = None

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Twisted calls this for each connection, and closes it if there is ``None``."""
        address = str(getattr(addr, "host", ""))
        few = self._is_proxy(address) or self._addresses[address] < self.bounds.from_one_address
        if self.stopping or len(self._channels) >= self.bounds.connections or not few:
            return None
        channel: Any = ApiChannel()
        channel.requestFactory = ApiRequest
        channel.factory = self
        return channel

    def _is_proxy(self, address: str) -> bool:
        """A proxy's connections are those of many; so are those of a UNIX socket, which has no address."""
        return not address or is_within(address, self.application.settings.proxies)

    @property
    def open(self) -> int:
        """How many connections there are."""
        return len(self._channels)

    @property
    def held(self) -> int:
        """Bytes of bodies that are held."""
        return self._held

    def opened(self, channel: ApiChannel) -> str:
        """A connection was made; this is its address."""
        address = str(getattr(channel.getPeer(), "host", ""))
        self._channels.add(channel)
        self._addresses[address] += 1
        return address

    def closed(self, channel: ApiChannel) -> None:
        """A connection is gone."""
        self._channels.discard(channel)
        self._addresses[channel.address] -= 1
        if not self._addresses[channel.address]:
            del self._addresses[channel.address]
        self._check_stopped()

    def hold(self, size: int) -> bool:
        """Whether there is room for so many bytes more of bodies; then they are counted."""
        if self._held + size > self.bounds.bodies:
            return False
        self._held += size
        return True

    def release(self, size: int) -> None:
        """So many bytes of bodies are not held any more."""
        self._held -= size

    def count(self, status: int, route: str | None = None) -> None:
        """A request to *route* is answered with this status; ``None``: it was to none."""
        self.application.counts.count(route or "", status)

    def answered(self) -> None:
        """A request was answered."""
        self.answering -= 1
        self._check_stopped()

    def log(self, request: http.Request) -> None:
        """Twisted calls this for an access log; what changes something is in the audit log."""

    def date(self) -> str:
        """Now, for the header ``Date``."""
        return formatdate(usegmt=True)

    def next_request_id(self) -> str:
        """A name for one request."""
        return secrets.token_hex(8)

    def stop(self, seconds: float) -> Deferred[None]:
        """
        Finish what is being answered, end streams, and close all connections.

        :param seconds: after which connections are ended as they are.
        """
        if self._stopped is not None:
            return succeed(None)
        self.stopping = True
        done: Deferred[None] = Deferred()
        self._stopped = done
        for channel in list(self._channels):
            if not channel.busy:
                channel.loseConnection()
        for wake in list(self.wakes):
            wake()
        cut = self.clock.callLater(seconds, self._cut)

        def stopped(ignored: None) -> None:
            if cut.active():
                cut.cancel()

        done.addCallback(stopped)
        self._check_stopped()
        return done

    def _cut(self) -> None:
        for channel in list(self._channels):
            channel.abort()

    def _check_stopped(self) -> None:
        if self._stopped is not None and not self._stopped.called and not self._channels and not self.answering:
            self._stopped.callback(None)
