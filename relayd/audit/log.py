"""
The audit log of a running relay: events in from the reactor's thread, written by one thread of its own.
The reactor's thread neither formats nor waits: it notes what happened, in a bounded queue.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any, Final, Literal

from msgspec import Struct
from msgspec.structs import replace
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from zope.interface import implementer

from relayd import __version__
from relayd.audit.chain import Chain, Record
from relayd.audit.lines import command_digest, read_key
from relayd.errors import ConfigError, RelayError
from relayd.interfaces import IAudit
from relayd.messages import CommandResult, ExecuteCommand

#: Seconds during which events gather before they are written together: what a crash of the process, or a power cut, may
#: take with it. More often, the threads would take turns more than they work.
GATHER: Final = 0.05
#: Seconds until what could not be written is tried again.
RETRY: Final = 1.0
#: Seconds between two lines in the relay's log that say so.
TELL_AGAIN: Final = 600.0
#: Seconds that closing waits for the disk.
CLOSE_TIMEOUT: Final = 10.0
#: Bytes of memory for events that are not written yet. The last half of it is for the ends of commands taken on before.
MAX_PENDING: Final = 32 << 20
#: Bytes of events that are written at once.
MAX_BATCH: Final = 1 << 20
#: Characters of a command that are written as text; more has its digest, too.
MAX_TEXT: Final = 32768
#: Characters of other texts; names that are longer name nothing.
MAX_NAME: Final = 1024
#: What an event takes in memory beside the text of its command.
_EVENT_SIZE: Final = 1024


class AuditSettings(Struct, frozen=True, kw_only=True):
    """
    What the site chose.

    :ivar key_file: of the key of digests; made if need be.
    :ivar commands: how a command is told: by its keyed digest, its text, or not at all.
    :ivar max_size: bytes of a file; 0: it is never moved aside.
    :ivar keep: how many files that were moved aside are kept; 0: all.
    :ivar server: the main server, and as whom the relay is known there.
    """

    path: str
    key_file: str
    commands: Literal["digest", "text", "none"]
    max_size: int
    keep: int
    server: str
    proxy_id: str


@implementer(IAudit)
class AuditLog:
    """
    An `IAudit` on the disk.

    :param reactor: tells the time, and is where the log's thread has its say.
    """

    _log = Logger()

    def __init__(self, reactor: Any, settings: AuditSettings, *, retry: float = RETRY) -> None:
        self._reactor = reactor
        self._settings = settings
        self._retry = retry
        common = {"server": settings.server, "proxyId": settings.proxy_id}
        self._chain = Chain(settings.path, settings.max_size, settings.keep, common)
        self._key = b""
        self._thread: threading.Thread | None = None
        self._closed: Deferred[None] = Deferred()
        # What both threads use.
        self._lock = threading.Lock()
        self._work = threading.Event()
        self._closing = threading.Event()
        self._pending: deque[tuple[int, Record]] = deque()
        self._pending_size = 0
        self._lost = 0
        self._failing = False
        # The writer's own: when it told of a failure, and whether it has to tell that it is over.
        self._told: float | None = None
        self._lament = False

    def start(self) -> None:
        """
        Open the log.

        :raises ConfigError: when that cannot be.
        """
        if self._settings.commands != "none":
            self._read_key()
        try:
            self._chain.open(__version__)
        except (OSError, ValueError) as error:
            raise _unusable(self._settings.path, error) from None
        self._work.set()
        self._thread = threading.Thread(target=self._write_until_closed, name="audit", daemon=True)
        self._thread.start()

    def _read_key(self) -> None:
        try:
            self._key = read_key(self._settings.key_file, make=True)
        except (OSError, ValueError) as error:
            raise _unusable(self._settings.key_file, error) from None

    def tell_commands(self, how: Literal["digest", "text", "none"]) -> None:
        """
        Change how commands are told from now on, see `AuditSettings`.

        :raises ConfigError: when the key of digests cannot be had; nothing is changed then.
        """
        if how != "none" and not self._key:
            self._read_key()
        self._settings = replace(self._settings, commands=how)

    # IAudit, in the reactor's thread

    @property
    def available(self) -> bool:
        """See `IAudit.available`."""
        return not self._failing and self._pending_size < MAX_PENDING // 2

    def accepted(self, command: ExecuteCommand) -> None:
        """See `IAudit.accepted`."""
        self._put("accepted", _whole(command), len(command.command), MAX_PENDING // 2)

    def ended(self, command: ExecuteCommand, outcome: str, result: CommandResult, duration: float) -> None:
        """See `IAudit.ended`."""
        fields = _names(command)
        fields["outcome"] = outcome
        fields["exitCode"] = result.exit_code
        fields["duration"] = round(duration, 6)
        fields["stdoutBytes"] = result.details.stdout_bytes
        fields["stderrBytes"] = result.details.stderr_bytes
        self._put("ended", fields, 0, MAX_PENDING)

    def recovered(self, command_id: str, outcome: str) -> None:
        """See `IAudit.recovered`."""
        self._put("ended", {"commandId": command_id, "outcome": outcome}, 0, MAX_PENDING)

    def refused(self, command: ExecuteCommand, error: RelayError) -> None:
        """See `IAudit.refused`."""
        fields = _whole(command)
        fields["outcome"] = error.code
        self._put("refused", fields, len(command.command), MAX_PENDING // 2)

    def close(self) -> Deferred[None]:
        """See `IAudit.close`.  Fails when the disk does not answer for `CLOSE_TIMEOUT` seconds."""
        if self._thread is None:
            return succeed(None)
        self._closing.set()
        self._work.set()
        return self._closed.addTimeout(CLOSE_TIMEOUT, self._reactor)

    def _put(self, event: str, fields: dict[str, Any], size: int, limit: int) -> None:
        with self._lock:
            if self._pending_size >= limit:
                self._lost += 1
                return
            self._pending_size += size + _EVENT_SIZE
            self._pending.append((size + _EVENT_SIZE, (time.time(), event, fields)))
        if not self._work.is_set():
            self._work.set()

    # In the writer's thread

    def _write_until_closed(self) -> None:
        closing = False
        while not closing:
            # That the end was asked for may have come, and been cleared with other work, while we wrote.
            if not self._failing and not self._closing.is_set():
                self._work.wait()
            closing = self._closing.wait(self._retry if self._failing else GATHER)
            self._write()  # after it was asked, so that all that came before the end is in it
        if self._failing:
            lost = len(self._pending) + self._chain.unwritten
            self._tell(self._log.error, "The audit log {path} is closed without its last {count} events", count=lost)
        self._chain.close()
        self._reactor.callFromThread(self._closed.callback, None)

    def _write(self) -> None:
        """Write all that there is."""
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
        return [self._finish(record) for record in taken]

    def _finish(self, record: Record) -> Record:
        """The command as the site wants to have it: here, where it costs the reactor's thread nothing."""
        seconds, event, fields = record
        if "command" not in fields:
            return record
        finished = dict(fields)
        command = finished.pop("command")
        mode = self._settings.commands
        if mode == "text":
            finished["command"] = command[:MAX_TEXT]
        if mode == "digest" or (mode == "text" and len(command) > MAX_TEXT):
            finished["commandDigest"] = command_digest(self._key, command)
        return seconds, event, finished

    def _failed(self, error: OSError) -> None:
        self._failing = True
        now = self._reactor.seconds()
        if self._told is None or now - self._told >= TELL_AGAIN:
            self._told = now
            self._lament = True
            reason = error.strerror or str(error)
            self._tell(
                self._log.error,
                "The audit log {path} cannot be written, so new commands are refused: {reason}",
                reason=reason,
            )

    def _succeeded(self) -> None:
        self._failing = False
        if self._lament:
            self._lament = False
            self._tell(self._log.info, "The audit log {path} is written again")

    def _tell(self, log: Any, format: str, **fields: object) -> None:
        """Not every observer of the relay's log expects another thread."""
        self._reactor.callFromThread(log, format, path=self._settings.path, **fields)


def _unusable(path: str, error: OSError | ValueError) -> ConfigError:
    reason = (error.strerror if isinstance(error, OSError) else "") or str(error)
    return ConfigError(option="--audit-log", reason=f"{path} cannot be used: {reason}")


def _names(command: ExecuteCommand) -> dict[str, Any]:
    """Fields of every line about a command.  Nothing of it is kept alive but these: it holds credentials."""
    fields = {
        "commandId": command.command_id,
        "host": command.host[:MAX_NAME],
        "port": command.port,
        "user": command.username[:MAX_NAME],
    }
    if command.written is not None:
        fields["written"] = command.written[:MAX_NAME]
    return fields


def _whole(command: ExecuteCommand) -> dict[str, Any]:
    """Likewise, where it is asked for."""
    fields = _names(command)
    if command.via:
        fields["via"] = [f"{hop.username[:MAX_NAME]}@{hop.host[:MAX_NAME]}:{hop.port}" for hop in command.via]
    fields["command"] = command.command
    return fields
