"""
What relayd's log looks like: the least level, text or JSON, and a bound on lines that repeat.
Where it goes stays twistd's business: ``--logfile`` with its rotation, ``--syslog``, standard output.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec
from twisted.logger import (
    FileLogObserver,
    FilteringLogObserver,
    ILogObserver,
    LogBeginner,
    LogEvent,
    Logger,
    LogLevel,
    formatEvent,
    globalLogBeginner,
)
from zope.interface import implementer

#: Fields of events that JSON lines have beside ``time``, ``level``, ``logger`` and ``message``: described in
#: docs/logs.rst, and as stable as options are.
FIELDS: Final = (
    "event", "id", "user", "host", "port", "code", "outcome", "exit", "duration", "stdout_bytes", "stderr_bytes",
    "server", "proxy_id", "dialect", "version", "delay", "reason", "path", "signal", "count", "milliseconds",
)  # fmt: skip
#: Warnings and errors of the same format, from the same logger, that are written in so many seconds; of the rest only
#: the number is told.
MOST: Final = 20
PERIOD: Final = 60.0
#: Formats that are counted at a time; beyond them, nothing is held back.
_MAX_FORMATS: Final = 1000

_VALUES: Final = {level.name: number for number, level in enumerate(LogLevel.iterconstants())}
_log = Logger()
_encode = msgspec.json.Encoder().encode


def format_json(event: LogEvent) -> str | None:
    """One line of JSON: see docs/logs.rst."""
    when = datetime.fromtimestamp(event.get("log_time") or time.time(), UTC)
    level = event.get("log_level")
    line: dict[str, Any] = {
        "time": when.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "level": "info" if level is None else level.name,
        "logger": event.get("log_namespace") or "",
        "message": formatEvent(event),
    }
    for name in FIELDS:
        value = event.get(name)
        if value is not None:
            # what is no number may be an object that only shows itself as text
            line[name] = value if isinstance(value, int | float) else str(value)
    failure = event.get("log_failure")
    if failure is not None:
        line["traceback"] = failure.getTraceback()
    try:
        return _encode(line).decode() + "\n"
    except (UnicodeEncodeError, ValueError):  # half a surrogate pair, which no JSON can hold
        clean = {name: _printable(value) if isinstance(value, str) else value for name, value in line.items()}
        return _encode(clean).decode() + "\n"


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


@implementer(ILogObserver)
class Sieve:
    """
    Passes on what is important enough, and of what repeats without end a part.

    It is called in whichever thread logs: a line more or less where two of them meet is no harm.

    :param observer: gets what passes.
    :param level: the least that does.
    :param now: tells seconds.
    """

    def __init__(self, observer: ILogObserver, level: str, now: Callable[[], float] = time.monotonic) -> None:
        self._observer = observer
        self._least = _VALUES[level]
        self._now = now
        self._seen: dict[tuple[object, object], int] = {}
        self._until = 0.0

    def __call__(self, event: LogEvent) -> None:
        level = event.get("log_level") or LogLevel.info
        value = _VALUES[level.name]
        if value < self._least:
            return
        if self._seen and self._now() >= self._until:
            self._tell()
        if value >= _VALUES["warn"] and self._is_too_much(event):
            return
        self._observer(event)

    def _is_too_much(self, event: LogEvent) -> bool:
        key = (event.get("log_namespace"), event.get("log_format"))
        if key[1] is None:
            return False
        if not self._seen:
            self._until = self._now() + PERIOD
        elif key not in self._seen and len(self._seen) >= _MAX_FORMATS:
            return False
        self._seen[key] = seen = self._seen.get(key, 0) + 1
        return seen > MOST

    def _tell(self) -> None:
        seen, self._seen = self._seen, {}
        for (namespace, format), count in seen.items():
            if count > MOST:
                self._observer(_left_out(namespace, format, count - MOST))


def _left_out(namespace: object, format: object, count: int) -> LogEvent:
    """An event that tells of those that were not written; never the fields of one of them."""
    return {
        "log_format": "{count} more lines like this one were left out: {like}",
        "log_level": LogLevel.warn,
        "log_namespace": namespace,
        "log_time": time.time(),
        "log_logger": _log,
        "log_source": None,
        "count": count,
        "like": format,
    }


def configure(level: str, format: Literal["text", "json"], beginner: LogBeginner = globalLogBeginner) -> None:
    """
    Shape the log that twistd, or twist, is about to begin.

    Both choose their observers by options of their own and begin logging after the service was made, and what was
    logged until then is kept for them.  So the observers are wrapped at the moment at which they are handed over:
    their files, rotation and standard output stay as they are.
    """

    def begin(observers: Iterable[ILogObserver], discardBuffer: bool = False, redirectStandardIO: bool = True) -> None:
        given = list(observers)
        unshaped = [observer for observer in given if format == "json" and not _shape(observer)]
        sieves = [Sieve(observer, level) for observer in given]
        LogBeginner.beginLoggingTo(beginner, sieves, discardBuffer, redirectStandardIO)
        if unshaped:
            _log.warn("--log-format json is for files and standard output; this log (syslog, or an own one) is text")

    setattr(beginner, "beginLoggingTo", begin)  # noqa: B010  # it is replaced on this one object, on purpose


def _shape(observer: ILogObserver) -> bool:
    """Let *observer* write JSON; says whether it can."""
    while isinstance(observer, FilteringLogObserver):  # twist's own --log-level
        observer = observer._observer
    if not isinstance(observer, FileLogObserver):
        return False
    observer.formatEvent = format_json
    return True
