"""
``relayctl check``: would a relay run with these settings, from its files to the main server's consent.
"""

from __future__ import annotations

import argparse
from contextlib import suppress
from typing import Any

from relayd.config.reading import Reading
from relayd.ctl.findings import Finding, Level
from relayd.ctl.settings import add_all_options, read_all

NAME = "check"
HELP = "look at settings, files and the way to the main server, and say what is wrong and what to do"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add its options."""
    parser.add_argument(
        "--dial",
        action="store_true",
        help="connect to the main server even while a relay runs, whose connection it may close for that",
    )
    add_all_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Check; 1 when a fault was found, 130 where somebody did not wait for the end."""
    from twisted.internet.defer import CancelledError, Deferred
    from twisted.internet.task import react

    faults: list[int] = []

    async def all_of_it(reactor: Any) -> None:
        with suppress(CancelledError):
            faults.append(await check(reactor, read_all(arguments), dial=arguments.dial))

    def start(reactor: Any) -> Deferred[None]:
        checking = Deferred.fromCoroutine(all_of_it(reactor))
        # Before connections are closed by that, which would look like somebody else's doing.
        reactor.addSystemEventTrigger("before", "shutdown", checking.cancel)
        return checking

    try:
        react(start)
    except SystemExit as done:
        if done.code:
            return int(done.code)
    if not faults:
        print("\ninterrupted: not all was looked at")
        return 130
    return 1 if faults[0] else 0


async def check(reactor: Any, reading: Reading, *, dial: bool) -> int:
    """
    Print all that is found, as it is found.

    :param dial: whether to connect to the main server even while a relay does.
    :return: how many faults there are.
    """
    from relayd.ctl.check_files import check_files, check_settings
    from relayd.ctl.check_server import check_server

    counts: dict[Level, int] = {"ok": 0, "warning": 0, "fault": 0, "skipped": 0}

    def report(level: Level, what: str, text: str) -> None:
        counts[level] += 1
        print(Finding(level, what, text), flush=True)

    check_settings(reading, report)
    if reading.config is None:
        report("skipped", "all else", "mend the settings first")
    else:
        holder = await check_files(reactor, reading.config, report)
        if reading.mistakes:  # a relay would not start with them, and so not send its key as they say
            report("skipped", "main server", "mend the settings first")
        else:
            await check_server(reactor, reading.config, report, holder, dial=dial)
    faults, warnings = counts["fault"], counts["warning"]
    print(f"\n{_counted(faults, 'fault')}, {_counted(warnings, 'warning')}")
    return faults


def _counted(count: int, word: str) -> str:
    return f"{count or 'no'} {word}{'' if count == 1 else 's'}"
