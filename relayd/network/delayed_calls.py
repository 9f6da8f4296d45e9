"""
A clock for many delayed calls, most of which are cancelled, moved, or due after all others: the reactor sees a few.

The reactor keeps a call that was cancelled, often until its time. It compares calls by a method of theirs, a dozen
times for each that comes and goes.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from math import inf
from typing import Final

from twisted.internet.error import AlreadyCalled, AlreadyCancelled
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from zope.interface import implementer

#: Calls that may stay in the heap after they were cancelled or moved, besides as many as wait.
_SPARE: Final = 64


@implementer(IDelayedCall)
class _Call:
    """
    One call.

    :ivar time: when it is to be made; its entry in the heap may be earlier, and is then moved.
    :ivar entry: the number of that entry; 0: it was made, or cancelled.
    """

    __slots__ = ("_calls", "_cancelled", "entry", "function", "time")

    def __init__(self, calls: DelayedCalls, time: float, function: Callable[[], object]) -> None:
        self._calls = calls
        self._cancelled = False
        self.time = time
        self.entry = 0
        self.function: Callable[[], object] | None = function

    def getTime(self) -> float:
        return self.time

    def active(self) -> bool:
        return self.entry != 0

    def cancel(self) -> None:
        self._check()
        self._cancelled = True
        self._calls.remove(self)

    def delay(self, secondsLater: float) -> None:
        self._move(self.time + secondsLater)

    def reset(self, secondsFromNow: float) -> None:
        self._move(self._calls.seconds() + secondsFromNow)

    def _move(self, time: float) -> None:
        self._check()
        earlier = time < self.time
        self.time = time
        if earlier:
            self._calls.put(self)

    def _check(self) -> None:
        if not self.entry:
            raise AlreadyCancelled if self._cancelled else AlreadyCalled


@implementer(IReactorTime)
class DelayedCalls:
    """
    Makes delayed calls, for which *clock* has one delayed call as a rule, and none when nothing waits.

    A call that fails is logged by *clock*, as one of its own is, and the others are made.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self.seconds: Callable[[], float] = clock.seconds
        self._clock = clock
        self._heap: list[tuple[float, int, _Call]] = []
        self._entries = 0
        self._waiting = 0
        #: What the clock calls, the latest first, and the time of the earliest of these.
        self._alarms: list[tuple[float, IDelayedCall]] = []
        self._next = inf

    # IReactorTime

    def callLater(self, delay: float, callable: Callable[..., object], *args: object, **kw: object) -> _Call:
        """Call a function in *delay* seconds."""
        if args or kw:
            return self.callLater(delay, lambda: callable(*args, **kw))
        call = _Call(self, self.seconds() + delay, callable)
        self._waiting += 1
        self.put(call)
        return call

    def getDelayedCalls(self) -> list[IDelayedCall]:
        """All that wait."""
        return [call for _, entry, call in self._heap if call.entry == entry]

    # From the calls

    def put(self, call: _Call) -> None:
        """*call* is to be made at its time; an entry that it has already is void."""
        self._entries += 1
        call.entry = self._entries
        heappush(self._heap, (call.time, call.entry, call))
        if call.time < self._next:
            self._set_alarm(call.time)

    def remove(self, call: _Call) -> None:
        """*call* is not to be made; nothing holds its function any more."""
        call.entry, call.function = 0, None
        self._waiting -= 1
        if not self._waiting:
            self._rest()
        elif len(self._heap) > 2 * self._waiting + _SPARE:
            self._heap = [each for each in self._heap if each[2].entry == each[1]]
            heapify(self._heap)

    # The clock's

    def _set_alarm(self, at: float) -> None:
        self._next = at
        self._alarms.append((at, self._clock.callLater(max(0.0, at - self.seconds()), self._ring)))

    def _rest(self) -> None:
        for _, alarm in self._alarms:
            if alarm.active():
                alarm.cancel()
        self._alarms.clear()
        self._heap.clear()
        self._next = inf

    def _ring(self) -> None:
        alarms = self._alarms
        while alarms and not alarms[-1][1].active():
            alarms.pop()
        self._next = alarms[-1][0] if alarms else inf
        now = self.seconds()
        try:
            while (function := self._due(now)) is not None:
                function()
        finally:
            self._look_ahead()

    def _due(self, now: float) -> Callable[[], object] | None:
        """Take out the next call whose time has come."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            at, entry, call = heappop(heap)
            if call.entry != entry:
                continue
            if call.time > at:  # it was moved
                self.put(call)
                continue
            function, call.function, call.entry = call.function, None, 0
            self._waiting -= 1
            return function
        return None

    def _look_ahead(self) -> None:
        if not self._waiting:
            self._rest()
            return
        heap = self._heap
        while heap[0][2].entry != heap[0][1]:
            heappop(heap)
        if heap[0][0] < self._next:
            self._set_alarm(heap[0][0])
