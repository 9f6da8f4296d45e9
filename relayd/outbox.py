"""
Delivers results: sends each on the uplink, and again on the next, until the main server confirms it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Container
from sys import getsizeof
from typing import Final

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from relayd.errors import RelayError, Undeliverable
from relayd.interfaces import EntryState, IJournal, ILink
from relayd.logs import is_logged
from relayd.messages import CommandResult, Receipt, failure_result
from relayd.sendings import Key, Sendings
from relayd.stats import Stats
from relayd.texts import Translate, english, span

#: How often a result that the main server refuses is sent again.
MAX_RETRIES: Final = 2
#: Seconds until then, when the link lives so long.
RETRY_DELAY: Final = 5.0
#: Results held that no journal holds, and bytes of memory for them. Most are refusals, which are small.
MAX_UNRECORDED: Final = 1000
MAX_UNRECORDED_BYTES: Final = 64 << 20
#: Links lost with a result under way, after which it may be the cause and travels alone.
SUSPECT_AFTER: Final = 2
#: Links lost while it travelled alone, after which it is not sent any more.
CONVICT_AFTER: Final = 3
#: Seconds for which a result that travels alone is watched, where no receipt comes.
ALONE_FOR: Final = 10.0
#: Seconds without a receipt after which a link with as many results under way as it may have is not held up by them.
RECEIPT_PATIENCE: Final = 60.0
#: Seconds after which a main server that has never sent a receipt is asked for a sign of life instead; and those for
#: one that is known not to send any, or while relayd wants to stop.
PATIENCE: Final = 30.0
IMPATIENCE: Final = 1.0
DRAIN_PATIENCE: Final = 5.0

#: The name under which the journal notes whether the main server sends receipts.
_RECEIPTS: Final = "receipts"


class Outbox:
    """
    Sends results until they are confirmed.

    The specification's receipts do not say which result they are for.  They are counted: each is for the oldest result
    that was sent on its link and has none yet.  Where answers overtake each other the wrong one of two results is
    confirmed first, but both were sent on this link; what a link that dies leaves without a receipt is sent again on
    the next.  A receipt that names its command is for that one.

    A main server that has never sent a receipt does not know them: what it has read, as its heartbeat shows, counts as
    delivered.

    A result that is at hand goes out at once.  Where the link is full, or other results wait before it, it stays in the
    journal alone and is read when its turn comes: a slow main server costs no memory.

    A result with which one link after the other dies travels alone until it is clear whether it is the cause; if so it
    is kept, and a short one that says so goes out in its place.

    :param settled: called whenever a result needs no more sending.
    :param translate: to the language of what results say.
    """

    def __init__(
        self,
        clock: IReactorTime,
        journal: IJournal,
        stats: Stats,
        settled: Callable[[], None],
        translate: Translate = english,
    ) -> None:
        self._log = Logger()
        self._clock = clock
        self._journal = journal
        self._settled = settled
        self._translate = translate
        self._stats = stats
        self._links: dict[ILink, Sendings] = {}
        self._current: Sendings | None = None
        self._unrecorded: OrderedDict[str, CommandResult] = OrderedDict()
        self._unrecorded_size = 0
        self._rejections: dict[str, int] = {}
        self._losses: dict[Key, int] = {}
        self._lone_losses: dict[Key, int] = {}
        self._patience = PATIENCE
        self._stopped = False

    @property
    def empty(self) -> bool:
        """Whether every result was confirmed."""
        return not self._unrecorded and not self._journal.outstanding

    def send(self, result: CommandResult) -> None:
        """Send *result*, which the journal holds; without a link, when there is one."""
        state = self._current
        if state is None:
            return
        if not state.pumping and state.link.writable and not state.full:
            self._send_on(state, result, True)
        else:
            self._queue(state, (result.command_id, True))

    def send_again(self, command_id: str) -> None:
        """Send the result that the journal holds of *command_id*; without a link, when there is one."""
        self._rejections.pop(command_id, None)
        if self._current is not None:
            self._queue(self._current, (command_id, True))

    def send_unrecorded(self, result: CommandResult) -> None:
        """Send *result*, which the journal does not hold and so is held here until it is confirmed."""
        self.forget(result.command_id)
        self._unrecorded[result.command_id] = result
        self._unrecorded_size += _size(result)
        while len(self._unrecorded) > 1 and (
            len(self._unrecorded) > MAX_UNRECORDED or self._unrecorded_size > MAX_UNRECORDED_BYTES
        ):
            self._stats.dropped += 1
            self.forget(next(iter(self._unrecorded)))
        if self._current is not None:
            self._queue(self._current, (result.command_id, False))

    def unrecorded(self, command_id: str) -> CommandResult | None:
        """The result of *command_id* that is held here, if any."""
        return self._unrecorded.get(command_id)

    def forget(self, command_id: str) -> None:
        """Send what is held here of *command_id* no more: as when it was refused, and is now accepted."""
        result = self._unrecorded.pop(command_id, None)
        if result is not None:
            self._unrecorded_size -= _size(result)
            if self._current is not None:
                self._current.backlog.pop((command_id, False), None)

    def link_ready(self, link: ILink, pending: Container[str]) -> None:
        """
        Send on *link* from now on, and first what is not confirmed, oldest first.

        :param pending: ids whose results must not be sent yet, though the journal may know them.
        """
        if self._current is not None:
            self._current.halt()
        state = self._current = self._links[link] = Sendings(link)
        keys = [(command_id, False) for command_id in self._unrecorded]
        keys += [(command_id, True) for command_id in self._journal.unconfirmed() if command_id not in pending]
        self._forget_losses()
        if keys:
            self._log.info("Sending {count} unconfirmed results again", count=len(keys))
            # Those that may break the link go last, so that they hold up nothing.
            state.backlog.update(dict.fromkeys(sorted(keys, key=self._is_suspect)))
            self._start_pump(state)

    def link_lost(self, link: ILink) -> None:
        """Send no more on *link*; what it left unconfirmed waits for the next."""
        state = self._links.pop(link, None)
        if state is None:
            return
        state.halt()
        if self._current is state:
            self._current = None
        for key in set(state.in_flight.values()):
            self._losses[key] = self._losses.get(key, 0) + 1
        if state.alone is not None:
            self._lone_losses[state.alone] = times = self._lone_losses.get(state.alone, 0) + 1
            if times >= CONVICT_AFTER:
                self._give_up(state.alone, "the main server closed each connection on which it was sent")

    def receipt_received(self, link: ILink, receipt: Receipt) -> None:
        """The main server confirms or refuses a result."""
        self._note_receipts(True)
        state = self._links.get(link)
        key = None if state is None else state.take(receipt.command_id)
        if key is None and receipt.command_id is not None:  # for what was sent on an earlier link?
            if receipt.command_id in self._unrecorded:
                key = (receipt.command_id, False)
            elif self._is_unconfirmed(receipt.command_id):
                key = (receipt.command_id, True)
        if key is None:
            self._stats.stray += 1
            self._log.debug("A receipt fits no result: {id}", id=receipt.command_id)
        elif receipt.success:
            self._stats.confirmed += 1
            if is_logged("debug"):
                self._log.debug("The main server has the result of {id}", event="confirmed", id=key[0])
            self._settle(key)
        else:
            self._rejected(key, receipt.error)

    def hurry(self) -> None:
        """relayd wants to stop: do not wait long for receipts that never come."""
        self._patience = DRAIN_PATIENCE
        if self._current is not None and self._current.watch is not None and self._current.watch.active():
            self._current.watch.reset(min(self._wait(), self._current.watch.getTime() - self._clock.seconds()))

    def stop(self) -> None:
        """Schedule nothing any more."""
        self._stopped = True
        for state in self._links.values():
            state.halt()

    # Sending

    def _queue(self, state: Sendings, key: Key) -> None:
        state.backlog.setdefault(key)
        self._start_pump(state)

    def _start_pump(self, state: Sendings) -> None:
        if not state.pumping and not self._stopped:
            state.pumping = True
            state.pump = Deferred.fromCoroutine(self._pump(state))
            state.pump.addCallbacks(self._pumped, self._not_pumped, callbackArgs=(state,), errbackArgs=(state,))

    async def _pump(self, state: Sendings) -> None:
        while state.backlog:
            if not state.link.writable:
                await state.link.when_writable()
                continue
            if state.full:
                await self._receipts(state)
                continue
            key, _ = state.backlog.popitem(last=False)
            command_id, recorded = key
            # A refusal may have been overtaken by the acceptance of the same command.
            result = await self._load(command_id) if recorded else self._unrecorded.get(command_id)
            if result is None:
                continue
            if self._is_suspect(key):
                await self._send_alone(state, result, recorded)
            else:
                self._send_on(state, result, recorded)

    async def _receipts(self, state: Sendings) -> None:
        """Wait for some, but not for ever."""
        try:
            await state.when_room().addTimeout(RECEIPT_PATIENCE, self._clock)
        except TimeoutError:
            self._log.warn(
                "The main server has sent no receipt for {span}, and {count} results want one: the rest is sent "
                "without, and sent again on the next connection",
                span=span(RECEIPT_PATIENCE),
                count=len(state.in_flight),
            )
            state.count_no_more()

    async def _load(self, command_id: str) -> CommandResult | None:
        try:
            return await self._journal.load(command_id)
        except RelayError as error:
            # It is still there for the next link.
            self._log.error("The result of {id} cannot be read: {error}", id=command_id, error=str(error))
            return None

    def _pumped(self, _: None, state: Sendings) -> None:
        state.pumping = False

    def _not_pumped(self, failure: Failure, state: Sendings) -> None:
        state.pumping = False
        if not failure.check(CancelledError):
            self._log.error("Internal error: sending stopped: {kind}", kind=type(failure.value).__name__)

    async def _send_alone(self, state: Sendings, result: CommandResult, recorded: bool) -> None:
        await state.link.probe()  # what went before is read: it is not to blame for what happens now
        state.alone = (result.command_id, recorded)
        state.alone_over = Deferred()
        self._send_on(state, result, recorded)
        call = self._clock.callLater(ALONE_FOR, state.alone_over.callback, None)
        try:
            await state.alone_over
        finally:
            if call.active():
                call.cancel()
        state.alone = None  # not where the link was lost meanwhile: `link_lost` has to know

    def _send_on(self, state: Sendings, result: CommandResult, recorded: bool) -> None:
        state.add((result.command_id, recorded))
        self._stats.sent += 1
        if is_logged("debug"):
            self._log.debug("Sent the result of {id}", event="sent", id=result.command_id)
        state.link.send_result(result)
        self._watch(state)

    # A main server without receipts

    def _wait(self) -> float:
        return IMPATIENCE if self._journal.noted(_RECEIPTS) == "never" else self._patience

    def _watch(self, state: Sendings) -> None:
        if state.watch is None and not self._stopped and self._journal.noted(_RECEIPTS) != "yes":
            state.watch = self._clock.callLater(self._wait(), self._look, state)

    def _look(self, state: Sendings) -> None:
        state.watch = None
        if state.in_flight and state.probe is None and self._journal.noted(_RECEIPTS) != "yes":
            state.probe = state.link.probe()
            state.probe.addCallbacks(self._read, lambda _: None, callbackArgs=(state, state.last))

    def _read(self, _: None, state: Sendings, last: int) -> None:
        """The main server has read all that was sent on the link, up to number *last*."""
        state.probe = None
        if self._journal.noted(_RECEIPTS) != "yes":
            self._note_receipts(False)
            while state.in_flight and next(iter(state.in_flight)) <= last:
                key = state.take(None)
                if key is not None:
                    self._stats.presumed += 1
                    self._log.debug("The main server has read the result of {id}", event="confirmed", id=key[0])
                    self._settle(key)
            if state.in_flight:
                self._watch(state)

    def _note_receipts(self, sends: bool) -> None:
        known = self._journal.noted(_RECEIPTS)
        if sends and known != "yes":
            self._journal.note(_RECEIPTS, "yes")
        elif not sends and known is None:
            self._journal.note(_RECEIPTS, "never")
            self._log.info("The main server sends no receipts: results that it has read count as delivered")

    # What becomes of what was sent

    def _rejected(self, key: Key, reason: str | None) -> None:
        command_id, recorded = key
        self._stats.rejected += 1
        if recorded and not self._is_unconfirmed(command_id):  # a second copy, and the first was confirmed
            return
        times = self._rejections.get(command_id, 0) + 1
        if not recorded or times > MAX_RETRIES:
            self._give_up(key, f"the main server refused it {times} times: {reason}", substitute=False)
            return
        self._log.warn("The main server refused the result of {id}: {reason}", id=command_id, reason=reason)
        self._rejections[command_id] = times
        state = self._current
        if state is not None and not self._stopped and command_id not in state.retries:
            state.retries[command_id] = self._clock.callLater(RETRY_DELAY, self._retry, state, command_id)

    def _retry(self, state: Sendings, command_id: str) -> None:
        del state.retries[command_id]
        if self._is_unconfirmed(command_id):
            self._queue(state, (command_id, True))

    def _give_up(self, key: Key, reason: str, *, substitute: bool = True) -> None:
        command_id, recorded = key
        self._stats.given_up += 1
        self._log.error(
            "The result of {id} is not sent any more: {reason}{kept}",
            id=command_id,
            reason=reason,
            kept=". The journal keeps it: see relayctl journal" if recorded else "",
        )
        self._clear(key)
        if not recorded:
            self.forget(command_id)
        else:
            if self._is_unconfirmed(command_id):
                self._journal.bury(command_id)
            if substitute:
                self.send_unrecorded(failure_result(command_id, Undeliverable(), translate=self._translate))
        self._settled()

    def _settle(self, key: Key) -> None:
        """The result needs no more sending."""
        command_id, recorded = key
        self._clear(key)
        if recorded:
            if self._current is not None and (call := self._current.retries.pop(command_id, None)) is not None:
                call.cancel()
            self._journal.confirm(command_id)
        else:
            self.forget(command_id)
            entry = self._journal.lookup(command_id)
            if entry is not None and not entry.holds_result:  # it could not be recorded when it ended, but may be later
                self._journal.confirm(command_id)
        self._settled()

    def _clear(self, key: Key) -> None:
        """Nothing is held against it any more."""
        self._losses.pop(key, None)
        self._lone_losses.pop(key, None)
        if key[1]:
            self._rejections.pop(key[0], None)
        if self._current is not None and self._current.alone == key:
            self._current.end_alone()

    def _forget_losses(self) -> None:
        """Of results that are held no more: a main server could make any number of them."""
        for losses in (self._losses, self._lone_losses):
            for key in [key for key in losses if not self._is_held(key)]:
                del losses[key]
        for command_id in [each for each in self._rejections if not self._is_unconfirmed(each)]:
            del self._rejections[command_id]

    def _is_held(self, key: Key) -> bool:
        command_id, recorded = key
        return self._is_unconfirmed(command_id) if recorded else command_id in self._unrecorded

    def _is_suspect(self, key: Key) -> bool:
        return self._losses.get(key, 0) >= SUSPECT_AFTER

    def _is_unconfirmed(self, command_id: str) -> bool:
        entry = self._journal.lookup(command_id)
        return entry is not None and entry.state is EntryState.FINISHED


def _size(result: CommandResult) -> int:
    """Bytes of memory that the result's output takes; in constant time."""
    return getsizeof(result.stdout) + getsizeof(result.stderr)
