"""
The table of routes: each says once who may use it, what it takes and what it answers.

Routing, checks, the OpenAPI document and the tests of each route with each role are all made from it.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from enum import Enum
from typing import Any, Final

from msgspec import Struct

from relayd.hub.access.permissions import Permission
from relayd.hub.api.calls import Call, NoQuery
from relayd.hub.api.problems import MethodNotAllowed, Problem, UnknownPath
from relayd.language.errors import DescribedError

#: Where the API begins.
BASE: Final = "/api/v1"
JSON: Final = "application/json"
_PARAMETER: Final = re.compile(r"\{([a-zA-Z]+)\}")
#: Methods that change nothing (RFC 9110, section 9.2.1).
SAFE: Final = frozenset({"GET", "HEAD"})
#: Bytes of a JSON body, where a route says nothing else.
MAX_BODY: Final = 2**20


class Anyone(Enum):
    """Permissions that no scope gives."""

    #: Without authentication; never for what shows or changes something of the hub.
    PUBLIC = "public"
    #: With any session or token, whatever its scopes.
    AUTHENTICATED = "authenticated"


class Precondition(Enum):
    """What a route does with ``If-Match``."""

    NONE = "none"
    REQUIRED = "required"


class Idempotency(Enum):
    """What a route does with ``Idempotency-Key``."""

    NONE = "none"
    OPTIONAL = "optional"
    REQUIRED = "required"


class Route(Struct, frozen=True, kw_only=True):
    """
    One method of one path.

    :ivar path: below `BASE`, or from the root with *rooted*; ``{name}`` stands for one segment.
    :ivar act: what the audit log calls it; empty where it changes nothing.
    :ivar recorded_below: whether what the handler calls writes into the audit log, so that the API does not.
    :ivar permission: who may use it. There is no default: a route without it cannot be declared.
    :ivar query: a struct of its parameters.
    :ivar takes: the type of its JSON body, ``bytes`` for a body of one of *media_types*, ``None`` for no body.
    :ivar answers: the type of its JSON answer, ``None`` for no body, ``bytes`` for other media types.
    :ivar produces: the media type of its answer.
    :ivar status: of its answer when it succeeds.
    :ivar problems: what it answers besides what every route does.
    :ivar refusals: the same, of other parts of the hub (`relayd.hub.api.translation`).
    :ivar description: more than the summary says, for the OpenAPI document.
    """

    method: str
    path: str
    handler: Callable[[Any, Call[Any, Any]], Awaitable[Any]]
    permission: Permission | Anyone
    summary: str
    description: str = ""
    act: str = ""
    recorded_below: bool = False
    query: type[Struct] = NoQuery
    takes: Any = None
    media_types: tuple[str, ...] = (JSON,)
    max_body: int = MAX_BODY
    answers: Any = None
    produces: str = JSON
    status: int = 200
    precondition: Precondition = Precondition.NONE
    idempotency_key: Idempotency = Idempotency.NONE
    rooted: bool = False
    problems: tuple[type[Problem], ...] = ()
    refusals: tuple[type[DescribedError], ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.permission, Permission | Anyone):
            raise TypeError(f"{self.method} {self.path} has no permission")
        if (self.method in SAFE) != (not self.act):
            raise TypeError(f"{self.method} {self.path}: what changes something, and nothing else, has an act")

    @property
    def name(self) -> str:
        """Such as ``GET /api/v1/hosts/{name}``: names the route in logs, metrics and tests."""
        return f"{self.method} {self.full_path}"

    @property
    def full_path(self) -> str:
        """Its path from the root."""
        return self.path if self.rooted else f"{BASE}{self.path}"

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of its path's parameters."""
        return tuple(_PARAMETER.findall(self.path))


class _Node:
    """The routes below one segment."""

    def __init__(self) -> None:
        self.fixed: dict[str, _Node] = {}
        self.any: _Node | None = None
        self.routes: dict[str, Route] = {}


class Router:
    """
    Finds the route of a request.

    :raises ValueError: when two routes have one method and one path.
    """

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = tuple(routes)
        self._root = _Node()
        for route in self.routes:
            self._add(route)

    def _add(self, route: Route) -> None:
        node = self._root
        for part in route.full_path[1:].split("/"):
            if _PARAMETER.fullmatch(part):
                node.any = node.any or _Node()
                node = node.any
            else:
                node = node.fixed.setdefault(part, _Node())
        if route.method in node.routes:
            raise ValueError(f"{route.name} is there twice")
        node.routes[route.method] = route

    def find(self, method: str, segments: tuple[str, ...]) -> tuple[Route, dict[str, str]]:
        """
        The route, and the parameters of its path.  ``HEAD`` finds that of ``GET``.

        :raises UnknownPath: when no route has the path.
        :raises MethodNotAllowed: when others have it.
        """
        node, values = self._root, []
        for segment in segments:
            below = node.fixed.get(segment)
            if below is None and node.any is not None and segment:
                below = node.any
                values.append(segment)
            if below is None:
                raise UnknownPath
            node = below
        if not node.routes:
            raise UnknownPath
        route = node.routes.get("GET" if method == "HEAD" else method)
        if route is None:
            allowed = {*node.routes, *(["HEAD"] if "GET" in node.routes else [])}
            raise MethodNotAllowed(method=method, allowed=", ".join(sorted(allowed)))
        return route, dict(zip(route.parameters, values, strict=True))
