"""
``relayctl try-server``: plays a relay against a main server, for people who write or run one.

It connects under a relay's name, and asks for a few commands, which a person orders at the main server. It runs none of
them: it answers in the ways in which relays answer on bad days, and tells what the main server makes of that.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any, Final

from relayd.config.values import duration
from relayd.ctl.findings import Finding, Level, counted
from relayd.ctl.settings import add_all_options, read_all
from relayd.errors import ConfigError

if TYPE_CHECKING:
    from relayd.uplink.settings import UplinkSettings


def configure(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    parser.add_argument("--json", action="store_true", help="print JSON at the end, and what to do now on stderr")
    parser.add_argument(
        "--patience", type=_time, default=120.0, metavar="TIME", help="how long to wait for each command [2m]"
    )
    parser.add_argument(
        "--longest",
        type=_time,
        default=60.0,
        metavar="TIME",
        help="the longest timeout of a command that is waited for, to send a result after it [1m]",
    )
    add_all_options(parser)


_TIME: Final = duration(1, 3600)


def _time(text: str) -> float:
    try:
        return _TIME(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def run(arguments: argparse.Namespace) -> int:
    """
    Try everything; 1 when a fault was found, 130 when interrupted.

    :raises ConfigError: when the settings do not lead to a main server, or a relay is running with them.
    """
    trial = _Trial(arguments, _settings(arguments))
    if code := trial.run():
        return code
    return trial.conclude()


def _settings(arguments: argparse.Namespace) -> UplinkSettings:
    """Where to connect, and as whom."""
    from relayd.config.state_directory import StateDirectory
    from relayd.settings import uplink_settings_of

    reading, _ = read_all(arguments)
    if reading.config is None or reading.mistakes:
        raise reading.mistakes[0]
    if (holder := StateDirectory(reading.config.state_dir).holder()) is not None:
        process = f" (process {holder})" if holder else ""
        reason = f"a relay is running with it{process}, and would lose its connection: stop it, or use another name"
        raise ConfigError(option="--state-dir", reason=reason)
    return uplink_settings_of(reading.config)


class _Trial:
    """One run of the subcommand: what was found, and where it is shown."""

    def __init__(self, arguments: argparse.Namespace, settings: UplinkSettings) -> None:
        self._arguments = arguments
        self._settings = settings
        self._findings: list[Finding] = []
        self._words = sys.stderr if arguments.json else sys.stdout
        self._finished = False

    def run(self) -> int:
        """Run the reactor; gives an exit code, where it did not come to its end."""
        from twisted.internet.defer import Deferred
        from twisted.internet.task import react

        def start(reactor: Any) -> Deferred[None]:
            trying = Deferred.fromCoroutine(self._try(reactor))
            reactor.addSystemEventTrigger("before", "shutdown", trying.cancel)
            return trying

        try:
            react(start)
        except SystemExit as done:
            return int(done.code or 0)
        return 0

    async def _try(self, reactor: Any) -> None:
        from twisted.internet.defer import CancelledError

        from relayd.ctl.tryout import Tryout

        patience, longest = self._arguments.patience, self._arguments.longest
        tryout = Tryout(reactor, self._settings, self._report, self._ask, patience=patience, longest=longest)
        try:
            await tryout.run()
            self._finished = True
        except CancelledError:
            pass

    def _report(self, level: Level, what: str, text: str) -> None:
        self._findings.append(Finding(level, what, text))
        if not self._arguments.json:
            print(self._findings[-1], flush=True)

    def _ask(self, text: str) -> None:
        print(text, file=self._words, flush=True)

    def conclude(self) -> int:
        """Print what remains to be said; gives the exit code."""
        faults = sum(each.level == "fault" for each in self._findings)
        if self._arguments.json:
            rows = [{"level": each.level, "probe": each.what, "text": each.text} for each in self._findings]
            whole = {"server": self._settings.server, "relay": self._settings.proxy_id, "finished": self._finished}
            print(json.dumps(whole | {"findings": rows}))
        elif self._finished:
            print(f"\n{counted(faults, 'fault')}")
        if not self._finished:
            self._ask("interrupted: not everything was tried")
            return 130
        return 1 if faults else 0
