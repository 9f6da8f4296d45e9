"""
What a journal knows without a look at the disk, and how much it takes: decisions alone.
"""

from __future__ import annotations

from collections import OrderedDict

from msgspec import Struct

from relayd.errors import JournalFull
from relayd.interfaces import EntryState, JournalEntry
from relayd.journal.records import ACCEPTED, CONFIRMED, DEAD, FINISHED


class LiveCommand(Struct):
    """
    A command whose result is not confirmed, as it is kept in memory.

    :ivar size: bytes that its result takes on the disk; 0: it has none.
    :ivar since: when it came into its state, in the journal's own time.
    :ivar origin: the number of the main server that ordered it; 0: it is not known.
    """

    fingerprint: bytes
    state: EntryState
    size: int
    since: float
    origin: int = 0


class JournalLimits(Struct, frozen=True, kw_only=True):
    """
    How much a journal holds.

    :ivar max_commands: commands that are not confirmed; more are refused.
    :ivar max_bytes: bytes of their results; with more, no command is accepted or started.
    :ivar max_ids: ids of confirmed commands; if there are more, the oldest are removed early.
    :ivar retention: seconds for which ids of confirmed commands are kept, and results that nobody confirms.
    """

    max_commands: int = 100_000
    max_bytes: int = 1 << 30
    max_ids: int = 1_000_000
    retention: float = 7 * 86400.0


class Figures(Struct, frozen=True, kw_only=True):
    """
    A journal in numbers.

    :ivar unfinished: commands that have no result yet.
    :ivar unconfirmed: results that are to be sent and confirmed.
    :ivar dead: results that are not sent any more.
    :ivar size: bytes of all results.
    :ivar max_size: bytes of results with which no further command is taken.
    :ivar oldest: seconds for which the oldest of the unconfirmed results has waited; 0 where there is none.
    :ivar trouble: why nothing new can be recorded; ``None``: it can be.
    """

    unfinished: int
    unconfirmed: int
    dead: int
    size: int
    max_size: int
    oldest: float
    trouble: str | None


class JournalIndex:
    """
    What a journal knows of commands without a look at the disk.

    :param max_recent: how many confirmed commands are remembered, the latest ones.
    :ivar unfinished: the commands without a result, in the order in which they were accepted.
    :ivar finished: the commands whose results are held, in the order in which they ended.
    :ivar size: bytes of all results.
    :ivar dead: how many results are not sent any more.
    """

    def __init__(self, limits: JournalLimits, max_recent: int) -> None:
        self.limits = limits
        self._recent: OrderedDict[str, bytes] = OrderedDict()
        self._max_recent = max_recent
        self.unfinished: dict[str, LiveCommand] = {}
        self.finished: dict[str, LiveCommand] = {}
        self.size = 0
        self.dead = 0
        #: How many results are to be sent, by the origin of their commands, where that is known.
        self._outstanding_from: dict[int, int] = {}

    @property
    def outstanding(self) -> int:
        """How many results are to be sent and confirmed."""
        return len(self.finished) - self.dead

    def add_finished(self, command_id: str, live: LiveCommand) -> None:
        """Add a command that has ended and whose result is held."""
        self.finished[command_id] = live
        self.size += live.size
        if live.state is DEAD:
            self.dead += 1
        elif live.origin:
            self._count(live.origin, 1)

    def outstanding_from(self, origin: int) -> int:
        """See `relayd.interfaces.IJournal.outstanding_from`."""
        return self._outstanding_from.get(origin, 0)

    def _count(self, origin: int, change: int) -> None:
        self._outstanding_from[origin] = self._outstanding_from.get(origin, 0) + change

    def refusal(self) -> JournalFull | None:
        """Why no new command can be taken."""
        if len(self.unfinished) + len(self.finished) >= self.limits.max_commands or self.size >= self.limits.max_bytes:
            return JournalFull(results=len(self.finished), megabytes=self.size / 1e6)
        return None

    def figures(self, now: float, trouble: str | None = None) -> Figures:
        """The journal in numbers; *trouble*: what is wrong with the disk."""
        since = next((live.since for live in self.finished.values() if live.state is FINISHED), now)
        full = self.refusal()
        return Figures(
            unfinished=len(self.unfinished),
            unconfirmed=self.outstanding,
            dead=self.dead,
            size=self.size,
            max_size=self.limits.max_bytes,
            oldest=max(0.0, now - since),
            trouble=trouble or (None if full is None else str(full)),
        )

    def lookup(self, command_id: str) -> JournalEntry | None:
        """See `relayd.interfaces.IJournal.lookup`."""
        live = self.unfinished.get(command_id) or self.finished.get(command_id)
        if live is not None:
            return JournalEntry(fingerprint=live.fingerprint, state=live.state, origin=live.origin)
        recent = self._recent.get(command_id)
        return None if recent is None else JournalEntry(fingerprint=recent, state=CONFIRMED)

    def unconfirmed(self) -> list[str]:
        """See `relayd.interfaces.IJournal.unconfirmed`."""
        return [command_id for command_id, live in self.finished.items() if live.state is FINISHED]

    def dead_letters(self) -> list[str]:
        """See `relayd.interfaces.IJournal.dead_letters`."""
        if not self.dead:
            return []
        return [command_id for command_id, live in self.finished.items() if live.state is DEAD]

    def add_accepted(self, command_id: str, fingerprint: bytes, now: float, origin: int = 0) -> None:
        """Add a new command."""
        self.unfinished[command_id] = LiveCommand(fingerprint, ACCEPTED, 0, now, origin)

    def finish(self, command_id: str, size: int, now: float) -> None:
        """A command has ended, with a result of *size* bytes."""
        live = self.unfinished.pop(command_id)
        live.state, live.size, live.since = FINISHED, size, now
        self.add_finished(command_id, live)

    def bury(self, command_id: str) -> None:
        """The result of a command is not sent any more."""
        live = self.finished[command_id]
        live.state = DEAD
        self.dead += 1
        if live.origin:
            self._count(live.origin, -1)

    def settle(self, command_id: str) -> bool:
        """The result of a command is needed no more; tells whether there was one."""
        live = self.finished.pop(command_id, None)
        if live is None:
            return False
        self.size -= live.size
        if live.state is DEAD:
            self.dead -= 1
        elif live.origin:
            self._count(live.origin, -1)
        self.remember(command_id, live.fingerprint)
        return True

    def remember(self, command_id: str, fingerprint: bytes) -> None:
        """Remember a command whose result was confirmed."""
        self._recent[command_id] = fingerprint
        if len(self._recent) > self._max_recent:
            self._recent.popitem(last=False)

    def expired(self, now: float) -> list[str]:
        """The commands whose results were not confirmed within the retention."""
        before = now - self.limits.retention
        return [command_id for command_id, live in self.finished.items() if live.since < before]
