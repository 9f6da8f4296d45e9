"""
Reports about commands: counters, lines of the audit log, and lines of the relay's own log.
"""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

from relayd.commands.active import ActiveCommand
from relayd.commands.stats import EndedCommand, Stats
from relayd.errors import RelayError
from relayd.interfaces import IAudit
from relayd.process.logs import QuickLogger, is_logged
from relayd.wire.messages import CommandResult, ExecuteCommand

_log = QuickLogger("relayd.commands")


class CommandReports:
    """
    Counts, audits and logs what becomes of commands, in one place each time.

    Formatting costs Twisted's log some microseconds a field, so that the lines of one command would cost more than all
    else that relayd does for it: their text comes as one field, beside the fields that programs read.

    :param audit: the audit log, if the site has one.
    """

    def __init__(self, clock: IReactorTime, stats: Stats, audit: IAudit | None) -> None:
        self._clock = clock
        self._stats = stats
        self._audit = audit

    @property
    def auditable(self) -> bool:
        """Whether new commands can be written to the audit log, where there is one."""
        return self._audit is None or self._audit.available

    def report_accepted(self, command: ExecuteCommand) -> None:
        """*command* was taken on."""
        self._stats.accepted += 1
        if self._audit is not None:
            self._audit.record_accepted(command)
        if not is_logged("info"):
            return
        _log.info(
            "Accepted command {text}",
            text=f"{command.command_id} for {_where(command)}",
            event="accepted", id=command.command_id, user=command.username, host=command.host, port=command.port,
        )  # fmt: skip

    def report_ended(self, active: ActiveCommand, result: CommandResult) -> None:
        """A command has its result."""
        command, details = active.command, result.details
        outcome = "nonzero" if result.exit_code else "ok"
        if details.error is not None:
            outcome = str(details.error["code"])
        now = self._clock.seconds()
        duration = now - active.received
        ended = EndedCommand(
            command.command_id, command.host, command.port, command.username,
            outcome, result.exit_code, duration, now,
        )  # fmt: skip
        queued = None if active.began is None else active.began - active.received
        self._stats.count_ended(ended, queued, details)
        if self._audit is not None:
            self._audit.record_ended(command, outcome, result, duration)
        if not is_logged("info"):
            return
        _log.info(
            "Finished command {text}",
            text=f"{command.command_id} for {_where(command)}: {outcome}, exit {result.exit_code}, {duration:.3f} s, "
            f"{details.stdout_bytes} bytes of stdout, {details.stderr_bytes} of stderr",
            event="finished", id=command.command_id, user=command.username, host=command.host, port=command.port,
            outcome=outcome, exit=result.exit_code, duration=duration,
            stdout_bytes=details.stdout_bytes, stderr_bytes=details.stderr_bytes,
        )  # fmt: skip

    def report_refused(self, command: ExecuteCommand, error: RelayError) -> None:
        """*command* was not taken on."""
        self._stats.refused[error.code] += 1
        if self._audit is not None:
            self._audit.record_refused(command, error)
        _log.info(
            "Refused command {id} for {where}: {code}", where=_where(command),
            event="refused", id=command.command_id, user=command.username, host=command.host, port=command.port,
            code=error.code,
        )  # fmt: skip


def _where(command: ExecuteCommand) -> str:
    return f"{command.username}@{command.written_host}:{command.port}"
