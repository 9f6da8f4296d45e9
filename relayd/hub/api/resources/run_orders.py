"""
Ordering runs, and what is done with them: paused, resumed, cancelled, repeated.

An operator who is limited to some hosts orders and repeats on those alone: a selector means what it means among them.
It pauses and cancels its own runs, and those of which it may use all hosts; it resumes only the latter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from msgspec import Struct
from sqlalchemy import Connection

from relayd.hub.access.errors import HostsForbidden
from relayd.hub.access.limits import allowed, forbidden, may_stop, outside
from relayd.hub.access.permissions import Permission, Principal
from relayd.hub.api.calls import Answer, Call, NoQuery
from relayd.hub.api.conditions import entity_tag
from relayd.hub.api.hub import Hub
from relayd.hub.api.problems import KeyReused
from relayd.hub.api.resources.dry_runs import DryRun, dry_run_shape
from relayd.hub.api.resources.invocations import InvocationShape, invocation_shape
from relayd.hub.api.resources.runs import RunShape, get_run, run_shape
from relayd.hub.api.routes import Idempotency, Route
from relayd.hub.api.shapes import Given
from relayd.hub.decisions.ends import Rerun
from relayd.hub.decisions.selectors import parse
from relayd.hub.runs.errors import InvalidOrder, NoHosts, NotNow, SecretsGone, TooManyOpen
from relayd.hub.runs.orders import Order
from relayd.hub.store import hosts, invocations, runs
from relayd.hub.store.errors import Conflict, NotFound


class RerunOrder(Given, frozen=True, kw_only=True):
    """
    Which invocations are repeated.

    :ivar which: ``certainly-not-run`` is always right; ``failed`` are those that did not succeed, without those that
        may have run; ``unknown`` may run for the second time.
    """

    which: Rerun


class _Host(Struct, frozen=True):
    """
    A host of a run, as selectors see it.

    :ivar there: whether the inventory still has it; without, no limit matches it.
    """

    name: str
    labels: Mapping[str, str]
    there: bool


def _read_selector(text: str) -> Callable[[Any], bool]:
    selector = parse(text)
    return lambda host: getattr(host, "there", True) and selector.matches(host)


async def order(hub: Hub, call: Call[NoQuery, Order]) -> Answer:
    """It is stored when the answer comes; the same order with the same key is one run."""
    who = call.who
    try:
        may_use, key = allowed(who, _read_selector), call.headers["idempotency-key"]
        run = await hub.engine.create(call.body, who.name, key=key, allowed=may_use)
    except Conflict:
        raise KeyReused from None
    text = call.body.command if call.body.script is None else call.body.script.text
    record = {"command": hub.access.audit.digest(text or ""), "selector": run.selector, "note": run.note}
    return _made(run, record)


async def dry_run(hub: Hub, call: Call[NoQuery, Order]) -> DryRun:
    """Nothing is stored, and nothing sent but a question to relays."""
    return dry_run_shape(await hub.engine.dry_run(call.body, allowed=allowed(call.who, _read_selector)))


async def rerun(hub: Hub, call: Call[NoQuery, RerunOrder]) -> Answer:
    """A new run, on the hosts as they are now."""
    who, which = call.who, call.body.which
    try:
        may_use, key = allowed(who, _read_selector), call.headers.get("idempotency-key")
        run = await hub.engine.rerun(call.parameters["id"], which, who.name, key=key, allowed=may_use)
    except Conflict:
        raise KeyReused from None
    return _made(run, {"which": str(which)})


def _made(run: runs.Run, record: Mapping[str, str]) -> Answer:
    return Answer(
        body=run_shape(run),
        etag=entity_tag(run.version),
        headers={"Location": f"/api/v1/runs/{run.id}"},
        record={"run": run.id, "hosts": run.size, **record},
    )


async def pause(hub: Hub, call: Call[NoQuery, None]) -> Answer:
    """Nothing new is sent until it is resumed."""
    await _check_stop(hub, call)
    await hub.engine.pause(call.parameters["id"])
    return await get_run(hub, call)


async def resume(hub: Hub, call: Call[NoQuery, None]) -> Answer:
    """It goes on where it was."""
    _, found = await hub.store.read(_hosts_of_run, call.who, call.parameters["id"])
    if wrong := outside(call.who, found, _read_selector):
        raise forbidden(call.who, wrong)
    await hub.engine.resume(call.parameters["id"])
    return await get_run(hub, call)


async def cancel(hub: Hub, call: Call[NoQuery, None]) -> Answer:
    """Nothing new is sent, and relays are asked to end what they have."""
    await _check_stop(hub, call)
    await hub.engine.cancel(call.parameters["id"])
    return await get_run(hub, call)


async def cancel_invocation(hub: Hub, call: Call[NoQuery, None]) -> InvocationShape:
    """Its run goes on with the others."""
    invocation_id = call.parameters["id"]
    run, host = await hub.store.read(_host_of_invocation, call.who, invocation_id)
    if not may_stop(call.who, run.created_by, [host], _read_selector):
        raise forbidden(call.who, [host])
    await hub.engine.cancel_invocation(invocation_id)
    return invocation_shape(await hub.store.read(invocations.get_invocation, invocation_id))


async def _check_stop(hub: Hub, call: Call[NoQuery, None]) -> None:
    run, found = await hub.store.read(_hosts_of_run, call.who, call.parameters["id"])
    if not may_stop(call.who, run.created_by, found, _read_selector):
        raise forbidden(call.who, outside(call.who, found, _read_selector))


def _hosts_of_run(connection: Connection, who: Principal, run_id: str) -> tuple[runs.Run, list[_Host]]:
    """A run and its hosts; none of these where no limit asks for them."""
    run = runs.get_run(connection, run_id)
    if who.limits is None:
        return run, []
    there = _labels(connection, who)
    found = invocations.members_of(connection, run_id)
    return run, [_as_selected(each.host_name, each.host_id, there) for each in found]


def _host_of_invocation(connection: Connection, who: Principal, invocation_id: str) -> tuple[runs.Run, _Host]:
    found = invocations.get_invocation(connection, invocation_id)
    host = _as_selected(found.host_name, found.host_id, _labels(connection, who))
    return runs.get_run(connection, found.run_id), host


def _labels(connection: Connection, who: Principal) -> dict[str, Mapping[str, str]]:
    """The labels of all hosts by their ids; not read where no limit asks for them."""
    return {} if who.limits is None else {host.id: host.labels for host in hosts.all_hosts(connection)}


def _as_selected(name: str, host_id: str, there: Mapping[str, Mapping[str, str]]) -> _Host:
    return _Host(name, there.get(host_id, {}), host_id in there)


_WRITE: Final = Permission.RUNS_WRITE
_ORDER: Final = (InvalidOrder, NoHosts, TooManyOpen)

ROUTES: Final = (
    Route(
        method="POST",
        path="/runs",
        handler=order,
        permission=_WRITE,
        act="run-create",
        summary="Order a run",
        takes=Order,
        max_body=16 * 2**20,
        answers=RunShape,
        status=201,
        idempotency_key=Idempotency.REQUIRED,
        refusals=_ORDER,
    ),
    Route(
        method="POST",
        path="/runs/dry-run",
        handler=dry_run,
        permission=_WRITE,
        act="run-try",
        summary="What a run would do: on which hosts, by which relays, and what the relays' rules say",
        takes=Order,
        max_body=16 * 2**20,
        answers=DryRun,
        refusals=_ORDER,
    ),
    Route(
        method="POST",
        path="/runs/{id}/rerun",
        handler=rerun,
        permission=_WRITE,
        act="run-rerun",
        summary="Repeat invocations of a run that has ended, as a new run",
        takes=RerunOrder,
        answers=RunShape,
        status=201,
        idempotency_key=Idempotency.OPTIONAL,
        refusals=(NotFound, NotNow, SecretsGone, *_ORDER),
    ),
    *(
        Route(
            method="POST",
            path=f"/runs/{{id}}/{name}",
            handler=handler,
            permission=_WRITE,
            act=f"run-{name}",
            summary=summary,
            answers=RunShape,
            refusals=(NotFound, NotNow, HostsForbidden),
        )
        for name, handler, summary in (
            ("pause", pause, "Send nothing new until the run is resumed"),
            ("resume", resume, "Go on with a run that is paused"),
            ("cancel", cancel, "Send nothing new, and ask relays to end what they have"),
        )
    ),
    Route(
        method="POST",
        path="/invocations/{id}/cancel",
        handler=cancel_invocation,
        permission=_WRITE,
        act="invocation-cancel",
        summary="Cancel one invocation",
        answers=InvocationShape,
        refusals=(NotFound, NotNow, HostsForbidden),
    ),
)
