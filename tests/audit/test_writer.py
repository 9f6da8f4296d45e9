"""
Tests of `relayd.audit.writer`: who waits for a line to be on the disk; the rest is tested with `relayd.audit.log`.
"""

from __future__ import annotations

import threading
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred

from relayd.audit import writer as writer_module
from relayd.audit.chain import Chain
from relayd.audit.writer import AuditWriter, NotWritten
from tests.support.auditing import AuditCase, chain, entries, fill, small_disk


class WriterCase(AuditCase):
    def made(self, path: Path | None = None) -> AuditWriter:
        return AuditWriter(
            reactor, chain(path or self.path), lambda record: record, gather=0.0, refused="acts", retry=0.01
        )

    def started(self, path: Path | None = None) -> AuditWriter:
        writer = self.made(path)
        writer.start()
        self.addCleanup(writer.close)
        return writer


class WaitingTests(WriterCase):
    async def test_it_is_on_the_disk(self) -> None:
        writer = self.started()
        for number in range(20):
            await writer.put_and_wait("login", {"number": number}, 0)
            self.assertEqual(entries(self.path)[-1]["number"], number)

    async def test_not_before_it_is_synced(self) -> None:
        go_on, asked = threading.Event(), threading.Event()
        self.addCleanup(go_on.set)
        append = Chain.append

        def slow(chain: Chain, records: object) -> None:
            asked.set()
            go_on.wait(60)
            append(chain, records)  # type: ignore[arg-type]

        self.patch(Chain, "append", slow)
        writer = self.started()
        waiting = writer.put_and_wait("login", {}, 0)
        await self.until(asked.is_set)
        later = writer.put_and_wait("login", {}, 0)
        self.assertFalse(waiting.called)
        go_on.set()
        await waiting
        await later

    async def test_a_full_disk(self) -> None:
        """All who wait know at once; what was taken is written later."""
        disk = small_disk(self)
        writer = self.started(disk / "audit.log")
        await writer.put_and_wait("login", {}, 0)
        filler = fill(disk)
        waiting = [writer.put_and_wait("login", {"number": number, "text": "x" * 1000}, 0) for number in range(20)]
        refused = 0
        for each in waiting:
            try:
                await each
            except NotWritten:
                refused += 1
        self.assertGreater(refused, 0)
        self.assertFalse(writer.available)
        with self.assertRaises(NotWritten):
            await writer.put_and_wait("login", {"number": 20}, 0)
        filler.unlink()
        await self.until(lambda: writer.available)
        await writer.put_and_wait("login", {"number": 21}, 0)
        numbers = [entry["number"] for entry in entries(disk / "audit.log") if "number" in entry]
        self.assertEqual(numbers, [*range(22)])

    async def test_there_is_no_room(self) -> None:
        self.patch(writer_module, "MAX_PENDING", 0)
        with self.assertRaises(NotWritten):
            await self.started().put_and_wait("login", {}, 0)

    async def test_not_open(self) -> None:
        writer = self.made()
        with self.assertRaises(NotWritten):
            await writer.put_and_wait("login", {}, 0)
        writer.start()
        await writer.close()
        with self.assertRaises(NotWritten):
            await writer.put_and_wait("login", {}, 0)

    async def test_who_gives_up(self) -> None:
        writer = self.started()
        given_up: Deferred[None] = writer.put_and_wait("login", {"number": 1}, 0)
        given_up.addErrback(lambda failure: None)
        given_up.cancel()
        await writer.put_and_wait("login", {"number": 2}, 0)
        self.assertEqual([entry["number"] for entry in entries(self.path)[-2:]], [1, 2])
