"""
What a handler gets and gives: a request that was checked, and its answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from msgspec import Struct

from relayd.hub.access.audit import Value
from relayd.hub.access.permissions import Principal

Q = TypeVar("Q")
B = TypeVar("B")


class NoQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """A request without parameters."""


@dataclass(frozen=True, kw_only=True)
class Call(Generic[Q, B]):
    """
    One request to a route.

    :ivar principal: who asks; ``None`` on routes for anyone.
    :ivar parameters: of the path.
    :ivar query: a struct of the route's type.
    :ivar body: of the route's type; ``None`` where it takes none.
    :ivar address: the client's, behind proxies that are trusted.
    :ivar secure: whether it came over TLS, at least to such a proxy.
    :ivar request_id: names it in logs.
    :ivar headers: by name in lower case; a list's parts are joined.
    """

    principal: Principal | None
    parameters: Mapping[str, str]
    query: Q
    body: B
    address: str
    secure: bool
    request_id: str
    headers: Mapping[str, str] = field(repr=False)

    @property
    def who(self) -> Principal:
        """Who asks, on a route that needs to know."""
        if self.principal is None:
            raise TypeError("this route is for anyone")
        return self.principal


class Writer(Protocol):
    """Where a stream's bytes go."""

    async def write(self, data: bytes) -> None:
        """
        Send some; comes back when the client takes more.

        :raises Gone: when there is no client any more.
        """

    @property
    def ending(self) -> bool:
        """Whether the hub stops: what can be resumed ends now."""

    def wake_when_ending(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Have *wake* called when the hub stops; what is returned undoes it."""


class Gone(Exception):
    """The client of a stream has gone."""


Stream = Callable[[Writer], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """
    An answer with more than a body of status 200.

    :ivar body: a struct, or bytes, or ``None``.
    :ivar etag: the entity tag; without one, that of a JSON answer to ``GET`` is made of its bytes.
    :ivar volatile: whether a part of it changes though *etag* does not: then it is always sent.
    :ivar stream: writes the body; then *body* is nothing.
    :ivar length: of what *stream* writes, where it is known.
    :ivar record: what the audit log is to have of the act.
    """

    body: Any = None
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    etag: str | None = None
    volatile: bool = False
    media_type: str | None = None
    stream: Stream | None = None
    length: int | None = None
    cookies: tuple[str, ...] = ()
    record: Mapping[str, Value] = field(default_factory=dict)
