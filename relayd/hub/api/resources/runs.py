"""
Runs as they stand: listed, followed, grouped by output, searched.

Everybody who may see runs sees all of them; what an operator may do with them is limited to hosts (`run_orders`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final

from msgspec import UNSET, Meta
from sqlalchemy import Connection

from relayd.hub.access.permissions import Permission
from relayd.hub.api.calls import Answer, Call, NoQuery
from relayd.hub.api.conditions import entity_tag
from relayd.hub.api.hub import Hub
from relayd.hub.api.resources.invocations import InvocationShape, invocation_shape
from relayd.hub.api.resources.run_events import RunEvents
from relayd.hub.api.routes import Route
from relayd.hub.api.shapes import Cursor, Given, Limit, Listing, PageQuery, Shape, listing, moment, moment_or_none
from relayd.hub.api.streams import EVENT_STREAM, event_stream, last_event
from relayd.hub.decisions.states import InvocationState, RunState
from relayd.hub.store import invocations, output, runs
from relayd.hub.store.errors import BadCursor, NotFound
from relayd.hub.store.paging import Page

#: Seconds after which a stream looks into the store, whatever it was told.
POLL: Final = 1.0


class RunShape(Shape, frozen=True, kw_only=True):
    """
    A run.

    :ivar created_by: ``user:NAME`` or ``token:USER/NAME``.
    :ivar command: what was ordered, without what is secret.
    :ivar selector: as it was written; the hosts that it meant are the invocations.
    :ivar rollout: concurrency, ramp, limits and error budget.
    :ivar deliver_until: until when an invocation may wait for its relay; ``null``: it is sent at once or not at all.
    :ivar output_limit: bytes of each output that are kept, a host.
    :ivar size: how many invocations it has.
    :ivar counts: how many of them are in each state.
    :ivar change: number of its last change.
    :ivar output_deleted_at: when its outputs were deleted, as they were old.
    """

    id: str
    created_by: str
    created_at: datetime
    state: RunState
    command: dict[str, Any]
    selector: str
    rollout: dict[str, Any]
    deliver_until: datetime | None
    note: str
    output_limit: int
    rerun_of: str | None
    size: int
    counts: dict[str, int]
    change: int
    ended_at: datetime | None
    output_deleted_at: datetime | None
    version: int


class RunQuery(PageQuery, frozen=True, kw_only=True):
    """Which runs."""

    created_by: Annotated[str, Meta(max_length=255, description="Whose, as user:NAME or token:USER/NAME.")] | None = (
        None
    )


class InvocationQuery(PageQuery, frozen=True, kw_only=True):
    """Which invocations of a run."""

    state: Annotated[InvocationState, Meta(description="Only those in this state.")] | None = None


class GroupShape(Shape, frozen=True, kw_only=True):
    """
    Hosts on which a run ended in the same way with the same output.

    :ivar count: how many they are.
    :ivar hosts: names of some of them.
    :ivar example: an invocation of one of them, whose output is that of all.
    """

    state: InvocationState
    exit_code: int | None
    count: int
    hosts: list[str]
    example: str


class GroupQuery(Given, frozen=True, kw_only=True):
    """How many groups."""

    limit: Limit = 100


class FoundShape(Shape, frozen=True, kw_only=True):
    """
    The first place in an output that has a text.

    :ivar offset: bytes before it.
    :ivar line: what stands around it, on the same line.
    """

    invocation: str
    host: str
    stream: str
    offset: int
    line: str


class SearchQuery(Given, frozen=True, kw_only=True):
    """What is searched for."""

    text: Annotated[str, Meta(min_length=1, max_length=1000, description="As it is written, in UTF-8.")]
    cursor: Cursor | None = None
    limit: Limit = 100


class EventQuery(Given, frozen=True, kw_only=True):
    """Which events."""

    after: (
        Annotated[int, Meta(ge=0, le=2**53, description="Only what changed after this number; see Last-Event-ID.")]
        | None
    ) = None
    output: Annotated[bool, Meta(description="Whether output is among them.")] = True


def run_shape(run: runs.Run) -> RunShape:
    """A run of the store."""
    return RunShape(
        id=run.id,
        created_by=run.created_by,
        created_at=moment(run.created_at),
        state=run.state,
        command=run.command,
        selector=run.selector,
        rollout=run.rollout,
        deliver_until=moment_or_none(run.deliver_until),
        note=run.note,
        output_limit=run.output_limit,
        rerun_of=run.rerun_of,
        size=run.size,
        counts=run.counts,
        change=run.change,
        ended_at=moment_or_none(run.ended_at),
        output_deleted_at=moment_or_none(run.output_deleted_at),
        version=run.version,
    )


async def list_runs(hub: Hub, call: Call[RunQuery, None]) -> Listing[RunShape]:
    """The newest first."""
    query = call.query
    page = await hub.store.read(runs.list_runs, created_by=query.created_by, cursor=query.cursor, limit=query.limit)
    return listing(page, run_shape)


async def get_run(hub: Hub, call: Call[NoQuery, None]) -> Answer:
    """By its id."""
    run = await hub.store.read(runs.get_run, call.parameters["id"])
    return Answer(body=run_shape(run), etag=entity_tag(run.version))


async def list_invocations(hub: Hub, call: Call[InvocationQuery, None]) -> Listing[InvocationShape]:
    """In the order in which they are sent."""
    query = call.query

    def read(connection: Connection, run_id: str) -> Page[invocations.Invocation]:
        runs.get_run(connection, run_id)
        return invocations.list_invocations(
            connection, run_id, state=query.state, cursor=query.cursor, limit=query.limit
        )

    page = await hub.store.read(read, call.parameters["id"])
    return listing(page, invocation_shape)


async def list_groups(hub: Hub, call: Call[GroupQuery, None]) -> Listing[GroupShape]:
    """The rarest first: these are odd."""

    def read(connection: Connection, run_id: str) -> list[invocations.Group]:
        runs.get_run(connection, run_id)
        return invocations.groups_of(connection, run_id, call.query.limit)

    found = await hub.store.read(read, call.parameters["id"])
    return Listing(
        items=[
            GroupShape(
                state=group.state,
                exit_code=group.exit_code,
                count=group.count,
                hosts=list(group.hosts),
                example=group.example,
            )
            for group in found
        ]
    )


async def search(hub: Hub, call: Call[SearchQuery, None]) -> Listing[FoundShape]:
    """A page may be empty although there is more: a search looks at so many bytes at a time."""
    query = call.query
    position = _position(query.cursor)

    def read(connection: Connection, run_id: str) -> output.Search:
        runs.get_run(connection, run_id)
        return output.search(connection, run_id, query.text, position, query.limit)

    found = await hub.store.read(read, call.parameters["id"])
    return Listing(
        items=[
            FoundShape(
                invocation=each.invocation_id, host=each.host, stream=each.stream, offset=each.offset, line=each.line
            )
            for each in found.found
        ],
        next=UNSET if found.next_position is None else str(found.next_position),
    )


def _position(cursor: str | None) -> int:
    if cursor is None:
        return 0
    if not cursor.isascii() or not cursor.isdigit() or len(cursor) > 9:
        raise BadCursor
    return int(cursor)


async def follow(hub: Hub, call: Call[EventQuery, None]) -> Answer:
    """
    What changes, as server-sent events: ``invocation``, ``output`` and ``run``, and ``end`` when nothing will follow.

    An id is the number of a change: with ``Last-Event-ID`` a client goes on where it was.  An invocation that still
    waits for its turn has no event.
    """
    run_id = call.parameters["id"]
    after = last_event(call.headers, call.query.after)
    await hub.store.read(runs.get_run, run_id)
    source = RunEvents(
        hub, run_id, output=call.query.output, principal=call.who, headers=call.headers, secure=call.secure
    )
    return event_stream(hub.reactor, source, after, POLL)


_READ: Final = Permission.RUNS_READ

ROUTES: Final = (
    Route(
        method="GET",
        path="/runs",
        handler=list_runs,
        permission=_READ,
        summary="Runs, the newest first",
        query=RunQuery,
        answers=Listing[RunShape],
        refusals=(BadCursor,),
    ),
    Route(
        method="GET",
        path="/runs/{id}",
        handler=get_run,
        permission=_READ,
        summary="A run",
        answers=RunShape,
        refusals=(NotFound,),
    ),
    Route(
        method="GET",
        path="/runs/{id}/invocations",
        handler=list_invocations,
        permission=_READ,
        summary="The invocations of a run",
        query=InvocationQuery,
        answers=Listing[InvocationShape],
        refusals=(NotFound, BadCursor),
    ),
    Route(
        method="GET",
        path="/runs/{id}/groups",
        handler=list_groups,
        permission=_READ,
        summary="Hosts with the same output, the odd ones first",
        query=GroupQuery,
        answers=Listing[GroupShape],
        refusals=(NotFound,),
    ),
    Route(
        method="GET",
        path="/runs/{id}/search",
        handler=search,
        permission=_READ,
        summary="Search in the outputs of a run",
        query=SearchQuery,
        answers=Listing[FoundShape],
        refusals=(NotFound, BadCursor),
    ),
    Route(
        method="GET",
        path="/runs/{id}/events",
        handler=follow,
        permission=_READ,
        summary="What changes in a run, as server-sent events",
        query=EventQuery,
        answers=bytes,
        produces=EVENT_STREAM,
        refusals=(NotFound,),
    ),
)
