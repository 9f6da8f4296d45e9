"""
Delivers results: sends each on the uplink, and again on the next, until the main server confirms it.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Container
from itertools import count
from sys import getsizeof

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from relayd.interfaces import IJournal, ILink
from relayd.messages import CommandResult, Receipt
from relayd.stats import Stats

#: How often a result that the main server refuses is sent again.
MAX_RETRIES = 2
#: Seconds until then, when the link lives so long.
RETRY_DELAY = 5.0
#: Bytes of results sent again before the event loop gets a turn.
BATCH_BYTES = 1 << 20
#: Results held that no journal holds, as refusals; they are small.
MAX_UNRECORDED = 1000

#: A result under way: the command's id, and whether the journal holds the result.  An id can have both: a refusal,
#: then the result of the same command sent again.
_Key = tuple[str, bool]


class _LinkState:
    """What is under way on one link, and what waits to be sent or sent again on it."""

    def __init__(self, link: ILink) -> None:
        self.link = link
        # Every sending that has no receipt yet, oldest first: which result, and its size.  One result may be in here
        # more than once, as a duplicate of its command has it sent again; the main server answers each.
        self.in_flight: OrderedDict[int, tuple[_Key, int]] = OrderedDict()
        self.size = 0
        self.backlog: deque[tuple[CommandResult, bool]] = deque()
        self.backlog_call: IDelayedCall | None = None
        self.retries: dict[str, IDelayedCall] = {}
        self._sendings: dict[str, deque[int]] = {}
        self._serial = count()

    def add(self, result: CommandResult, recorded: bool) -> None:
        serial = next(self._serial)
        size = _size(result)
        self.in_flight[serial] = ((result.command_id, recorded), size)
        self.size += size
        self._sendings.setdefault(result.command_id, deque()).append(serial)

    def take(self, command_id: str | None) -> _Key | None:
        """Which result a receipt is for: the oldest one, of *command_id* where the receipt says so."""
        if command_id is None:
            if not self.in_flight:
                return None
            command_id = next(iter(self.in_flight.values()))[0][0]
        sendings = self._sendings.get(command_id)
        if sendings is None:
            return None
        key, size = self.in_flight.pop(sendings.popleft())
        self.size -= size
        if not sendings:
            del self._sendings[command_id]
        return key

    def halt(self) -> None:
        """Nothing more is to be sent on this link."""
        self.backlog.clear()
        calls = list(self.retries.values())
        if self.backlog_call is not None:
            calls.append(self.backlog_call)
        self.retries.clear()
        self.backlog_call = None
        for call in calls:
            call.cancel()


class Outbox:
    """
    Sends results until they are confirmed.

    The specification's receipts do not say which result they are for.  They are counted: each is for the oldest result
    that was sent on its link and has none yet.  Where answers overtake each other the wrong one of two results is
    confirmed first, but both were sent on this link; what a link that dies leaves without a receipt is sent again on
    the next.  A receipt that names its command is for that one.

    A main server that never sends receipts would fill the memory: past the bounds, the results sent first on the link
    count as confirmed.

    :param settled: called whenever a result needs no more sending.
    :param max_results: how many results may be under way on a link.
    :param max_bytes: how much memory they may take.
    """

    def __init__(
        self,
        clock: IReactorTime,
        journal: IJournal,
        stats: Stats,
        settled: Callable[[], None],
        *,
        max_results: int,
        max_bytes: int,
    ) -> None:
        self._log = Logger()
        self._clock = clock
        self._journal = journal
        self._max_results = max_results
        self._max_bytes = max_bytes
        self._settled = settled
        self._stats = stats
        self._links: dict[ILink, _LinkState] = {}
        self._current: _LinkState | None = None
        self._unrecorded: OrderedDict[str, CommandResult] = OrderedDict()
        self._rejections: dict[str, int] = {}
        self._stopped = False

    @property
    def empty(self) -> bool:
        """Whether every result was confirmed."""
        return not self._unrecorded and not self._journal.unconfirmed()

    def send(self, result: CommandResult) -> None:
        """Send *result*, which the journal holds; without a link, when there is one."""
        if self._current is not None:
            self._send_on(self._current, result, True)

    def send_unrecorded(self, result: CommandResult) -> None:
        """Send *result*, which the journal does not hold and so is held here until it is confirmed."""
        self._unrecorded[result.command_id] = result
        self._unrecorded.move_to_end(result.command_id)
        if len(self._unrecorded) > MAX_UNRECORDED:
            self._unrecorded.popitem(last=False)
        if self._current is not None:
            self._send_on(self._current, result, False)

    def unrecorded(self, command_id: str) -> CommandResult | None:
        """The result of *command_id* that is held here, if any."""
        return self._unrecorded.get(command_id)

    def forget(self, command_id: str) -> None:
        """The command was refused, and is now accepted: do not send the refusal again."""
        self._unrecorded.pop(command_id, None)

    def link_ready(self, link: ILink, pending: Container[str]) -> None:
        """
        Send on *link* from now on, and first what is not confirmed, oldest first.

        :param pending: ids whose results must not be sent yet, though the journal may know them.
        """
        if self._current is not None:
            self._current.halt()
        state = self._current = self._links[link] = _LinkState(link)
        state.backlog.extend((result, False) for result in self._unrecorded.values())
        state.backlog.extend(
            (result, True) for result in self._journal.unconfirmed() if result.command_id not in pending
        )
        if state.backlog:
            self._log.info("Sending {count} unconfirmed results again", count=len(state.backlog))
        self._send_backlog(state)

    def link_lost(self, link: ILink) -> None:
        """Send no more on *link*; what it left unconfirmed waits for the next."""
        state = self._links.pop(link, None)
        if state is not None:
            state.halt()
            if self._current is state:
                self._current = None

    def receipt_received(self, link: ILink, receipt: Receipt) -> None:
        """The main server confirms or refuses a result."""
        state = self._links.get(link)
        key = None if state is None else state.take(receipt.command_id)
        if key is None and receipt.command_id is not None:  # for what was sent on an earlier link?
            if receipt.command_id in self._unrecorded:
                key = (receipt.command_id, False)
            elif self._recorded(receipt.command_id) is not None:
                key = (receipt.command_id, True)
        if key is None:
            self._stats.stray += 1
            self._log.debug("A receipt fits no result: {id}", id=receipt.command_id)
        elif receipt.success:
            self._stats.confirmed += 1
            self._settle(key)
        else:
            self._rejected(key, receipt.error)

    def stop(self) -> None:
        """Schedule nothing any more."""
        self._stopped = True
        for state in self._links.values():
            state.halt()

    def _send_on(self, state: _LinkState, result: CommandResult, recorded: bool) -> None:
        state.add(result, recorded)
        self._stats.sent += 1
        state.link.send_result(result)
        if len(state.in_flight) > self._max_results or state.size > self._max_bytes:
            self._make_room(state)

    def _send_backlog(self, state: _LinkState) -> None:
        state.backlog_call = None
        room = BATCH_BYTES
        while state.backlog and room > 0:
            result, recorded = state.backlog.popleft()
            # A refusal may have been overtaken by the acceptance of the same command.
            if recorded or self._unrecorded.get(result.command_id) is result:
                room -= _size(result)
                self._send_on(state, result, recorded)
        if state.backlog and not self._stopped:
            state.backlog_call = self._clock.callLater(0, self._send_backlog, state)

    def _make_room(self, state: _LinkState) -> None:
        """Down to three quarters, so that this is rare; the newest always stays."""
        dropped = 0
        while len(state.in_flight) > 1 and (
            len(state.in_flight) * 4 > self._max_results * 3 or state.size * 4 > self._max_bytes * 3
        ):
            key = state.take(None)
            if key is not None:
                self._settle(key)
                dropped += 1
        if dropped:
            self._stats.dropped += dropped
            self._log.warn(
                "The main server has not confirmed {count} results that were sent to it on this connection; "
                "to make room they now count as confirmed",
                count=dropped,
            )

    def _rejected(self, key: _Key, reason: str | None) -> None:
        command_id, recorded = key
        self._stats.rejected += 1
        if recorded and self._recorded(command_id) is None:  # a second copy, and the first was confirmed
            return
        times = self._rejections.get(command_id, 0) + 1
        if not recorded or times > MAX_RETRIES:
            self._stats.given_up += 1
            self._log.error(
                "The main server refused the result of {id} for good, after {times} times: {reason}",
                id=command_id,
                times=times,
                reason=reason,
            )
            self._settle(key)
            return
        self._log.warn("The main server refused the result of {id}: {reason}", id=command_id, reason=reason)
        self._rejections[command_id] = times
        state = self._current
        if state is not None and not self._stopped and command_id not in state.retries:
            state.retries[command_id] = self._clock.callLater(RETRY_DELAY, self._retry, state, command_id)

    def _retry(self, state: _LinkState, command_id: str) -> None:
        del state.retries[command_id]
        if (result := self._recorded(command_id)) is not None:
            self._send_on(state, result, True)

    def _recorded(self, command_id: str) -> CommandResult | None:
        entry = self._journal.lookup(command_id)
        return None if entry is None else entry.result

    def _settle(self, key: _Key) -> None:
        """The result needs no more sending."""
        command_id, recorded = key
        if recorded:
            self._rejections.pop(command_id, None)
            if self._current is not None and (call := self._current.retries.pop(command_id, None)) is not None:
                call.cancel()
            self._journal.confirm(command_id)
        else:
            self._unrecorded.pop(command_id, None)
        self._settled()


def _size(result: CommandResult) -> int:
    """Bytes of memory that the result's output takes; in constant time."""
    return getsizeof(result.stdout) + getsizeof(result.stderr)
