"""
Tests of `relayd.hub.access.audit_reading`: pages of the log, the newest first, and its export.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from relayd.audit.keeping import moved_files
from relayd.audit.lines import encode_line
from relayd.audit.seal import read_seal, seal_file
from relayd.audit.verify import AuditFault, Verifier
from relayd.hub.access import audit_reading
from relayd.hub.access.audit import Actor
from relayd.hub.access.audit_reading import AuditPage, export, read_page
from tests.support.access import hub_audit
from tests.support.auditing import directory, edit, entries, state

ALICE, BOB = Actor("user:alice", "192.0.2.1"), Actor("user:bob", "192.0.2.2")


class ReadingCase(TestCase):
    def setUp(self) -> None:
        self.path = directory(self) / "audit.log"

    async def write(self, count: int, **keeping: Any) -> None:
        """One life of a hub: *count* logins, one at a time."""
        log = hub_audit(reactor, self.path, **keeping)
        log.start()
        for number in range(count):
            await log.record(ALICE if number % 10 else BOB, "login", "done", {"number": number})
        await log.close()

    def page(self, **chosen: Any) -> AuditPage:
        return read_page(str(self.path), str(state(self.path)), **chosen)

    def all_pages(self, **chosen: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        before: int | None = None
        for _ in range(10_000):
            page = self.page(before=before, **chosen)
            found += page.events
            before = page.next_before
            if before is None:
                return found
        self.fail("it does not end")

    def seqs(self, **chosen: Any) -> list[int]:
        return [event["seq"] for event in self.all_pages(**chosen)]


class PageTests(ReadingCase):
    async def test_the_newest_first_through_all_files(self) -> None:
        await self.write(200, max_size=5000)
        self.assertGreater(len(moved_files(str(self.path))), 5)
        total = max(entry["seq"] for entry in entries(self.path))
        for limit in (1, 7, 100, 1000):
            self.assertEqual(self.seqs(limit=limit), [*range(total, 0, -1)])

    async def test_a_page(self) -> None:
        await self.write(5)
        page = self.page(limit=2)
        self.assertEqual([event["number"] for event in page.events], [4, 3])
        self.assertEqual([event["principal"] for event in page.events], ["user:alice"] * 2)
        self.assertEqual(page.next_before, page.events[-1]["seq"])

    async def test_what_is_wanted(self) -> None:
        await self.write(100, max_size=8000)
        found = self.all_pages(limit=3, wanted=lambda event: event.get("principal") == "user:bob")
        self.assertEqual([event["number"] for event in found], [*range(90, -1, -10)])

    async def test_a_filter_that_nothing_passes_gives_short_pages_in_good_time(self) -> None:
        self.patch(audit_reading, "MOST_READ", 4000)
        await self.write(100)
        page = self.page(wanted=lambda event: False)
        self.assertEqual(page.events, [])
        self.assertGreater(page.next_before or 0, 80)
        self.assertEqual(self.all_pages(wanted=lambda event: False), [])

    async def test_what_others_wrote_is_not_shown(self) -> None:
        await self.write(10)
        last = entries(self.path)[-1]
        forged = encode_line(13, 1e9, "login", {"principal": "user:forged"}, last["hash"], b"k" * 32)[0]
        edit(self.path, lambda lines: [*lines, forged, lines[-1], b"not a line\n", b'{"seq":99}\n'])
        self.assertEqual(self.seqs(limit=4), [*range(12, 0, -1)])
        self.assertEqual(self.seqs(limit=1), [*range(12, 0, -1)])

    async def test_forged_numbers_hide_nothing(self) -> None:
        """A page is found by the numbers of lines, but only of the hub's own."""
        await self.write(1000)
        forged = [encode_line(10**6, 1e9, "login", {"x": "x" * 900}, "0" * 64, b"k" * 32)[0]] * 200
        edit(self.path, lambda lines: [*lines[:200], *forged, *lines[200:]])
        self.assertEqual(self.seqs(limit=50), [*range(1002, 0, -1)])

    async def test_a_file_that_is_moved_while_it_is_read(self) -> None:
        await self.write(30)
        listed = audit_reading.moved_files

        def moved(path: str) -> Any:
            if os.path.exists(path):
                os.rename(path, f"{path}.{32:012d}")
            return listed(path)

        self.patch(audit_reading, "moved_files", moved)
        self.assertEqual(self.seqs(limit=1000), [*range(32, 0, -1)])

    def test_there_is_none(self) -> None:
        self.assertEqual(self.page(), AuditPage([], None))


class ExportTests(ReadingCase):
    def faults(self, content: bytes) -> list[str]:
        copy = self.path.parent / "export"
        copy.write_bytes(content)
        verifier = Verifier((), read_seal(seal_file(str(state(self.path)))))
        return [each.text for each in verifier.check_file(str(copy)) if isinstance(each, AuditFault)]

    async def test_it_can_be_verified(self) -> None:
        await self.write(100, max_size=5000)
        await self.write(3, max_size=5000)
        content = b"".join(export(str(self.path)))
        names = [*(moved.path for moved in moved_files(str(self.path))), str(self.path)]
        self.assertEqual(content, b"".join(Path(name).read_bytes() for name in names))
        self.assertEqual(self.faults(content), [])
        self.assertEqual(len(self.faults(content.replace(b'"number":50', b'"number":51'))), 1)

    async def test_files_may_be_moved_and_removed_meanwhile(self) -> None:
        await self.write(100, max_size=5000)
        expected = b"".join(export(str(self.path)))
        pieces = export(str(self.path))
        first = next(pieces)
        for each in moved_files(str(self.path))[:3]:
            os.unlink(each.path)
        os.rename(self.path, f"{self.path}.{10**6:012d}")
        self.assertEqual(first + b"".join(pieces), expected)
