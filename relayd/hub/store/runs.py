"""
Runs in the store: made with all their invocations at once, listed, and changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct
from sqlalchemy import Connection, Row, func, insert, select, update

from relayd.hub.decisions.run_machine import end_of_run
from relayd.hub.decisions.states import RUN_ENDS, InvocationState, RunState
from relayd.hub.store.errors import Conflict, NotFound
from relayd.hub.store.keyset import fetch_page
from relayd.hub.store.paging import USUAL, Page
from relayd.hub.store.tables import invocations, runs

#: Rows of one statement: what is between two looks at the clock.
_AT_ONCE: Final = 1000


class Run(Struct, frozen=True, kw_only=True):
    """
    A run as it is stored; the columns of `relayd.hub.store.tables.runs` say what its fields mean.

    :ivar command: the order without what is secret.
    :ivar rollout: of `relayd.hub.decisions.rollout.Rollout` and `relayd.hub.decisions.budget.Budget`.
    :ivar counts: how many invocations are in each state.
    """

    id: str
    created_by: str
    created_at: int
    state: RunState
    command: dict[str, Any]
    selector: str
    rollout: dict[str, Any]
    deliver_until: int | None
    note: str
    output_limit: int
    rerun_of: str | None
    size: int
    counts: dict[str, int]
    change: int
    ended_at: int | None
    output_deleted_at: int | None
    version: int


class NewRun(Struct, frozen=True, kw_only=True):
    """
    A run to be stored.

    :ivar request_digest: of what was asked for, where it has an idempotency key.
    :ivar sealed: what is secret of its order.
    """

    id: str
    created_by: str
    created_at: int
    command: dict[str, Any]
    selector: str
    rollout: dict[str, Any]
    deliver_until: int | None
    output_limit: int
    deadline: int
    idempotency_key: str | None = None
    request_digest: bytes | None = None
    sealed: bytes | None = None
    note: str = ""
    rerun_of: str | None = None


class NewInvocation(Struct, frozen=True, gc=False):
    """
    An invocation to be stored with its run; its position is its place in their list.

    :ivar host: the host as it is now, as JSON.
    """

    id: str
    host_id: str
    host_name: str
    host: str
    rerun_of: str | None = None


_COLUMNS: Final = [runs.c[name] for name in Run.__struct_fields__]


def known_run(connection: Connection, created_by: str, key: str, digest: bytes) -> Run | None:
    """
    The run that the same request has made before.

    :raises Conflict: when another request of the same person has used the key.
    """
    row = connection.execute(
        select(runs.c.request_digest, *_COLUMNS).where(runs.c.created_by == created_by, runs.c.idempotency_key == key)
    ).one_or_none()
    if row is None:
        return None
    if row.request_digest != digest:
        raise Conflict(table="runs", columns=("idempotency_key",))
    return _run(row)


def add_run(connection: Connection, new: NewRun, members: Sequence[NewInvocation]) -> Run:
    """
    Store a run and its invocations, all of them ``waiting``.

    :raises Conflict: when its idempotency key is used; ask `known_run` in the same transaction before.
    """
    waiting = {str(InvocationState.WAITING): len(members)}
    connection.execute(
        insert(runs).values(
            id=new.id,
            created_by=new.created_by,
            created_at=new.created_at,
            idempotency_key=new.idempotency_key,
            request_digest=new.request_digest,
            state=RunState.RUNNING,
            command=_json(new.command),
            sealed=new.sealed,
            selector=new.selector,
            rollout=_json(new.rollout),
            deliver_until=new.deliver_until,
            note=new.note,
            output_limit=new.output_limit,
            rerun_of=new.rerun_of,
            size=len(members),
            counts=_json(waiting),
        )
    )
    rows = [
        {
            "id": member.id,
            "run_id": new.id,
            "position": position,
            "host_id": member.host_id,
            "host_name": member.host_name,
            "host": member.host,
            "state": InvocationState.WAITING,
            "deadline": new.deadline,
            "rerun_of": member.rerun_of,
            "change": 0,
        }
        for position, member in enumerate(members)
    ]
    for start in range(0, len(rows), _AT_ONCE):
        connection.execute(insert(invocations), rows[start : start + _AT_ONCE])
    return get_run(connection, new.id)


def get_run(connection: Connection, run_id: str) -> Run:
    """
    One run.

    :raises NotFound: when there is none of that id.
    """
    row = connection.execute(select(*_COLUMNS).where(runs.c.id == run_id)).one_or_none()
    if row is None:
        raise NotFound(what="run", name=run_id)
    return _run(row)


def sealed_of(connection: Connection, run_id: str) -> bytes | None:
    """What is secret of its order, sealed; ``None``: there is nothing, or it has ended."""
    sealed: bytes | None = connection.execute(select(runs.c.sealed).where(runs.c.id == run_id)).scalar_one_or_none()
    return sealed


def list_runs(
    connection: Connection, *, created_by: str | None = None, cursor: str | None = None, limit: int = USUAL
) -> Page[Run]:
    """
    All runs, the newest first.

    :raises BadCursor: when *cursor* is not of this list.
    """
    query = select(*_COLUMNS)
    name = "runs"
    if created_by is not None:
        query = query.where(runs.c.created_by == created_by)
        name = f"runs of {created_by}"
    return fetch_page(connection, query, [runs.c.id], _run, name=name, cursor=cursor, limit=limit, descending=True)


def open_runs(connection: Connection) -> list[Run]:
    """The runs that have not ended, the oldest first: what is asked when the hub starts."""
    open_ = runs.c.state.not_in([str(state) for state in sorted(RUN_ENDS)])
    return [_run(row) for row in connection.execute(select(*_COLUMNS).where(open_).order_by(runs.c.id))]


def save_progress(
    connection: Connection, run_id: str, change: int, state: RunState, counts: Mapping[str, int], ended_at: int | None
) -> None:
    """
    Store how far a run is.

    :param ended_at: when it ended; what is secret of its order is deleted then.
    """
    values: dict[str, Any] = {
        "change": change,
        "state": state,
        "counts": _json(counts),
        "version": runs.c.version + 1,
    }
    if ended_at is not None:
        values |= {"ended_at": ended_at, "sealed": None}
    connection.execute(update(runs).where(runs.c.id == run_id).values(values))


def next_change(connection: Connection, run_id: str, count: int = 1) -> int:
    """New numbers for changes of a run that has ended; gives the last one."""
    connection.execute(update(runs).where(runs.c.id == run_id).values(change=runs.c.change + count))
    number: int = connection.execute(select(runs.c.change).where(runs.c.id == run_id)).scalar_one()
    return number


def recount(connection: Connection, run_id: str) -> None:
    """
    Count the invocations of a run that has ended, after one of them has got another end; its own end follows, where it
    was ``failed`` or ``succeeded``.
    """
    run = get_run(connection, run_id)
    query = select(invocations.c.state, func.count()).where(invocations.c.run_id == run_id)
    counts = {InvocationState(state): count for state, count in connection.execute(query.group_by(invocations.c.state))}
    values = {
        "counts": _json(counts),
        "state": end_of_run(run.state, counts),
        "change": runs.c.change + 1,
        "version": runs.c.version + 1,
    }
    connection.execute(update(runs).where(runs.c.id == run_id).values(values))


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _run(row: Row[Any]) -> Run:
    values = {name: getattr(row, name) for name in Run.__struct_fields__}
    for name in ("command", "rollout", "counts"):
        values[name] = msgspec.json.decode(values[name])
    return Run(**values | {"state": RunState(row.state)})
