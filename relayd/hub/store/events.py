"""
What has happened in a run since a change that somebody knows: what a page that is open is told.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct
from sqlalchemy import Connection

from relayd.hub.store.invocations import Invocation, changed_since
from relayd.hub.store.output import Chunk, chunks_since
from relayd.hub.store.runs import Run, get_run

#: Events that are read at a time; a piece of output has up to 64 KiB.
MOST: Final = 200


class Events(Struct, frozen=True, kw_only=True):
    """
    Changes of a run.

    :ivar run: as it is after all of them.
    :ivar changes: of invocations and outputs, in their order.
    :ivar last: the number of the change with which to ask for more.
    :ivar more: whether there are more now.
    """

    run: Run
    changes: list[Invocation | Chunk]
    last: int
    more: bool


def events_since(connection: Connection, run_id: str, change: int, limit: int = MOST) -> Events:
    """
    What has happened since *change*; 0: since the beginning.

    An invocation that changed more than once is there once, as it is now.

    :raises NotFound: when there is no such run.
    """
    run = get_run(connection, run_id)
    found: list[Invocation | Chunk] = [
        *changed_since(connection, run_id, change, limit),
        *chunks_since(connection, run_id, change, limit),
    ]
    found.sort(key=lambda each: each.change)
    changes = found[:limit]
    more = len(found) > limit or len(changes) == limit
    return Events(run=run, changes=changes, last=changes[-1].change if more else max(run.change, change), more=more)
