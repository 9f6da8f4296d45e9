"""
The audit log of a running relay: events come in from the reactor's thread, and another thread writes them.
The reactor's thread neither formats nor waits: it puts what happened into a bounded queue.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from errno import EACCES, EDQUOT, ENOENT, ENOSPC, EPERM, EROFS
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from zope.interface import implementer

from relayd import __version__
from relayd.audit.chain import Chain, Findings
from relayd.audit.events import MAX_NAME, Record, Telling, clip, fit_record, length_in_line, name_fields, order_fields
from relayd.audit.keeping import Keeping
from relayd.audit.key import key_file, read_key
from relayd.audit.refusals import INTERVAL, RefusalLimiter
from relayd.errors import ConfigError, RelayError
from relayd.interfaces import IAudit
from relayd.network.descriptors import words_of
from relayd.wire.messages import CommandResult, ExecuteCommand

_log = Logger("relayd.audit")

#: Seconds during which events gather before they are written together, and which a crash of the process, or a power
#: cut, may lose. If it were less, the threads would spend more time on taking turns than on work.
GATHER: Final = 0.05
#: Seconds until what could not be written is tried again.
RETRY: Final = 1.0
#: Seconds between two lines in the relay's log that say that it cannot be written.
TELL_AGAIN: Final = 600.0
#: Seconds that closing waits for the disk.
CLOSE_TIMEOUT: Final = 10.0
#: Bytes of memory for events that are not written yet. Half of it is only for the ends of commands that were accepted.
MAX_PENDING: Final = 32 << 20
#: Bytes of events that are written at once.
MAX_BATCH: Final = 1 << 20
#: Bytes of memory that an event takes beside the text of its command.
_EVENT_SIZE: Final = 1024


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
        self._retry = retry
        common = {"server": clip(settings.server, MAX_NAME), "proxyId": clip(settings.proxy_id, MAX_NAME)}
        self._common_size = sum(map(length_in_line, common.values()))
        self._chain = Chain(settings.path, settings.state_dir, settings.keeping, common)
        self._key = b""
        self._refusals = RefusalLimiter()
        self._sum_call: IDelayedCall | None = None
        self._thread: threading.Thread | None = None
        self._closed: Deferred[None] = Deferred()
        # Both threads use these.
        self._lock = threading.Lock()
        self._work = threading.Event()
        self._closing = threading.Event()
        self._pending: deque[tuple[int, Record]] = deque()
        self._pending_size = 0
        self._lost = 0
        self._failing = False
        # Only the writing thread uses these: when it told of a failure, and whether it has to tell the end of that.
        self._told: float | None = None
        self._owes_all_clear = False

    def start(self) -> None:
        """
        Open the log.

        :raises ConfigError: when it cannot be opened.
        """
        if self._settings.commands != "none":
            self._read_key()
        try:
            findings = self._chain.open(__version__)
        except (OSError, ValueError) as error:
            raise _unusable(self._settings.path, error) from None
        self._tell_findings(findings)
        self._work.set()
        self._thread = threading.Thread(target=self._write_until_closed, name="audit", daemon=True)
        self._thread.start()

    def _tell_findings(self, findings: Findings) -> None:
        path = self._settings.path
        if findings.foreign:
            _log.critical(
                "The audit log {path} has {count} lines after its line {last} that relayd did not write. They stay, "
                "and the next line says so: find out who can write there, and run relayctl audit verify",
                path=path,
                count=findings.foreign,
                last=findings.last,
            )
        if findings.missing:
            _log.critical(
                "The audit log {path} ends at line {last}: somebody removed {count} lines that relayd wrote after that",
                path=path,
                count=findings.missing,
                last=findings.last,
            )
        if findings.unsealed:
            _log.warn(
                "The seal of the audit log {path} is new: it cannot show who wrote the lines up to {last}",
                path=path,
                last=findings.unsealed,
            )

    def _read_key(self) -> None:
        path = key_file(self._settings.state_dir)
        try:
            self._key = read_key(path, make=True)
        except (OSError, ValueError) as error:
            raise _unusable(path, error) from None

    def tell_commands(self, how: Telling) -> None:
        """
        Change how commands are shown from now on, see `AuditSettings`.

        :raises ConfigError: when the key of digests cannot be read or made; nothing is changed then.
        """
        if how != "none" and not self._key:
            self._read_key()
        self._settings = replace(self._settings, commands=how)

    # IAudit, in the reactor's thread

    @property
    def available(self) -> bool:
        """See `IAudit.available`."""
        return not self._failing and self._pending_size < MAX_PENDING // 2

    def record_accepted(self, command: ExecuteCommand) -> None:
        """See `IAudit.record_accepted`."""
        self._put("accepted", order_fields(command), _size(command), MAX_PENDING // 2)

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
        self._put("ended", fields, len(command.host) + len(command.username), MAX_PENDING)

    def record_recovered(self, command_id: str, outcome: str, server: str = "") -> None:
        """See `IAudit.record_recovered`."""
        fields = {"commandId": command_id, "outcome": outcome}
        if server:  # in the place of the one that every line has
            fields["server"] = server
        self._put("ended", fields, len(server), MAX_PENDING)

    def record_refused(self, command: ExecuteCommand, error: RelayError) -> None:
        """See `IAudit.record_refused`."""
        if self._refusals.admits(command, error.code, time.monotonic()):
            fields = order_fields(command)
            fields["outcome"] = error.code
            self._put("refused", fields, _size(command), MAX_PENDING // 2)
        elif self._sum_call is None and not self._closing.is_set():
            self._sum_call = self._reactor.callLater(INTERVAL, self._sum_up)

    def _sum_up(self) -> None:
        self._sum_call = None
        for fields in self._refusals.take_sums():
            self._put("refusals", fields, 0, MAX_PENDING)

    def close(self) -> Deferred[None]:
        """See `IAudit.close`.  Fails when the disk does not answer for `CLOSE_TIMEOUT` seconds."""
        if self._thread is None:
            return succeed(None)
        if self._sum_call is not None:
            self._sum_call.cancel()
            self._sum_up()
        self._closing.set()
        self._work.set()
        return self._closed.addTimeout(CLOSE_TIMEOUT, self._reactor)

    def _put(self, event: str, fields: dict[str, Any], size: int, limit: int) -> None:
        size += _EVENT_SIZE
        with self._lock:
            if self._pending_size >= limit:
                self._lost += 1
                return
            self._pending_size += size
            self._pending.append((size, (time.time(), event, fields)))
        if not self._work.is_set():
            self._work.set()

    # In the writer's thread

    def _write_until_closed(self) -> None:
        closing = False
        while not closing:
            # The call to close may have come, and been cleared with other work, during the last writing.
            if not self._failing and not self._closing.is_set():
                self._work.wait()
            closing = self._closing.wait(self._retry if self._failing else GATHER)
            self._write()  # after that was read, so that all that came before the end is written
        if self._failing:
            lost = len(self._pending) + self._chain.unwritten
            self._tell(_log.error, "The audit log {path} is closed without its last {count} events", count=lost)
        self._chain.close()
        self._reactor.callFromThread(self._closed.callback, None)

    def _write(self) -> None:
        """Write all that is pending."""
        try:
            self._chain.prepare()
            while records := self._take():
                self._chain.append(records)
                self._chain.prepare()
        except OSError as error:
            self._failed(error)
        else:
            self._succeeded()

    def _take(self) -> list[Record]:
        taken: list[Record] = []
        size = 0
        with self._lock:
            while self._pending and size < MAX_BATCH:
                weight, record = self._pending.popleft()
                size += weight
                taken.append(record)
            self._pending_size -= size
            if not self._pending:
                self._work.clear()
                if self._lost:
                    taken.append((time.time(), "lost", {"count": self._lost}))
                    self._lost = 0
        telling = self._settings.commands  # here, where it costs the reactor's thread nothing
        return [fit_record(record, telling, self._key, self._common_size) for record in taken]

    def _failed(self, error: OSError) -> None:
        self._failing = True
        now = self._reactor.seconds()
        if self._told is None or now - self._told >= TELL_AGAIN:
            self._told = now
            self._owes_all_clear = True
            self._tell(
                _log.error,
                "The audit log {path} cannot be written, so new commands are refused: {reason}{cure}",
                reason=words_of(error, str(error)),
                cure=_cure(error),
            )

    def _succeeded(self) -> None:
        self._failing = False
        if self._owes_all_clear:
            self._owes_all_clear = False
            self._tell(_log.info, "The audit log {path} can be written again")

    def _tell(self, log: Any, format: str, **fields: object) -> None:
        """Log in the reactor's thread: not every observer of the log expects another one."""
        self._reactor.callFromThread(log, format, path=self._settings.path, **fields)


def _unusable(path: str, error: OSError | ValueError) -> ConfigError:
    reason = words_of(error, str(error)) if isinstance(error, OSError) else str(error)
    return ConfigError(option="--audit-log", reason=f"{path} cannot be used: {reason}{_cure(error)}")


def _cure(error: OSError | ValueError) -> str:
    """What to do about an error of the log's file, after its words."""
    number = error.errno if isinstance(error, OSError) else None
    if number in (ENOSPC, EDQUOT):
        return "; make room (see df, and df -i)"
    if number in (EACCES, EPERM, EROFS, ENOENT):
        return "; its directory has to be there, and relayd's user able to write to it, as to /var/log/relayd in a unit"
    return ""


def _size(command: ExecuteCommand) -> int:
    """About how many bytes of *command* wait in memory."""
    return len(command.command) + len(command.host) + len(command.username)
