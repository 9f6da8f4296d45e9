"""
The thread that writes an audit log: events come in from the reactor's thread, and this one puts them into the chain.
The reactor's thread neither formats nor waits: it puts what happened into a bounded queue.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from errno import EACCES, EDQUOT, ENOENT, ENOSPC, EPERM, EROFS
from typing import Any, Final

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger

from relayd import __version__
from relayd.audit.chain import Chain, Findings
from relayd.audit.events import Record
from relayd.audit.key import key_file, read_key
from relayd.errors import ConfigError
from relayd.network.descriptors import words_of

_log = Logger("relayd.audit")

#: Seconds until what could not be written is tried again.
RETRY: Final = 1.0
#: Seconds between two lines in the log of the process that say that the audit log cannot be written.
TELL_AGAIN: Final = 600.0
#: Seconds that closing waits for the disk.
CLOSE_TIMEOUT: Final = 10.0
#: Bytes of memory for events that are not written yet. Half of it is only for the ends of what was recorded before.
MAX_PENDING: Final = 32 << 20
#: Bytes of events that are written at once.
MAX_BATCH: Final = 1 << 20
#: Bytes of memory that an event takes beside its texts.
_EVENT_SIZE: Final = 1024


class NotWritten(Exception):
    """An event is not on the disk; it may be later."""


class AuditWriter:
    """
    Writes events into a chain, and keeps them while the disk is full.

    :param reactor: provides time, and a way back from the writer's thread.
    :param fit: makes a record fit into a line; called in the writer's thread.
    :param gather: seconds during which events gather before they are written together, and which a crash of the
        process, or a power cut, may lose.
    :param refused: what is refused while the log cannot be written, in words for a person.
    :param retry: seconds until what could not be written is tried again.
    """

    def __init__(
        self,
        reactor: Any,
        chain: Chain,
        fit: Callable[[Record], Record],
        *,
        gather: float,
        refused: str,
        retry: float = RETRY,
    ) -> None:
        self._reactor = reactor
        self._chain = chain
        self._fit = fit
        self._gather = gather
        self._refused = refused
        self._retry = retry
        self._thread: threading.Thread | None = None
        self._closed: Deferred[None] = Deferred()
        # Both threads use these.
        self._lock = threading.Lock()
        self._work = threading.Event()
        self._closing = threading.Event()
        self._pending: deque[tuple[int, Record]] = deque()
        self._waiters: list[Deferred[None]] = []
        self._pending_size = 0
        self._lost = 0
        self._failing = False
        # Only the writing thread uses these: those who wait for what was taken; when it told of a failure, and whether
        # it has to tell the end of that.
        self._waiting: list[Deferred[None]] = []
        self._told: float | None = None
        self._owes_all_clear = False

    def start(self) -> None:
        """
        Open the log.

        :raises ConfigError: when it cannot be opened.
        """
        try:
            findings = self._chain.open(__version__)
        except (OSError, ValueError) as error:
            raise unusable(self._chain.path, error) from None
        self._tell_findings(findings)
        self._work.set()
        self._thread = threading.Thread(target=self._write_until_closed, name="audit", daemon=True)
        self._thread.start()

    def _tell_findings(self, findings: Findings) -> None:
        path = self._chain.path
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

    @property
    def available(self) -> bool:
        """Whether the log can be written, and there is room for more events."""
        return not self._failing and self._pending_size < MAX_PENDING // 2

    def put(self, event: str, fields: Mapping[str, Any], size: int, *, ends: bool = False) -> None:
        """
        Have an event written.

        :param size: about how many bytes its texts take.
        :param ends: whether it is the end of something that was recorded before: there is room kept for these.
        """
        self._put(event, fields, size, MAX_PENDING if ends else MAX_PENDING // 2)

    def put_and_wait(self, event: str, fields: Mapping[str, Any], size: int) -> Deferred[None]:
        """
        Have an event written.

        :return: fires when it is on the disk; fails with `NotWritten` as soon as it is known that it is not there yet.
        """
        if self._thread is None or self._closing.is_set():
            return fail(NotWritten())
        waiter: Deferred[None] = Deferred()
        self._put(event, fields, size, MAX_PENDING // 2, waiter)
        return waiter

    def close(self) -> Deferred[None]:
        """Write what is pending and close; fails when the disk does not answer for `CLOSE_TIMEOUT` seconds."""
        if self._thread is None:
            return succeed(None)
        self._closing.set()
        self._work.set()
        return self._closed.addTimeout(CLOSE_TIMEOUT, self._reactor)

    @property
    def closing(self) -> bool:
        """Whether it was told to close."""
        return self._closing.is_set()

    def _put(
        self,
        event: str,
        fields: Mapping[str, Any],
        size: int,
        limit: int,
        waiter: Deferred[None] | None = None,
    ) -> None:
        size += _EVENT_SIZE
        with self._lock:
            fits = self._pending_size < limit
            if fits:
                self._pending_size += size
                self._pending.append((size, (time.time(), event, fields)))
                if waiter is not None:
                    self._waiters.append(waiter)
            else:
                self._lost += 1
        if not fits:
            if waiter is not None:
                waiter.errback(NotWritten())
        elif not self._work.is_set():
            self._work.set()

    # In the writer's thread

    def _write_until_closed(self) -> None:
        closing = False
        while not closing:
            # The call to close may have come, and been cleared with other work, during the last writing.
            if not self._failing and not self._closing.is_set():
                self._work.wait()
            closing = self._closing.wait(self._retry if self._failing else self._gather)
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
            with self._lock:
                self._waiting += self._waiters
                self._waiters.clear()
        else:
            self._succeeded()
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            self._reactor.callFromThread(_answer, waiting, not self._failing)

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
                self._waiting += self._waiters
                self._waiters.clear()
                if self._lost:
                    taken.append((time.time(), "lost", {"count": self._lost}))
                    self._lost = 0
        return [self._fit(record) for record in taken]  # here, where it costs the reactor's thread nothing

    def _failed(self, error: OSError) -> None:
        self._failing = True
        now = self._reactor.seconds()
        if self._told is None or now - self._told >= TELL_AGAIN:
            self._told = now
            self._owes_all_clear = True
            self._tell(
                _log.error,
                "The audit log {path} cannot be written, so {refused} are refused: {reason}{cure}",
                refused=self._refused,
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
        self._reactor.callFromThread(log, format, path=self._chain.path, **fields)


def _answer(waiting: list[Deferred[None]], written: bool) -> None:
    """Tell those who wait for their events to be on the disk."""
    for each in waiting:
        if written:
            each.callback(None)
        else:
            each.errback(NotWritten())


def key_in(state_dir: str) -> bytes:
    """
    The key of digests, which is made where there is none.

    :raises ConfigError: when it cannot be read or made.
    """
    path = key_file(state_dir)
    try:
        return read_key(path, make=True)
    except (OSError, ValueError) as error:
        raise unusable(path, error) from None


def unusable(path: str, error: OSError | ValueError) -> ConfigError:
    """What is said of a file of the log that cannot be used."""
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
