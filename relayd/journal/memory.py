"""
The record of commands and results where it need not outlive the process (``--journal memory``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from relayd.errors import JournalUnavailable
from relayd.interfaces import EntryState, IJournal, JournalEntry
from relayd.journal.index import Figures, JournalIndex, JournalLimits
from relayd.wire.messages import CommandResult, ExecuteCommand


@implementer(IJournal)
class MemoryJournal:
    """
    A journal that lives as long as the process: it keeps every promise except those about crashes.

    When a result was confirmed, the id and the fingerprint of its command are kept, so that a late duplicate is known
    and not run again.

    :param now: gives the seconds of a clock that never goes backwards.
    """

    def __init__(self, limits: JournalLimits | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        limits = limits or JournalLimits(max_bytes=128 << 20, max_ids=100_000)
        self._index = JournalIndex(limits, limits.max_ids)
        self._results: dict[str, CommandResult] = {}
        self._notes: dict[str, str] = {}

    @property
    def outstanding(self) -> int:
        """See `IJournal`."""
        return self._index.outstanding

    def figures(self) -> Figures:
        """The journal in numbers."""
        return self._index.figures(self._now())

    def open(self) -> Sequence[tuple[str, str]]:
        """See `IJournal.open`.  There is nothing from before."""
        return ()

    def accept(self, command: ExecuteCommand, fingerprint: bytes, origin: int = 0) -> Deferred[JournalEntry | None]:
        """See `IJournal.accept`."""
        if (known := self._index.lookup(command.command_id)) is not None:
            return succeed(known)
        if (refusal := self._index.refusal()) is not None:
            return fail(refusal)
        self._index.add_accepted(command.command_id, fingerprint, self._now(), origin)
        return succeed(None)

    def start(self, command_id: str) -> Deferred[None]:
        """See `IJournal.start`."""
        live = self._index.unfinished.get(command_id)
        if live is None:
            return fail(JournalUnavailable(reason=f"it does not have the command {command_id}"))
        live.state = EntryState.STARTED
        return succeed(None)

    def finish(self, result: CommandResult) -> Deferred[None]:
        """See `IJournal.finish`."""
        self._results[result.command_id] = result
        self._index.finish(result.command_id, result.length, self._now())
        return succeed(None)

    def confirm(self, command_id: str) -> None:
        """See `IJournal.confirm`.  What is not finished, or was confirmed before, is left as it is."""
        if self._index.settle(command_id):
            del self._results[command_id]

    def bury(self, command_id: str) -> None:
        """See `IJournal.bury`."""
        self._index.bury(command_id)

    def lookup(self, command_id: str) -> JournalEntry | None:
        """See `IJournal.lookup`."""
        return self._index.lookup(command_id)

    def load(self, command_id: str) -> Deferred[CommandResult | None]:
        """See `IJournal.load`."""
        return succeed(self._results.get(command_id))

    def unconfirmed(self) -> Sequence[str]:
        """See `IJournal.unconfirmed`."""
        return self._index.unconfirmed()

    def outstanding_from(self, origin: int) -> int:
        """See `IJournal.outstanding_from`."""
        return self._index.outstanding_from(origin)

    def dead_letters(self) -> Sequence[str]:
        """See `IJournal.dead_letters`."""
        return self._index.dead_letters()

    def note(self, name: str, value: str) -> None:
        """See `IJournal.note`."""
        self._notes[name] = value

    def noted(self, name: str) -> str | None:
        """See `IJournal.noted`."""
        return self._notes.get(name)

    def close(self) -> Deferred[None]:
        """See `IJournal.close`.  Nothing is pending."""
        return succeed(None)
