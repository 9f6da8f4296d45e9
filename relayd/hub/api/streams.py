"""
Answers that are sent piece by piece: server-sent events, and downloads with ranges.

Nothing is kept for a slow client: what comes next is read when it has taken what was sent.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol

import msgspec
from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from relayd.hub.api.calls import Answer, Stream, Writer
from relayd.hub.api.conditions import parse_tags
from relayd.hub.api.problems import InvalidHeader, UnsatisfiableRange
from relayd.language.texts import Text

EVENT_STREAM: Final = "text/event-stream"
#: Seconds after which a comment is sent where nothing happens, so that nobody on the way takes the connection for dead.
HEARTBEAT: Final = 15.0
#: Seconds that changes are gathered for, so that a busy run does not have the store read for each of them.
GATHER: Final = 0.1
#: Milliseconds after which a browser connects again.
_RETRY: Final = 2000
#: Bytes of a download that are read at a time.
PIECE: Final = 256 * 1024
_RANGE: Final = re.compile(r"bytes\s*=\s*(\d{0,18})\s*-\s*(\d{0,18})")


# Server-sent events --------------------------------------------------------------------------------------------------


class Event(Struct, frozen=True):
    """
    :ivar change: its number; several events may have one.
    :ivar data: becomes one line of JSON.
    """

    change: int
    name: str
    data: Any


class Batch(Struct, frozen=True, kw_only=True):
    """
    What happened after some change.

    :ivar events: in the order of their changes; those of one change are in one batch.
    :ivar more: whether there is more at once.
    :ivar ended: whether nothing will ever follow.
    """

    events: Sequence[Event]
    more: bool = False
    ended: bool = False


class EventSource(Protocol):
    """Where events come from."""

    async def read(self, after: int) -> Batch:
        """What happened after this change."""

    def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Have *wake* called when something has happened; what is returned undoes it."""

    async def may_go_on(self) -> bool:
        """Whether the client may still see it: asked with each heartbeat."""


def last_event(headers: Any, after: int | None) -> int:
    """
    The change after which a client goes on: ``Last-Event-ID``, or the parameter *after*, which it overrides.

    :raises InvalidHeader: when it is no number of a change.
    """
    given = headers.get("last-event-id")
    if given is None:
        return after or 0
    if not re.fullmatch(r"[0-9]{1,18}", given):
        raise InvalidHeader(header="Last-Event-ID", reason=Text("is not an id that this stream gave"))
    return int(given)


def event_stream(clock: IReactorTime, source: EventSource, after: int, poll: float = HEARTBEAT) -> Answer:
    """
    The events of *source* after a change, until there will be no more, the client goes or the hub stops.

    :param poll: seconds after which *source* is read again, although nothing has woken us.
    """

    async def stream(writer: Writer) -> None:
        waker = _Waker(clock)
        undo = [source.subscribe(waker.wake), writer.wake_when_ending(waker.wake)]
        try:
            await writer.write(b"retry: %d\n\n" % _RETRY)
            await _Sender(clock, writer, source, waker, poll).send(after)
        finally:
            for each in undo:
                each()

    return Answer(stream=stream, media_type=EVENT_STREAM, headers={"X-Accel-Buffering": "no"})


class _Sender:
    """Sends the events of one stream."""

    def __init__(self, clock: IReactorTime, writer: Writer, source: EventSource, waker: _Waker, poll: float) -> None:
        self._clock = clock
        self._writer = writer
        self._source = source
        self._waker = waker
        self._poll = min(poll, HEARTBEAT)
        self._written = clock.seconds()

    async def send(self, after: int) -> None:
        """Until it is over."""
        while not self._writer.ending:
            self._waker.clear()
            batch = await self._source.read(after)
            if batch.events:
                after = batch.events[-1].change
                await self._write(frames(batch.events))
            if batch.more:
                continue
            if batch.ended:
                await self._write(b"event: end\ndata: {}\n\n")
                return
            if await self._waker.wait(self._poll):
                if not self._writer.ending:
                    await self._waker.pause(GATHER)
            elif self._clock.seconds() - self._written >= HEARTBEAT:
                if not await self._source.may_go_on():
                    return
                await self._write(b": \n\n")

    async def _write(self, data: bytes) -> None:
        await self._writer.write(data)
        self._written = self._clock.seconds()


def frames(events: Sequence[Event]) -> bytes:
    """
    Events as they are sent.

    Only the last event of a change has its id: a client that has missed the others then gets all of them again.
    """
    parts = []
    for index, event in enumerate(events):
        last = index + 1 == len(events) or events[index + 1].change != event.change
        number = b"id: %d\n" % event.change if last else b""
        parts.append(b"%sevent: %s\ndata: %s\n\n" % (number, event.name.encode(), msgspec.json.encode(event.data)))
    return b"".join(parts)


class _Waker:
    """Waits until something has happened, or for some time."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._awake = False
        self._waiting: Deferred[bool] | None = None

    def clear(self) -> None:
        """From now on, something is new."""
        self._awake = False

    def wake(self) -> None:
        """Something has happened."""
        self._awake = True
        self._fire(True)

    async def wait(self, seconds: float) -> bool:
        """Whether something has happened within this time."""
        if self._awake:
            return True
        return await self._sleep(seconds)

    async def pause(self, seconds: float) -> None:
        """Wait, whatever happens."""
        await self._sleep(seconds, deaf=True)

    async def _sleep(self, seconds: float, deaf: bool = False) -> bool:
        done: Deferred[bool] = Deferred()
        if not deaf:
            self._waiting = done
        call: IDelayedCall = self._clock.callLater(seconds, done.callback, False)
        try:
            return await done
        finally:
            self._waiting = None
            if call.active():
                call.cancel()

    def _fire(self, value: bool) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(value)


# Downloads -----------------------------------------------------------------------------------------------------------

Read = Callable[[int, int], Awaitable[bytes]]


def download(headers: Any, read: Read, *, size: int, name: str, etag: str) -> Answer:
    """
    Bytes as a file, or the range of them that the request wants.

    :param headers: of the request.
    :param read: gives the bytes from an offset, at most so many, and at least one.
    :param size: of all of them.
    :param name: of the file, for the client.
    :raises UnsatisfiableRange: when the range begins after the end.
    """
    start, length, status = 0, size, 200
    if (wanted := _range(headers, etag, size)) is not None:
        start, length, status = wanted[0], wanted[1] - wanted[0], 206
    more = {
        "Accept-Ranges": "bytes",
        "Content-Disposition": f'attachment; filename="{file_name(name)}"',
        "ETag": etag,
    }
    if status == 206:
        more["Content-Range"] = f"bytes {start}-{start + length - 1}/{size}"
    return Answer(
        status=status,
        stream=_bytes(read, start, length),
        length=length,
        media_type="application/octet-stream",
        headers=more,
    )


def _bytes(read: Read, start: int, length: int) -> Stream:
    async def stream(writer: Writer) -> None:
        at, end = start, start + length
        while at < end:
            data = await read(at, min(PIECE, end - at))
            if not data:
                return  # retention took it; the client sees that it is not whole
            await writer.write(data)
            at += len(data)

    return stream


def _range(headers: Any, etag: str, size: int) -> tuple[int, int] | None:
    """From where to where, or ``None`` for all: also where the header is one that may be ignored (RFC 9110, 14.2)."""
    found = _RANGE.fullmatch(headers.get("range", "").strip())
    if found is None or not (found[1] or found[2]):
        return None
    condition = headers.get("if-range")
    if condition is not None and (condition.startswith("W/") or parse_tags("If-Range", condition) != [(False, etag)]):
        return None
    if not found[1]:
        start, end = max(0, size - int(found[2])), size
    else:
        start, end = int(found[1]), min(size, int(found[2]) + 1) if found[2] else size
        if found[2] and int(found[2]) < start:
            return None
    if start >= end:
        raise UnsatisfiableRange(size=size)
    return start, end


def file_name(name: str) -> str:
    """A name that no header and no file system takes for more than a name."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)[:150].lstrip(".") or "output"
