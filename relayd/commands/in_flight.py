"""
What is under way on one link, and what waits to be sent on it.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from itertools import count
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from relayd.interfaces import ILink

#: A result under way: the command's id, and whether the journal holds the result.  An id can have both: a refusal,
#: then the result of the same command sent again.
Key = tuple[str, bool]

#: Results under way on one link, without a receipt, at a time.
MAX_IN_FLIGHT: Final = 8192


class Sendings:
    """
    What is under way on one link, and what waits to be sent on it.

    :ivar ready: since when it is there.
    :ivar backlog: what waits, first in first out, each once; its results are read from the journal as the link takes
        them.
    :ivar pump: sends the backlog, while `pumping`.
    :ivar last: number of the latest sending.
    :ivar read: number of the latest one that the main server is known to have read; -1: of none.
    :ivar alone: the result that is the only one under way, as it may be what breaks links.
    :ivar alone_over: fires when it need not be any more.
    :ivar watch: when the main server is asked for a sign of life, *watched* since when, and `probe`: that is under way.
    :ivar rejections: how often the main server refused a result on this link.
    :ivar retries: when a result that was refused, or is put off, is sent.
    """

    def __init__(self, link: ILink, ready: float) -> None:
        self.link = link
        self.ready = ready
        # Every sending that has no receipt yet, oldest first, and when it was sent.  One result may be in here more
        # than once, as a duplicate of its command has it sent again; the main server answers each.
        self.in_flight: OrderedDict[int, tuple[Key, float]] = OrderedDict()
        self.backlog: OrderedDict[Key, None] = OrderedDict()
        self.pumping = False
        self.pump: Deferred[None] | None = None
        self.alone: Key | None = None
        self.alone_over: Deferred[None] | None = None
        self.watch: IDelayedCall | None = None
        self.watched = 0.0
        self.probe: Deferred[None] | None = None
        self.rejections: dict[Key, int] = {}
        self.retries: dict[Key, IDelayedCall] = {}
        self.last = -1
        self.read = -1
        self._sendings: dict[str, deque[int]] = {}
        self._serial = count()
        self._counts = True
        self._room: Deferred[None] | None = None

    @property
    def full(self) -> bool:
        """Whether so much is under way that receipts should come first."""
        return len(self.in_flight) >= MAX_IN_FLIGHT

    def when_room(self) -> Deferred[None]:
        """A Deferred that fires when it is `full` no more. It may be cancelled."""
        room: Deferred[None] = Deferred()
        self._room = room
        return room

    def count_no_more(self) -> None:
        """
        Receipts do not come as they should: from now on only those count, on this link, that name their command.  What
        has none is sent again on the next link; who counted on would in the end confirm what did not arrive.
        """
        self._counts = False
        self.in_flight.clear()
        self._sendings.clear()

    def add(self, key: Key, now: float) -> None:
        """A result was sent."""
        self.last = serial = next(self._serial)
        if not self._counts:
            return
        self.in_flight[serial] = (key, now)
        self._sendings.setdefault(key[0], deque()).append(serial)

    def take(self, command_id: str | None) -> Key | None:
        """Which result a receipt is for: the oldest one, of *command_id* where the receipt says so."""
        if command_id is None:
            if not self.in_flight:
                return None
            command_id = next(iter(self.in_flight.values()))[0][0]
        sendings = self._sendings.get(command_id)
        if sendings is None:
            return None
        key, _ = self.in_flight.pop(sendings.popleft())
        if not sendings:
            del self._sendings[command_id]
        room = self._room
        if room is not None and not self.full:
            self._room = None
            if not room.called:
                room.callback(None)
        return key

    def unread(self, since: float) -> set[Key]:
        """What was sent at *since* or later, and is not known to have been read."""
        return {key for serial, (key, sent) in self.in_flight.items() if serial > self.read and sent >= since}

    def end_alone(self) -> None:
        """The result that travels alone has arrived."""
        over, self.alone_over = self.alone_over, None
        if over is not None and not over.called:
            over.callback(None)

    def halt(self) -> None:
        """Nothing more is to be sent on this link."""
        self.backlog.clear()
        for call in (self.watch, *self.retries.values()):
            if call is not None and call.active():
                call.cancel()
        self.retries.clear()
        for deferred in (self.pump, self.probe):
            if deferred is not None:
                deferred.cancel()
