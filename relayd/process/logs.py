"""
Shapes relayd's log: the lowest level, text or JSON, and limits on long lines and on repeated ones.
Where the log goes is up to twistd: ``--logfile`` with its rotation, ``--syslog``, standard output.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
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
    eventAsText,
    formatEvent,
    formatEventAsClassicLogText,
    formatTime,
    globalLogBeginner,
    textFileLogObserver,
)
from zope.interface import implementer

from relayd.language.texts import without_surrogates
from relayd.process.joined_lines import AtEndOfTurn, JoinedLines
from relayd.process.journald import is_journal, with_priority

#: Fields of events that JSON lines have besides ``time``, ``level``, ``logger`` and ``message``. They are described in
#: docs/logs.rst, and as stable as options.
FIELDS: Final = (
    "event", "id", "user", "host", "port", "code", "outcome", "exit", "duration", "stdout_bytes", "stderr_bytes",
    "server", "proxy_id", "dialect", "version", "delay", "reason", "path", "signal", "count", "milliseconds",
    "own_milliseconds",
)  # fmt: skip
#: How many warnings or errors, and how many lines of level info, with the same format and from the same logger are
#: written per period, in seconds; the rest are only counted.
MOST: Final = 20
MOST_INFO: Final = 60
PERIOD: Final = 60.0
#: Steps of a command (field ``event``) whose lines are always written: they are the record of what ran.
_RECORDED: Final = frozenset(("accepted", "finished"))
#: The most formats that are counted at a time.
_MAX_FORMATS: Final = 1000
#: The most characters of a message, of a JSON field, and of a message with its traceback; the middle of longer ones is
#: left out.
MAX_MESSAGE: Final = 4096
MAX_FIELD: Final = 1024
MAX_TRACEBACK: Final = 16 * 1024

_VALUES: Final = {level.name: number for number, level in enumerate(LogLevel.iterconstants())}
_INFO: Final = _VALUES["info"]
_log = Logger("relayd.process")
#: The key under which formats beyond `_MAX_FORMATS` are counted together.
_OTHERS: Final = (_log.namespace, "of other kinds")
_encode = msgspec.json.Encoder().encode


class _Seconds:
    """
    The time of day as text, formatted once per second.

    :param format: makes the text from whole seconds since 1970.
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
    """*text*, or just its two ends if it is longer than *most*: nobody can fill the disk with one line."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]} … {len(text) - 2 * half} characters left out … {text[-half:]}"


def _message(event: LogEvent) -> str:
    """The formatted event, as Twisted would format it, but in most cases faster."""
    format = event.get("log_format")
    if type(format) is str and "log_flattened" not in event:
        try:
            return format.format_map(event)
        except Exception:  # Twisted formats such an event in its own way
            pass
    return formatEvent(event)


def format_text(event: LogEvent) -> str | None:
    """One line for people, exactly as Twisted's own log files have it."""
    when = event.get("log_time")
    if when is None or "log_failure" in event or event.get("log_system") is not None:
        classic = formatEventAsClassicLogText(event)
        return None if classic is None else _cut(classic, MAX_TRACEBACK)
    text = _message(event)
    if not text:
        return None
    if len(text) > MAX_MESSAGE:
        text = _cut(text, MAX_MESSAGE)
    if "\n" in text:
        text = text.replace("\n", "\n\t")
    level = event.get("log_level")
    return f"{_local_time(when)} [{event.get('log_namespace', '-')}#{'-' if level is None else level.name}] {text}\n"


def _system(event: LogEvent) -> str:
    level = event.get("log_level")
    return f"{event.get('log_namespace', '-')}#{'-' if level is None else level.name}"


def format_text_untimed(event: LogEvent) -> str | None:
    """The same line without its time."""
    if "log_failure" in event or event.get("log_system") is not None:
        text = eventAsText(event, includeTimestamp=False)
        return _cut(text, MAX_TRACEBACK).replace("\n", "\n\t") + "\n" if text else None
    text = _cut(_message(event), MAX_MESSAGE).replace("\n", "\n\t")
    return f"[{_system(event)}] {text}\n" if text else None


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
            # any other object is shown as text
            line[name] = value if isinstance(value, int | float) else _cut(str(value), MAX_FIELD)
    failure = event.get("log_failure")
    if failure is not None:
        line["traceback"] = _cut(failure.getTraceback(), MAX_TRACEBACK)
    try:
        return _encode(line).decode() + "\n"
    except (UnicodeEncodeError, ValueError):  # half a surrogate pair, which JSON cannot hold
        clean = {name: without_surrogates(value) if isinstance(value, str) else value for name, value in line.items()}
        return _encode(clean).decode() + "\n"


@implementer(ILogObserver)
class Sieve:
    """
    Passes on events of sufficient level, and a limited number of those that repeat.

    Any thread may call it: when two do at once, a line more or less does no harm.

    :param observer: gets the events that pass.
    :param level: the lowest level that passes.
    :param now: returns seconds of a monotonic clock.
    """

    def __init__(self, observer: ILogObserver, level: str, now: Callable[[], float] = time.monotonic) -> None:
        self._observer = observer
        self._least = _VALUES[level]
        self._now = now
        #: By logger and format: how many events came, and how many of them were held back.
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
    """An event that counts those that were not written, without any of their fields."""
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
    Passes on every event, with long messages cut to their ends.

    :param observer: an observer that formats events by itself.
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


def configure(
    level: str,
    format: Literal["text", "json"],
    beginner: LogBeginner = globalLogBeginner,
    environ: Mapping[str, str] = os.environ,
    at_end_of_turn: AtEndOfTurn | None = None,
) -> None:
    """
    Shape the log that twistd or twist is about to begin.

    :param at_end_of_turn: then lines are written together that one turn of the event loop says.

    Both choose their observers by their own options and begin logging after the service was made; events logged until
    then are kept for them. So the observers are wrapped when they are handed over: their files, rotation and standard
    output stay as they are.
    """

    def begin(observers: Iterable[ILogObserver], discardBuffer: bool = False, redirectStandardIO: bool = True) -> None:
        given = list(observers)
        unshaped = [observer for observer in given if not _shape(observer, format, environ, at_end_of_turn)]
        _Level.least = _VALUES[level]
        sieves = [Sieve(Shortener(each) if each in unshaped else each, level) for each in given]
        LogBeginner.beginLoggingTo(beginner, sieves, discardBuffer, redirectStandardIO)
        if unshaped and format == "json":
            _log.warn(
                "--log-format json is for files and standard output; this log (syslog or another observer) stays text"
            )

    setattr(beginner, "beginLoggingTo", begin)  # noqa: B010  # replaced on this one object on purpose


def _shape(observer: ILogObserver, format: str, environ: Mapping[str, str], at_end_of_turn: AtEndOfTurn | None) -> bool:
    """Make *observer* write lines in *format*; returns whether it can."""
    while isinstance(observer, FilteringLogObserver):  # twist's own --log-level
        observer = observer._observer
    if not isinstance(observer, FileLogObserver):
        return False
    journal = is_journal(observer._outFile, environ)
    if format == "json":
        observer.formatEvent = _for_journal(format_json) if journal else format_json
    elif observer.formatEvent.__qualname__.startswith(textFileLogObserver.__name__):  # not twist's own JSON
        observer.formatEvent = _for_journal(format_text_untimed) if journal else format_text
    if at_end_of_turn is not None:
        file: Any = JoinedLines(observer._outFile, at_end_of_turn)
        observer._outFile = file
    return True


def _for_journal(format: Callable[[LogEvent], str | None]) -> Callable[[LogEvent], str | None]:
    def formatted(event: LogEvent) -> str | None:
        text = format(event)
        level = event.get("log_level") or LogLevel.info
        return None if text is None else with_priority(text, level.name)

    return formatted


class QuickLogger(Logger):
    """A logger for the lines of every command: it makes an event of level info as Twisted does, in fewer steps."""

    def info(self, format: str | None = None, **fields: object) -> None:
        """Log at level info, if that is logged."""
        if _Level.least <= _INFO:
            fields.update(
                log_logger=self, log_level=LogLevel.info, log_namespace=self.namespace, log_source=self.source,
                log_format=format, log_time=time.time(),
            )  # fmt: skip
            self.observer(fields)


class _Level:
    """The lowest level that this process logs; there is one log, and so one level."""

    least = 0


def is_logged(level: str) -> bool:
    """Whether events of that level are logged at all: callers with many events can save making them."""
    return _VALUES[level] >= _Level.least
