"""
A main server that reads slowly, or not at all for a while, with 120 MB of output waiting for it.
"""

from __future__ import annotations

from pathlib import Path

from twisted.internet import reactor
from twisted.internet.task import deferLater

from tests.support.ledger_case import LedgerCase

RESULTS = 120
SIZE = 1_000_000


class SlowReaderTests(LedgerCase):
    """Results wait on disk, and not in memory."""

    def resident(self) -> int:
        """Bytes of memory that the relay occupies."""
        status = Path(f"/proc/{self.relay.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024

    async def test_much_output(self) -> None:
        await self.begin("--max-commands", "2", max_payload=16_000_000)
        self.order("first", f"head -c {SIZE} /dev/zero | tr '\\0' x")
        await self.ledger.until(lambda: "first" in self.ledger.results)
        assert self.ledger.link is not None
        transport = self.ledger.link.transport
        transport.pauseProducing()
        before = self.resident()
        for number in range(RESULTS):
            self.order(f"c{number}", f"head -c {SIZE} /dev/zero | tr '\\0' x")
        most = before
        while self.executions.counts().total() < RESULTS + 1:
            most = max(most, self.resident())
            await deferLater(reactor, 0.1)
        for _ in range(10):
            most = max(most, self.resident())
            await deferLater(reactor, 0.1)
        self.assertEqual(list(self.ledger.results), ["first"])
        # Two that run, one that is being written to disk, one that is being sent, each in some copies, and what the
        # allocator does not give back; not 120.
        self.assertLess(most - before, RESULTS * SIZE / 2)
        # Slowly at first.
        for _ in range(20):
            transport.resumeProducing()
            await deferLater(reactor, 0.01)
            transport.pauseProducing()
            await deferLater(reactor, 0.05)
        transport.resumeProducing()
        await self.ledger.until(lambda: len(self.ledger.results) == RESULTS + 1)
        self.check_books()
        self.assertEqual({len(results[0]["stdout"]) for results in self.ledger.results.values()}, {SIZE})
        self.assertEqual(self.ledger.connections, 1)
