"""
The entry point of ``twistd relayd``, ``twist relayd`` and relayd.tac: from command line options to a service.
No other part of a relay uses the global reactor.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from twisted.application.service import IService
from twisted.logger import Logger

from relayd.config.command_line import TableOptions
from relayd.config.exposure import exposures
from relayd.config.options import RELAY_TABLE
from relayd.config.paths import Elsewhere
from relayd.config.reading import Reading, read
from relayd.config.reload import ReloadOnSignal
from relayd.language.texts import span
from relayd.network.descriptors import raise_limit
from relayd.process.garbage import GarbageCollection, no_collections
from relayd.process.hardening import use_steady_clock
from relayd.process.logs import configure as configure_logs
from relayd.process.program import OrderlyExit, ProcessService

if TYPE_CHECKING:  # otherwise imported by `makeService`
    from relayd.process.systemd import Notifier

ABOUT = (
    "Connects to the main server, takes commands from it, runs them on SSH hosts and sends the results back. "
    "Every option can also be set in the environment (RELAYD_MAX_COMMANDS=64) and in the TOML file of --config "
    "(max-commands = 64). The command line overrides the environment, and the environment overrides the file. "
    "Write times like 5s, 2m or 1h, and sizes like 512K or 8M."
)

_log = Logger("relayd")


class Options(TableOptions):
    """The command line of relayd, and the `relayd.config.options.Config` made from it."""

    table = RELAY_TABLE
    about = ABOUT
    synopsis = "--server URL --proxy-id NAME --api-key-file PATH [options]"

    def read_given(self, given: Mapping[str, Any], *, directory: str, elsewhere: Elsewhere) -> Reading:
        return read(given, os.environ, directory=directory, elsewhere=elsewhere)

    def exposures(self, reading: Any) -> Sequence[str]:
        return exposures(reading, os.environ)


def makeService(options: Options) -> IService:
    """The relay that *options* describe, with what its process needs."""
    # Here, since half of a start goes into these imports, and --version and a mistyped option need none of them.
    with no_collections():
        from twisted.internet import reactor

        from relayd.network.loop_turns import turns_of
        from relayd.process.systemd import RelayCondition, make_notifier
        from relayd.service import make_relay

    turns = turns_of(reactor)
    configure_logs(
        options.config.log_level, options.config.log_format, at_end_of_turn=None if turns is None else turns.try_at_end
    )
    for what in options.exposed:
        _log.warn("{exposed}", exposed=what[0].upper() + what[1:])
    use_steady_clock(reactor)
    raise_limit()
    relay = make_relay(reactor, options.config)
    condition = RelayCondition(reactor, relay.standing)

    def make() -> Notifier | None:
        return make_notifier(os.environ, reactor, condition, lambda: relay.drain_timeout)

    def announce(signal: str) -> None:
        _log.info(
            "{signal}: running commands have {span} to finish; a second signal ends relayd at once",
            signal=signal,
            span=span(relay.drain_timeout),
        )

    service = ProcessService(RELAY_TABLE.program, make)
    relay.setServiceParent(service)
    GarbageCollection(reactor, relay.active).setServiceParent(service)
    OrderlyExit(reactor, announce).setServiceParent(service)
    ReloadOnSignal(reactor, options.read, relay, service.reloading).setServiceParent(service)
    return service
