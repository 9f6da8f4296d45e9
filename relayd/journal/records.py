"""
What is written to a log of the journal: one record for each step of a command, and what many of them come to.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from relayd.interfaces import EntryState

# Names of their own: to look a state up in its class takes four times as long, and each command needs a dozen. For the
# same reason types are compared here: that is quicker than `isinstance`, and records have no subclasses.
ACCEPTED: Final = EntryState.ACCEPTED
STARTED: Final = EntryState.STARTED
FINISHED: Final = EntryState.FINISHED
CONFIRMED: Final = EntryState.CONFIRMED
DEAD: Final = EntryState.DEAD


class Record(Struct, array_like=True, frozen=True):
    """
    A step of a command.

    :ivar id: the id of the command.
    """

    id: str


class Accepted(Record, tag=1, frozen=True):
    """
    It was accepted.

    :ivar form: the bits of the column ``extended`` of the archive.
    """

    fingerprint: bytes
    form: int


class Started(Record, tag=2, frozen=True):
    """It may run from now on."""


class Finished(Record, tag=3, frozen=True):
    """
    It has a result.

    :ivar body: the result, as the archive holds it.
    """

    body: bytes


class Confirmed(Record, tag=4, frozen=True):
    """Its result was confirmed, and is not held any more; or it has none that could be held."""


class Buried(Record, tag=5, frozen=True):
    """Its result is held, and not sent any more."""


class Noted(Record, tag=6, frozen=True):
    """
    A fact that has nothing to do with one command.

    :ivar id: the name of the fact.
    """

    value: str


AnyRecord = Accepted | Started | Finished | Confirmed | Buried | Noted


class Batch(Struct, array_like=True, frozen=True):
    """
    What was written together.

    :ivar at: when, in seconds since the epoch.
    :ivar now: when, in the journal's own time.
    """

    at: float
    now: float
    records: list[AnyRecord]


class Change(Struct):
    """
    What became of one command in a log.

    :ivar fingerprint: ``None``: the command was accepted before the log began.
    :ivar since: when it came into its state, in the journal's own time; the other times are in seconds since the epoch.
    """

    fingerprint: bytes | None
    form: int
    state: EntryState
    since: float
    accepted: float | None = None
    started: float | None = None
    finished: float | None = None
    confirmed: float | None = None


class Changes:
    """
    What the records of a log come to.

    :ivar commands: what became of each command.
    :ivar results: where each result is that is held, in the order in which the commands ended: the place of its batch.
    :ivar notes: the facts.
    :ivar now: the journal's own time of the last of them.
    """

    def __init__(self) -> None:
        self.commands: dict[str, Change] = {}
        self.results: dict[str, int] = {}
        self.notes: dict[str, str] = {}
        self.now = 0.0

    def __bool__(self) -> bool:
        return bool(self.commands or self.notes)

    def add(self, batch: Batch, place: int) -> None:
        """Add what was written together at *place*."""
        self.now = now = batch.now
        at = batch.at
        commands = self.commands
        for record in batch.records:
            if type(record) is Accepted:
                commands[record.id] = Change(record.fingerprint, record.form, ACCEPTED, now, at)
                continue
            if type(record) is Noted:
                self.notes[record.id] = record.value
                continue
            change = commands.get(record.id)
            if change is None:
                change = commands[record.id] = Change(None, 0, STARTED, now)
            change.since = now
            if type(record) is Started:
                change.state = STARTED
                change.started = at
            elif type(record) is Finished:
                change.state = FINISHED
                change.finished = at
                self.results[record.id] = place
            elif type(record) is Confirmed:
                change.state = CONFIRMED
                change.confirmed = at
                self.results.pop(record.id, None)
            else:
                change.state = DEAD
                change.confirmed = at


def body_in(records: Iterable[AnyRecord], command_id: str) -> bytes | None:
    """The result of a command among *records*."""
    for record in records:
        if isinstance(record, Finished) and record.id == command_id:
            return record.body
    return None
