"""
Receipts that are lost, late, doubled, mixed up, refusals, or never sent at all.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.task import deferLater

from relayd.journal.journal_report import read_report
from relayd.journal.store import journal_file
from tests.support.ledger import confirm
from tests.support.ledger_case import LedgerCase

Receipts = Callable[[dict[str, Any]], list[dict[str, Any]]]


class ReceiptTests(LedgerCase):
    """Whatever the main server does with its receipts: every result arrives, and none makes a loop."""

    async def run_some(self, first: int = 0, last: int = 30) -> None:
        for number in range(first, last):
            self.order(f"c{number}", f"echo {number}")
        await self.ledger.until(lambda: len(self.ledger.results) == last)

    async def come_back(self) -> None:
        """The link is lost, and made again."""
        connections = self.ledger.connections
        self.ledger.cut()
        await self.ledger.until(lambda: self.ledger.connections > connections)

    def held(self) -> list[str]:
        """The commands whose results the relay still holds, by its journal."""
        return [row.command_id for row in read_report(journal_file(str(self.relay.directory))).rows]

    async def all_confirmed(self) -> None:
        await self.ledger.until(lambda: not self.held())

    async def test_lost(self) -> None:
        """Every third is lost; what is left without one comes again on the next link."""
        lost = iter(range(10_000))
        await self.begin(receipts=lambda result: [] if next(lost) % 3 == 0 else confirm(result))
        await self.run_some()
        for _ in range(5):
            await self.come_back()
            await deferLater(reactor, 0.3)
        self.ledger.receipts = confirm
        await self.come_back()
        await self.all_confirmed()
        self.check_books()

    async def test_late(self) -> None:
        """They come a second later, or on a link that is gone by then."""

        def late(result: dict[str, Any]) -> list[dict[str, Any]]:
            link = self.ledger.link
            assert link is not None

            def send() -> None:
                link.dialect.send_event("command_result_received", {"success": True})
                link.flush()

            reactor.callLater(1, send)
            return []

        await self.begin(receipts=late)
        await self.run_some()
        await self.come_back()
        await self.all_confirmed()
        self.check_books()

    async def test_doubled(self) -> None:
        """A second receipt must not count for another result that did not arrive."""
        await self.begin(receipts=lambda result: [{"success": True, "commandId": result["commandId"]}] * 2)
        await self.run_some()
        await self.all_confirmed()
        await self.come_back()
        await deferLater(reactor, 0.5)
        self.check_books()
        self.assertEqual({len(results) for results in self.ledger.results.values()}, {1})

    async def test_out_of_order(self) -> None:
        """Nest dispatches handlers concurrently: receipts without ids, in any order, with the link cut between them."""
        source = random.Random(7)
        waiting: list[dict[str, Any]] = []

        def mixed(result: dict[str, Any]) -> list[dict[str, Any]]:
            waiting.append(
                {"success": True, "commandId": result["commandId"]} if source.random() < 0.5 else {"success": True}
            )
            source.shuffle(waiting)
            return [waiting.pop()] if len(waiting) > 5 else []

        await self.begin(receipts=mixed)
        await self.run_some()
        waiting.clear()
        self.ledger.receipts = confirm
        await self.come_back()
        await self.all_confirmed()
        self.check_books()

    async def dies_after_the_first(self, *receipts: dict[str, Any]) -> None:
        """
        The main server reads one of two results, sends *receipts* when both are under way, and dies: the other one must
        come again.
        """

        def first(result: dict[str, Any]) -> list[dict[str, Any]]:
            link = self.ledger.link
            assert link is not None
            link.deaf = True

            def die() -> None:
                self.ledger.receipts = confirm
                for receipt in receipts:
                    named = {"commandId": result["commandId"]} if "commandId" in receipt else {}
                    link.dialect.send_event("command_result_received", receipt | named)
                link.flush()
                reactor.callLater(0.5, self.ledger.cut)

            reactor.callLater(1, die)
            return []

        await self.begin(receipts=first)
        self.order("a", "echo a")
        self.order("b", "echo b")
        await self.ledger.until(lambda: len(self.ledger.results) == 2)
        await self.all_confirmed()
        self.check_books()

    async def test_doubled_and_the_main_server_dies(self) -> None:
        await self.dies_after_the_first({"success": True, "commandId": ""}, {"success": True, "commandId": ""})

    async def test_one_receipt_and_the_main_server_dies(self) -> None:
        await self.dies_after_the_first({"success": True})

    async def test_refused(self) -> None:
        """Sent three times, then kept as a dead letter; a later result is none the worse for it."""
        await self.begin(receipts=lambda result: [{"success": result["commandId"] != "bad", "error": "no such row"}])
        self.order("bad", "echo bad")
        await self.ledger.until(lambda: len(self.ledger.results.get("bad", ())) == 3)
        self.order("good", "echo good")
        await self.ledger.until(lambda: "good" in self.ledger.results)
        await self.ledger.until(lambda: "dead letter" in self.shown())
        for times in (4, 5):  # once on each new connection: another main server may be behind it
            await self.come_back()
            await deferLater(reactor, 0.5)
            self.assertEqual((self.held(), len(self.ledger.results["bad"])), (["bad"], times))
        self.check_books()
        self.assertIn("The main server rejected the result of bad 3 times: no such row", self.relay.log)

    def shown(self) -> str:
        relayctl = Path(sys.executable).with_name("relayctl")
        return subprocess.run(
            [str(relayctl), "journal", "--state-dir", str(self.relay.directory)],
            capture_output=True, text=True, check=False, timeout=30,
        ).stdout.partition("ACCEPTED")[2]  # fmt: skip

    async def test_never(self) -> None:
        """What it has read counts as delivered: after half a minute at first, and quickly from then on."""
        await self.begin(receipts=lambda _: [])
        await self.run_some(0, 3)
        await self.all_confirmed()
        self.assertIn("The main server sends no receipts", self.relay.log)
        await self.run_some(3, 6)
        await self.all_confirmed()
        self.assertEqual(await self.relay.stop(), 0)
        self.check_books()
        self.assertEqual({len(results) for results in self.ledger.results.values()}, {1})

    async def test_two_main_servers_behind_one_address(self) -> None:
        """The wrong one refuses the result as often as it likes; the right one has it at last."""
        await self.begin(receipts=lambda _: [{"success": False, "error": "no such command"}])
        self.order("c", "echo c")
        await self.ledger.until(lambda: len(self.ledger.results.get("c", ())) == 3)
        await self.come_back()
        await self.ledger.until(lambda: len(self.ledger.results["c"]) == 4)
        self.ledger.receipts = confirm
        await self.come_back()
        await self.all_confirmed()
        self.check_books()

    async def test_links_that_are_cut_every_few_seconds(self) -> None:
        """Native, and no receipts: the result arrives again and again, and never becomes a failure."""
        await self.begin(native=True, receipts=lambda _: [])
        self.order("c", "echo deployed")
        await self.ledger.until(lambda: "c" in self.ledger.results)
        connections = self.ledger.connections
        while self.held():
            await deferLater(reactor, 1.5)
            await self.come_back()
            self.assertLess(self.ledger.connections, connections + 60)
        await deferLater(reactor, 1)
        self.assertGreater(self.ledger.connections, connections + 5)
        self.assertEqual({(each["stdout"], each["exitCode"]) for each in self.ledger.results["c"]}, {("deployed", 0)})
        self.assertEqual(self.executions.twice(), [])

    async def test_result_that_makes_it_drop_the_connection(self) -> None:
        """A bug over there: the relay must not come back with it for ever."""
        await self.begin()
        self.ledger.on_result = lambda command_id: (
            self.ledger.cut()
            if command_id == "poison" and "could not be delivered" not in self.last(command_id)
            else None
        )
        self.order("poison", "echo poison")
        await self.ledger.until(lambda: "could not be delivered" in self.last("poison"))
        connections = self.ledger.connections
        self.assertLess(connections, 10)
        self.order("good", "echo good")
        await self.ledger.until(lambda: "good" in self.ledger.results)
        await deferLater(reactor, 1)
        self.assertEqual((self.ledger.connections, self.held()), (connections, ["poison"]))
        self.assertEqual(self.executions.twice(), [])

    def last(self, command_id: str) -> str:
        results = self.ledger.results.get(command_id)
        return str(results[-1]["stderr"]) if results else ""
