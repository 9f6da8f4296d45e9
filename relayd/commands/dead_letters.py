"""
Dead letters: results that the main server rejected, or dropped connections for. Each new link is offered them once.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Final

from relayd.interfaces import EntryState, IJournal

#: The name under which the journal notes the commands of dead letters in whose place a shorter result was delivered,
#: one a line.
_REPLACED: Final = "replaced"


class DeadLetters:
    """The dead letters in the journal."""

    def __init__(self, journal: IJournal) -> None:
        self._journal = journal

    def offered(self, replaced: Container[str]) -> list[str]:
        """
        The commands whose dead letters a new link is offered.

        :param replaced: the commands for which another result waits instead. Where that was delivered, the journal
            knows.
        """
        noted = self._noted()
        return [each for each in self._journal.dead_letters() if each not in noted and each not in replaced]

    def was_replaced(self, command_id: str) -> None:
        """
        Another result was delivered for this command: its dead letter, if it has one, is not offered any more.

        To offer it would break links once more.
        """
        entry = self._journal.lookup(command_id)
        if entry is not None and entry.state is EntryState.DEAD:
            still = self._noted() & set(self._journal.dead_letters())
            self._journal.note(_REPLACED, "\n".join(sorted(still | {command_id})))

    def _noted(self) -> set[str]:
        return set((self._journal.noted(_REPLACED) or "").split("\n"))
