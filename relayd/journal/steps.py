"""
The steps of commands that are to be written together: each is checked against what is known, and becomes a record.
"""

from __future__ import annotations

from threading import Lock
from typing import Final

from relayd.errors import JournalUnavailable
from relayd.interfaces import EntryState, JournalEntry
from relayd.journal.archive import Archive, form_of
from relayd.journal.bodies import decode_result, encode_result
from relayd.journal.known_ids import KnownIds
from relayd.journal.log import Log
from relayd.journal.records import (
    ACCEPTED,
    CONFIRMED,
    DEAD,
    FINISHED,
    STARTED,
    Accepted,
    AnyRecord,
    Buried,
    Confirmed,
    Finished,
    Noted,
    Started,
    body_in,
)
from relayd.language.texts import Text
from relayd.wire.messages import CommandResult

# The states that a command may be in before a step.
_ACCEPTED: Final = (ACCEPTED,)
_UNFINISHED: Final = (STARTED, ACCEPTED)
_FINISHED: Final = (FINISHED,)
_HELD: Final = (FINISHED, DEAD)


class NeedsDisk(Exception):
    """What is asked for is only known after a look at the disk."""


class Steps:
    """
    What can be asked for together.  Each method adds one record or none, as its last act, or raises.

    :param known: the ids of the archive.
    :ivar logs: those that are to be moved to the archive, in order, and then the one that is written.
    :ivar changing: held while they change, and while a result is read from one.
    """

    def __init__(self, archive: Archive, known: KnownIds) -> None:
        self._archive = archive
        self._known = known
        self.logs: list[Log] = []
        self.changing = Lock()
        self._records: list[AnyRecord] = []
        #: The states after these.
        self._coming: dict[str, EntryState] = {}
        self._without_disk = False

    def begin(self, without_disk: bool) -> list[AnyRecord]:
        """
        Begin anew; gives the list to which records are added from now on.

        :param without_disk: whether to raise `NeedsDisk` rather than to look at the disk.
        """
        self._records, self._coming, self._without_disk = [], {}, without_disk
        return self._records

    def accept(
        self, command_id: str, fingerprint: bytes, extended: bool, numeric_id: bool = False, origin: int = 0
    ) -> JournalEntry | None:
        """Record a command; gives what is known of its id, and records nothing, if that is there already."""
        if not self._is_new(command_id):
            self._need_disk()
            if (known := self._find(command_id)) is not None:
                return known
        self._coming[command_id] = ACCEPTED
        self._records.append(Accepted(command_id, fingerprint, form_of(extended, numeric_id, origin)))
        return None

    def start(self, command_id: str) -> None:
        """Record that a command may run from now on."""
        self._step(Started(command_id), STARTED, _ACCEPTED)

    def finish(self, result: CommandResult) -> int:
        """Record the result of a command; gives the bytes that it takes."""
        body = encode_result(result)
        self._step(Finished(result.command_id, body), FINISHED, _UNFINISHED)
        return len(body)

    def end(self, command_id: str) -> None:
        """Record that a command has ended and its result was confirmed, though the result was never recorded."""
        self._step(Confirmed(command_id), CONFIRMED, _UNFINISHED)

    def confirm(self, command_id: str) -> None:
        """Remove the result of a command, which was confirmed."""
        self._step(Confirmed(command_id), CONFIRMED, _HELD)

    def bury(self, command_id: str) -> None:
        """Record that the result of a command is kept, and not sent any more."""
        self._step(Buried(command_id), DEAD, _FINISHED)

    def note(self, name: str, value: str) -> None:
        """Keep a fact."""
        self._records.append(Noted(name, value))

    def load(self, command_id: str) -> CommandResult | None:
        """The result of a command; ``None``: none is held."""
        self._need_disk()
        state = self._coming.get(command_id)
        if state is CONFIRMED:
            return None
        body = None if state is None else body_in(self._records, command_id)
        with self.changing:
            for log in reversed(self.logs):
                if body is not None:
                    break
                if (change := log.changes.commands.get(command_id)) is None:
                    continue
                if change.state is CONFIRMED:
                    return None
                if (place := log.changes.results.get(command_id)) is not None:
                    body = body_in(log.read(place), command_id)
        return self._archive.load(command_id) if body is None else decode_result(body)

    def _step(self, record: AnyRecord, state: EntryState, before: tuple[EntryState, ...]) -> None:
        """
        Bring a command into another state.

        :param before: the states that it may be in.
        """
        command_id = record.id
        known = self._coming.get(command_id)
        if known is None:
            change = self.logs[-1].changes.commands.get(command_id)
            known = self._state_of(command_id) if change is None else change.state
        if known not in before:
            raise JournalUnavailable(reason=Text("it does not have the command {id} as it should", id=command_id))
        self._coming[command_id] = state
        self._records.append(record)

    def _need_disk(self) -> None:
        if self._without_disk:
            raise NeedsDisk

    def _state_of(self, command_id: str) -> EntryState | None:
        """How far a command has come, with what is about to be written."""
        if (state := self._coming.get(command_id)) is not None:
            return state
        # In this order: a log is only taken away when the archive has what is in it.
        for log in reversed(self.logs):
            if (change := log.changes.commands.get(command_id)) is not None:
                return change.state
        self._need_disk()
        entry = self._archive.find(command_id)
        return None if entry is None else entry.state

    def _is_new(self, command_id: str) -> bool:
        """Whether nothing is known of a command, as far as that can be said without a look at the disk."""
        if command_id in self._coming:
            return False
        for log in self.logs:
            if command_id in log.changes.commands:
                return False
        return not self._known.may_have(command_id)

    def _find(self, command_id: str) -> JournalEntry | None:
        """What is known of a command, with what is about to be written."""
        state = self._state_of(command_id)
        if state is None:
            return None
        for record in self._records:
            if isinstance(record, Accepted) and record.id == command_id:
                return JournalEntry(fingerprint=record.fingerprint, state=state)
        for log in reversed(self.logs):
            change = log.changes.commands.get(command_id)
            if change is not None and change.fingerprint is not None:
                return JournalEntry(fingerprint=change.fingerprint, state=state)
        entry = self._archive.find(command_id)
        return JournalEntry(fingerprint=b"" if entry is None else entry.fingerprint, state=state)
