"""
The audit log of a running relay: which events it has, and with which fields.  `relayd.audit.writer` writes them.
"""

from __future__ import annotations

import time
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from zope.interface import implementer

from relayd.audit.chain import Chain
from relayd.audit.events import MAX_NAME, Record, Telling, clip, fit_record, length_in_line, name_fields, order_fields
from relayd.audit.keeping import Keeping
from relayd.audit.refusals import INTERVAL, RefusalLimiter
from relayd.audit.writer import RETRY, AuditWriter, key_in
from relayd.errors import RelayError
from relayd.interfaces import IAudit
from relayd.wire.messages import CommandResult, ExecuteCommand

#: Seconds during which events gather before they are written together, and which a crash of the process, or a power
#: cut, may lose. If it were less, the threads would spend more time on taking turns than on work.
GATHER: Final = 0.05


class AuditSettings(Struct, frozen=True, kw_only=True):
    """
    What the site chose.

    :ivar path: the log.
    :ivar state_dir: folder of the key of digests and of the seal, which are made where they are missing.
    :ivar commands: how a command is shown: by its keyed digest, by its text, or not at all.
    :ivar keeping: which files stay.
    :ivar server: the main server.
    :ivar proxy_id: the relay's name there.
    """

    path: str
    state_dir: str
    commands: Telling
    keeping: Keeping
    server: str
    proxy_id: str


@implementer(IAudit)
class AuditLog:
    """
    An audit log on the disk.

    :param reactor: provides time, and a way back from the log's thread.
    :param retry: seconds until what could not be written is tried again.
    """

    def __init__(self, reactor: Any, settings: AuditSettings, *, retry: float = RETRY) -> None:
        self._reactor = reactor
        self._settings = settings
        common = {"server": clip(settings.server, MAX_NAME), "proxyId": clip(settings.proxy_id, MAX_NAME)}
        self._common_size = sum(map(length_in_line, common.values()))
        chain = Chain(settings.path, settings.state_dir, settings.keeping, common)
        self._writer = AuditWriter(reactor, chain, self._fit, gather=GATHER, refused="new commands", retry=retry)
        self._key = b""
        self._refusals = RefusalLimiter()
        self._sum_call: IDelayedCall | None = None

    def start(self) -> None:
        """
        Open the log.

        :raises ConfigError: when it cannot be opened.
        """
        if self._settings.commands != "none":
            self._key = key_in(self._settings.state_dir)
        self._writer.start()

    def tell_commands(self, how: Telling) -> None:
        """
        Change how commands are shown from now on, see `AuditSettings`.

        :raises ConfigError: when the key of digests cannot be read or made; nothing is changed then.
        """
        if how != "none" and not self._key:
            self._key = key_in(self._settings.state_dir)
        self._settings = replace(self._settings, commands=how)

    # IAudit, in the reactor's thread

    @property
    def available(self) -> bool:
        """See `IAudit.available`."""
        return self._writer.available

    def record_accepted(self, command: ExecuteCommand) -> None:
        """See `IAudit.record_accepted`."""
        self._writer.put("accepted", order_fields(command), _size(command))

    def record_ended(self, command: ExecuteCommand, outcome: str, result: CommandResult, duration: float) -> None:
        """See `IAudit.record_ended`."""
        fields = name_fields(command)
        fields["outcome"] = outcome
        fields["exitCode"] = result.exit_code
        fields["duration"] = round(duration, 6)
        fields["stdoutBytes"] = result.details.stdout_bytes
        fields["stderrBytes"] = result.details.stderr_bytes
        if result.details.ran_as is not None:
            fields["ranAs"] = result.details.ran_as
        self._writer.put("ended", fields, len(command.host) + len(command.username), ends=True)

    def record_recovered(self, command_id: str, outcome: str, server: str = "") -> None:
        """See `IAudit.record_recovered`."""
        fields = {"commandId": command_id, "outcome": outcome}
        if server:  # in the place of the one that every line has
            fields["server"] = server
        self._writer.put("ended", fields, len(server), ends=True)

    def record_refused(self, command: ExecuteCommand, error: RelayError) -> None:
        """See `IAudit.record_refused`."""
        target = f"{command.username}@{command.host}:{command.port}"
        if self._refusals.admits(error.code, command.command_id, target, time.monotonic()):
            fields = order_fields(command)
            fields["outcome"] = error.code
            self._writer.put("refused", fields, _size(command))
        elif self._sum_call is None and not self._writer.closing:
            self._sum_call = self._reactor.callLater(INTERVAL, self._sum_up)

    def _sum_up(self) -> None:
        self._sum_call = None
        for fields in self._refusals.take_sums():
            self._writer.put("refusals", fields, 0, ends=True)

    def close(self) -> Deferred[None]:
        """See `IAudit.close`.  Fails when the disk does not answer for `relayd.audit.writer.CLOSE_TIMEOUT` seconds."""
        if self._sum_call is not None:
            self._sum_call.cancel()
            self._sum_up()
        return self._writer.close()

    def _fit(self, record: Record) -> Record:
        return fit_record(record, self._settings.commands, self._key, self._common_size)


def _size(command: ExecuteCommand) -> int:
    """About how many bytes of *command* wait in memory."""
    return len(command.command) + len(command.host) + len(command.username)
