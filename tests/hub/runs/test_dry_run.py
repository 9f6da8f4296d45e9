"""
Tests of `relayd.hub.runs.dry_run`; and that the engine fits the links.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail, succeed

from relayd.hub.errors import NoAnswer
from relayd.hub.links.links import LinkObserver, Links
from relayd.hub.runs.engine import Engine
from relayd.hub.runs.errors import InvalidOrder, NoHosts
from relayd.hub.runs.interfaces import RelayLinks
from relayd.hub.runs.orders import Order
from relayd.language.texts import Text, span
from relayd.wire.messages import ExecuteCommand
from relayd.wire.policy_answer import PolicyAnswer
from tests.support.databases import OnBothStores
from tests.support.hub_runs import EngineCase


def fits(engine: Engine, links: Links) -> tuple[LinkObserver, RelayLinks]:
    """For mypy: the engine is an observer of links, and the links are what the engine needs."""
    return engine, links


class DryRunTests(OnBothStores):
    async def test_what_an_order_would_do(self) -> None:
        case = EngineCase(self.store)
        for name, *relays in (("a", "berlin"), ("b", "paris", "berlin"), ("c", "oslo"), ("d",), ("e", "berlin"),
                              ("f", "mute")):  # fmt: skip
            case.inventory.add(name, *relays)
        case.inventory.reasons["e"] = Text("it has no user")
        for relay in ("berlin", "mute"):
            await case.connect(relay)
        asked: list[ExecuteCommand] = []

        def check(proxy_id: str, command: ExecuteCommand) -> Deferred[Any]:
            asked.append(command)
            if proxy_id == "mute":
                return fail(NoAnswer(proxy_id=proxy_id, command_id=command.command_id, time=span(5)))
            allowed = command.host != "b"
            code, words = (None, None) if allowed else ("forbidden-host", "no\x1b[31m")
            return succeed(PolicyAnswer(command_id=command.command_id, allowed=allowed, code=code, reason=words))

        case.links.check = check  # type: ignore[method-assign]
        plans = await case.engine.dry_run(Order(command="uptime", selector="all"))
        self.assertEqual(
            [(each.host, each.relay, each.connected, each.allowed, each.code) for each in plans],
            [
                ("a", "berlin", True, True, None),
                ("b", "berlin", True, False, "forbidden-host"),
                ("c", "oslo", False, None, "relay-away"),
                ("d", None, False, None, "relay-away"),
                ("e", "berlin", True, False, "not-sendable"),
                ("f", "mute", True, None, NoAnswer.code),
            ],
        )
        self.assertEqual(plans[1].reason, "no\N{REPLACEMENT CHARACTER}[31m")
        self.assertEqual([command.command for command in asked], ["uptime"] * 3)
        self.assertEqual(case.links.sent, [])
        self.assertEqual(len({command.command_id for command in asked}), 3)

    async def test_what_cannot_be_ordered(self) -> None:
        case = EngineCase(self.store)
        await self.assertFailure(case.engine.dry_run(Order(command="uptime", selector="a")), NoHosts)
        await self.assertFailure(case.engine.dry_run(Order(selector="a")), InvalidOrder)
