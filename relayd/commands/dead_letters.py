"""
Dead letters: results that the main server refused, or dropped connections for, and which a new link is offered.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Final

from relayd.interfaces import EntryState, IJournal

#: The name under which the journal notes those in whose place a shorter result was delivered: a command in each line.
_REPLACED: Final = "replaced"


class DeadLetters:
    """What the journal holds of them."""

    def __init__(self, journal: IJournal) -> None:
        self._journal = journal

    def offered(self, replaced: Container[str]) -> list[str]:
        """
        Those that a new link is offered.

        :param replaced: those in whose place something else is under way. Where it was delivered, the journal knows.
        """
        noted = self._noted()
        return [each for each in self._journal.dead_letters() if each not in noted and each not in replaced]

    def was_replaced(self, command_id: str) -> None:
        """Something else was delivered in its place, if it is one: to offer it would break links once more."""
        entry = self._journal.lookup(command_id)
        if entry is not None and entry.state is EntryState.DEAD:
            still = self._noted() & set(self._journal.dead_letters())
            self._journal.note(_REPLACED, "\n".join(sorted(still | {command_id})))

    def _noted(self) -> set[str]:
        return set((self._journal.noted(_REPLACED) or "").split("\n"))
