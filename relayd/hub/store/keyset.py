"""
A page of a list, found by the key of the last item of the page before: as quick at the end of a long list as at its
beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy import Column, Connection, Row, Select, tuple_

from relayd.hub.store.paging import MOST, USUAL, Page, decode_cursor, encode_cursor

T = TypeVar("T")


def fetch_page(
    connection: Connection,
    query: Select[Any],
    key: Sequence[Column[Any]],
    make: Callable[[Row[Any]], T],
    *,
    name: str,
    cursor: str | None = None,
    limit: int = USUAL,
    descending: bool = False,
) -> Page[T]:
    """
    The items of *query* after *cursor*.

    :param query: selects the columns of *key* among others, and has no order. An index has to begin with what it
        compares for equality and go on with *key*.
    :param key: the columns by which the list is sorted: together they are unique, and none is null.
    :param make: makes an item of a row.
    :param name: of the list, with whatever selects its items: the cursors of another list are refused.
    :param limit: of items, 1 to `MOST`.
    :raises BadCursor: when *cursor* is not one that this list gave.
    """
    limit = max(1, min(limit, MOST))
    if cursor is not None:
        values = decode_cursor(name, cursor, [column.type.python_type for column in key])
        # One comparison of rows, which both databases look up in an index.
        place = tuple_(*key)
        query = query.where(place < values if descending else place > values)
    query = query.order_by(*(column.desc() if descending else column for column in key)).limit(limit + 1)
    rows = connection.execute(query).all()
    more = len(rows) > limit
    rows = rows[:limit]
    last = encode_cursor(name, tuple(rows[-1]._mapping[column] for column in key)) if more else None
    return Page([make(row) for row in rows], last)
