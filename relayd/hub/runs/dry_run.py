"""
What an order would do: which hosts it means, which relay each would be sent to, and what that relay's rules say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec import Struct
from sqlalchemy import Connection
from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults, succeed
from twisted.python.failure import Failure

from relayd.hub.runs.interfaces import Inventory, Login, RelayLinks
from relayd.hub.runs.ordering import Allowed, select_hosts
from relayd.hub.runs.orders import CheckedOrder, command_for
from relayd.hub.store.ids import new_id
from relayd.hub.store.store import Store
from relayd.language.errors import DescribedError
from relayd.language.texts import Text, printable

#: Questions that relays are asked at a time, and for one dry run: of other hosts it says only where they are sent.
_AT_A_TIME: Final = 50
MOST_ASKED: Final = 500


class Planned(Struct, frozen=True, kw_only=True):
    """
    What would become of an order on one host.

    :ivar relay: to which it would be sent; ``None``: no relay reaches the host.
    :ivar connected: whether that relay is connected.
    :ivar allowed: what its rules say; ``None``: it was not asked, or has not said.
    :ivar code: of the rule that refuses it.
    :ivar reason: the words of that, or why it was not asked.
    """

    host: str
    relay: str | None
    connected: bool
    allowed: bool | None = None
    code: str | None = None
    reason: str | None = None


class _Candidate(Struct, frozen=True):
    host: str
    relays: tuple[str, ...]
    login: Login | Text


def plan_run(
    store: Store,
    inventory: Inventory,
    links: RelayLinks,
    online: Mapping[str, str],
    checked: CheckedOrder,
    allowed: Allowed,
    now: int,
) -> Deferred[list[Planned]]:
    """
    What an order would do; nothing is sent but questions.

    :param online: the relays that are connected.
    :param now: microseconds since 1970, UTC.
    :return: fires with one for each host; fails with `NoHosts`.
    """
    asking = DeferredSemaphore(_AT_A_TIME)

    def asked(candidates: list[_Candidate]) -> Deferred[list[Planned]]:
        plans: list[Deferred[Planned]] = [
            asking.run(_planned, candidate, number < MOST_ASKED, links, online, checked, new_id(now))
            for number, candidate in enumerate(candidates)
        ]
        return gatherResults(plans, consumeErrors=True)

    return store.read(_candidates, inventory, checked, allowed).addCallback(asked)


def _candidates(
    connection: Connection, inventory: Inventory, checked: CheckedOrder, allowed: Allowed
) -> list[_Candidate]:
    hosts = select_hosts(connection, inventory, checked, allowed)
    logins: Sequence[Login | Text] = inventory.logins(connection, [host.snapshot for host in hosts])
    return [_Candidate(host.name, host.relays, login) for host, login in zip(hosts, logins, strict=True)]


def _planned(
    candidate: _Candidate,
    ask: bool,
    links: RelayLinks,
    online: Mapping[str, str],
    checked: CheckedOrder,
    question: str,
) -> Deferred[Planned]:
    relay = next((name for name in candidate.relays if name in online), None)
    plan = Planned(host=candidate.host, relay=relay or next(iter(candidate.relays), None), connected=relay is not None)
    if isinstance(candidate.login, Text):
        return succeed(_with(plan, False, "not-sendable", candidate.login))
    if relay is None:
        words = Text("No relay that reaches the host is connected ({relays}).", relays=", ".join(candidate.relays))
        reason = words if candidate.relays else Text("No relay reaches the host.")
        return succeed(_with(plan, None, "relay-away", reason))
    if not ask:
        words = Text("It was not asked: a dry run asks for {most} hosts.", most=MOST_ASKED)
        return succeed(_with(plan, None, None, words))
    answer: Deferred[Any] = links.check(relay, command_for(checked.template, question, candidate.login))

    def answered(said: Any) -> Planned:
        return _with(plan, said.allowed, said.code, said.reason)

    def failed(failure: Failure) -> Planned:
        error = failure.value
        code = error.code if isinstance(error, DescribedError) else "no-answer"
        return _with(plan, None, code, str(error))

    return answer.addCallbacks(answered, failed)


def _with(plan: Planned, allowed: bool | None, code: str | None, reason: str | None) -> Planned:
    return Planned(
        host=plan.host,
        relay=plan.relay,
        connected=plan.connected,
        allowed=allowed,
        code=None if code is None else printable(code, 100),
        reason=None if reason is None else printable(reason, 500),
    )
