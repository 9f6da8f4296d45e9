"""
relayd.hub.api.streams: events that resume without loss, for clients of any speed; ranges of downloads.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relayd.hub.access.permissions import Permission
from relayd.hub.api.calls import Answer, Call, Gone
from relayd.hub.api.problems import InvalidHeader, UnsatisfiableRange
from relayd.hub.api.routes import Route
from relayd.hub.api.streams import (
    EVENT_STREAM,
    HEARTBEAT,
    Batch,
    Event,
    download,
    event_stream,
    file_name,
    frames,
    last_event,
)
from tests.hub.api.serving import Serving


class History:
    """Changes with numbers; of some there are several events."""

    def __init__(self, changes: list[int] | None = None, batch: int = 3) -> None:
        self.events = [Event(change, "thing", {"n": index}) for index, change in enumerate(changes or [])]
        self.batch = batch
        self.ended = False
        self.allowed = True
        self.reads = 0
        self.wakes: set[Callable[[], None]] = set()

    def add(self, change: int, data: Any = "new") -> None:
        self.events.append(Event(change, "thing", data))
        for wake in list(self.wakes):
            wake()

    async def read(self, after: int) -> Batch:
        self.reads += 1
        later = [event for event in self.events if event.change > after]
        last = later[: self.batch][-1].change if later else 0
        now = [event for event in later if event.change <= last]
        return Batch(events=now, more=len(now) < len(later), ended=self.ended and len(now) == len(later))

    def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
        self.wakes.add(wake)
        return lambda: self.wakes.discard(wake)

    async def may_go_on(self) -> bool:
        return self.allowed


class Client:
    """A client that takes things when the test says so, and reads events as a browser does."""

    def __init__(self, slow: bool = False) -> None:
        self.slow = slow
        self.received = b""
        self.ending = False
        self.gone = False
        self.wakes: set[Callable[[], None]] = set()
        self._waiting: Deferred[None] | None = None

    async def write(self, data: bytes) -> None:
        self.received += data
        if self.slow:
            self._waiting = Deferred()
            await self._waiting
        if self.gone:
            raise Gone

    def take(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)

    def wake_when_ending(self, wake: Callable[[], None]) -> Callable[[], None]:
        self.wakes.add(wake)
        return lambda: self.wakes.discard(wake)

    def end(self) -> None:
        self.ending = True
        for wake in list(self.wakes):
            wake()


def read_events(received: bytes, last: str = "") -> tuple[list[tuple[str, Any]], str]:
    """The events in a text, up to where it is cut, and the last id, as HTML's standard has it (section 9.2.6)."""
    events = []
    pending = last
    for block in received.decode().split("\n\n")[:-1]:
        name, data = "", None
        for line in block.split("\n"):
            field, _, value = line.partition(": ")
            if field == "id":
                pending = value
            elif field == "event":
                name = value
            elif field == "data":
                data = json.loads(value)
        if data is not None:
            last = pending
            events.append((name, data))
    return events, last


def play(history: History, client: Client, after: int = 0, clock: Clock | None = None) -> Deferred[None]:
    answer = event_stream(clock or Clock(), history, after)
    assert answer.stream is not None
    return Deferred.fromCoroutine(answer.stream(client))  # type: ignore[arg-type]


class EventTests(SynchronousTestCase):
    """Server-sent events."""

    def test_what_was_and_what_comes(self) -> None:
        """One stream: those that were, those that come, and the end."""
        history, client, clock = History([1, 2, 3, 4, 5]), Client(), Clock()
        done = play(history, client, clock=clock)
        self.assertEqual(len(read_events(client.received)[0]), 5)
        history.add(6, "new")
        clock.advance(1)
        history.ended = True
        history.add(7, "last")
        clock.advance(1)
        self.successResultOf(done)
        events, last = read_events(client.received)
        self.assertEqual([data for _, data in events[5:]], ["new", "last", {}])
        self.assertEqual((events[-1][0], last), ("end", "7"))
        self.assertEqual((history.wakes, client.wakes, clock.getDelayedCalls()), (set(), set(), []))
        later = Client()
        self.successResultOf(play(history, later))
        self.assertEqual(read_events(later.received), (events, last), "afterwards it is the same")

    @given(
        st.lists(st.floats(0, 1), max_size=5), st.lists(st.integers(0, 2), min_size=1, max_size=15), st.integers(1, 5)
    )
    def test_a_connection_that_breaks_anywhere(self, cuts: list[float], steps: list[int], batch: int) -> None:
        """The client has everything in the end, though something perhaps twice."""
        changes = [sum(steps[: index + 1]) + 1 for index in range(len(steps))]
        history = History(changes, batch)
        history.ended = True
        seen: list[Any] = []
        last = ""
        for cut in (*cuts, 1.0):
            client = Client()
            after = last_event({"last-event-id": last} if last else {}, None)
            self.successResultOf(play(history, client, after))
            events, last = read_events(client.received[: round(len(client.received) * cut)], last)
            seen += [value["n"] for _, value in events if value]
        self.assertEqual(sorted(set(seen)), list(range(len(steps))))

    def test_only_the_last_event_of_a_change_has_its_id(self) -> None:
        text = frames([Event(1, "a", 1), Event(1, "b", 2), Event(2, "c", 3)])
        self.assertEqual(text, b"event: a\ndata: 1\n\nid: 1\nevent: b\ndata: 2\n\nid: 2\nevent: c\ndata: 3\n\n")
        self.assertEqual(frames([Event(1, "a", "x\ny\r\nid: 9")]).count(b"\n"), 4, "nobody's output makes a line")

    def test_a_slow_client_has_nothing_kept_for_it(self) -> None:
        history, client, clock = History([1], batch=2), Client(slow=True), Clock()
        play(history, client, clock=clock)
        client.take()
        reads = history.reads
        for change in range(2, 1000):
            history.add(change)
            clock.advance(0.2)
        self.assertEqual(history.reads, reads, "nothing is read while it does not take what it has")
        self.assertLess(len(client.received), 200)
        client.slow = False
        client.take()
        clock.advance(1)
        self.assertEqual(len(read_events(client.received)[0]), 999)

    def test_a_busy_run_is_read_now_and_then(self) -> None:
        history, client, clock = History(batch=1000), Client(), Clock()
        play(history, client, clock=clock)
        for change in range(1, 101):
            history.add(change)
            clock.advance(0.01)
        clock.advance(1)
        self.assertEqual(len(read_events(client.received)[0]), 100)
        self.assertLess(history.reads, 20)

    def test_heartbeats(self) -> None:
        """They also find out that the client may not see it any more."""
        history, client, clock = History(), Client(), Clock()
        done = play(history, client, clock=clock)
        clock.advance(HEARTBEAT)
        clock.advance(HEARTBEAT)
        self.assertEqual(client.received.count(b": \n\n"), 2)
        history.allowed = False
        clock.advance(HEARTBEAT)
        self.successResultOf(done)
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_the_hub_stops(self) -> None:
        history, client, clock = History([1]), Client(), Clock()
        done = play(history, client, clock=clock)
        client.end()
        self.successResultOf(done)
        self.assertNotIn(b"event: end", client.received)

    def test_the_client_goes(self) -> None:
        history, client, clock = History([1]), Client(slow=True), Clock()
        done = play(history, client, clock=clock)
        client.gone = True
        client.take()
        self.failureResultOf(done, Gone)
        self.assertEqual((history.wakes, client.wakes, clock.getDelayedCalls()), (set(), set(), []))

    def test_ids_that_no_stream_gave(self) -> None:
        for wrong in ("", "-1", "1.5", "x", "9" * 30, "１"):
            self.assertRaises(InvalidHeader, last_event, {"last-event-id": wrong}, None)
        self.assertEqual(last_event({"last-event-id": "7"}, 3), 7)
        self.assertEqual(last_event({}, 3), 3)
        self.assertEqual(last_event({}, None), 0)


class SocketTests(Serving):
    """The same over a socket."""

    async def test_events_over_http(self) -> None:
        history = History([1, 2])

        async def events(hub: object, call: Call[Any, None]) -> Answer:
            clock: Any = self.factory.clock
            return event_stream(clock, history, last_event(call.headers, None))

        route = Route(
            method="GET", path="/events", handler=events, permission=Permission.RUNS_READ, summary="",
            answers=bytes, produces=EVENT_STREAM,
        )  # fmt: skip
        await self.serve([route])
        lines = ["GET /api/v1/events HTTP/1.1", "Host: hub", "Authorization: Bearer all", "Last-Event-ID: 1"]
        client = await self.connect(("\r\n".join(lines) + "\r\n\r\n").encode())
        await client.until(b"id: 2\nevent: thing\n")
        self.assertNotIn(b"id: 1\n", client.received)
        history.add(3)
        await client.until(b"id: 3\nevent: thing\n")
        self.assertIn(b"Content-Type: text/event-stream\r\n", client.received)
        self.assertIn(b"Cache-Control: no-store\r\n", client.received)
        transport: Any = client.transport
        transport.abortConnection()
        await client.done
        while history.wakes:
            history.add(4)
            await self.pause()


class DownloadTests(SynchronousTestCase):
    """Ranges."""

    def get(self, data: bytes, **headers: str) -> tuple[Answer, bytes]:
        async def read(offset: int, size: int) -> bytes:
            return data[offset : offset + min(size, 3)]

        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = download(named, read, size=len(data), name="web-1.stdout", etag='"7"')
        client = Client()
        assert answer.stream is not None
        self.successResultOf(Deferred.fromCoroutine(answer.stream(client)))  # type: ignore[arg-type]
        self.assertEqual(len(client.received), answer.length)
        return answer, client.received

    def test_all_of_it(self) -> None:
        for header in ("", "lines=1-2", "bytes=", "bytes=-", "bytes=0-1,3-4", "bytes=4-2", "bytes=a-b"):
            answer, data = self.get(b"0123456789", range=header)
            self.assertEqual((answer.status, data), (200, b"0123456789"), header)
            self.assertEqual(answer.headers["Content-Disposition"], 'attachment; filename="web-1.stdout"')
            self.assertEqual(answer.media_type, "application/octet-stream")
        self.assertEqual(self.get(b"")[1], b"")

    def test_ranges(self) -> None:
        for header, expected, content_range in (
            ("bytes=2-4", b"234", "bytes 2-4/10"),
            ("bytes=8-", b"89", "bytes 8-9/10"),
            ("bytes=-3", b"789", "bytes 7-9/10"),
            ("bytes=-99", b"0123456789", "bytes 0-9/10"),
            ("bytes=5-999", b"56789", "bytes 5-9/10"),
        ):
            answer, data = self.get(b"0123456789", range=header)
            self.assertEqual((answer.status, data, answer.headers["Content-Range"]), (206, expected, content_range))

    def test_a_range_of_something_else(self) -> None:
        self.assertEqual(self.get(b"0123", range="bytes=1-2", if_range='"7"')[1], b"12")
        for tag in ('"8"', 'W/"7"', "*"):
            self.assertEqual(self.get(b"0123", range="bytes=1-2", if_range=tag)[1], b"0123")

    def test_ranges_after_the_end(self) -> None:
        for header in ("bytes=10-", "bytes=10-12", "bytes=-0"):
            error = self.assertRaises(UnsatisfiableRange, self.get, b"0123456789", range=header)
            self.assertEqual(error.headers["Content-Range"], "bytes */10")

    def test_names_of_files(self) -> None:
        self.assertEqual(file_name('a"; x="\r\n/../b.html'), "a___x_____.._b.html")
        self.assertEqual((file_name("..."), file_name("主机")), ("output", "__"))
