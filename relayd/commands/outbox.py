"""
Delivers results: sends each on the uplink, and again on the next, until the main server confirms it.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from relayd.commands.held_results import HeldResults, size_of
from relayd.commands.link_sender import LinkSender
from relayd.commands.origins import Origins
from relayd.commands.stats import Stats
from relayd.commands.suspects import Suspects, without_output
from relayd.commands.undelivered import ResultKey, UndeliveredResults
from relayd.commands.without_receipts import WithoutReceipts
from relayd.interfaces import Blame, IJournal, ILink
from relayd.language.texts import Translate, english, printable
from relayd.process.logs import is_logged
from relayd.wire.messages import CommandResult, Receipt

_log = Logger("relayd.commands")

#: How often a result that the main server rejects is sent again on one link.
MAX_RETRIES: Final = 2
#: Seconds until then, when the link lives so long.
RETRY_DELAY: Final = 5.0
#: Ids of results in one line of the log.
MAX_IDS_LOGGED: Final = 10
#: Results kept after they were sent, for commands that come again: how many, bytes of memory for them, and of one.
MAX_RECENT: Final = 1000
MAX_RECENT_BYTES: Final = 8 << 20
MAX_RECENT_SIZE: Final = 64 << 10


class Outbox:
    """
    Sends results until they are confirmed.

    The specification's receipts do not say which result they are for.  They are counted: each is for the oldest result
    that was sent on its link and has no receipt yet (`relayd.commands.in_flight`).  If receipts overtake each other,
    the wrong one of two results is confirmed first, but both were sent on this link.  Results that a lost link leaves
    without a receipt are sent again on the next link.  A receipt that names its command is for that command.

    A main server that has never sent a receipt does not know receipts: results that it has read, as its heartbeat
    shows, count as delivered (`relayd.commands.without_receipts`).

    If one link after the other is lost with a result, it travels alone until it is clear whether it is the cause
    (`relayd.commands.suspects`).  If so, it is kept, and goes out without its output.  Its exit code stays: it may have
    arrived after all, and a result that was delivered must not become a failure.

    A result that the main server rejects three times on one link is a dead letter.  Another main server may be behind
    the next link: each link is offered the dead letters once.

    Where a relay has several main servers, a result waits for a link to its own.

    More than 25 methods, as links, receipts, the journal and the end of the relay each report here what happened.

    :param settled: called whenever a result needs no more sending.
    :param translate: to the language of what results say.
    :param origins: says to which main server each result goes; by default to whichever is connected.
    """

    def __init__(
        self,
        clock: IReactorTime,
        journal: IJournal,
        stats: Stats,
        settled: Callable[[], None],
        translate: Translate = english,
        origins: Origins | None = None,
    ) -> None:
        self._clock = clock
        self._settled = settled
        self._translate = translate
        self._stats = stats
        self._origins = origins or Origins(journal)
        self._results = UndeliveredResults(journal, self._origins)
        self._recent = HeldResults(MAX_RECENT, MAX_RECENT_BYTES)
        self._without_receipts = WithoutReceipts(clock, journal, self._presume)
        self._suspects = Suspects(clock, self._without_receipts.results_read)
        self._senders: dict[ILink, LinkSender] = {}
        self._current: LinkSender | None = None
        self._stopped = False

    @property
    def undelivered(self) -> int:
        """How many results somebody waits for."""
        return self._results.count

    @property
    def has_link(self) -> bool:
        """Whether there is a link to send results on."""
        return self._current is not None

    @property
    def server(self) -> str:
        """The main server at the other end of the link; empty without one, or where there is only one."""
        return "" if self._current is None else self._current.in_flight.link.server

    def undelivered_for(self, server: str) -> int:
        """How many results are for the main server *server*."""
        return self._results.count_for(server)

    @property
    def deliverable(self) -> int:
        """How many results somebody waits for to whom there is a link; without a link, all of them."""
        return self._results.count_for(self.server) if self.server else self._results.count

    def send_recorded(self, result: CommandResult, server: str = "") -> None:
        """
        Send *result*, which the journal holds; without a link, when there is one.

        :param server: the main server that ordered the command.
        """
        if size_of(result) <= MAX_RECENT_SIZE:
            self._recent.hold(result)
        if self._current is not None and self._origins.takes(self._current.in_flight.link, server):
            self._current.send_recorded(result)

    def send_again(self, command_id: str) -> None:
        """Send the result that the journal holds of *command_id*; without a link, when there is one."""
        key = ResultKey(command_id, True)
        if self._current is not None and self._results.goes_over(self._current.in_flight.link, key):
            self._current.forget_refusals(key)
            self._current.enqueue(key)

    def send_unrecorded(self, result: CommandResult, server: str = "") -> None:
        """
        Send *result*, which the journal does not hold: it is held here until it is confirmed.

        :param server: the main server to which it goes.
        """
        for command_id in self._results.hold_unrecorded(result, server):
            self._stats.dropped += 1
            self._unqueue(ResultKey(command_id, False))
        if self._current is not None and self._origins.takes(self._current.in_flight.link, server):
            self._current.enqueue(ResultKey(result.command_id, False))

    def send_once(self, result: CommandResult) -> None:
        """
        Send *result* on the link that there is, if there is one, and never again: it stands for an acknowledgement.

        The result that is due for the command is sent as if this one did not exist.
        """
        if self._current is not None:
            self._current.send_once(result)

    def unrecorded(self, command_id: str) -> CommandResult | None:
        """The result of *command_id* that is held here until it is confirmed, if any."""
        return self._results.unrecorded(command_id)

    def recent(self, command_id: str) -> CommandResult | None:
        """The result of *command_id*, confirmed or not, if it was sent not long ago and is not large."""
        return self._recent.find(command_id)

    def forget(self, command_id: str) -> None:
        """Send what is held here of *command_id* no more: the command was refused, and is now accepted."""
        self._recent.remove(command_id)
        self._results.drop_unrecorded(command_id)
        self._unqueue(ResultKey(command_id, False))

    def link_ready(self, link: ILink, pending: Container[str]) -> None:
        """
        Send on *link* from now on, and first what is not confirmed, oldest first.

        :param pending: commands whose results must not be sent yet, though the journal may have them.
        """
        if self._current is not None:
            self._current.halt()
        sender = self._current = self._senders[link] = LinkSender(
            self._clock, link, self._results, self._suspects, self._without_receipts, self._stats
        )
        if self._stopped:
            sender.halt()
        self._suspects.forget(lambda key: not self._results.is_held(key))
        keys = [key for key in self._results.due(pending) if self._results.goes_over(link, key)]
        offered = [key for key in self._results.offered() if self._results.goes_over(link, key)]
        if keys:
            _log.info("Sending {count} unconfirmed results again: {ids}", count=len(keys), ids=_ids_of(keys))
        if offered:
            _log.info(
                "Offering {count} results once more that were rejected before: {ids}",
                count=len(offered),
                ids=_ids_of(offered),
            )
        at_once = []
        for key in keys + offered:
            if pause := self._suspects.pause(key):
                sender.enqueue_later(key, pause)
            else:
                at_once.append(key)
        # Those that may break the link go last, so that they hold up nothing.
        sender.enqueue(*sorted(at_once, key=self._suspects.is_suspect))

    def link_lost(self, link: ILink, blame: Blame) -> None:
        """
        Send no more on *link*; what it left unconfirmed waits for the next.

        :param blame: whether what was sent on it may be the cause.
        """
        sender = self._senders.pop(link, None)
        if sender is None:
            return
        self._without_receipts.link_lost(sender.in_flight)
        sender.halt()
        if self._current is sender:
            self._current = None
        convict = self._suspects.link_lost(sender.in_flight, blame)
        if convict is not None:
            self._give_up(convict)

    def receipt_received(self, link: ILink, receipt: Receipt) -> None:
        """The main server confirms or rejects a result that was sent on *link*, or before."""
        self._without_receipts.receipt_received(link)
        sender = self._senders.get(link)
        key = None if sender is None else sender.in_flight.match_receipt(receipt.command_id)
        if key is None and receipt.command_id is not None:  # for what was sent on an earlier link?
            key = self._results.find(receipt.command_id)
            if key is not None and not self._results.goes_over(link, key):  # another main server waits for it
                key = None
        if key is None:
            self._stats.stray += 1
            _log.debug("A receipt matches no result: {id}", id=printable(receipt.command_id or "", 256))
        elif receipt.success:
            self._stats.confirmed += 1
            if is_logged("debug"):
                _log.debug("The main server has the result of {id}", event="confirmed", id=key.command_id)
            self._settle(key)
        else:
            self._rejected(sender, key, receipt.error)

    def hurry(self) -> None:
        """Do not wait long for receipts that never come: relayd wants to stop."""
        self._without_receipts.hurry()

    def stop(self) -> None:
        """Schedule nothing any more."""
        self._stopped = True
        self._without_receipts.stop()
        for sender in self._senders.values():
            sender.halt()

    # What becomes of a result

    def _settle(self, key: ResultKey) -> None:
        """It needs no more sending."""
        self._clear(key)
        if not (key.recorded or key.once):  # of those, another one may wait
            self._unqueue(key)
        self._results.confirm(key)
        self._settled()

    def _presume(self, key: ResultKey) -> None:
        """The main server has read it, and sends no receipts."""
        self._stats.presumed += 1
        _log.debug("The main server has read the result of {id}", event="confirmed", id=key.command_id)
        self._settle(key)

    def _rejected(self, sender: LinkSender | None, key: ResultKey, reason: str | None) -> None:
        """
        The main server does not take it.

        :param sender: of the link on which the main server said so, where that is still there. Each link counts alone.
        """
        self._stats.rejected += 1
        self._suspects.acquit(key)  # the main server has read it, and lives
        if not self._results.is_due(key):  # a second copy, and the first was confirmed; or a dead letter
            _log.debug("The main server rejected the result of {id} again: {reason}", id=key.command_id, reason=reason)
            return
        if sender is not None:
            if sender.count_refusal(key) > MAX_RETRIES:
                self._bury(key, reason)
                return
            if sender is self._current:
                sender.enqueue_later(key, RETRY_DELAY)
        _log.warn("The main server rejected the result of {id}: {reason}", id=key.command_id, reason=reason)

    def _bury(self, key: ResultKey, reason: str | None) -> None:
        """The main server will not take it: nobody waits for it any more, and each new link is offered it once."""
        self._stats.given_up += 1
        _log.error(
            "The main server rejected the result of {id} {times} times: {reason}. It is offered once more on each new "
            "connection{kept}",
            id=key.command_id,
            times=MAX_RETRIES + 1,
            reason=reason,
            kept=_kept(key),
        )
        self._clear(key)
        self._results.bury(key)
        self._settled()

    def _give_up(self, key: ResultKey) -> None:
        """It breaks links: from now on the result without its output goes out in its place."""
        self._stats.given_up += 1
        _log.error(
            "The result of {id} is not sent any more: the main server dropped each connection that carried it{kept}",
            id=key.command_id,
            kept=_kept(key),
        )
        self._clear(key)
        Deferred.fromCoroutine(self._replace(key))

    async def _replace(self, key: ResultKey) -> None:
        server = self._results.destination_of(key)
        result = await self._results.load(key)
        if result is None or not self._results.withdraw(key):
            return
        if not key.recorded:
            self._unqueue(key)
        without = without_output(result, self._translate)
        if without.stderr != result.stderr:  # otherwise even the result without its output breaks links
            self.send_unrecorded(without, server)
        self._settled()

    def _clear(self, key: ResultKey) -> None:
        """Hold nothing against it any more."""
        self._suspects.acquit(key)
        if self._current is not None:
            self._current.forget_refusals(key)
            self._current.cancel_retry(key)

    def _unqueue(self, key: ResultKey) -> None:
        if self._current is not None:
            self._current.remove(key)


def _kept(key: ResultKey) -> str:
    return ". The journal keeps it: see relayctl journal" if key.recorded else ""


def _ids_of(keys: Sequence[ResultKey]) -> str:
    """The first few of them, for the log."""
    ids = ", ".join(key.command_id for key in keys[:MAX_IDS_LOGGED])
    return ids if len(keys) <= MAX_IDS_LOGGED else f"{ids}, …"
