"""
Invocations and their outputs.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final

from msgspec import Meta

from relayd.hub.access.permissions import Permission
from relayd.hub.api.calls import Answer, Call, NoQuery
from relayd.hub.api.hub import Hub
from relayd.hub.api.problems import Problem
from relayd.hub.api.routes import Route
from relayd.hub.api.shapes import Shape, moment_or_none
from relayd.hub.api.streams import download
from relayd.hub.decisions.states import InvocationState
from relayd.hub.store import invocations, output, runs
from relayd.hub.store.errors import NotFound
from relayd.hub.store.store import Store


class OutputShape(Shape, frozen=True, kw_only=True):
    """
    How much of an output there is, in bytes.

    :ivar kept: what the hub keeps.
    :ivar size: what the command wrote; ``null``: not known yet.
    """

    kept: int
    size: int | None


class FailureShape(Shape, frozen=True, kw_only=True):
    """
    Why an invocation did not succeed.

    :ivar code: the relay's, such as ``connect-failed``, or the hub's.
    """

    code: str | None
    message: str


class InvocationShape(Shape, frozen=True, kw_only=True):
    """
    One run on one host.

    :ivar id: its ``commandId``.
    :ivar run: the id of its run.
    :ivar host: the name that the host had.
    :ivar relay: the relay that it was sent to; ``null``: to none yet.
    :ivar deadline: when the state that it is in is over; ``null``: when the run says.
    :ivar former_end: the end that it had before a result came that knew better.
    :ivar change: number of its last change in its run.
    """

    id: str
    run: str
    position: int
    host: str
    host_id: str
    relay: str | None
    state: InvocationState
    deadline: datetime | None
    sent_at: datetime | None
    accepted_at: datetime | None
    cancel_asked_at: datetime | None
    ended_at: datetime | None
    exit_code: int | None
    error: FailureShape | None
    duration_ms: Annotated[int, Meta(description="Milliseconds that the command took.")] | None
    stdout: OutputShape
    stderr: OutputShape
    former_end: str | None
    rerun_of: str | None
    change: int


class OutputGone(Problem):
    """The outputs of this run were deleted, as they were old; what is known of its invocations stays."""

    code, status, title = "output-gone", 410, "Output deleted"


def invocation_shape(found: invocations.Invocation) -> InvocationShape:
    """An invocation of the store."""
    error = None
    if found.error is not None or found.error_code is not None:
        error = FailureShape(code=found.error_code, message=found.error or "")
    return InvocationShape(
        id=found.id,
        run=found.run_id,
        position=found.position,
        host=found.host_name,
        host_id=found.host_id,
        relay=found.relay,
        state=found.state,
        deadline=moment_or_none(found.deadline),
        sent_at=moment_or_none(found.sent_at),
        accepted_at=moment_or_none(found.accepted_at),
        cancel_asked_at=moment_or_none(found.cancel_asked_at),
        ended_at=moment_or_none(found.ended_at),
        exit_code=found.exit_code,
        error=error,
        duration_ms=found.duration_ms,
        stdout=OutputShape(kept=found.stdout_kept, size=found.stdout_size),
        stderr=OutputShape(kept=found.stderr_kept, size=found.stderr_size),
        former_end=found.former_end,
        rerun_of=found.rerun_of,
        change=found.change,
    )


async def get_invocation(hub: Hub, call: Call[NoQuery, None]) -> InvocationShape:
    """By its id."""
    return invocation_shape(await hub.store.read(invocations.get_invocation, call.parameters["id"]))


async def stdout(hub: Hub, call: Call[NoQuery, None]) -> Answer:
    """Its bytes."""
    return await _output(hub, call, "stdout")


async def stderr(hub: Hub, call: Call[NoQuery, None]) -> Answer:
    """Its bytes."""
    return await _output(hub, call, "stderr")


async def _output(hub: Hub, call: Call[NoQuery, None], stream: output.Stream) -> Answer:
    """What is kept now: of a command that runs, what has arrived."""
    found = await hub.store.read(invocations.get_invocation, call.parameters["id"])
    run = await hub.store.read(runs.get_run, found.run_id)
    if run.output_deleted_at is not None:
        raise OutputGone
    size = found.stdout_kept if stream == "stdout" else found.stderr_kept
    reader = _Reader(hub.store, found.id, stream)
    name = f"{found.host_name}-{found.id}.{stream}"
    return download(call.headers, reader.read, size=size, name=name, etag=f'"{found.change}-{size}"')


class _Reader:
    """Reads the pieces of an output in order, from any byte on."""

    def __init__(self, store: Store, invocation_id: str, stream: output.Stream) -> None:
        self._store = store
        self._invocation = invocation_id
        self._stream = stream
        self._after = -1
        #: Where in the output *data* begins.
        self._begin = 0
        self._data = b""

    async def read(self, offset: int, size: int) -> bytes:
        """At most so many bytes from *offset*, which never goes back; none where there are no more."""
        while self._begin + len(self._data) <= offset:
            pieces = await self._store.read(output.read_output, self._invocation, self._stream, self._after, 8)
            if not pieces:
                return b""
            self._begin += len(self._data)
            self._data = b"".join(piece.data for piece in pieces)
            self._after = pieces[-1].sequence
        start = offset - self._begin
        return self._data[start : start + size]


_READ: Final = Permission.RUNS_READ

ROUTES: Final = (
    Route(
        method="GET",
        path="/invocations/{id}",
        handler=get_invocation,
        permission=_READ,
        summary="An invocation",
        answers=InvocationShape,
        refusals=(NotFound,),
    ),
    *(
        Route(
            method="GET",
            path=f"/invocations/{{id}}/{name}",
            handler=handler,
            permission=_READ,
            summary=f"The {name} of an invocation, as it is",
            answers=bytes,
            produces="application/octet-stream",
            problems=(OutputGone,),
            refusals=(NotFound,),
        )
        for name, handler in (("stdout", stdout), ("stderr", stderr))
    ),
)
