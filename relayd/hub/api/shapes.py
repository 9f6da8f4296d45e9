"""
What the shapes of several resources have in common: times, lists, pages.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, Generic, TypeVar

from msgspec import UNSET, Meta, Struct, UnsetType

from relayd.hub.store.paging import MOST, USUAL, Page

S = TypeVar("S")
T = TypeVar("T")

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
#: Texts of requests, by how long they may be.
Name = Annotated[str, Meta(min_length=1, max_length=255)]
Note = Annotated[str, Meta(max_length=2000)]
Cursor = Annotated[str, Meta(max_length=4000, description="The field next of the page before.")]
Limit = Annotated[int, Meta(ge=1, le=MOST, description="Items of a page.")]


class Shape(Struct, frozen=True, kw_only=True, rename="camel"):
    """A part of an answer."""


class Given(Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """A part of a request; what it does not know, it refuses."""


class PageQuery(Given, frozen=True, kw_only=True):
    """Which page of a list."""

    cursor: Cursor | None = None
    limit: Limit = USUAL


class Listing(Struct, Generic[T], frozen=True, kw_only=True):
    """
    A page of a list.

    :ivar next: for the parameter ``cursor``; absent on the last page.
    """

    items: list[T]
    next: str | UnsetType = UNSET


def listing(page: Page[S], shape: Callable[[S], T]) -> Listing[T]:
    """A page of the store, each item in its shape."""
    next_cursor = UNSET if page.next_cursor is None else page.next_cursor
    return Listing(items=[shape(each) for each in page.items], next=next_cursor)


def moment(microseconds: int) -> datetime:
    """A time of the store as RFC 3339 has it."""
    return _EPOCH + timedelta(microseconds=microseconds)


def microseconds(moment: datetime) -> int:
    """A time of a request as the store has it."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def moment_or_none(microseconds: int | None) -> datetime | None:
    """The same, where there may be none."""
    return None if microseconds is None else moment(microseconds)
