"""
An API on a loopback port with routes of the test's own, and clients that say what they like.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import msgspec
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, connectProtocol
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Protocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from relayd.hub.access.permissions import Permission, Principal, Role
from relayd.hub.api.application import ApiSettings, Application, Head
from relayd.hub.api.channel import Bounds
from relayd.hub.api.problems import NotAuthenticated
from relayd.hub.api.routes import Route, Router
from relayd.hub.api.server import ApiFactory
from relayd.hub.api.translation import problem_of
from relayd.language.texts import Text


class Response(msgspec.Struct):
    """What a server answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        """Its body, which is JSON."""
        return json.loads(self.body)


def parse(data: bytes, methods: Iterable[str]) -> list[Response]:
    """All answers on a connection, to requests of these methods."""
    answers = []
    for method in methods:
        head, separator, data = data.partition(b"\r\n\r\n")
        assert separator, head
        first, *lines = head.decode("latin-1").split("\r\n")
        version, status, _ = first.split(" ", 2)
        assert version == "HTTP/1.1", first
        pairs = [line.split(": ", 1) for line in lines]
        headers = {name.lower(): value for name, value in pairs}
        assert len(headers) == len(pairs), f"a header is there twice: {lines}"
        if status == "100":
            answers.append(Response(100, headers, b""))
            continue
        body = b""
        if method == "HEAD" or status in ("204", "304"):
            pass
        elif headers.get("transfer-encoding") == "chunked":
            while True:
                size, _, data = data.partition(b"\r\n")
                chunk, data = data[: int(size, 16)], data[int(size, 16) + 2 :]
                if not chunk:
                    break
                body += chunk
        else:
            length = int(headers["content-length"])
            body, data = data[:length], data[length:]
            assert len(body) == length, "the body is not whole"
        answers.append(Response(int(status), headers, body))
    assert not data, data
    return answers


class RawClient(Protocol):
    """Sends what it is told, and reads until the server closes."""

    def __init__(self, data: bytes = b"", close: bool = False) -> None:
        self.data = data
        self.received = b""
        self.done: Deferred[bytes] = Deferred()
        self._close = close
        self._awaited: list[tuple[bytes, Deferred[None]]] = []

    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.write(self.data)
        if self._close:
            transport.loseWriteConnection()

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        for awaited in list(self._awaited):
            if awaited[0] in self.received:
                self._awaited.remove(awaited)
                awaited[1].callback(None)

    def connectionLost(self, reason: Failure = Failure(Exception())) -> None:  # noqa: B008
        self.done.callback(self.received)
        for _, waiting in self._awaited:
            waiting.errback(AssertionError(f"the connection is gone after {self.received!r}"))

    def until(self, data: bytes) -> Deferred[None]:
        """Fires when this has arrived."""
        waiting: Deferred[None] = Deferred()
        if data in self.received:
            waiting.callback(None)
        else:
            self._awaited.append((data, waiting))
        return waiting


class Noted:
    """An act in the audit log of tests."""

    def __init__(self, log: list[tuple[str, str, str]], act: str, who: str) -> None:
        self._log = log
        self._act = act
        self._who = who
        log.append((act, who, "begun"))

    def end(self, outcome: str = "done") -> None:
        """What came of it."""
        self._log.append((self._act, self._who, outcome))


class OpenGate:
    """Knows tokens by their scopes: ``Bearer runs:read+runs:write``; ``all`` has all of them."""

    def __init__(self) -> None:
        self.noted: list[tuple[str, str, str]] = []

    async def authenticate(self, head: Head) -> Principal | None:
        """See `relayd.hub.api.application.Gate`."""
        given = head.headers.get("authorization")
        if given is None:
            return None
        if not given.startswith("Bearer "):
            raise NotAuthenticated(reason=Text("it is no token"))
        token = given.removeprefix("Bearer ")
        scopes = frozenset(Permission) if token == "all" else frozenset(map(Permission, token.split("+")))
        return Principal(
            user_id="1", user="test", role=Role.ADMIN, selectors=None, address=head.address, token="t",
            token_scopes=scopes,
        )  # fmt: skip

    async def begin(self, head: Head, principal: Principal) -> Any:
        """See `relayd.hub.api.application.Gate`."""
        return Noted(self.noted, head.route.act, principal.name)

    def refused(self, head: Head, principal: Principal | None, code: str) -> None:
        """See `relayd.hub.api.application.Gate`."""
        self.noted.append((head.route.act, "" if principal is None else principal.name, code))


class Asking:
    """What speaks to an API at `port`."""

    port: int

    async def pause(self) -> None:
        """Let others do something."""
        await deferLater(reactor, 0.02)  # type: ignore[arg-type]

    async def connect(self, data: bytes = b"", close: bool = False) -> RawClient:
        """A client that has sent *data*."""
        clock: Any = reactor
        client = RawClient(data, close)
        await connectProtocol(TCP4ClientEndpoint(clock, "127.0.0.1", self.port), client)
        return client

    async def exchange(self, data: bytes, *methods: str) -> list[Response]:
        """All answers to *data*, after which the server closes."""
        client = await self.connect(data)
        return parse(await client.done, methods or ("GET",))

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Iterable[tuple[str, str]] = (),
        token: str = "all",
    ) -> Response:
        """One request on a connection of its own."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", "Connection: close"]
        if token:
            lines.append(f"Authorization: Bearer {token}")
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
            if not any(name.lower() == "content-type" for name, _ in headers):
                lines.append("Content-Type: application/json")
        lines += [f"{name}: {value}" for name, value in headers]
        data = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + (body or b"")
        return (await self.exchange(data, method))[0]

    def assert_problem(self, response: Response, status: int, code: str) -> Any:
        """It is a problem of that kind."""
        found = (response.status, response.headers.get("content-type"))
        if found != (status, "application/problem+json"):
            raise AssertionError(f"{found} {response.body!r}")
        document = response.document
        if (document["type"], document["status"]) != (f"urn:relayd:problem:{code}", status):
            raise AssertionError(document)
        if not document["detail"].endswith("."):
            raise AssertionError(document)
        return document


class Serving(Asking, TestCase):
    """Tests with an API on a loopback port."""

    timeout = 60

    async def serve(
        self,
        routes: Iterable[Route],
        *,
        hub: object = None,
        bounds: Bounds | None = None,
        settings: ApiSettings | None = None,
        gate: Any = None,
    ) -> ApiFactory:
        """Serve *routes* until the test is over."""
        clock: Any = reactor
        self.gate = gate or OpenGate()
        application = Application(
            clock=clock,
            hub=hub,
            router=Router(routes),
            gate=self.gate,
            problem_of=problem_of,
            settings=settings,
        )
        self.factory = ApiFactory(reactor, application, bounds)
        port: IListeningPort = await TCP4ServerEndpoint(clock, 0, interface="127.0.0.1").listen(self.factory)
        address: Any = port.getHost()
        self.port = int(address.port)
        self.addCleanup(self.factory.stop, 0.1)
        self.addCleanup(port.stopListening)
        return self.factory
