"""
What a run would do: on which hosts, through which relay, and what that relay's own rules say of the command.
"""

from __future__ import annotations

from typing import Final, Literal

from twisted.internet.defer import Deferred, gatherResults

from relayd.hub.api.hub import Hub
from relayd.hub.api.shapes import Shape
from relayd.hub.runs.interfaces import InventoryHost, Login
from relayd.hub.runs.ordering import Allowed, select_hosts
from relayd.hub.runs.orders import CheckedOrder, Order, check_order, command_for
from relayd.hub.store.ids import new_id
from relayd.language.texts import Text
from relayd.wire.policy_answer import PolicyAnswer

#: Hosts of which relays are asked; of more, the first are.
MOST_ASKED: Final = 200


class DryHost(Shape, frozen=True, kw_only=True):
    """
    A host that a run would be on.

    :ivar relay: the first relay that reaches it and is connected; ``null``: none is now.
    :ivar policy: what that relay's rules say; ``not-asked``: it is not connected, cannot tell, or there are too many
        hosts; ``no-login``: the hub has no way to log in.
    :ivar reason: why it would be refused, or cannot be said.
    """

    host: str
    relay: str | None
    policy: Literal["allowed", "refused", "not-asked", "no-login"]
    code: str | None = None
    reason: str | None = None


class DryRun(Shape, frozen=True, kw_only=True):
    """
    What a run would do.

    :ivar size: how many hosts.
    :ivar items: each of them.
    """

    size: int
    items: list[DryHost]


async def plan(hub: Hub, order: Order, allowed: Allowed) -> DryRun:
    """
    :raises RunError: as the order itself would.
    """
    checked = check_order(order)
    hosts = await hub.store.read(select_hosts, hub.inventory, checked, allowed)
    asked = hosts[:MOST_ASKED]
    logins = await hub.store.read(hub.inventory.logins, [host.snapshot for host in asked])
    answers: list[Deferred[DryHost]] = [
        Deferred.fromCoroutine(_ask(hub, checked, host, login)) for host, login in zip(asked, logins, strict=True)
    ]
    items: list[DryHost] = await gatherResults(answers, consumeErrors=True)
    items += [DryHost(host=host.name, relay=_relay_of(hub, host), policy="not-asked") for host in hosts[MOST_ASKED:]]
    return DryRun(size=len(hosts), items=items)


def _relay_of(hub: Hub, host: InventoryHost) -> str | None:
    return next((name for name in host.relays if name in hub.links.relays), None)


async def _ask(hub: Hub, checked: CheckedOrder, host: InventoryHost, login: Login | Text) -> DryHost:
    relay = _relay_of(hub, host)
    if isinstance(login, Text):
        return DryHost(host=host.name, relay=relay, policy="no-login", reason=str(login))
    if relay is None:
        return DryHost(host=host.name, relay=None, policy="not-asked")
    try:
        command = command_for(checked.template, new_id(hub.now()), login)
        answer: PolicyAnswer = await hub.links.check(relay, command)
    except Exception as error:  # it is gone, does not answer in time, or does not know the question
        return DryHost(host=host.name, relay=relay, policy="not-asked", reason=type(error).__doc__ or "")
    policy: Literal["allowed", "refused"] = "allowed" if answer.allowed else "refused"
    return DryHost(host=host.name, relay=relay, policy=policy, code=answer.code, reason=answer.reason)
