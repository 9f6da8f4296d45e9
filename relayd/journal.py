"""
The record of commands accepted and of results that the main server has not confirmed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from relayd.interfaces import IJournal, JournalEntry
from relayd.messages import CommandResult, ExecuteCommand


@implementer(IJournal)
class MemoryJournal:
    """
    A journal that lives as long as the process: it keeps every promise but those about crashes.

    Of a command whose result was confirmed it keeps the id and the fingerprint, so that a late duplicate is known and
    not run again.

    :param max_tombstones: how many of those it keeps; the oldest leave first.
    """

    def __init__(self, max_tombstones: int = 100_000) -> None:
        self._max_tombstones = max_tombstones
        self._unfinished: dict[str, bytes] = {}
        self._finished: dict[str, tuple[bytes, CommandResult]] = {}  # in the order in which they finished
        self._confirmed: OrderedDict[str, bytes] = OrderedDict()

    def accept(self, command: ExecuteCommand, fingerprint: bytes) -> Deferred[None]:
        """See `IJournal.accept`."""
        self._unfinished[command.command_id] = fingerprint
        return succeed(None)

    def start(self, command_id: str) -> Deferred[None]:
        """See `IJournal.start`.  Nothing to record: only a crash asks whether a command was started."""
        return succeed(None)

    def finish(self, result: CommandResult) -> Deferred[None]:
        """See `IJournal.finish`."""
        self._finished[result.command_id] = (self._unfinished.pop(result.command_id), result)
        return succeed(None)

    def confirm(self, command_id: str) -> None:
        """See `IJournal.confirm`.  What is not finished, or was confirmed before, is left as it is."""
        if (held := self._finished.pop(command_id, None)) is None:
            return
        self._confirmed[command_id] = held[0]
        if len(self._confirmed) > self._max_tombstones:
            self._confirmed.popitem(last=False)

    def lookup(self, command_id: str) -> JournalEntry | None:
        """See `IJournal.lookup`."""
        if (fingerprint := self._unfinished.get(command_id)) is not None:
            return JournalEntry(fingerprint=fingerprint, finished=False, result=None)
        if (held := self._finished.get(command_id)) is not None:
            return JournalEntry(fingerprint=held[0], finished=True, result=held[1])
        if (fingerprint := self._confirmed.get(command_id)) is not None:
            return JournalEntry(fingerprint=fingerprint, finished=True, result=None)
        return None

    def unconfirmed(self) -> Sequence[CommandResult]:
        """See `IJournal.unconfirmed`."""
        return [result for _, result in self._finished.values()]

    def close(self) -> Deferred[None]:
        """See `IJournal.close`.  Nothing is pending."""
        return succeed(None)
