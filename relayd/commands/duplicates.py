"""
Commands that come again: a duplicate joins the command that is under way, or has its result sent again, or is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from twisted.logger import Logger

from relayd.commands.active import ActiveCommand
from relayd.commands.failures import failed_result
from relayd.commands.outbox import Outbox
from relayd.commands.reports import CommandReports
from relayd.commands.stats import Stats
from relayd.errors import AlreadyConfirmed, DuplicateMismatch, OutcomeLost, Overloaded, RelayError
from relayd.interfaces import Acknowledge, EntryState, IJournal, JournalEntry, no_acknowledgement
from relayd.language.texts import Translate
from relayd.wire.messages import CommandResult, ExecuteCommand

_log = Logger("relayd.commands")

#: Duplicates of a command that wait together for the journal to take it.
MAX_WAITING: Final = 100


class Duplicates:
    """
    Answers commands whose id is known.

    :param active: the commands that are under way, by id.
    :param refuse: answers a command with an error, and sends that as its result.
    :param overloaded: the error for duplicates that are too many.
    :param translate: to the language of what results say.
    """

    def __init__(
        self,
        active: Mapping[str, ActiveCommand],
        journal: IJournal,
        outbox: Outbox,
        stats: Stats,
        reports: CommandReports,
        refuse: Callable[[ExecuteCommand, RelayError, Acknowledge], None],
        overloaded: Callable[[], Overloaded],
        translate: Translate,
    ) -> None:
        self._active = active
        self._journal = journal
        self._outbox = outbox
        self._stats = stats
        self._reports = reports
        self._refuse = refuse
        self._overloaded = overloaded
        self._translate = translate

    def is_due(self, command_id: str) -> bool:
        """Whether a result is still due for this id, so that another one would be taken for it."""
        if command_id in self._active:
            return True
        known = self._journal.lookup(command_id)
        return known is not None and known.state is not EntryState.CONFIRMED

    def join(
        self, active: ActiveCommand, command: ExecuteCommand, fingerprint: bytes, acknowledge: Acknowledge
    ) -> None:
        """*command* has the id of one that is under way: one result answers both."""
        if fingerprint != active.fingerprint:
            self._refuse_mismatch(command, acknowledge)
            return
        self._stats.joined += 1
        _log.info("Command {id} came again; it is under way, and one result answers both", id=command.command_id)
        if active.accepted:
            acknowledge(None)
        elif len(active.acknowledges) < MAX_WAITING:
            active.acknowledges.append(acknowledge)
        else:
            acknowledge(self._overloaded())

    def answer(
        self, known: JournalEntry, command: ExecuteCommand, fingerprint: bytes, acknowledge: Acknowledge
    ) -> None:
        """*command* has the id of one that has ended, or that an earlier process did not finish."""
        unrecorded = self._outbox.unrecorded(command.command_id)
        recent = self._outbox.recent(command.command_id)
        if fingerprint != known.fingerprint:
            self._refuse_mismatch(command, acknowledge)
        elif known.holds_result:
            self._accept_again(command, acknowledge)
            self._outbox.send_again(command.command_id)
        elif known.state is EntryState.CONFIRMED and recent is not None:  # no failure in the place of what it got
            self._accept_again(command, acknowledge)
            self._outbox.send_unrecorded(recent, command.origin)
        elif known.state is EntryState.CONFIRMED:
            self._refuse(command, AlreadyConfirmed(), acknowledge)
        elif unrecorded is not None:  # it ended, and the journal could not record that
            self._accept_again(command, acknowledge)
            self._outbox.send_unrecorded(unrecorded, command.origin)
        else:
            self._refuse(command, OutcomeLost(), acknowledge)

    def _accept_again(self, command: ExecuteCommand, acknowledge: Acknowledge) -> None:
        self._stats.resent += 1
        _log.info("Command {id} came again; its result is sent again", id=command.command_id)
        acknowledge(None)

    def _refuse_mismatch(self, command: ExecuteCommand, acknowledge: Acknowledge) -> None:
        """
        Another command under an id that is taken. While a result is due for that id, its failure is not one more, but
        an acknowledgement, or what stands for it where the main server asked for none.
        """
        error = DuplicateMismatch()
        if self.is_due(command.command_id):
            self._reports.report_refused(command, error)
            self.acknowledge_or_tell(failed_result(command, error, self._translate), error, acknowledge)
        else:
            self._refuse(command, error, acknowledge)

    def acknowledge_or_tell(self, failure: CommandResult, error: RelayError, acknowledge: Acknowledge) -> None:
        """
        Refuse a command with *error*, while the result of another command is due for its id.

        :param failure: is sent at once, and only once, where the main server asked for no acknowledgement: it would
            wait for ever, or take the result of the other command for that of this one.
        """
        if acknowledge is no_acknowledgement:
            self._outbox.send_once(failure)
        else:
            acknowledge(error)
