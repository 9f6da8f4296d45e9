"""
From the head and body of a request to its answer: routing, checks, the handler, what is said when something fails.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final, Protocol

import msgspec
from msgspec import Struct
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.http_headers import Headers

from relayd.hub.access.audit import DONE, Entry, outcome_of
from relayd.hub.access.permissions import Permission, Principal
from relayd.hub.api.bodies import read_json
from relayd.hub.api.buckets import Buckets
from relayd.hub.api.calls import Answer, Call, Stream
from relayd.hub.api.conditions import is_same, parse_tags
from relayd.hub.api.guards import check_accept, check_host, check_origin, media_type_of
from relayd.hub.api.headers import read_headers
from relayd.hub.api.metrics import RequestCounts
from relayd.hub.api.problems import (
    PROBLEM_JSON,
    BodyUnexpected,
    ConditionMissing,
    InvalidHeader,
    KeyMissing,
    NotAuthenticated,
    Problem,
    TooManyRequests,
    UnsupportedMediaType,
)
from relayd.hub.api.routes import SAFE, Anyone, Idempotency, Precondition, Route, Router
from relayd.hub.api.targets import parse_query, parse_target
from relayd.language.texts import Text, printable
from relayd.network.forwarded import client_address, is_within
from relayd.network.patterns import Network

_log = Logger("relayd.hub")
#: Characters of an ``Idempotency-Key``.
MAX_KEY: Final = 200


class Limits(Struct, frozen=True, kw_only=True):
    """
    How often, in requests a second and at once.

    :ivar address: from one address, authenticated or not.
    :ivar principal: of one principal.
    """

    address: tuple[float, float] = (100.0, 400.0)
    principal: tuple[float, float] = (50.0, 200.0)


class ApiSettings(Struct, frozen=True, kw_only=True):
    """
    :ivar names: what the hub goes by in ``Host``, in lower case; with none, anything.
    :ivar proxies: the networks of reverse proxies whose headers are believed.
    """

    names: frozenset[str] = frozenset()
    proxies: Sequence[Network] = ()
    limits: Limits = Limits()


class Head(Struct, frozen=True, kw_only=True):
    """A request's head that was read and routed."""

    method: str
    route: Route
    parameters: Mapping[str, str]
    query: bytes
    headers: Mapping[str, str]
    authority: str
    address: str
    secure: bool
    request_id: str

    @property
    def has_length(self) -> bool:
        """Whether it says how long its body is."""
        return "content-length" in self.headers or "transfer-encoding" in self.headers


class Outgoing(Struct, frozen=True, kw_only=True):
    """An answer, ready to be written."""

    status: int
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""
    stream: Stream | None = None
    length: int | None = None
    cookies: tuple[str, ...] = ()


class Gate(Protocol):
    """Who asks, and what is recorded of it."""

    async def authenticate(self, head: Head) -> Principal | None:
        """
        Whose session or token the request has; ``None``: it has neither.

        :raises DescribedError: when it has one that is not good.
        """

    async def begin(self, head: Head, principal: Principal) -> Entry:
        """
        Record an act before it is done.

        :raises DescribedError: when it cannot be.
        """

    def refused(self, head: Head, principal: Principal | None, code: str) -> None:
        """Record an act that is not done."""


class Application:
    """
    Answers requests.

    :param hub: what handlers get.
    :param problem_of: makes a problem of an error that handlers raise; ``None``: it is an internal one.
    """

    def __init__(
        self,
        *,
        clock: IReactorTime,
        hub: object,
        router: Router,
        gate: Gate,
        problem_of: Callable[[Exception], Problem | None],
        settings: ApiSettings | None = None,
        counts: RequestCounts | None = None,
    ) -> None:
        self.router = router
        self.settings = settings or ApiSettings()
        self.counts = counts or RequestCounts()
        self._clock = clock
        self._hub = hub
        self._gate = gate
        self._problem_of = problem_of
        limits = self.settings.limits
        self._addresses = Buckets(*limits.address)
        self._principals = Buckets(*limits.principal)

    # Before the body

    def read_head(
        self, method: bytes, target: bytes, version: bytes, raw: Headers, peer: str, secure: bool, request_id: str
    ) -> Head:
        """
        What can be said of a request before its body has arrived.

        :raises Problem: when nothing in its body could mend it.
        """
        headers = read_headers(raw)
        parsed = parse_target(target)
        settings = self.settings
        address = client_address(peer, headers.get("x-forwarded-for", ""), settings.proxies) or peer
        if is_within(peer, settings.proxies):
            secure = headers.get("x-forwarded-proto", "https" if secure else "http").strip().lower() == "https"
        self._take(self._addresses, address)
        authority = check_host(parsed.authority or headers.get("host"), version, settings.names)
        route, parameters = self.router.find(method.decode("ascii"), parsed.segments)
        head = Head(
            method=method.decode("ascii"),
            route=route,
            parameters=parameters,
            query=parsed.query,
            headers=headers,
            authority=authority,
            address=address,
            secure=secure,
            request_id=request_id,
        )
        if route.method not in SAFE:
            check_origin(headers, authority, secure)
        _check_body_headers(head)
        check_accept(headers.get("accept"), route.produces)
        return head

    # With the body

    async def respond(self, head: Head, body: bytes) -> Outgoing:
        """The answer, whatever happens."""
        principal: Principal | None = None
        admitted = False
        try:
            principal = await self._authenticate(head)
            self._authorize(head.route, principal)
            admitted = True
            return self._outgoing(head, await self._handle(head, principal, body))
        except CancelledError:
            raise
        except Exception as error:
            problem = self._problem(error, head)
            if head.route.act and not admitted:
                self._gate.refused(head, principal, problem.code)
            return self.outgoing_problem(problem, head.request_id)

    def outgoing_problem(self, problem: Problem, request_id: str) -> Outgoing:
        """A problem as an answer."""
        return Outgoing(
            status=problem.status,
            headers=[("Content-Type", PROBLEM_JSON), *problem.headers.items()],
            body=problem.body(request_id),
        )

    async def _authenticate(self, head: Head) -> Principal | None:
        if head.route.permission is Anyone.PUBLIC:
            return None
        principal = await self._gate.authenticate(head)
        if principal is None:
            raise NotAuthenticated(reason=Text("it has none"))
        self._take(self._principals, principal.name)
        return principal

    def _authorize(self, route: Route, principal: Principal | None) -> None:
        if principal is not None and isinstance(route.permission, Permission):
            principal.require(route.permission)

    async def _handle(self, head: Head, principal: Principal | None, body: bytes) -> Any:
        route, headers = head.route, head.headers
        query = parse_query(head.query, route.query)
        if route.precondition is Precondition.REQUIRED:
            if "if-match" not in headers:
                raise ConditionMissing
            parse_tags("If-Match", headers["if-match"])
        if route.idempotency_key is not Idempotency.NONE:
            _check_key(headers.get("idempotency-key"), route.idempotency_key)
        if route.takes is None and body.strip() not in (b"", b"{}"):
            raise BodyUnexpected
        document: Any = body if route.takes is bytes else None
        if route.takes is not None and route.takes is not bytes:
            document = read_json(body, route.takes)
        call = Call(
            principal=principal,
            parameters=head.parameters,
            query=query,
            body=document,
            address=head.address,
            secure=head.secure,
            request_id=head.request_id,
            headers=headers,
        )
        if not route.act or route.recorded_below or principal is None:
            return await route.handler(self._hub, call)
        entry = await self._gate.begin(head, principal)
        try:
            answer = await route.handler(self._hub, call)
        except BaseException as error:
            entry.end(outcome_of(error))
            raise
        entry.end(DONE, **(answer.record if isinstance(answer, Answer) else {}))
        return answer

    def _outgoing(self, head: Head, given: Any) -> Outgoing:
        route = head.route
        answer = given if isinstance(given, Answer) else Answer(body=given)
        status = answer.status or route.status
        if answer.stream is not None:
            kind = answer.media_type or route.produces
            return Outgoing(
                status=status,
                headers=[("Content-Type", kind), *answer.headers.items()],
                stream=answer.stream,
                length=answer.length,
            )
        if answer.body is None:
            return Outgoing(status=status, headers=[*answer.headers.items()], cookies=answer.cookies)
        body = answer.body if isinstance(answer.body, bytes) else msgspec.json.encode(answer.body)
        etag = answer.etag
        if etag is None and route.method == "GET" and status == 200:
            etag = f'"{sha256(body).hexdigest()[:32]}"'
        headers = [*answer.headers.items()]
        if etag is not None:
            headers.append(("ETag", etag))
            if route.method == "GET" and not answer.volatile and is_same(head.headers.get("if-none-match"), etag):
                return Outgoing(status=304, headers=headers)
        headers.append(("Content-Type", answer.media_type or route.produces))
        return Outgoing(status=status, headers=headers, body=body, cookies=answer.cookies)

    def _problem(self, error: Exception, head: Head) -> Problem:
        if isinstance(error, Problem):
            return error
        problem = self._problem_of(error)
        if problem is not None:
            return problem
        _log.failure("Request {request_id}, {route}: internal error", request_id=head.request_id, route=head.route.name)
        return Problem()

    def _take(self, buckets: Buckets, key: str) -> None:
        wait = buckets.take(key, self._clock.seconds())
        if wait > 0:
            raise TooManyRequests(whom=key, seconds=_whole(wait))


def _whole(seconds: float) -> int:
    return max(1, round(seconds + 0.5))


def _check_body_headers(head: Head) -> None:
    route, headers = head.route, head.headers
    if "content-encoding" in headers and headers["content-encoding"].strip().lower() != "identity":
        coding = printable(headers["content-encoding"], 40)
        raise UnsupportedMediaType(
            found=Text("encoded as {coding}", coding=coding), expected=Text("it without an encoding")
        )
    if route.takes is None:
        if route.method in SAFE and (headers.get("content-length", "0").strip("0") or "transfer-encoding" in headers):
            raise BodyUnexpected
        return
    if not head.has_length:
        return  # the answer is that there is none
    content_type = headers.get("content-type")
    if content_type is None or media_type_of(content_type) not in route.media_types:
        found = Text("of no type") if content_type is None else printable(content_type, 60)
        raise UnsupportedMediaType(found=found, expected=" or ".join(route.media_types))


def _check_key(key: str | None, wanted: Idempotency) -> None:
    if key is None:
        if wanted is Idempotency.REQUIRED:
            raise KeyMissing
        return
    if not 1 <= len(key) <= MAX_KEY or not key.isascii() or not key.isprintable():
        raise InvalidHeader(
            header="Idempotency-Key", reason=Text("has to have 1 to {most} printable ASCII characters", most=MAX_KEY)
        )
