"""
The entry point of ``twistd relayd-hub``, ``twist relayd-hub`` and relayd-hub.tac: from command line options to a
service.  No other part of the hub uses the global reactor.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from twisted.application.service import IService
from twisted.logger import Logger

from relayd.config.command_line import TableOptions
from relayd.config.option import Effect
from relayd.config.paths import Elsewhere
from relayd.config.reload import Changes, ReloadOnSignal, ReloadWords
from relayd.errors import MISTAKES
from relayd.hub.config.options import HUB_TABLE
from relayd.hub.config.reading import HubReading, exposures, read
from relayd.language.texts import span
from relayd.network.descriptors import raise_limit
from relayd.process.garbage import GarbageCollection, no_collections
from relayd.process.hardening import use_steady_clock
from relayd.process.logs import configure as configure_logs
from relayd.process.program import OrderlyExit, ProcessService

if TYPE_CHECKING:  # otherwise imported by `makeService`
    from relayd.hub.service.hub import HubService
    from relayd.process.systemd import Notifier

ABOUT = (
    "Accepts relays, gives them the runs that people and programs order, and keeps orders and results. Every option "
    "can also be set in the environment (RELAYD_HUB_LOG_LEVEL=debug) and in the TOML file of --config "
    '(log-level = "debug"). The command line overrides the environment, and the environment overrides the file. Write '
    "times like 5s, 2m or 1h, and sizes like 512K or 8M. Before the first start, relayctl hub init makes the first "
    "administrator."
)
#: The libraries of the extra ``hub``, by the names that are imported.
_LIBRARIES = ("sqlalchemy", "alembic", "psycopg", "argon2", "yaml")

_log = Logger("relayd")


class Options(TableOptions):
    """The command line of relayd-hub, and the `relayd.hub.config.options.HubConfig` made from it."""

    table = HUB_TABLE
    about = ABOUT
    synopsis = "[options]"

    def read_given(self, given: Mapping[str, Any], *, directory: str, elsewhere: Elsewhere) -> HubReading:
        return read(given, os.environ, directory=directory, elsewhere=elsewhere)

    def exposures(self, reading: Any) -> Sequence[str]:
        return exposures(reading, os.environ)


def _changed(changes: Changes) -> str:
    now = changes.of(Effect.NOW).values()
    return f"changed {', '.join(now) or 'nothing'}. Certificates and keys are read again when their files change"


_WORDS = ReloadWords(program=HUB_TABLE.program, check=HUB_TABLE.check, changed=_changed, exposures=exposures)


def makeService(options: Options) -> IService:
    """The hub that *options* describe, with what its process needs."""
    with no_collections():
        from twisted.internet import reactor

        from relayd.network.loop_turns import turns_of

        make_hub = _hub_service()
    turns = turns_of(reactor)
    configure_logs(
        options.config.log_level, options.config.log_format, at_end_of_turn=None if turns is None else turns.try_at_end
    )
    for what in options.exposed:
        _log.warn("{exposed}", exposed=what[0].upper() + what[1:])
    use_steady_clock(reactor)
    raise_limit()
    hub = make_hub(reactor, options.config)

    def announce(signal: str) -> None:
        _log.info(
            "{signal}: requests to the API have {span} to finish; a second signal ends relayd-hub at once",
            signal=signal,
            span=span(hub.drain_timeout),
        )

    service = ProcessService(HUB_TABLE.program, lambda: _make_notifier(reactor, hub))
    hub.setServiceParent(service)
    GarbageCollection(reactor, hub.active).setServiceParent(service)
    OrderlyExit(reactor, announce).setServiceParent(service)
    ReloadOnSignal(reactor, options.read, hub, service.reloading, _WORDS).setServiceParent(service)
    return service


def _hub_service() -> type[HubService]:
    """The service, which imports all of the hub; one line where the libraries for that are not installed."""
    try:
        from relayd.hub.service.hub import HubService
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _LIBRARIES:
            raise
        text = f"the hub needs libraries that are not installed ({error.name}): pip install relayd[hub]"
        print(f"{HUB_TABLE.program}: {text}", file=sys.stderr)
        raise SystemExit(MISTAKES) from None
    return HubService


def _make_notifier(reactor: Any, hub: HubService) -> Notifier | None:
    from relayd.process.systemd import make_notifier

    return make_notifier(os.environ, reactor, hub.condition, lambda: hub.drain_timeout)
