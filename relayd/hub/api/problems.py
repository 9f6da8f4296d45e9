"""
What the API answers when it does not do what a request asks: problem details (RFC 9457), as one list.

As `DescribedError` says, the docstring of a class is the message (``detail``).  The ``type`` is a URN with the code,
which stays as it is; ``docs/hub-api.rst`` lists all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Final

import msgspec
from msgspec import UNSET, Struct, UnsetType

from relayd.language.errors import DescribedError

#: The media type of all of them.
PROBLEM_JSON: Final = "application/problem+json"
_TYPE: Final = "urn:relayd:problem:{code}"


class Mistake(Struct, frozen=True):
    """
    What is wrong at one place of a request.

    :ivar detail: what is wrong there.
    :ivar pointer: JSON Pointer (RFC 6901) into the body; absent where it is not in the body.
    :ivar parameter: name of the query parameter or header; absent where it is in the body.
    """

    detail: str
    pointer: str | UnsetType = UNSET
    parameter: str | UnsetType = UNSET


class ProblemDetails(Struct, frozen=True, rename="camel"):
    """
    Why a request was not done (RFC 9457).

    :ivar type: which kind of problem, for programs.
    :ivar detail: what is wrong with this request, and what to do.
    :ivar errors: the places where something is wrong.
    :ivar request_id: names the request in the hub's log.
    """

    type: str
    title: str
    status: int
    detail: str
    errors: Sequence[Mistake] | UnsetType = UNSET
    request_id: str | UnsetType = UNSET


class Problem(DescribedError):
    """The hub met an error of its own and did not say more here; its log has it under this request's id. Try again,
    and report it if it stays."""

    code = "internal"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"

    def __init__(
        self, *, errors: Sequence[Mistake] = (), headers: Mapping[str, str] | None = None, **fields: object
    ) -> None:
        super().__init__(**fields)
        #: Where something is wrong.
        self.errors = errors
        #: Headers of the answer besides those that every answer has.
        self.headers = dict(headers or {})

    def details(self, request_id: str | UnsetType = UNSET) -> ProblemDetails:
        """The document that is sent."""
        return ProblemDetails(
            type=_TYPE.format(code=self.code),
            title=self.title,
            status=self.status,
            detail=" ".join(str(self).split()),
            errors=self.errors or UNSET,
            request_id=request_id,
        )

    def body(self, request_id: str | UnsetType = UNSET) -> bytes:
        """The document, encoded."""
        return msgspec.json.encode(self.details(request_id))


def problems(root: type[Problem] = Problem) -> Iterator[type[Problem]]:
    """Each kind of problem."""
    yield root
    for below in root.__subclasses__():
        yield from problems(below)


# What HTTP itself refuses --------------------------------------------------------------------------------------------


class MalformedRequest(Problem):
    """The request is not valid HTTP: {reason}."""

    code, status, title = "malformed-request", 400, "Malformed request"


class UnknownPath(Problem):
    """There is nothing at this path. The paths are listed in /api/v1/openapi.json."""

    code, status, title = "unknown-path", 404, "Unknown path"


class MethodNotAllowed(Problem):
    """This path does not take {method}. It takes {allowed}."""

    code, status, title = "method-not-allowed", 405, "Method not allowed"

    def __init__(self, *, method: str, allowed: str) -> None:
        super().__init__(method=method, allowed=allowed, headers={"Allow": allowed})


class NotAcceptable(Problem):
    """The answer is {offered}, which the header Accept rules out. Leave Accept away, or name it there."""

    code, status, title = "not-acceptable", 406, "Not acceptable"


class RequestTimeout(Problem):
    """The request did not arrive within {seconds} seconds. Send it again, in one go."""

    code, status, title = "request-timeout", 408, "Request timed out"


class LengthRequired(Problem):
    """The request has no body, and this one needs {expected}. Send it, with the header Content-Length."""

    code, status, title = "length-required", 411, "Body missing"


class BodyTooLarge(Problem):
    """The body has more than {limit} bytes, which is the limit here. Send less at a time."""

    code, status, title = "body-too-large", 413, "Body too large"


class UriTooLong(Problem):
    """The request line has more than {limit} bytes. Send fewer parameters."""

    code, status, title = "uri-too-long", 414, "URI too long"


class UnsupportedMediaType(Problem):
    """The body is {found}. Send {expected}, and say so in the header Content-Type."""

    code, status, title = "unsupported-media-type", 415, "Unsupported media type"


class BodyUnexpected(Problem):
    """This request takes no body. Leave it away."""

    code, status, title = "body-unexpected", 400, "Body not expected"


class UnsatisfiableRange(Problem):
    """The output has {size} bytes, and the header Range asks for none of them."""

    code, status, title = "unsatisfiable-range", 416, "Range not satisfiable"

    def __init__(self, *, size: int) -> None:
        super().__init__(size=size, headers={"Content-Range": f"bytes */{size}"})


class Misdirected(Problem):
    """The header Host names {host}, and this hub does not go by that name. Use the name in its --public-url."""

    code, status, title = "misdirected", 421, "Misdirected request"


class HeadersTooLarge(Problem):
    """The headers have more than {limit} bytes, or are too many. Send fewer."""

    code, status, title = "headers-too-large", 431, "Headers too large"


# What is wrong with what it asks -------------------------------------------------------------------------------------


class NotJson(Problem):
    """The body is not JSON: {reason}."""

    code, status, title = "not-json", 400, "Not JSON"


class InvalidRequest(Problem):
    """{summary}"""

    code, status, title = "invalid-request", 422, "Invalid request"

    def __init__(self, errors: Sequence[Mistake]) -> None:
        first = errors[0]
        where = first.pointer or "the body" if first.pointer is not UNSET else first.parameter
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        super().__init__(summary=f"{where} {first.detail}{more}. See errors.", errors=errors)


class InvalidQuery(Problem):
    """The parameter {parameter} {reason}."""

    code, status, title = "invalid-query", 400, "Invalid query"

    def __init__(self, *, parameter: str, reason: str) -> None:
        super().__init__(parameter=parameter, reason=reason, errors=(Mistake(detail=str(reason), parameter=parameter),))


class InvalidHeader(Problem):
    """The header {header} {reason}."""

    code, status, title = "invalid-header", 400, "Invalid header"

    def __init__(self, *, header: str, reason: str) -> None:
        super().__init__(header=header, reason=reason, errors=(Mistake(detail=str(reason), parameter=header),))


class NotFound(Problem):
    """There is no {what} {name}."""

    code, status, title = "not-found", 404, "Not found"


class KeyReused(Problem):
    """The Idempotency-Key was used before with another request, and nothing was done now. Make a new key for a new
    order."""

    code, status, title = "idempotency-key-reused", 422, "Idempotency-Key used before"


class KeyMissing(Problem):
    """The request needs the header Idempotency-Key, so that it can be sent again without being done twice. Send a new
    random text with each order."""

    code, status, title = "idempotency-key-missing", 400, "Idempotency-Key missing"


class Changed(Problem):
    """It was changed in the meantime. Get it again, and send your change with the ETag that it has then."""

    code, status, title = "changed", 412, "Changed in the meantime"


class ConditionMissing(Problem):
    """The request needs the header If-Match with the ETag that you saw, so that no change of others is lost. Get it
    first."""

    code, status, title = "condition-missing", 428, "If-Match missing"


# Who may do what -----------------------------------------------------------------------------------------------------


#: What is asked for where nobody has shown who they are (RFC 9110, section 11.6.1).
AUTHENTICATE: Final = {"WWW-Authenticate": 'Bearer realm="relayd-hub"'}


class NotAuthenticated(Problem):
    """The request needs a session or an API token: {reason}."""

    code, status, title = "not-authenticated", 401, "Not authenticated"

    def __init__(self, *, reason: str) -> None:
        super().__init__(reason=reason, headers=AUTHENTICATE)


class CrossSite(Problem):
    """The request comes from another site: {reason}. Nothing was done."""

    code, status, title = "cross-site", 403, "From another site"


class TooManyRequests(Problem):
    """There were too many requests from {whom}. Try again in {seconds} s."""

    code, status, title = "too-many-requests", 429, "Too many requests"

    def __init__(self, *, whom: str, seconds: int) -> None:
        super().__init__(whom=whom, seconds=seconds, headers={"Retry-After": str(seconds)})


# What the hub cannot do now ------------------------------------------------------------------------------------------


class Unavailable(Problem):
    """The hub cannot do this now: {reason}. Nothing was done. Try again in {seconds} s."""

    code, status, title = "unavailable", 503, "Unavailable"

    def __init__(self, *, reason: str, seconds: int = 2) -> None:
        super().__init__(reason=reason, seconds=seconds, headers={"Retry-After": str(seconds)})
