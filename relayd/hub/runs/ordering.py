"""
What is done in the store's threads to order a run, to repeat one, and to go on with one after a restart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from msgspec import Struct
from sqlalchemy import Connection

from relayd.hub.decisions.ends import Rerun, is_rerun
from relayd.hub.decisions.queues import Aim
from relayd.hub.decisions.selectors import SelectorError, parse
from relayd.hub.decisions.states import RUN_ENDS
from relayd.hub.runs.errors import NoHosts, NotNow, SecretsGone, TooManyOpen
from relayd.hub.runs.interfaces import Inventory, InventoryHost, Sealing
from relayd.hub.runs.orders import CheckedOrder, open_part, secret_part
from relayd.hub.store.ids import new_id
from relayd.hub.store.invocations import Member, members_of
from relayd.hub.store.runs import NewInvocation, NewRun, Run, add_run, get_run, known_run, sealed_of
from relayd.language.texts import Text, printable

#: Invocations of one run.
MAX_SIZE: Final = 50_000
#: Names of hosts that a message lists.
_LISTED: Final = 5

#: Whether a person may order runs on a host; ``None``: on all.
Allowed = Callable[[InventoryHost], bool] | None


class Request(Struct, frozen=True, kw_only=True):
    """
    Who orders a run.

    :ivar created_by: ``user:NAME`` or ``token:NAME``.
    :ivar key: its idempotency key.
    :ivar digest: of what was asked for.
    """

    created_by: str
    key: str | None = None
    digest: bytes = b""
    allowed: Allowed = None


class Placed(Struct, frozen=True):
    """
    An order that is stored.

    :ivar members: the new run's invocations, and for whom each is; ``None``: it was stored before.
    """

    run: Run
    members: Sequence[NewInvocation] | None
    aims: Sequence[Aim]


class Loaded(Struct, frozen=True):
    """A run that has not ended, as the store has it."""

    run: Run
    members: list[Member]
    sealed: bytes | None


def context_of(run_id: str) -> str:
    """What the secrets of a run are sealed for."""
    return f"run:{run_id}"


def select_hosts(
    connection: Connection, inventory: Inventory, checked: CheckedOrder, allowed: Allowed
) -> list[InventoryHost]:
    """
    The hosts that an order means.

    :raises NoHosts: when there are none, or some of them are not there.
    """
    hosts = [host for host in inventory.hosts(connection) if allowed is None or allowed(host)]
    order = checked.order
    try:
        if not order.hosts:
            return parse(order.selector).select(hosts)
    except SelectorError as error:
        raise NoHosts(reason=error.text) from None
    by_name = {host.name: host for host in hosts}
    missing = [name for name in order.hosts if name not in by_name]
    if missing:
        names = ", ".join(printable(name, 60) for name in missing[:_LISTED])
        more = Text(" and {count} more", count=len(missing) - _LISTED) if len(missing) > _LISTED else ""
        raise NoHosts(reason=Text("the inventory has no host {names}{more} that you may use", names=names, more=more))
    return [by_name[name] for name in dict.fromkeys(order.hosts)]


def place_order(
    connection: Connection,
    inventory: Inventory,
    sealing: Sealing,
    run_id: str,
    checked: CheckedOrder,
    request: Request,
    times: Mapping[str, int],
    room: int,
) -> Placed:
    """
    Store a run.

    :param times: ``now``, and ``over_at``, when what was not sent until then ends.
    :param room: how many more invocations the hub takes.
    """
    if request.key is not None:
        known = known_run(connection, request.created_by, request.key, request.digest)
        if known is not None:
            return Placed(known, None, ())
    hosts = select_hosts(connection, inventory, checked, request.allowed)
    if len(hosts) > min(MAX_SIZE, room):
        raise TooManyOpen(open=MAX_SIZE - room + len(hosts), most=MAX_SIZE)
    now = times["now"]
    members = [NewInvocation(new_id(now), host.id, host.name, host.snapshot) for host in hosts]
    order, secret = checked.order, secret_part(checked)
    within = order.deliver_within
    new = NewRun(
        id=run_id,
        created_by=request.created_by,
        created_at=now,
        command=open_part(checked, has_secrets=secret is not None),
        selector=order.selector or f"name in ({', '.join(order.hosts[:_LISTED])})",
        rollout=checked.rollout.to_builtins() | checked.budget.to_builtins(),
        deliver_until=None if within is None else now + round(within * 1e6),
        output_limit=order.output_limit,
        deadline=times["over_at"],
        idempotency_key=request.key,
        request_digest=request.digest if request.key is not None else None,
        sealed=None if secret is None else sealing.seal(secret, context_of(run_id)),
        note=order.note,
    )
    run = add_run(connection, new, members)
    return Placed(run, members, [Aim(host.id, host.relays) for host in hosts])


def place_rerun(
    connection: Connection,
    inventory: Inventory,
    run_id: str,
    former_id: str,
    which: Rerun,
    request: Request,
    times: Mapping[str, int],
    room: int,
) -> Placed:
    """
    Store a run that repeats invocations of another one, on the hosts as they are now.

    :raises NotNow: when that one has not ended.
    :raises SecretsGone: when it had secrets.
    :raises NoHosts: when there is nothing to repeat.
    """
    if request.key is not None:
        known = known_run(connection, request.created_by, request.key, request.digest)
        if known is not None:
            return Placed(known, None, ())
    former = get_run(connection, former_id)
    pairs = _repeated(connection, inventory, former, which, request.allowed)
    if len(pairs) > room:
        raise TooManyOpen(open=MAX_SIZE - room + len(pairs), most=MAX_SIZE)
    now = times["now"]
    members = [NewInvocation(new_id(now), host.id, host.name, host.snapshot, member.id) for member, host in pairs]
    within = former.command.get("deliverWithin")
    new = NewRun(
        id=run_id,
        created_by=request.created_by,
        created_at=now,
        command=former.command,
        selector=former.selector,
        rollout=former.rollout,
        deliver_until=None if within is None else now + round(within * 1e6),
        output_limit=former.output_limit,
        deadline=times["over_at"],
        idempotency_key=request.key,
        request_digest=request.digest if request.key is not None else None,
        note=former.note,
        rerun_of=former_id,
    )
    run = add_run(connection, new, members)
    return Placed(run, members, [Aim(host.id, host.relays) for _, host in pairs])


def _repeated(
    connection: Connection, inventory: Inventory, former: Run, which: Rerun, allowed: Allowed
) -> list[tuple[Member, InventoryHost]]:
    """The invocations that are ordered again, with their hosts as they are now."""
    if former.state not in RUN_ENDS:
        raise NotNow(what=Text("run"), name=former.id, state=str(former.state))
    if former.command.get("secrets"):
        raise SecretsGone(run=former.id)
    hosts = {host.id: host for host in inventory.hosts(connection) if allowed is None or allowed(host)}
    found = [
        (member, hosts[member.host_id])
        for member in members_of(connection, former.id)
        if is_rerun(which, member.state, member.sent_at is not None) and member.host_id in hosts
    ]
    if not found:
        reason = Text(
            "none of the invocations of {run} is such ({which}) on a host that is still there",
            run=former.id,
            which=str(which),
        )
        raise NoHosts(reason=reason)
    return found


def load_run(connection: Connection, run: Run) -> Loaded:
    """All that the engine needs to go on with a run."""
    return Loaded(run, members_of(connection, run.id), sealed_of(connection, run.id))
