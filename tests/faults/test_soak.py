"""
Hundreds of commands, while the main server is restarted every three seconds and the relay is killed again and again.
"""

from __future__ import annotations

import os
import random
import resource
from collections import Counter

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from tests.support.ledger_case import LedgerCase

#: As many as a run of some seconds takes; ``TEST_COMMANDS=10000`` in the environment asks for more.
COMMANDS = int(os.environ.get("TEST_COMMANDS", "1500"))
KILLS = max(6, COMMANDS // 500)
#: Commands that the main server has under way at a time, and seconds between its restarts.
AT_A_TIME = 32
RESTART_EVERY = 3.0


class SoakTests(LedgerCase):
    """Everything at once, for long."""

    timeout = 600

    async def test_main_server_restarted_and_relay_killed_under_load(self) -> None:
        await self.begin()
        self.over = False
        faults = [self.restart_main_server(), self.kill_relay_again_and_again()]
        running = gatherResults([Deferred.fromCoroutine(fault) for fault in faults])
        number = 0
        while number < COMMANDS:
            # what was not acknowledged is lost with its link, as any main server would see it
            while number < COMMANDS and self.ledger.link is not None and self.under_way() < AT_A_TIME:
                self.order(f"c{number}", "echo done")
                number += 1
            await deferLater(reactor, 0.005)
        self.over = True
        await running
        await self.ledger.ready()
        await self.settled()
        self.check_books()
        outcomes = Counter(results[0]["exitCode"] for results in self.ledger.results.values())
        accepted = len(self.ledger.accepted())
        print(
            f"{len(self.ledger.ordered)} ordered, {accepted} acknowledged, {len(self.ledger.results)} with a result, "
            f"{outcomes[0]} of them well; {self.ledger.connections} connections, {self.restarts} restarts of the main "
            f"server, {self.kills} kills of the relay; lost {len(self.ledger.without_result())}, run twice "
            f"{len(self.executions.twice())}; {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024} MB"
        )
        self.assertEqual((self.kills, len(self.ledger.ordered)), (KILLS, COMMANDS))
        self.assertGreater(accepted, COMMANDS / 2)

    def under_way(self) -> int:
        """Commands sent on the link of the moment that have no result; those of earlier links are not waited for."""
        return len(self.sent_now - self.ledger.results.keys())

    @property
    def sent_now(self) -> set[str]:
        link = self.ledger.link
        if link is not self._link_of_sent:
            self._link_of_sent, self._sent_before = link, len(self.ledger.ordered)
        return set(list(self.ledger.ordered)[self._sent_before :])

    _link_of_sent: object = None
    _sent_before = 0
    restarts = 0
    kills = 0

    async def restart_main_server(self) -> None:
        while not self.over:
            await deferLater(reactor, RESTART_EVERY)
            await self.ledger.stop()
            self.ledger.listen()
            self.restarts += 1

    async def kill_relay_again_and_again(self) -> None:
        source = random.Random(20)
        while self.kills < KILLS:
            await deferLater(reactor, source.uniform(0.5, 2.5))
            await self.kill_relay()
            self.relay.start()
            self.kills += 1
            await self.ledger.ready()
