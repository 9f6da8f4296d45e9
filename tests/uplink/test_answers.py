"""
Tests of `RefusalReader` in `relayd.uplink.answers`: how long the body of a refusal is waited for.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relayd.uplink.answers import BODY_TIMEOUT, HttpResponse, RefusalReader


class RefusalReaderTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock: Any = Clock()
        self.read: list[bytes] = []

    def reader(self, headers: dict[str, str], most: int = 100) -> RefusalReader:
        head = HttpResponse(403, "", headers)
        return RefusalReader(self.clock, head, most, lambda response: self.read.append(response.body))

    def test_a_body_of_known_length(self) -> None:
        reader = self.reader({"content-length": "4"})
        reader.receive(b"no")
        self.assertEqual(self.read, [])
        reader.receive(b"pe, and more")
        self.assertEqual((self.read, self.clock.getDelayedCalls()), ([b"nope"], []))

    def test_a_body_that_ends_with_the_connection_is_not_waited_for(self) -> None:
        self.reader({}).receive(b"no")
        self.assertEqual(self.read, [b"no"])

    def test_a_body_that_does_not_come(self) -> None:
        self.reader({"content-length": "4"}).receive(b"no")
        self.clock.advance(BODY_TIMEOUT)
        self.assertEqual(self.read, [b"no"])

    def test_the_end_of_the_connection(self) -> None:
        reader = self.reader({"content-length": "4"})
        reader.receive(b"no")
        reader.finish()
        reader.finish()
        reader.receive(b"pe")
        self.clock.advance(BODY_TIMEOUT)
        self.assertEqual(self.read, [b"no"])

    def test_chunks_without_end(self) -> None:
        reader = self.reader({"transfer-encoding": "chunked"})
        for _ in range(30):
            reader.receive(b"1\r\nx\r\n")
        self.assertEqual(len(self.read), 1)
