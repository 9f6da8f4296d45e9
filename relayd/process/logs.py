"""
What relayd's log looks like: the least level, text or JSON, and bounds on long lines and on those that repeat.
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
    formatEventAsClassicLogText,
    formatTime,
    globalLogBeginner,
    textFileLogObserver,
)
from zope.interface import implementer

from relayd.language.texts import without_surrogates

#: Fields of events that JSON lines have beside ``time``, ``level``, ``logger`` and ``message``: described in
#: docs/logs.rst, and as stable as options are.
FIELDS: Final = (
    "event", "id", "user", "host", "port", "code", "outcome", "exit", "duration", "stdout_bytes", "stderr_bytes",
    "server", "proxy_id", "dialect", "version", "delay", "reason", "path", "signal", "count", "milliseconds",
)  # fmt: skip
#: Warnings and errors of the same format, from the same logger, that are written in so many seconds, and lines of
#: level info; of the rest only the number is told.
MOST: Final = 20
MOST_INFO: Final = 60
PERIOD: Final = 60.0
#: Steps of a command (field ``event``) whose lines are all written: they are the record of what was run.
_RECORDED: Final = frozenset(("accepted", "finished"))
#: Formats that are counted at a time.
_MAX_FORMATS: Final = 1000
#: Characters of a message, of a field of its own in JSON, and of a message with its traceback; of longer ones the
#: middle is left out, whoever logs them.
MAX_MESSAGE: Final = 4096
MAX_FIELD: Final = 1024
MAX_TRACEBACK: Final = 16 * 1024

_VALUES: Final = {level.name: number for number, level in enumerate(LogLevel.iterconstants())}
_INFO: Final = _VALUES["info"]
_log = Logger("relayd.process")
#: What the formats beyond `_MAX_FORMATS` count as, together.
_OTHERS: Final = (_log.namespace, "of other kinds")
_encode = msgspec.json.Encoder().encode


class _Seconds:
    """
    The time of day as text: of two lines in the same second, the second one costs nothing.

    :param format: makes it, of the seconds of an event's time.
    """

    def __init__(self, format: Callable[[float], str]) -> None:
        self._format = format
        self._latest = (-1, "")

    def __call__(self, when: float) -> str:
        seconds, text = self._latest
        if int(when) != seconds:
            seconds, text = int(when), self._format(int(when))
            self._latest = (seconds, text)
        return text


_local_time: Final = _Seconds(formatTime)
_universal_time: Final = _Seconds(lambda when: datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%dT%H:%M:%S"))


def _cut(text: str, most: int) -> str:
    """*text*, or its ends: what somebody else made long shall not fill the disk."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]} … {len(text) - 2 * half} characters left out … {text[-half:]}"


def _message(event: LogEvent) -> str:
    """What Twisted makes of the event's format, which in most cases takes it longer than need be."""
    format = event.get("log_format")
    if type(format) is str and "log_flattened" not in event:
        try:
            return format.format_map(event)
        except Exception:  # Twisted has an answer to that
            pass
    return formatEvent(event)


def format_text(event: LogEvent) -> str | None:
    """One line for a person, to the letter what Twisted's own files have."""
    when = event.get("log_time")
    if when is None or "log_failure" in event or event.get("log_system") is not None:
        classic = formatEventAsClassicLogText(event)
        return None if classic is None else _cut(classic, MAX_TRACEBACK)
    text = _cut(_message(event), MAX_MESSAGE)
    if not text:
        return None
    text = text.replace("\n", "\n\t")
    level = event.get("log_level")
    system = f"{event.get('log_namespace', '-')}#{'-' if level is None else level.name}"
    return f"{_local_time(when)} [{system}] {text}\n"


def format_json(event: LogEvent) -> str | None:
    """One line of JSON: see docs/logs.rst."""
    when = event.get("log_time") or time.time()
    level = event.get("log_level")
    line: dict[str, Any] = {
        "time": f"{_universal_time(when)}.{int(when % 1 * 1e6):06}Z",
        "level": "info" if level is None else level.name,
        "logger": event.get("log_namespace") or "",
        "message": _cut(_message(event), MAX_MESSAGE),
    }
    for name in FIELDS:
        value = event.get(name)
        if value is not None:
            # what is neither may be an object that only shows itself as text
            line[name] = value if isinstance(value, int | float) else _cut(str(value), MAX_FIELD)
    failure = event.get("log_failure")
    if failure is not None:
        line["traceback"] = _cut(failure.getTraceback(), MAX_TRACEBACK)
    try:
        return _encode(line).decode() + "\n"
    except (UnicodeEncodeError, ValueError):  # half a surrogate pair, which no JSON can hold
        clean = {name: without_surrogates(value) if isinstance(value, str) else value for name, value in line.items()}
        return _encode(clean).decode() + "\n"


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
        #: By logger and format, how many came, and how many of them were held back.
        self._seen: dict[tuple[object, object], int] = {}
        self._held: dict[tuple[object, object], int] = {}
        self._until = 0.0

    def __call__(self, event: LogEvent) -> None:
        level = event.get("log_level") or LogLevel.info
        value = _VALUES[level.name]
        if value < self._least:
            return
        if self._seen and self._now() >= self._until:
            self._tell()
        if value >= _INFO and event.get("event") not in _RECORDED and self._is_too_much(event, value):
            return
        self._observer(event)

    def _is_too_much(self, event: LogEvent, value: int) -> bool:
        key = (event.get("log_namespace"), event.get("log_format"))
        if key[1] is None:
            return False
        if not self._seen:
            self._until = self._now() + PERIOD
        elif key not in self._seen and len(self._seen) >= _MAX_FORMATS:
            key = _OTHERS
        self._seen[key] = seen = self._seen.get(key, 0) + 1
        if seen <= (MOST_INFO if value == _INFO else MOST):
            return False
        self._held[key] = self._held.get(key, 0) + 1
        return True

    def _tell(self) -> None:
        held, self._held, self._seen = self._held, {}, {}
        for (namespace, format), count in held.items():
            self._observer(_left_out(namespace, format, count))


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


@implementer(ILogObserver)
class Shortener:
    """
    Passes on every event, and of one with a long message its ends alone: for an *observer* that formats by itself.
    """

    def __init__(self, observer: ILogObserver) -> None:
        self._observer = observer

    def __call__(self, event: LogEvent) -> None:
        text = _message(event)
        if len(text) > MAX_MESSAGE:
            kept = {name: event.get(name) for name in ("log_level", "log_logger", "log_namespace", "log_source")}
            text = _cut(text, MAX_MESSAGE)
            event = {**kept, "log_time": event.get("log_time") or time.time(), "log_format": "{text}", "text": text}
        self._observer(event)


def configure(level: str, format: Literal["text", "json"], beginner: LogBeginner = globalLogBeginner) -> None:
    """
    Shape the log that twistd, or twist, is about to begin.

    Both choose their observers by options of their own and begin logging after the service was made, and what was
    logged until then is kept for them.  So the observers are wrapped at the moment at which they are handed over:
    their files, rotation and standard output stay as they are.
    """

    def begin(observers: Iterable[ILogObserver], discardBuffer: bool = False, redirectStandardIO: bool = True) -> None:
        given = list(observers)
        unshaped = [observer for observer in given if not _shape(observer, format)]
        _Level.least = _VALUES[level]
        sieves = [Sieve(Shortener(each) if each in unshaped else each, level) for each in given]
        LogBeginner.beginLoggingTo(beginner, sieves, discardBuffer, redirectStandardIO)
        if unshaped and format == "json":
            _log.warn("--log-format json is for files and standard output; this log (syslog, or an own one) is text")

    setattr(beginner, "beginLoggingTo", begin)  # noqa: B010  # it is replaced on this one object, on purpose


def _shape(observer: ILogObserver, format: str) -> bool:
    """Let *observer* write lines of this *format*; says whether it can."""
    while isinstance(observer, FilteringLogObserver):  # twist's own --log-level
        observer = observer._observer
    if not isinstance(observer, FileLogObserver):
        return False
    if format == "json":
        observer.formatEvent = format_json
    elif observer.formatEvent.__qualname__.startswith(textFileLogObserver.__name__):  # not twist's own JSON
        observer.formatEvent = format_text
    return True


class _Level:
    """What this process logs: like the log, there is one."""

    least = 0


def is_logged(level: str) -> bool:
    """Whether events of that level get anywhere: where there are many, they need not be made in vain."""
    return _VALUES[level] >= _Level.least
