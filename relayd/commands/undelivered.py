"""
The results that are still to be delivered: those in the journal, and those in memory that the journal does not hold.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Final

from msgspec import Struct
from twisted.logger import Logger

from relayd.commands.dead_letters import DeadLetters
from relayd.commands.held_results import HeldResults
from relayd.commands.origins import Origins
from relayd.errors import RelayError
from relayd.interfaces import EntryState, IJournal, ILink
from relayd.wire.messages import CommandResult

_log = Logger("relayd.commands")

#: Results held that no journal holds, and bytes of memory for them. Most are refusals, which are small.
MAX_UNRECORDED: Final = 1000
MAX_UNRECORDED_BYTES: Final = 64 << 20


class ResultKey(Struct, frozen=True, gc=False):
    """
    Names one result.  A command can have two: it was refused, and the same command came again, and ran.

    :ivar recorded: whether the journal holds the result; otherwise it is in memory.
    :ivar once: whether it stands for an acknowledgement: sent once, on one link, beside the result that is due for the
        command, and held nowhere.
    """

    command_id: str
    recorded: bool
    once: bool = False


class UndeliveredResults:
    """
    Finds, keeps and lets go of results that the main server has not confirmed, wherever they are held.

    :param origins: says to which main server each goes; by default to whichever is connected.
    """

    def __init__(self, journal: IJournal, origins: Origins | None = None) -> None:
        self._journal = journal
        self._origins = origins or Origins(journal)
        #: The main servers to which results in memory go, where it is not the first one.
        self._destinations: dict[str, str] = {}
        self._unrecorded = HeldResults(MAX_UNRECORDED, MAX_UNRECORDED_BYTES)
        #: Those of them that the main server rejected: nobody waits for these.
        self._unwanted: set[str] = set()
        self._dead_letters = DeadLetters(journal)

    @property
    def count(self) -> int:
        """How many results somebody waits for."""
        return len(self._unrecorded) - len(self._unwanted) + self._journal.outstanding

    def hold_unrecorded(self, result: CommandResult, server: str = "") -> list[str]:
        """
        Hold *result* in memory.

        :param server: the main server to which it goes; empty: the first one.
        :return: the commands whose results had to make room.
        """
        self._unwanted.discard(result.command_id)
        removed = self._unrecorded.hold(result)
        self._unwanted.difference_update(removed)
        for command_id in removed:
            self._destinations.pop(command_id, None)
        if server:
            self._destinations[result.command_id] = server
        else:
            self._destinations.pop(result.command_id, None)
        return removed

    def destination_of(self, key: ResultKey) -> str:
        """The main server to which the result goes; empty: the first one, or whichever is connected."""
        if not key.recorded:
            return self._destinations.get(key.command_id, "")
        entry = self._journal.lookup(key.command_id)
        return self._origins.name_of(0 if entry is None else entry.origin)

    def goes_over(self, link: ILink, key: ResultKey) -> bool:
        """Whether the result is for the main server at the other end of *link*."""
        return key.once or self._origins.takes(link, self.destination_of(key))

    def count_for(self, server: str) -> int:
        """How many results wait to be delivered to the main server *server*."""
        due = [each for each in self._unrecorded if each not in self._unwanted]
        held = sum(self._origins.is_for(self._destinations.get(each, ""), server) for each in due)
        return held + self._origins.outstanding(server)

    def unrecorded(self, command_id: str) -> CommandResult | None:
        """The result of a command that is held in memory, if there is one."""
        return self._unrecorded.find(command_id)

    def drop_unrecorded(self, command_id: str) -> None:
        """Hold no result of the command in memory any more."""
        self._unrecorded.remove(command_id)
        self._unwanted.discard(command_id)
        self._destinations.pop(command_id, None)

    async def load(self, key: ResultKey) -> CommandResult | None:
        """The result, or ``None`` where it is gone or cannot be read now."""
        if not key.recorded:
            return self._unrecorded.find(key.command_id)
        try:
            return await self._journal.load(key.command_id)
        except RelayError as error:
            # It is still there for the next link.
            _log.error("The result of {id} cannot be read: {error}", id=key.command_id, error=str(error))
            return None

    def due(self, pending: Container[str]) -> list[ResultKey]:
        """
        The results to send on a new link, oldest first.

        :param pending: commands whose results must not be sent yet, though the journal may have them.
        """
        keys = [ResultKey(command_id, False) for command_id in self._unrecorded]
        keys += [ResultKey(command_id, True) for command_id in self._journal.unconfirmed() if command_id not in pending]
        return keys

    def offered(self) -> list[ResultKey]:
        """The dead letters: another main server may be behind the new link, and is offered each of them once."""
        return [ResultKey(command_id, True) for command_id in self._dead_letters.offered(self._unrecorded)]

    def find(self, command_id: str) -> ResultKey | None:
        """The result of a command that is held, if there is one; the one in memory where there are two."""
        for recorded in (False, True):
            if self.is_held(key := ResultKey(command_id, recorded)):
                return key
        return None

    def is_held(self, key: ResultKey) -> bool:
        """Whether the result is still there."""
        if key.once:
            return False
        if key.recorded:
            return self._state_of(key.command_id) in (EntryState.FINISHED, EntryState.DEAD)
        return key.command_id in self._unrecorded

    def is_due(self, key: ResultKey) -> bool:
        """Whether somebody waits for its delivery."""
        if key.once:
            return False
        if key.recorded:
            return self._state_of(key.command_id) is EntryState.FINISHED
        return key.command_id in self._unrecorded and key.command_id not in self._unwanted

    def confirm(self, key: ResultKey) -> None:
        """The main server has the result."""
        if key.once:
            return
        if key.recorded:
            self._journal.confirm(key.command_id)
            return
        self.drop_unrecorded(key.command_id)
        self._dead_letters.was_replaced(key.command_id)
        if self._state_of(key.command_id) not in (EntryState.FINISHED, EntryState.DEAD):
            # It could not be recorded when the command ended, but may be recorded later.
            self._journal.confirm(key.command_id)

    def bury(self, key: ResultKey) -> None:
        """Nobody waits for its delivery any more; it is kept."""
        if key.recorded:
            self._journal.bury(key.command_id)
        else:
            self._unwanted.add(key.command_id)

    def withdraw(self, key: ResultKey) -> bool:
        """
        Something else is sent in its place: the journal keeps the result, memory does not.

        :return: ``False`` where the main server has it after all.
        """
        if not key.recorded:
            self.drop_unrecorded(key.command_id)
            self._dead_letters.was_replaced(key.command_id)
            return True
        state = self._state_of(key.command_id)
        if state is EntryState.FINISHED:
            self._journal.bury(key.command_id)
        return state is not EntryState.CONFIRMED

    def _state_of(self, command_id: str) -> EntryState | None:
        entry = self._journal.lookup(command_id)
        return None if entry is None else entry.state
