"""
SIGHUP reads the settings again. What can change while relayd runs changes at once, between two commands.
"""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import FrameType
from typing import Any, Final, Protocol

from msgspec import Struct
from twisted.application.service import Service
from twisted.logger import Logger

from relayd.config import values
from relayd.config.exposure import exposures
from relayd.config.gathering import ReadOptions
from relayd.config.option import Effect, Option, OptionTable
from relayd.config.options import RELAY_TABLE, Config
from relayd.config.server_tables import SERVERS
from relayd.config.tables import heading
from relayd.errors import ConfigError

_log = Logger("relayd.config")

#: The tables of the file, by the names of their attributes.
_TABLES: Final = ("credentials", "hosts")
#: The most characters of old and new value that the log shows.
_LONGEST_SHOWN: Final = 60


class Change(Struct, frozen=True):
    """
    A changed option.

    :ivar text: for the log: the name, with old and new value where these may be shown.
    """

    name: str
    text: str
    effect: Effect


class Changes(Struct, frozen=True):
    """The changed options, in the order of the table."""

    changed: tuple[Change, ...] = ()

    def of(self, *effects: Effect) -> dict[str, str]:
        """The names and texts of the changes that take effect at one of *effects*."""
        return {change.name: change.text for change in self.changed if change.effect in effects}


class Reloadable(Protocol):
    """A service that takes new settings, such as `relayd.service.RelayService`."""

    running: Any

    def apply(self, config: Any) -> Changes:
        """Use *config* from now on, as far as that is possible while running."""


def compare_options(table: OptionTable, old: object, new: object) -> tuple[dict[str, Any], list[Change]]:
    """
    Compare the options of a running program with new ones.

    :return: by their names in Python the new values that need no restart; and what is different.
    """
    changes: list[Change] = []
    taken: dict[str, Any] = {}
    for option in table.options:
        before, after = getattr(old, option.attribute), getattr(new, option.attribute)
        if before == after:
            continue
        changes.append(Change(option.name, _tell(option, before, after), option.effect))
        if option.effect is not Effect.RESTART:
            taken[option.attribute] = after
    return taken, changes


def compare(old: Config, new: Config) -> tuple[Config, Changes]:
    """
    Compare the settings of a running relay with new ones.

    :return: the settings to run with from now on, and what is different.
    """
    taken, changes = compare_options(RELAY_TABLE, old, new)
    for kind in _TABLES:
        was, now = getattr(old, kind), getattr(new, kind)
        if was != now:
            text = f"{heading(kind)} ({len(was)} -> {len(now)} tables)"
            changes.append(Change(heading(kind), text, Effect.COMMANDS))
            taken[kind] = now
    if old.servers != new.servers:
        restart = [each.fixed for each in old.servers] != [each.fixed for each in new.servers]
        text = f"{heading(SERVERS)} ({len(old.servers)} -> {len(new.servers)} tables)"
        changes.append(Change(heading(SERVERS), text, Effect.RESTART if restart else Effect.CONNECTION))
        if not restart:
            taken[SERVERS] = new.servers
    return dataclasses.replace(old, **taken, _key_file=new._key_file), Changes(tuple(changes))


def _tell(option: Option, before: object, after: object) -> str:
    if option.parse is values.server_urls:
        before, after = (_without_queries(value) for value in (before, after))
    was, now = (option.spell(value) or "not set" for value in (before, after))
    shown = not option.hidden and was != now and len(was) + len(now) <= _LONGEST_SHOWN
    return f"{option.name} ({was} -> {now})" if shown else option.name


def _without_queries(urls: object) -> object:
    return tuple(map(values.without_query, urls)) if isinstance(urls, tuple) else urls


class ReloadWords(Struct, frozen=True, kw_only=True):
    """
    What is said of a reload in a program's own words.

    :ivar program: its command.
    :ivar check: the command that checks its settings.
    :ivar changed: says what has changed already, and what is read anew anyway; it follows "settings read again; ".
    :ivar exposures: one line for each thing that the settings expose to other users of the machine.
    """

    program: str
    check: str
    changed: Callable[[Changes], str]
    exposures: Callable[[Any, Mapping[str, str]], Sequence[str]]


class ReloadOnSignal(Service):
    """
    Reloads the settings of a service on SIGHUP. A mistake in them changes nothing.

    :param read: reads the settings.
    :param service: what gets them.
    :param announce: gives a context for each reload.
    """

    def __init__(
        self,
        reactor: Any,
        read: Callable[[], ReadOptions[Any]],
        service: Reloadable,
        announce: Callable[[], AbstractContextManager[None]] = nullcontext,
        words: ReloadWords | None = None,
    ) -> None:
        self._reactor = reactor
        self._read = read
        self._service = service
        self._announce = announce
        self._words = words or RELAY_WORDS

    def startService(self) -> None:
        """Install the handler when the reactor runs; a handler that is there by then stays."""
        super().startService()
        self._reactor.callWhenRunning(self._install)

    # The handler stays until the process ends: without it, a SIGHUP would kill the process while commands drain.

    def _install(self) -> None:
        if self.running and signal.getsignal(signal.SIGHUP) in (signal.SIG_DFL, signal.SIG_IGN):
            signal.signal(signal.SIGHUP, self._signalled)

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        self._reactor.callFromThread(self.reload)

    def reload(self) -> None:
        """Read the settings and apply them, or log why not."""
        if not self._service.running:
            _log.info("SIGHUP: {program} is stopping; its settings stay as they are", program=self._words.program)
            return
        with self._announce():
            self._reload()

    def _reload(self) -> None:
        try:
            reading = self._read()
            if reading.config is None or reading.mistakes:
                first, *more = reading.mistakes
                self._refuse(first, len(more))
                return
            changes = self._service.apply(reading.config)
            exposed = self._words.exposures(reading, os.environ)
        except ConfigError as error:
            self._refuse(error, 0)
            return
        except Exception:  # such as a working directory that is gone; the service keeps running
            _log.failure("SIGHUP: the settings could not be read again, and stay as they are")
            return
        self._tell(changes)
        for what in exposed:
            _log.warn("SIGHUP: {exposed}", exposed=what)

    def _refuse(self, error: ConfigError, more: int) -> None:
        _log.error(
            "SIGHUP: nothing was changed, because of {reason}{more}",
            reason=str(error),
            more=f" (and {more} more: {self._words.check} lists them)" if more else "",
        )

    def _tell(self, changes: Changes) -> None:
        _log.info("SIGHUP: settings read again; {what}", what=self._words.changed(changes))
        if pending := changes.of(Effect.RESTART):
            _log.warn("SIGHUP: these take effect after a restart: {what}", what=", ".join(pending.values()))


def _changed(changes: Changes) -> str:
    now, later = changes.of(Effect.COMMANDS, Effect.HOSTS), changes.of(Effect.CONNECTION)
    parts = [
        f"for new commands: {', '.join(now.values())}" if now else "",
        f"from the next connection to the main server: {', '.join(later.values())}" if later else "",
    ]
    what = ", and ".join(filter(None, parts)) or "nothing"
    return f"changed {what}. API key and certificates are read at each connection anyway"


RELAY_WORDS: Final = ReloadWords(
    program=RELAY_TABLE.program, check=RELAY_TABLE.check, changed=_changed, exposures=exposures
)
