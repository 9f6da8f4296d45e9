"""
Invocations in the store: how they change, many at a time, and what is asked about them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from msgspec import Struct
from sqlalchemy import Connection, Row, bindparam, func, select, update
from sqlalchemy.sql.dml import Update

from relayd.hub.decisions.states import ENDS, InvocationState
from relayd.hub.store.errors import NotFound
from relayd.hub.store.keyset import fetch_page
from relayd.hub.store.paging import USUAL, Page
from relayd.hub.store.tables import invocations

#: Names of hosts that a group of hosts with the same output has as examples.
_EXAMPLES: Final = 5


class Invocation(Struct, frozen=True, kw_only=True):
    """An invocation as it is stored; the columns of `relayd.hub.store.tables.invocations` say what its fields mean."""

    id: str
    run_id: str
    position: int
    host_id: str
    host_name: str
    relay: str | None
    journal_id: str | None
    state: InvocationState
    deadline: int | None
    sent_at: int | None
    accepted_at: int | None
    cancel_asked_at: int | None
    ended_at: int | None
    exit_code: int | None
    error_code: str | None
    error: str | None
    duration_ms: int | None
    stdout_kept: int
    stderr_kept: int
    stdout_size: int | None
    stderr_size: int | None
    former_end: str | None
    with_result: bool
    rerun_of: str | None
    change: int


class Group(Struct, frozen=True, kw_only=True):
    """
    Invocations of a run that ended in the same way with the same output.

    :ivar hosts: some of their hosts' names.
    :ivar example: the id of one of them, whose output is that of all.
    """

    state: InvocationState
    exit_code: int | None
    count: int
    hosts: tuple[str, ...]
    example: str


class Due(Struct, frozen=True):
    """An invocation whose deadline has passed."""

    run_id: str
    position: int
    id: str


_COLUMNS: Final = [invocations.c[name] for name in Invocation.__struct_fields__]
_OPEN: Final = invocations.c.state.not_in([str(state) for state in sorted(ENDS)])


def get_invocation(connection: Connection, invocation_id: str) -> Invocation:
    """
    One invocation.

    :raises NotFound: when there is none of that id.
    """
    row = connection.execute(select(*_COLUMNS).where(invocations.c.id == invocation_id)).one_or_none()
    if row is None:
        raise NotFound(what="invocation", name=invocation_id)
    return _invocation(row)


def list_invocations(
    connection: Connection,
    run_id: str,
    *,
    state: InvocationState | None = None,
    cursor: str | None = None,
    limit: int = USUAL,
) -> Page[Invocation]:
    """
    The invocations of a run by position.

    :param state: only those in this state.
    :raises BadCursor: when *cursor* is not of this list.
    """
    query = select(*_COLUMNS).where(invocations.c.run_id == run_id)
    if state is not None:
        query = query.where(invocations.c.state == state)
    name = f"invocations of {run_id} in {state}"
    return fetch_page(connection, query, [invocations.c.position], _invocation, name=name, cursor=cursor, limit=limit)


def list_of_host(
    connection: Connection, host_id: str, *, cursor: str | None = None, limit: int = USUAL
) -> Page[Invocation]:
    """What was run on a host, the newest first."""
    query = select(*_COLUMNS).where(invocations.c.host_id == host_id)
    name = f"invocations on {host_id}"
    return fetch_page(
        connection, query, [invocations.c.id], _invocation, name=name, cursor=cursor, limit=limit, descending=True
    )


def changed_since(connection: Connection, run_id: str, change: int, limit: int) -> list[Invocation]:
    """The invocations of a run that changed after *change*, in the order of their changes; *limit* at most."""
    query = (
        select(*_COLUMNS)
        .where(invocations.c.run_id == run_id, invocations.c.change > change)
        .order_by(invocations.c.change)
        .limit(limit)
    )
    return [_invocation(row) for row in connection.execute(query)]


class Member(Struct, frozen=True, gc=False):
    """What the engine has to know of each invocation of a run, to go on with it or to repeat it."""

    id: str
    host_id: str
    host_name: str
    host: str
    relay: str | None
    journal_id: str | None
    state: InvocationState
    sent_at: int | None
    accepted_at: int | None
    cancel_asked_at: int | None
    with_result: bool


def members_of(connection: Connection, run_id: str) -> list[Member]:
    """All invocations of a run by position."""
    query = select(*(invocations.c[name] for name in Member.__struct_fields__)).where(invocations.c.run_id == run_id)
    rows = connection.execute(query.order_by(invocations.c.position))
    return [Member(**{**row._mapping, "state": InvocationState(row.state)}) for row in rows]


def due(connection: Connection, now: int, limit: int) -> list[Due]:
    """The open invocations whose deadline has passed, the longest ago first; *limit* at most."""
    query = (
        select(invocations.c.run_id, invocations.c.position, invocations.c.id)
        .where(_OPEN, invocations.c.deadline <= now)
        .order_by(invocations.c.deadline)
        .limit(limit)
    )
    return [Due(*row) for row in connection.execute(query)]


def save_changes(connection: Connection, changes: Mapping[str, Mapping[str, Any]]) -> None:
    """
    Store what has changed of invocations.

    :param changes: new values of columns, by the invocation's id.
    """
    alike: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for invocation_id, values in changes.items():
        alike.setdefault(tuple(sorted(values)), []).append({"id_": invocation_id, **values})
    for names, rows in alike.items():
        connection.execute(_update_of(names), rows)


_updates: dict[tuple[str, ...], Update] = {}


def _update_of(names: tuple[str, ...]) -> Update:
    statement = _updates.get(names)
    if statement is None:
        values: dict[str, Any] = {name: bindparam(name) for name in names}
        statement = update(invocations).where(invocations.c.id == bindparam("id_")).values(values)
        _updates[names] = statement
    return statement


def groups_of(connection: Connection, run_id: str, limit: int = USUAL) -> list[Group]:
    """
    The ended invocations of a run, grouped by how they ended and what they wrote: the rarest first, as these are odd.

    :param limit: of groups.
    """
    key = (invocations.c.state, invocations.c.exit_code, invocations.c.output_digest)
    count = func.count()
    query = (
        select(*key, count, func.min(invocations.c.position))
        .where(invocations.c.run_id == run_id, ~_OPEN)
        .group_by(*key)
        .order_by(count, func.min(invocations.c.position))
        .limit(limit)
    )
    return [_group(connection, run_id, row) for row in connection.execute(query).all()]


def _group(connection: Connection, run_id: str, row: Any) -> Group:
    state, exit_code, digest, count, _ = tuple(row)
    query = (
        select(invocations.c.id, invocations.c.host_name)
        .where(
            invocations.c.run_id == run_id,
            invocations.c.state == state,
            _same(invocations.c.exit_code, exit_code),
            _same(invocations.c.output_digest, digest),
        )
        .order_by(invocations.c.position)
        .limit(_EXAMPLES)
    )
    found = connection.execute(query).all()
    return Group(
        state=InvocationState(state),
        exit_code=exit_code,
        count=count,
        hosts=tuple(name for _, name in found),
        example=found[0][0],
    )


def _same(column: Any, value: object) -> Any:
    return column.is_(None) if value is None else column == value


def ids_of(connection: Connection, run_id: str, after: int, limit: int) -> Iterable[tuple[int, str, str]]:
    """Positions, ids and hosts' names of a run's invocations from a position on."""
    query = (
        select(invocations.c.position, invocations.c.id, invocations.c.host_name)
        .where(invocations.c.run_id == run_id, invocations.c.position >= after)
        .order_by(invocations.c.position)
        .limit(limit)
    )
    return [(row[0], row[1], row[2]) for row in connection.execute(query)]


def _invocation(row: Row[Any]) -> Invocation:
    values = dict(zip(Invocation.__struct_fields__, row, strict=True))
    return Invocation(**values | {"state": InvocationState(values["state"])})
