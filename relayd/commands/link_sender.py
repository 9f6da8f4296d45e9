"""
Sends results on one link: one after the other, no faster than the link takes them and receipts come.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Final

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from relayd.commands.in_flight import InFlight
from relayd.commands.stats import Stats
from relayd.commands.suspects import Suspects
from relayd.commands.undelivered import ResultKey, UndeliveredResults
from relayd.commands.without_receipts import WithoutReceipts
from relayd.interfaces import ILink
from relayd.language.texts import span
from relayd.process.logs import is_logged
from relayd.wire.messages import CommandResult

_log = Logger("relayd.commands")

#: Seconds without a receipt after which a link with as many results in flight as it may have is not held up by them.
RECEIPT_PATIENCE: Final = 60.0

#: Results that may wait on one link and are held nowhere else.
MAX_ONCE: Final = 1000


class LinkSender:
    """
    Sends results on one link.

    A result goes out at once if it can. Where the link is full, or other results wait before it, its key waits here,
    and the result is read from where it is held when its turn comes: a slow main server costs no memory.

    :param results: where results are held.
    :param suspects: knows which results have to travel alone.
    :param without_receipts: hears of what is sent.
    :ivar in_flight: what was sent and has no receipt yet.
    """

    def __init__(
        self,
        clock: IReactorTime,
        link: ILink,
        results: UndeliveredResults,
        suspects: Suspects,
        without_receipts: WithoutReceipts,
        stats: Stats,
    ) -> None:
        self._clock = clock
        self._link = link
        self._results = results
        self._suspects = suspects
        self._without_receipts = without_receipts
        self._stats = stats
        self.in_flight = InFlight(link, clock.seconds())
        # What waits, first in first out, each once.
        self._backlog: OrderedDict[ResultKey, None] = OrderedDict()
        #: Those of them that are held nowhere else.
        self._once: dict[ResultKey, CommandResult] = {}
        self._pumping = False
        self._pump: Deferred[None] | None = None
        self._refusals: dict[ResultKey, int] = {}
        self._retries: dict[ResultKey, IDelayedCall] = {}
        self._halted = False

    def send_recorded(self, result: CommandResult) -> None:
        """Send *result*, which the journal holds: now if that is possible, or else when its turn comes."""
        key = ResultKey(result.command_id, True)
        if not self._pumping and self._link.writable and not self.in_flight.full:
            self._send_now(key, result)
        else:
            self.enqueue(key)

    def send_once(self, result: CommandResult) -> None:
        """Send *result*, which is held nowhere, when its turn comes; not where too many of them wait already."""
        key = ResultKey(result.command_id, recorded=False, once=True)
        if not self._halted and (key in self._once or len(self._once) < MAX_ONCE):
            self._once[key] = result
            self.enqueue(key)

    def enqueue(self, *keys: ResultKey) -> None:
        """Send these results when their turn comes."""
        for key in keys:
            self._backlog.setdefault(key)
        if self._backlog and not self._pumping and not self._halted:
            self._pumping = True
            self._pump = Deferred.fromCoroutine(self._send_backlog())
            self._pump.addCallbacks(self._pumped, self._not_pumped)

    def enqueue_later(self, key: ResultKey, delay: float) -> None:
        """Send the result in *delay* seconds, if somebody still waits for it then."""
        if not self._halted and key not in self._retries:
            self._retries[key] = self._clock.callLater(delay, self._retry, key)

    def remove(self, key: ResultKey) -> None:
        """Do not send the result, if it waits."""
        self._backlog.pop(key, None)

    def count_refusal(self, key: ResultKey) -> int:
        """The main server rejected the result; gives how often it has done that on this link."""
        self._refusals[key] = times = self._refusals.get(key, 0) + 1
        return times

    def forget_refusals(self, key: ResultKey) -> None:
        """Forget how often the main server has rejected the result."""
        self._refusals.pop(key, None)

    def cancel_retry(self, key: ResultKey) -> None:
        """Do not send the result again later."""
        if (call := self._retries.pop(key, None)) is not None:
            call.cancel()

    def halt(self) -> None:
        """Send nothing more that waits."""
        self._halted = True
        self._backlog.clear()
        self._once.clear()
        for call in self._retries.values():
            call.cancel()
        self._retries.clear()
        if self._pump is not None:
            self._pump.cancel()
        self._without_receipts.stop_watching(self.in_flight)

    async def _send_backlog(self) -> None:
        while self._backlog:
            if not self._link.writable:
                await self._link.when_writable()
            elif self.in_flight.full:
                await self._wait_for_receipts()
            else:
                key, _ = self._backlog.popitem(last=False)
                await self._send_when_loaded(key)

    async def _wait_for_receipts(self) -> None:
        """Wait until there is room, but not for ever."""
        try:
            await self.in_flight.when_room().addTimeout(RECEIPT_PATIENCE, self._clock)
        except TimeoutError:
            _log.warn(
                "The main server has sent no receipt for {span}, and {count} results wait for one: the others are sent "
                "without waiting, and again on the next connection",
                span=span(RECEIPT_PATIENCE),
                count=len(self.in_flight),
            )
            self.in_flight.stop_counting()

    async def _send_when_loaded(self, key: ResultKey) -> None:
        result = self._once.pop(key) if key.once else await self._results.load(key)
        if result is None:  # confirmed meanwhile, or a refusal of a command that came again and was accepted
            return
        if self._suspects.is_suspect(key):
            await self._suspects.send_alone(self.in_flight, key, partial(self._send_now, key, result))
        else:
            self._send_now(key, result)

    def _send_now(self, key: ResultKey, result: CommandResult) -> None:
        self.in_flight.record_sent(key, self._clock.seconds())
        self._stats.sent += 1
        if is_logged("debug"):
            _log.debug("Sent the result of {id}", event="sent", id=key.command_id)
        self._link.send_result(result)
        self._without_receipts.watch(self.in_flight)

    def _pumped(self, _: None) -> None:
        self._pumping = False

    def _not_pumped(self, failure: Failure) -> None:
        self._pumping = False
        if not failure.check(CancelledError):
            _log.error("Internal error: sending stopped: {kind}", kind=type(failure.value).__name__)

    def _retry(self, key: ResultKey) -> None:
        del self._retries[key]
        if self._results.is_due(key):
            self.enqueue(key)
