"""
The results that are in flight on one link: sent, and without a receipt.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from itertools import count
from typing import Final

from twisted.internet.defer import Deferred

from relayd.commands.undelivered import ResultKey
from relayd.interfaces import ILink

#: Results in flight on one link at a time.
MAX_IN_FLIGHT: Final = 8192


class InFlight:
    """
    What was sent on one link and has no receipt yet, and how much of it the main server has read.

    Every sending has a number. One result may be sent more than once on a link, as a duplicate of its command has it
    sent again; the main server answers each.

    :ivar link: the link.
    :ivar since: when it became ready.
    :ivar last: number of the latest sending; -1: there was none.
    :ivar read: number of the latest sending that the main server is known to have read; -1: there is none.
    """

    def __init__(self, link: ILink, since: float) -> None:
        self.link = link
        self.since = since
        self.last = -1
        self.read = -1
        # Every sending without a receipt, oldest first, and when it was sent.
        self._sent: OrderedDict[int, tuple[ResultKey, float]] = OrderedDict()
        self._numbers: dict[str, deque[int]] = {}
        self._serial = count()
        self._counts = True
        self._room: Deferred[None] | None = None

    def __len__(self) -> int:
        return len(self._sent)

    @property
    def full(self) -> bool:
        """Whether so much is in flight that receipts should come first."""
        return len(self._sent) >= MAX_IN_FLIGHT

    def when_room(self) -> Deferred[None]:
        """A Deferred that fires when it is `full` no more. It may be cancelled."""
        room: Deferred[None] = Deferred()
        self._room = room
        return room

    def stop_counting(self) -> None:
        """
        Receipts do not come as they should: from now on only receipts that name their command are matched.

        What has no receipt is sent again on the next link. To go on counting would confirm results that did not arrive.
        """
        self._counts = False
        self._sent.clear()
        self._numbers.clear()

    def record_sent(self, key: ResultKey, now: float) -> None:
        """A result was sent."""
        self.last = number = next(self._serial)
        if not self._counts:
            return
        self._sent[number] = (key, now)
        self._numbers.setdefault(key.command_id, deque()).append(number)

    def match_receipt(self, command_id: str | None) -> ResultKey | None:
        """
        Take out the result that a receipt is for: the oldest one, or the oldest one of *command_id*.

        :param command_id: the command that the receipt names; ``None``: it names none.
        """
        if command_id is None:
            if not self._sent:
                return None
            command_id = next(iter(self._sent.values()))[0].command_id
        numbers = self._numbers.get(command_id)
        if numbers is None:
            return None
        key, _ = self._sent.pop(numbers.popleft())
        if not numbers:
            del self._numbers[command_id]
        room = self._room
        if room is not None and not self.full:
            self._room = None
            if not room.called:
                room.callback(None)
        return key

    def take_read(self, last: int) -> ResultKey | None:
        """Take out the oldest result, where its sending is not later than number *last*."""
        if not self._sent or next(iter(self._sent)) > last:
            return None
        return self.match_receipt(None)

    def mark_read(self, last: int) -> None:
        """The main server has read all that was sent up to number *last*."""
        self.read = max(self.read, last)

    def unread(self, since: float) -> set[ResultKey]:
        """What was sent at *since* or later, and is not known to have been read."""
        return {key for number, (key, sent) in self._sent.items() if number > self.read and sent >= since}
