"""
The events of one run, from the store: live and afterwards they are the same.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping
from typing import Any, Final

from sqlalchemy import Connection

from relayd.hub.access.permissions import Permission, Principal
from relayd.hub.api.hub import Hub
from relayd.hub.api.principals import is_still
from relayd.hub.api.resources.invocations import invocation_shape
from relayd.hub.api.streams import Batch, Event
from relayd.hub.decisions.states import RUN_ENDS
from relayd.hub.store import invocations, output, runs

#: Rows of each kind that are read at a time.
ROWS: Final = 64


class RunEvents:
    """
    See `relayd.hub.api.streams.EventSource`.

    :param output: whether output is among them.
    :param headers: of the request, by which it is asked again whether *principal* may see it.
    """

    def __init__(
        self,
        hub: Hub,
        run_id: str,
        *,
        output: bool,
        principal: Principal,
        headers: Mapping[str, str],
        secure: bool,
    ) -> None:
        self._hub = hub
        self._run_id = run_id
        self._output = output
        self._principal = principal
        self._headers = headers
        self._secure = secure
        #: State and counts that were sent last.
        self._told: object = None
        self._hosts: dict[str, str] = {}

    async def read(self, after: int) -> Batch:
        """What changed after *after*."""
        run, events, more = await self._hub.store.read(_read, self._run_id, after, self._output, ROWS)
        if not more:
            told = (run.state, run.counts)
            if told != self._told:
                self._told = told
                number = max(run.change, after, events[-1].change if events else 0)
                data = {"id": run.id, "state": run.state, "counts": run.counts, "size": run.size}
                events = [*events, Event(number, "run", data)]
        return Batch(events=events, more=more, ended=not more and run.state in RUN_ENDS)

    def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Those who change it say so; the store is read now and then whatever they say."""
        return self._hub.engine.watch(self._run_id, wake)

    async def may_go_on(self) -> bool:
        """A session may have ended, a token been revoked, a role been taken."""
        return await is_still(
            self._hub.access.doorkeeper, self._principal, self._headers, self._secure, Permission.RUNS_READ
        )


def _read(
    connection: Connection, run_id: str, after: int, with_output: bool, rows: int
) -> tuple[runs.Run, list[Event], bool]:
    run = runs.get_run(connection, run_id)
    if run.change <= after:
        return run, [], False
    found: list[Event] = []
    #: The last change of which all is known.
    known: list[int] = []
    changed = invocations.changed_since(connection, run_id, after, rows)
    found += [Event(each.change, "invocation", invocation_shape(each)) for each in changed]
    if len(changed) == rows:
        known.append(changed[-1].change)
    if with_output:
        chunks = output.chunks_since(connection, run_id, after, rows)
        hosts = {each.id: each.host_name for each in changed}
        found += [Event(chunk.change, "output", _output(connection, chunk, hosts)) for chunk in chunks]
        if len(chunks) == rows:
            known.append(chunks[-1].change)
    found.sort(key=lambda event: event.change)
    if not known:
        return run, found, False
    # A change may have more rows than were read: those of the last one come with the next read.
    border = min(known)
    whole = [event for event in found if event.change < border]
    if whole:
        return run, whole, True
    return _read(connection, run_id, after, with_output, rows * 8)


def _output(connection: Connection, chunk: output.Chunk, hosts: dict[str, str]) -> dict[str, Any]:
    if chunk.invocation_id not in hosts:
        hosts[chunk.invocation_id] = invocations.get_invocation(connection, chunk.invocation_id).host_name
    data: dict[str, Any] = {
        "invocation": chunk.invocation_id,
        "host": hosts[chunk.invocation_id],
        "stream": chunk.stream,
        "sequence": chunk.sequence,
        "offset": chunk.offset,
        "text": chunk.data.decode("utf-8", "replace"),
    }
    if data["text"].encode() != chunk.data:  # such as a character that two pieces share
        data["base64"] = b64encode(chunk.data).decode()
    return data
