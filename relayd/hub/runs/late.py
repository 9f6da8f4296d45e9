"""
Results for invocations of runs that have ended: stored as what they are, with the end that they change.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from sqlalchemy import Connection

from relayd.hub.decisions.ends import correction_of, end_of
from relayd.hub.decisions.states import ENDS, InvocationState
from relayd.hub.runs.open_run import AFTER_END, values_of
from relayd.hub.runs.outputs import Outputs
from relayd.hub.store.errors import NotFound, StoreUnavailable
from relayd.hub.store.invocations import get_invocation, save_changes
from relayd.hub.store.output import STREAMS, NewChunk, add_chunks, delete_stream
from relayd.hub.store.runs import get_run, next_change, recount
from relayd.language.texts import Text
from relayd.wire.messages import CommandResult


class Late(Struct, frozen=True, kw_only=True):
    """
    What became of a late result.

    :ivar known: whether there is such an invocation, and that relay was sent it.
    :ivar run_id: of its run.
    :ivar former: the end that it has changed; ``None``: it has changed nothing.
    :ivar end: how the invocation ended.
    """

    known: bool
    run_id: str = ""
    former: InvocationState | None = None
    end: InvocationState | None = None


def record_late(connection: Connection, relay: str, result: CommandResult) -> Late:
    """
    Store a result for a run that has ended.

    :raises StoreUnavailable: when its run has not ended: it is taken in once that is loaded.
    """
    try:
        known = get_invocation(connection, result.command_id)
    except NotFound:
        return Late(known=False)
    if known.relay != relay:
        return Late(known=False, run_id=known.run_id)
    if known.state not in ENDS:
        raise StoreUnavailable(reason=Text("the run is not loaded yet"))
    verdict = end_of(result)
    correction = correction_of(known.state, known.with_result, verdict)
    if correction is None:
        return Late(known=True, run_id=known.run_id, end=known.state)
    run = get_run(connection, known.run_id)
    kept = Outputs(run.output_limit, AFTER_END).ended(result)
    values: dict[str, Any] = values_of(result, verdict, kept)
    values |= {"former_end": correction.former, "change": next_change(connection, run.id)}
    save_changes(connection, {known.id: values})
    if run.output_deleted_at is None:
        for stream in STREAMS:
            delete_stream(connection, known.id, stream)
        chunks = [
            NewChunk(known.id, run.id, piece.sequence, piece.stream, piece.offset, piece.data) for piece in kept.pieces
        ]
        if chunks:
            last = next_change(connection, run.id, len(chunks))
            add_chunks(connection, list(zip(chunks, range(last - len(chunks) + 1, last + 1), strict=True)))
    recount(connection, run.id)
    return Late(known=True, run_id=run.id, former=correction.former, end=correction.end)
