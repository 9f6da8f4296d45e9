"""
Delivers results: sends each on the uplink, and again on the next, until the main server confirms it.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from functools import partial
from typing import Final

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from relayd.commands.dead_letters import DeadLetters
from relayd.commands.held_results import HeldResults, size_of
from relayd.commands.in_flight import Key, Sendings
from relayd.commands.stats import Stats
from relayd.commands.suspects import Suspects, without_output
from relayd.commands.without_receipts import WithoutReceipts
from relayd.errors import RelayError
from relayd.interfaces import Blame, EntryState, IJournal, ILink
from relayd.language.texts import Translate, english, printable, span
from relayd.process.logs import is_logged
from relayd.wire.messages import CommandResult, Receipt

#: How often a result that the main server refuses is sent again on one link.
MAX_RETRIES: Final = 2
#: Seconds until then, when the link lives so long.
RETRY_DELAY: Final = 5.0
#: Results held that no journal holds, and bytes of memory for them. Most are refusals, which are small.
MAX_UNRECORDED: Final = 1000
MAX_UNRECORDED_BYTES: Final = 64 << 20
#: Results held after they were sent, for commands that come again: how many, bytes of memory for them, and of one.
MAX_RECENT: Final = 1000
MAX_RECENT_BYTES: Final = 8 << 20
MAX_RECENT_SIZE: Final = 64 << 10
#: Seconds without a receipt after which a link with as many results under way as it may have is not held up by them.
RECEIPT_PATIENCE: Final = 60.0


class Outbox:
    """
    Sends results until they are confirmed.

    The specification's receipts do not say which result they are for.  They are counted: each is for the oldest result
    that was sent on its link and has none yet.  Where answers overtake each other the wrong one of two results is
    confirmed first, but both were sent on this link; what a link that dies leaves without a receipt is sent again on
    the next.  A receipt that names its command is for that one.

    A main server that has never sent a receipt does not know them: what it has read, as its heartbeat shows, counts as
    delivered (`relayd.commands.without_receipts`).

    A result that is at hand goes out at once.  Where the link is full, or other results wait before it, it stays in the
    journal alone and is read when its turn comes: a slow main server costs no memory.

    A result with which one link after the other dies travels alone until it is clear whether it is the cause
    (`relayd.commands.suspects`); if so it is kept, and goes out without its output.  Its exit status stays, for it may
    have arrived after all, and a result that was delivered must not become a failure.

    A result that the main server refuses three times on one link is a dead letter.  Another main server may be behind
    the next link: each is offered the dead letters once.

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
        self._log = Logger("relayd.commands")
        self._clock = clock
        self._journal = journal
        self._settled = settled
        self._translate = translate
        self._stats = stats
        self._links: dict[ILink, Sendings] = {}
        self._current: Sendings | None = None
        self._unrecorded = HeldResults(MAX_UNRECORDED, MAX_UNRECORDED_BYTES)
        #: Those of them that the main server refused: nobody waits for these.
        self._unwanted: set[str] = set()
        self._recent = HeldResults(MAX_RECENT, MAX_RECENT_BYTES)
        self._without_receipts = WithoutReceipts(clock, journal, self._presume)
        self._dead_letters = DeadLetters(journal)
        self._suspects = Suspects(clock, self._without_receipts.read)
        self._stopped = False

    @property
    def empty(self) -> bool:
        """Whether every result was confirmed."""
        return len(self._unrecorded) == len(self._unwanted) and not self._journal.outstanding

    def send(self, result: CommandResult) -> None:
        """Send *result*, which the journal holds; without a link, when there is one."""
        if size_of(result) <= MAX_RECENT_SIZE:
            self._recent.add(result)
        state = self._current
        if state is None:
            return
        if not state.pumping and state.link.writable and not state.full:
            self._send_on(state, result, True)
        else:
            self._queue(state, (result.command_id, True))

    def send_again(self, command_id: str) -> None:
        """Send the result that the journal holds of *command_id*; without a link, when there is one."""
        if self._current is not None:
            self._current.rejections.pop((command_id, True), None)
            self._queue(self._current, (command_id, True))

    def send_unrecorded(self, result: CommandResult) -> None:
        """Send *result*, which the journal does not hold and so is held here until it is confirmed."""
        self._unwanted.discard(result.command_id)
        for command_id in self._unrecorded.add(result):
            self._stats.dropped += 1
            self._drop(command_id)
        if self._current is not None:
            self._queue(self._current, (result.command_id, False))

    def unrecorded(self, command_id: str) -> CommandResult | None:
        """The result of *command_id* that is held here until it is confirmed, if any."""
        return self._unrecorded.get(command_id)

    def recent(self, command_id: str) -> CommandResult | None:
        """The result of *command_id*, which was confirmed, if that is not long ago and the result is no large one."""
        return self._recent.get(command_id)

    def forget(self, command_id: str) -> None:
        """Send what is held here of *command_id* no more: as when it was refused, and is now accepted."""
        self._recent.remove(command_id)
        self._drop(command_id)

    def _drop(self, command_id: str) -> None:
        self._unrecorded.remove(command_id)
        self._unwanted.discard(command_id)
        if self._current is not None:
            self._current.backlog.pop((command_id, False), None)

    def link_ready(self, link: ILink, pending: Container[str]) -> None:
        """
        Send on *link* from now on, and first what is not confirmed, oldest first.

        :param pending: ids whose results must not be sent yet, though the journal may know them.
        """
        if self._current is not None:
            self._current.halt()
        state = self._current = self._links[link] = Sendings(link, self._clock.seconds())
        keys = [(command_id, False) for command_id in self._unrecorded]
        keys += [(command_id, True) for command_id in self._journal.unconfirmed() if command_id not in pending]
        self._suspects.forget(lambda key: not self._is_held(key))
        if keys:
            self._log.info("Sending {count} unconfirmed results again", count=len(keys))
        keys += [(command_id, True) for command_id in self._dead_letters.offered(self._unrecorded)]
        for key in [key for key in keys if self._suspects.pause(key)]:
            self._send_later(state, key, self._suspects.pause(key))
        # Those that may break the link go last, so that they hold up nothing.
        keys = sorted((key for key in keys if key not in state.retries), key=self._suspects.is_suspect)
        state.backlog.update(dict.fromkeys(keys))
        if keys:
            self._start_pump(state)

    def link_lost(self, link: ILink, blame: Blame) -> None:
        """
        Send no more on *link*; what it left unconfirmed waits for the next.

        :param blame: whether what was sent on it may be the cause.
        """
        state = self._links.pop(link, None)
        if state is None:
            return
        self._without_receipts.link_lost(state)
        state.halt()
        if self._current is state:
            self._current = None
        convict = self._suspects.link_lost(state, blame)
        if convict is not None:
            self._give_up(convict)

    def receipt_received(self, link: ILink, receipt: Receipt) -> None:
        """The main server confirms or refuses a result."""
        self._without_receipts.receipt_received()
        state = self._links.get(link)
        key = None if state is None else state.take(receipt.command_id)
        if key is None and receipt.command_id is not None:  # for what was sent on an earlier link?
            if receipt.command_id in self._unrecorded:
                key = (receipt.command_id, False)
            elif self._state_of(receipt.command_id) in (EntryState.FINISHED, EntryState.DEAD):
                key = (receipt.command_id, True)
        if key is None:
            self._stats.stray += 1
            self._log.debug("A receipt fits no result: {id}", id=printable(receipt.command_id or "", 256))
        elif receipt.success:
            self._stats.confirmed += 1
            if is_logged("debug"):
                self._log.debug("The main server has the result of {id}", event="confirmed", id=key[0])
            self._settle(key)
        else:
            self._rejected(state, key, receipt.error)

    def hurry(self) -> None:
        """relayd wants to stop: do not wait long for receipts that never come."""
        self._without_receipts.hurry(self._current)

    def stop(self) -> None:
        """Schedule nothing any more."""
        self._stopped = True
        self._without_receipts.stop()
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
            if self._suspects.is_suspect(key):
                await self._suspects.send_alone(state, key, partial(self._send_on, state, result, recorded))
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

    def _send_on(self, state: Sendings, result: CommandResult, recorded: bool) -> None:
        state.add((result.command_id, recorded), self._clock.seconds())
        self._stats.sent += 1
        if is_logged("debug"):
            self._log.debug("Sent the result of {id}", event="sent", id=result.command_id)
        state.link.send_result(result)
        self._without_receipts.watch(state)

    def _send_later(self, state: Sendings, key: Key, delay: float) -> None:
        if not self._stopped and key not in state.retries:
            state.retries[key] = self._clock.callLater(delay, self._send_now, state, key)

    def _send_now(self, state: Sendings, key: Key) -> None:
        del state.retries[key]
        if self._is_due(key):
            self._queue(state, key)

    # What becomes of what was sent

    def _rejected(self, state: Sendings | None, key: Key, reason: str | None) -> None:
        """
        :param state: of the link on which the main server said so, where it is still there: each counts for itself.
        """
        self._stats.rejected += 1
        self._acquit(key)  # the main server has read it, and lives
        if not self._is_due(key):  # a second copy, and the first was confirmed; or an offer to another main server
            self._log.debug("The main server refused the result of {id} again: {reason}", id=key[0], reason=reason)
            return
        if state is not None:
            state.rejections[key] = times = state.rejections.get(key, 0) + 1
            if times > MAX_RETRIES:
                self._bury(key, reason)
                return
            if state is self._current:
                self._send_later(state, key, RETRY_DELAY)
        self._log.warn("The main server refused the result of {id}: {reason}", id=key[0], reason=reason)

    def _bury(self, key: Key, reason: str | None) -> None:
        """The main server will not have it: nobody waits for it any more, and each new link is offered it once."""
        command_id, recorded = key
        self._stats.given_up += 1
        self._log.error(
            "The main server refused the result of {id} {times} times: {reason}. It is offered once more on each new "
            "connection{kept}",
            id=command_id,
            times=MAX_RETRIES + 1,
            reason=reason,
            kept=". The journal keeps it: see relayctl journal" if recorded else "",
        )
        self._clear(key)
        if recorded:
            self._journal.bury(command_id)
        else:
            self._unwanted.add(command_id)
        self._settled()

    def _give_up(self, key: Key) -> None:
        """It breaks links: from now on what is left of it without its output goes out in its place."""
        command_id, recorded = key
        self._stats.given_up += 1
        self._log.error(
            "The result of {id} is not sent any more: the main server dropped each connection on which it came{kept}",
            id=command_id,
            kept=". The journal keeps it: see relayctl journal" if recorded else "",
        )
        self._clear(key)
        if recorded:
            Deferred.fromCoroutine(self._load(command_id)).addCallback(self._loaded)
        elif (result := self._unrecorded.get(command_id)) is not None:
            self._drop(command_id)
            self._dead_letters.was_replaced(command_id)
            self._replace(result)
            self._settled()

    def _loaded(self, result: CommandResult | None) -> None:
        if result is not None and (state := self._state_of(result.command_id)) is not EntryState.CONFIRMED:
            if state is EntryState.FINISHED:
                self._journal.bury(result.command_id)
            self._replace(result)
            self._settled()

    def _replace(self, result: CommandResult) -> None:
        without = without_output(result, self._translate)
        if without.stderr != result.stderr:  # else not even that can be sent
            self.send_unrecorded(without)

    def _presume(self, key: Key) -> None:
        self._stats.presumed += 1
        self._log.debug("The main server has read the result of {id}", event="confirmed", id=key[0])
        self._settle(key)

    def _settle(self, key: Key) -> None:
        """The result needs no more sending."""
        command_id, recorded = key
        self._clear(key)
        if recorded:
            self._journal.confirm(command_id)
        else:
            self._drop(command_id)
            state = self._state_of(command_id)
            self._dead_letters.was_replaced(command_id)
            if state not in (
                EntryState.FINISHED,
                EntryState.DEAD,
            ):  # it could not be recorded when it ended, but may be later
                self._journal.confirm(command_id)
        self._settled()

    def _acquit(self, key: Key) -> None:
        """It breaks no links."""
        self._suspects.clear(key)
        if self._current is not None and self._current.alone == key:
            self._current.end_alone()

    def _clear(self, key: Key) -> None:
        """Nothing is held against it any more."""
        self._acquit(key)
        if self._current is not None:
            self._current.rejections.pop(key, None)
            if (call := self._current.retries.pop(key, None)) is not None:
                call.cancel()

    def _is_held(self, key: Key) -> bool:
        command_id, recorded = key
        if recorded:
            return self._state_of(command_id) in (EntryState.FINISHED, EntryState.DEAD)
        return command_id in self._unrecorded

    def _is_due(self, key: Key) -> bool:
        """Whether somebody waits for its delivery."""
        command_id, recorded = key
        if recorded:
            return self._state_of(command_id) is EntryState.FINISHED
        return command_id in self._unrecorded and command_id not in self._unwanted

    def _state_of(self, command_id: str) -> EntryState | None:
        entry = self._journal.lookup(command_id)
        return None if entry is None else entry.state
